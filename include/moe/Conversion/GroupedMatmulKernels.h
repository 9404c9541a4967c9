//===- GroupedMatmulKernels.h - which grouped matmuls become kernels -*- C++ -*-===//
#ifndef MOE_CONVERSION_GROUPEDMATMULKERNELS_H
#define MOE_CONVERSION_GROUPEDMATMULKERNELS_H

#include <optional>
#include <string>

namespace mlir::moe {

class GroupedMatmulOp;

/// How a kernel reads the banks: as packed panels of columns, as vectors of columns ([E, K, N]) or as vectors along the
/// reduction ([E, N, K]).
enum class KernelForm { Quantised, Panels, Columns, Dots };

/// The form of the kernel that `convert-grouped-matmul-to-vector` makes of
/// `op`, on tensors or on buffers; nothing, and the reason in `why`, if it makes
/// none.
std::optional<KernelForm> getKernelForm(GroupedMatmulOp op, std::string &why);

} // namespace mlir::moe

#endif // MOE_CONVERSION_GROUPEDMATMULKERNELS_H
