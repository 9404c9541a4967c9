//===- IntegerWeights.h - codes of quantised panels as bytes -----*- C++ -*-===//
//
// Codes have a sign in memory. Fewer than 8 bits are multiplied without one (code + middle), as are all with VNNI; then
// a block's sum begins with -middle * (sum of the row's codes), and the result is the same integer in either way.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERWEIGHTS_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERWEIGHTS_H

#include "../Support/KernelTiles.h"
#include "IntegerDot.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

namespace mlir::moe {

class IntegerWeights : KernelTiles {
public:
  IntegerWeights(OpBuilder &b, Location loc, const QuantPanels &panels, const IntegerDot &dot);

  /// The bytes of a group's words: of 8 bits as they are, else the lower ones first.
  void decode(ValueRange raw, SmallVectorImpl<Value> &weights);
  /// What a block's sum begins with, from that of the row (QuantisedRows.h).
  Value start(Value ofRow);
  /// A block's integers as floats times `scale` and the row's `step`, added to `before`; with zero points, also
  /// `negativeZero` (minus zero point times scale) times the sum of what the row's codes stand for.
  Value scale(Value sum, Value scale, Value negativeZero, Value step, Value start, Value before);
  /// What bytes have to be multiplied with.
  float factor() const { return isFloat ? 0.5f : 1.0f; }

  /// The largest weight without a sign; 0 if they have one.
  static int64_t getMost(const QuantPanels &panels, const IntegerDot &dot);

  bool isFloat, noSign;
  int64_t most;
  VectorType bytes, words, floats;

private:
  /// Twice the values of e2m1, -12 to 12, plus this.
  static constexpr int64_t kFloatMiddle = 16;

  Value lookUp(Value codes);
  Value splat(int32_t value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, value)); }
  Value broadcast(VectorType type, Value scalar) { return vector::BroadcastOp::create(b, loc, type, scalar); }

  const QuantPanels &panels;
  const IntegerDot &dot;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERWEIGHTS_H
