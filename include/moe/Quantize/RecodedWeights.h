//===- RecodedWeights.h - codes of a file as the kernels' banks ---*- C++ -*-===//
#ifndef MOE_QUANTIZE_RECODEDWEIGHTS_H
#define MOE_QUANTIZE_RECODEDWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Support/WeightStore.h"

namespace mlir::moe {

/// Adds to `store` the weights that entry points take with `moe.recoded` (`moe-take-codes`). They are made row by row
/// when they are read; what they are made of stays where it is. A program without stored weights gets none. Emits an
/// error for a description that does not fit the stored weights.
LogicalResult addRecodedWeights(ModuleOp module, WeightStore &store);

} // namespace mlir::moe

#endif // MOE_QUANTIZE_RECODEDWEIGHTS_H
