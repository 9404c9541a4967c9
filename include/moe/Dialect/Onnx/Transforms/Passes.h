//===- Passes.h - passes on the onnx level -----------------------*- C++ -*-===//
#ifndef MOE_DIALECT_ONNX_TRANSFORMS_PASSES_H
#define MOE_DIALECT_ONNX_TRANSFORMS_PASSES_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {
#define GEN_PASS_DECL
#include "moe/Dialect/Onnx/Transforms/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "moe/Dialect/Onnx/Transforms/Passes.h.inc"
} // namespace mlir::moe

#endif // MOE_DIALECT_ONNX_TRANSFORMS_PASSES_H
