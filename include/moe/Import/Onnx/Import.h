//===- Import.h - an ONNX file becomes a module of the onnx level -*- C++ -*-===//
#ifndef MOE_IMPORT_ONNX_IMPORT_H
#define MOE_IMPORT_ONNX_IMPORT_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "moe/Support/WeightStore.h"

namespace mlir::moe {

struct OnnxImportOptions {
  /// Tensors of at most this many elements become `onnx.constant`, so that shapes and scalars fold; integers
  /// wider than a byte, which hold shapes and permutations, up to `maxConstantIntegers`. All others are weights.
  int64_t maxConstantElements = 16;
  int64_t maxConstantIntegers = 256;
};

/// Reads, checks and imports the model at `path`: a module with one public function @main on the onnx level, the
/// weights in `weights`. On failure the diagnostics say which node, which operator, why, and what would help; the
/// result is null. Nothing that a file holds can crash this function or make it read outside the model's folder.
OwningOpRef<ModuleOp> importOnnxFile(StringRef path, MLIRContext &context, WeightStore &weights,
                                     const OnnxImportOptions &options = {});

} // namespace mlir::moe

#endif // MOE_IMPORT_ONNX_IMPORT_H
