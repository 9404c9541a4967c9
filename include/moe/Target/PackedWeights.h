//===- PackedWeights.h - weights in the order of the kernels -----*- C++ -*-===//
//
// `moe-fold-weight-packs` leaves arguments with the attribute `moe.panels`: an array with one dictionary per bank,
//
//   {weight = "fc1", offset = 0, sizes = [E, K, N], strides = [e, k, n], columns = 16}
//
// whose elements (e, k, n) are those of the stored weight at offset + e * strides[0] + k * strides[1] + n * strides[2].
// The argument's type is [E][panels][K / group][columns of all banks]([group]).
//
//===----------------------------------------------------------------------===//
#ifndef MOE_TARGET_PACKEDWEIGHTS_H
#define MOE_TARGET_PACKEDWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Support/WeightStore.h"

namespace mlir::moe {

/// Adds to `store` the weights that entry points take in panels; they are packed when they are written. Emits an error
/// for a description that does not fit the stored weight.
LogicalResult addPackedWeights(ModuleOp module, WeightStore &store);

} // namespace mlir::moe

#endif // MOE_TARGET_PACKEDWEIGHTS_H
