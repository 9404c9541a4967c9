//===- Passes.h - the way to a GPU -------------------------------*- C++ -*-===//
#ifndef MOE_GPU_PASSES_H
#define MOE_GPU_PASSES_H

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Pass/Pass.h"
#include "moe/Gpu/GpuDialect.h"

namespace mlir::moe {
#define GEN_PASS_DECL
#include "moe/Gpu/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

#endif // MOE_GPU_PASSES_H
