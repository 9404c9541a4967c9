//===- MathInDouble.h - elementary functions in f64 arithmetic ---*- C++ -*-===//
#ifndef MOE_LIB_TRANSFORMS_MATHINDOUBLE_H
#define MOE_LIB_TRANSFORMS_MATHINDOUBLE_H

#include "mlir/IR/PatternMatch.h"

namespace mlir::moe {

/// Expands every transcendental function on f64, and those on f32 of which upstream's approximation is off by more than
/// a few units in the last place somewhere, to arithmetic in f64. Also arith.remf, which is exact.
void populateMathInDoublePatterns(RewritePatternSet &patterns);

} // namespace mlir::moe

#endif // MOE_LIB_TRANSFORMS_MATHINDOUBLE_H
