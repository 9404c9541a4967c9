//===- InitAll.cpp - registers dialects and passes ------------------------===//
#include "moe/InitAll.h"
#include "ScfValueBounds.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Dialect/Moe/Transforms/BufferizableOpInterfaceImpl.h"
#include "moe/Dialect/Moe/Transforms/Passes.h"
#include "moe/Dialect/Onnx/IR/OnnxDialect.h"
#include "moe/Dialect/Onnx/Transforms/Passes.h"
#include "moe/Gpu/GpuDialect.h"
#include "moe/Gpu/Passes.h"
#include "moe/Pipelines/Passes.h"
#include "moe/Pipelines/Phases.h"
#include "moe/Transforms/Passes.h"

void mlir::moe::registerAllDialects(DialectRegistry &registry) {
  registerScfValueBounds(registry); // the first model of an interface stays
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  registerAllToLLVMIRTranslations(registry);
  registry.insert<MoeDialect, MoeGpuDialect, OnnxDialect>();
  registerBufferizableOpInterfaceExternalModels(registry);
  registerGpuBufferizableOpInterfaceExternalModels(registry);
}

void mlir::moe::registerAllPasses() {
  mlir::registerAllPasses();
  registerMoeConversionPasses();
  registerMoeTransformsPasses();
  registerMoeGpuPasses();
  registerOnnxTransformsPasses();
  registerMoeUpstreamTransformsPasses();
  registerMoePipelinesPasses();
  registerMoePipelines();
}
