//===- QuantisedRows.h - activations as bytes --------------------*- C++ -*-===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDROWS_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDROWS_H

#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

namespace mlir::moe {

/// The rows of a matrix in bytes, made by a loop in front of a kernel:
///
///   codes  [rows][k / 4, rounded up to whole chunks of 16 k] words of four bytes; a group of 4 c consecutive k, of
///          which a column of weights has one word (of 3 bits: three), is c words, word i of the k with number 4 c g +
///          c m + i: what one mask leaves of a word of weights
///   steps  [rows][blocks] f32, what a code of 1 stands for; NaN where an element of the block is not finite
///   starts [rows][blocks] i32, minus the sum of the block's codes times the middle of the weights: what a block's sum
///   of
///          products begins with where weights are multiplied as code + middle
struct QuantisedRows {
  Value codes, steps, starts;
};

/// Which power of two the middle of weights is (IntegerWeights.h): 16 for twice the values of e2m1.
inline int64_t getMiddleExponent(const QuantPanels &panels) {
  return panels.format.getKind() == QuantKind::E2M1 ? 4 : panels.storedBits() - 1;
}

/// Quantises all rows of `a`, whose last dimension has unit stride, in the blocks of `panels`. The buffers are freed
/// behind the operation `user`.
QuantisedRows quantiseRows(OpBuilder &b, Operation *user, Value a, const QuantPanels &panels);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDROWS_H
