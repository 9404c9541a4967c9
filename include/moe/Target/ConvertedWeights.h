//===- ConvertedWeights.h - weights in another float type --------*- C++ -*-===//
//
// `moe-set-gpu-precision` leaves arguments with the attribute
//
//   moe.converted = {weight = "fc1", offset = 0, strides = [i, j, k]}
//
// whose element (a, b, c) is the stored f32 weight's element at offset + a * strides[0] + b * strides[1] + c *
// strides[2], rounded to nearest even in the argument's type.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_TARGET_CONVERTEDWEIGHTS_H
#define MOE_TARGET_CONVERTEDWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Support/WeightStore.h"

namespace mlir::moe {

/// Adds to `store` the weights that entry points take converted; they are made when they are written. Emits an error
/// for a description that does not fit the stored weight.
LogicalResult addConvertedWeights(ModuleOp module, WeightStore &store);

} // namespace mlir::moe

#endif // MOE_TARGET_CONVERTEDWEIGHTS_H
