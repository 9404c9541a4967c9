//===- GroupedMatmulKernels.h - which grouped matmuls become kernels -*- C++ -*-===//
#ifndef MOE_CONVERSION_GROUPEDMATMULKERNELS_H
#define MOE_CONVERSION_GROUPEDMATMULKERNELS_H

#include "llvm/ADT/StringRef.h"
#include <optional>
#include <string>

namespace mlir::moe {

/// An attribute of the module, about its target: an array with what tile instructions (AMX) multiply, "bf16" or "int8".
/// Without it there are none.
constexpr llvm::StringLiteral kTileTypes = "moe.tile_types";

class GroupedMatmulOp;

/// How a kernel reads the banks: as packed panels of columns, as vectors of columns ([E, K, N]) or as vectors along the
/// reduction ([E, N, K]).
enum class KernelForm { Quantised, Panels, Columns, Dots };

/// The form of the kernel that `convert-grouped-matmul-to-vector` makes of
/// `op`, on tensors or on buffers; nothing, and the reason in `why`, if it makes
/// none.
std::optional<KernelForm> getKernelForm(GroupedMatmulOp op, std::string &why);

/// What tile instructions would multiply for `op` (a value of kTileTypes) where the target has them; nothing, and the
/// reason in `why`, if vectors do everything.
std::optional<llvm::StringRef> getTileType(GroupedMatmulOp op, std::string &why);

} // namespace mlir::moe

#endif // MOE_CONVERSION_GROUPEDMATMULKERNELS_H
