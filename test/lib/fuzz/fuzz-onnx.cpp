//===- fuzz-onnx.cpp - the ONNX importer on any bytes ---------------------===//
//
// A model is imported, raised and lowered, or refused with a diagnostic; nothing else may happen.
//
//===----------------------------------------------------------------------===//
#include "MemoryFile.h"
#include "ModelMutator.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/Verifier.h"
#include "mlir/InitAllDialects.h"
#include "mlir/Pass/PassManager.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Dialect/Onnx/IR/OnnxDialect.h"
#include "moe/Dialect/Onnx/Transforms/Passes.h"
#include "moe/Import/Onnx/Import.h"
#include <google/protobuf/stubs/logging.h>
#include <onnx/onnx_pb.h>

using namespace mlir;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const DialectRegistry registry = [] {
    google::protobuf::SetLogHandler(nullptr);
    DialectRegistry made;
    registerAllDialects(made);
    made.insert<moe::MoeDialect, moe::OnnxDialect>();
    return made;
  }();
  MemoryFile file(data, size);
  MLIRContext context(registry, MLIRContext::Threading::DISABLED);
  bool told = false;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    told |= diagnostic.getSeverity() == DiagnosticSeverity::Error;
    return success();
  });
  moe::WeightStore weights;
  OwningOpRef<ModuleOp> module = moe::importOnnxFile(file.path(), context, weights);
  bool good = module && succeeded(verify(*module));
  if (good) {
    PassManager passes(&context);
    passes.addNestedPass<func::FuncOp>(moe::createOnnxRaiseMoePass());
    passes.addNestedPass<func::FuncOp>(moe::createConvertOnnxToLinalgPass());
    good = succeeded(passes.run(*module));
  }
  // A refusal says why.
  if (!good && !told)
    std::abort();
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t maxSize);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t maxSize, unsigned seed) {
  onnx::ModelProto model;
  if (seed % 5 == 0 || !model.ParseFromArray(data, static_cast<int>(size)))
    return LLVMFuzzerMutate(data, size, maxSize);
  for (unsigned i = 0; i < 1 + seed % 3; ++i)
    ModelMutator(seed + i).mutate(model);
  size_t changed = model.ByteSizeLong();
  if (changed > maxSize || !model.SerializeToArray(data, static_cast<int>(maxSize)))
    return LLVMFuzzerMutate(data, size, maxSize);
  return changed;
}
