//===- EqualSizes.h - whether two tensors have one size ----------*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_EQUALSIZES_H
#define MOE_DIALECT_MOE_ANALYSIS_EQUALSIZES_H

#include "mlir/IR/Value.h"

namespace mlir::moe {

/// Whether dimension `dimA` of `a` has the size of dimension `dimB` of `b`, for all that the ops which made them say:
/// both are followed back through inits, elementwise ops, casts, slices and `tensor.dim` to a number or a value.
bool haveEqualSizes(Value a, int64_t dimA, Value b, int64_t dimB);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_EQUALSIZES_H
