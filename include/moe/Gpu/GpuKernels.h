//===- GpuKernels.h - what the GPU kernels cover -----------------*- C++ -*-===//
#ifndef MOE_GPU_GPUKERNELS_H
#define MOE_GPU_GPUKERNELS_H

#include "moe/Conversion/GroupedMatmulKernels.h"
#include "llvm/ADT/StringRef.h"

namespace mlir::moe {

/// Marks a grouped matmul of f32 whose kernel rounds the operands to tf32.
constexpr llvm::StringLiteral kGpuTf32Attr = "moe_gpu.tf32";

/// The form in which `op` (on tensors or buffers) has a GPU kernel, or nothing and the reason.
std::optional<KernelForm> getGpuKernelForm(GroupedMatmulOp op, std::string &why);

} // namespace mlir::moe

#endif // MOE_GPU_GPUKERNELS_H
