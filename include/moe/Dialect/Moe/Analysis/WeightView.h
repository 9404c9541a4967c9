//===- WeightView.h - which part of a stored weight a value is ---*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_WEIGHTVIEW_H
#define MOE_DIALECT_MOE_ANALYSIS_WEIGHTVIEW_H

#include "mlir/IR/Value.h"
#include "llvm/ADT/SmallVector.h"
#include <optional>

namespace mlir::moe {

/// A value that is a strided part of a weight: element (i, j, ...) of the value is element `offset + i * strides[0] +
/// j * strides[1] + ...` of the weight's row-major data.
struct WeightView {
  /// An argument of an entry point with the attribute `moe.weight`.
  BlockArgument weight;
  int64_t offset = 0;
  SmallVector<int64_t> sizes, strides;
};

/// Follows slices, reshapes, transpositions and casts from `value` up to a weight; nothing if it is not (only) that.
std::optional<WeightView> traceWeight(Value value);

/// Whether traceWeight looks through `op`.
bool isWeightViewOp(Operation *op);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_WEIGHTVIEW_H
