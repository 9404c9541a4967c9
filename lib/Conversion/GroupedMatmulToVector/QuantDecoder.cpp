//===- QuantDecoder.cpp - codes of quantised panels as floats -------------===//
#include "QuantDecoder.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include <cmath>

using namespace mlir;
using namespace mlir::moe;

Value QuantDecoder::intrinsic(StringRef name, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(b, loc, floats, b.getStringAttr(name), operands).getResult(0);
}

SmallVector<Value> QuantDecoder::loadCodes(Value codes, int64_t vector) {
  SmallVector<Value> raw;
  for (int64_t word = 0; word < panels.wordsPerGroup(); ++word)
    raw.push_back(vector::BitCastOp::create(
        b, loc, words, loadBytes(add(codes, word * panels.rowBytes() + vector * lanes * 4), lanes * 4)));
  if (!panels.usesSpareBits())
    return raw;
  // Bit 3 of each half byte of word i is bit i of one of the fourth.
  Value fourth;
  for (int32_t i = 0; i < 3; ++i) {
    Value moved = arith::ShRUIOp::create(b, loc, raw[i], splat(3 - i));
    Value bits = arith::AndIOp::create(b, loc, moved, splat(int32_t(0x11111111u << i)));
    fourth = fourth ? arith::OrIOp::create(b, loc, fourth, bits).getResult() : bits;
  }
  raw.push_back(fourth);
  return raw;
}

Value QuantDecoder::loadFloats(Value at, int64_t bytes) {
  Value raw = loadBytes(at, lanes * bytes);
  if (bytes == 4)
    return vector::BitCastOp::create(b, loc, floats, raw);
  if (bytes == 2) {
    Value half = vector::BitCastOp::create(b, loc, floats.clone(b.getF16Type()), raw);
    return arith::ExtFOp::create(b, loc, floats, half);
  }
  // e8m0: the exponent of an f32, but for 0 (2^-127) and 255 (NaN).
  Value code = arith::ExtUIOp::create(b, loc, words, raw);
  Value bits = arith::ShLIOp::create(b, loc, code, splat(23));
  auto select = [&](int32_t special, int32_t instead) {
    Value is = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, code, splat(special));
    bits = arith::SelectOp::create(b, loc, is, splat(instead), bits);
  };
  select(0, 0x00400000);
  select(255, 0x7fc00000);
  return vector::BitCastOp::create(b, loc, floats, bits);
}

float QuantDecoder::codeFactor() const {
  if (lanes == 16 && panels.storedBits() < 8)
    return 1.0f;
  bool isFloat = panels.format.getKind() == QuantKind::E2M1;
  // Doubled, codes of e2m1 are bytes.
  float factor = isFloat ? 0.5f : 1.0f;
  return inUpperBits() ? std::ldexp(factor, (isFloat ? 8 : panels.storedBits()) - 32) : factor;
}

std::pair<Value, Value> QuantDecoder::loadScales(Value scalesAt, int64_t vector, float factor) {
  Value scale = loadFloats(add(scalesAt, vector * lanes * panels.scaleBytes), panels.scaleBytes);
  auto times = [&](Value x, float y) { return y == 1.0f ? x : arith::MulFOp::create(b, loc, x, splat(y)).getResult(); };
  Value scaleOfFloats = times(scale, factor);
  int64_t bytes = panels.zeroPointBytes();
  if (!bytes)
    return {scaleOfFloats, Value()};
  Value zeroAt = add(scalesAt, panels.width() * panels.scaleBytes + vector * lanes * bytes);
  Value negative = arith::NegFOp::create(b, loc, loadFloats(zeroAt, bytes));
  return {scaleOfFloats, arith::MulFOp::create(b, loc, negative, scale)};
}

void QuantDecoder::emitPrefetch(Value at, int64_t distance, Value limit, int32_t locality) {
  Value ahead = min(add(at, distance), limit);
  for (int64_t line = 0; line < panels.groupBytes(); line += 64)
    memref::PrefetchOp::create(b, loc, stream, ValueRange{add(ahead, line)}, /*isWrite=*/false, locality,
                               /*isDataCache=*/true);
}

SmallVector<int64_t> QuantDecoder::getOrder() const {
  SmallVector<int64_t> order;
  if (!panels.usesSpareBits())
    return llvm::to_vector(llvm::seq(panels.group()));
  for (int64_t word = 0; word < 4; ++word)
    for (int64_t byte = 0; byte < 4; ++byte)
      order.append({8 * byte + 2 * word, 8 * byte + 2 * word + 1});
  return order;
}

Value QuantDecoder::decode(ValueRange group, int64_t j) {
  bool spare = panels.usesSpareBits();
  Value raw = group[spare ? j % 8 / 2 : 0];
  int64_t bits = panels.storedBits(), position = spare ? j / 8 * 8 + j % 2 * 4 : j * bits;
  bool isFloat = panels.format.getKind() == QuantKind::E2M1;
  if (lanes == 16 && bits < 8) {
    // The permutation reads the four lowest bits of each word; codes of fewer have others there as well.
    Value at = position ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(position))) : raw;
    return intrinsic("llvm.x86.avx512.permvar.sf.512", {getTable(), at});
  }
  if (isFloat) {
    raw = lookUpBytes(raw, j % 2);
    bits = 8;
    j /= 2;
  }
  if (bits == 8 && inUpperBits())
    return arith::SIToFPOp::create(b, loc, floats, takeByte(raw, j));
  int32_t above = isFloat ? 32 - 8 * (j + 1) : 32 - bits - position;
  Value high = above ? arith::ShLIOp::create(b, loc, raw, splat(above)).getResult() : raw;
  Value alone = inUpperBits() ? arith::AndIOp::create(b, loc, high, splat(int32_t(~0u << (32 - bits)))).getResult()
                              : arith::ShRSIOp::create(b, loc, high, splat(int32_t(32 - bits))).getResult();
  return arith::SIToFPOp::create(b, loc, floats, alone);
}

/// A byte of each word as its upper eight bits, without the others: one instruction, whichever byte it is.
Value QuantDecoder::takeByte(Value raw, int64_t byte) {
  auto bytes = VectorType::get({4 * lanes}, b.getI8Type());
  SmallVector<int64_t> order;
  for (int64_t i = 0; i < 4 * lanes; ++i)
    order.push_back(i % 4 == 3 ? i - 3 + byte : 4 * lanes);
  Value none = arith::ConstantOp::create(b, loc, b.getZeroAttr(bytes));
  Value each = vector::BitCastOp::create(b, loc, bytes, raw);
  return vector::BitCastOp::create(b, loc, words, vector::ShuffleOp::create(b, loc, each, none, order));
}

/// The even or the odd codes of e2m1 of each word, as four bytes: twice their values.
Value QuantDecoder::lookUpBytes(Value raw, bool odd) {
  static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  auto bytes = VectorType::get({4 * lanes}, b.getI8Type());
  SmallVector<int8_t> table;
  for (int64_t i = 0; i < 4 * lanes; ++i)
    table.push_back(doubled[i % 16]);
  Value values = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(bytes, ArrayRef<int8_t>(table)));
  Value codes = odd ? arith::ShRUIOp::create(b, loc, raw, splat(4)).getResult() : raw;
  codes = vector::BitCastOp::create(b, loc, bytes, arith::AndIOp::create(b, loc, codes, splat(0x0f0f0f0f)));
  Value found =
      LLVM::CallIntrinsicOp::create(b, loc, bytes, b.getStringAttr("llvm.x86.avx2.pshuf.b"), ValueRange{values, codes})
          .getResult(0);
  return vector::BitCastOp::create(b, loc, words, found);
}

/// The values of the codes, a table that the lowest four bits of a word index.
Value QuantDecoder::getTable() {
  static const float e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  SmallVector<float> values;
  for (int64_t i = 0; i < lanes; ++i) {
    if (panels.format.getKind() == QuantKind::E2M1) {
      values.push_back(e2m1[i]);
      continue;
    }
    int64_t codes = int64_t(1) << panels.storedBits(), code = i % codes;
    values.push_back(code >= codes / 2 ? code - codes : code);
  }
  return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, ArrayRef<float>(values)));
}
