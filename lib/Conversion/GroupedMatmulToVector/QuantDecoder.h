//===- QuantDecoder.h - codes of quantised panels as floats ------*- C++ -*-===//
//
// Reads vectors of columns from a stream of panels (QuantPanels.h). On AVX-512, 4 bits and less become floats by a
// table in a register; else integers by shifts and a conversion, and codes of e2m1 by a table of bytes before that.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTDECODER_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTDECODER_H

#include "../Support/KernelTiles.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

namespace mlir::moe {

class QuantDecoder : KernelTiles {
public:
  /// `stream`: all banks as one run of bytes. `scalesSums`: sums of products are multiplied with codeFactor and then
  /// with the scale, not each float with both.
  QuantDecoder(OpBuilder &b, Location loc, const QuantPanels &panels, int64_t lanes, Value stream,
               bool scalesSums = false)
      : KernelTiles(b, loc), panels(panels), lanes(lanes), floats(VectorType::get({lanes}, b.getF32Type())),
        words(VectorType::get({lanes}, b.getI32Type())), stream(stream), scalesSums(scalesSums) {}

  /// The words of a group of k at byte `codes`, for a vector of columns: one, or four where three are stored
  /// (QuantPanels::usesSpareBits).
  SmallVector<Value> loadCodes(Value codes, int64_t vector);
  /// A vector of scales or zero points of `bytes` bytes each.
  Value loadFloats(Value at, int64_t bytes);
  /// The scales of `vector` of a block times `factor`, and -zero point times scale (none without zero points);
  /// `scalesAt` is where the block's scales begin.
  std::pair<Value, Value> loadScales(Value scalesAt, int64_t vector, float factor);
  /// What floats from `decode` have to be multiplied with: integers may stay in the upper bits of their word, which
  /// saves an instruction that few ports take.
  float codeFactor() const;
  /// The codes of a group in the order in which decoding needs the fewest words at a time.
  SmallVector<int64_t> getOrder() const;
  /// Code number j of the words as a float, but for codeFactor.
  Value decode(ValueRange raw, int64_t j);
  /// The lines `ahead` bytes behind the group at `at`, never beyond `limit`, the last group. `locality`: 3 is the
  /// first-level cache, 2 the second one.
  void emitPrefetch(Value at, int64_t ahead, Value limit, int32_t locality = 2);

private:
  Value loadBytes(Value at, int64_t count) {
    return vector::LoadOp::create(b, loc, VectorType::get({count}, b.getI8Type()), stream, ValueRange{at});
  }
  Value splat(float value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, value)); }
  Value splat(int32_t value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, value)); }
  Value intrinsic(StringRef name, ValueRange operands);
  Value getTable();
  Value lookUpBytes(Value raw, bool odd);
  Value takeByte(Value raw, int64_t byte);
  /// Whether integers stay in the upper bits. Scales of other types might become denormal numbers with that factor.
  bool inUpperBits() const { return scalesSums || panels.scaleBytes == 2; }

  const QuantPanels &panels;
  int64_t lanes;
  VectorType floats, words;
  Value stream;
  bool scalesSums;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTDECODER_H
