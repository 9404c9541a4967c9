//===- IntegerWeights.cpp - codes of quantised panels as bytes ------------===//
#include "IntegerWeights.h"

#include "QuantisedRows.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include <cmath>

using namespace mlir;
using namespace mlir::moe;

IntegerWeights::IntegerWeights(OpBuilder &b, Location loc, const QuantPanels &panels, const IntegerDot &dot)
    : KernelTiles(b, loc), isFloat(panels.format.getKind() == QuantKind::E2M1), noSign(getMost(panels, dot) != 0),
      most(getMost(panels, dot)), bytes(VectorType::get({4 * dot.lanes()}, b.getI8Type())),
      words(VectorType::get({dot.lanes()}, b.getI32Type())), floats(VectorType::get({dot.lanes()}, b.getF32Type())),
      panels(panels), dot(dot) {}

int64_t IntegerWeights::getMost(const QuantPanels &panels, const IntegerDot &dot) {
  if (panels.format.getKind() == QuantKind::E2M1)
    return kFloatMiddle + 12;
  bool noSign = panels.storedBits() < 8 || dot.takesUnsignedBytes();
  return noSign ? (1 << panels.storedBits()) - 1 : 0;
}

void IntegerWeights::decode(ValueRange group, SmallVectorImpl<Value> &weights) {
  // Codes of 3 bits have a bit to spare between them.
  int64_t bits = panels.storedBits(), distance = bits == 3 ? 4 : bits;
  auto asBytes = [&](Value v) { return vector::BitCastOp::create(b, loc, bytes, v).getResult(); };
  for (Value raw : group) {
    if (noSign && !isFloat) {
      // The highest bit of each code the other way round: the code plus the middle.
      uint32_t middles = 0;
      for (int64_t at = bits - 1; at < 32; at += distance)
        middles |= 1u << at;
      raw = arith::XOrIOp::create(b, loc, raw, splat(int32_t(middles)));
    }
    if (bits == 8) {
      weights.push_back(asBytes(raw));
      continue;
    }
    uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    for (int64_t at = 0; at < 8; at += distance) {
      Value shifted = at ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(at))).getResult() : raw;
      Value each = asBytes(arith::AndIOp::create(b, loc, shifted, splat(int32_t(mask))));
      weights.push_back(isFloat ? lookUp(each) : each);
    }
  }
}

/// Twice the value of each code of e2m1, plus the middle.
Value IntegerWeights::lookUp(Value codes) {
  static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  SmallVector<int8_t> table;
  for (int64_t i = 0; i < bytes.getNumElements(); ++i)
    table.push_back(doubled[i % 16] + kFloatMiddle);
  Value values = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(bytes, ArrayRef<int8_t>(table)));
  StringRef name = dot.isWide() ? "llvm.x86.avx512.pshuf.b.512" : "llvm.x86.avx2.pshuf.b";
  return LLVM::CallIntrinsicOp::create(b, loc, bytes, b.getStringAttr(name), ValueRange{values, codes}).getResult(0);
}

Value IntegerWeights::start(Value ofRow) { return noSign ? broadcast(words, ofRow) : splat(0); }

Value IntegerWeights::scale(Value sum, Value scale, Value negativeZero, Value step, Value start, Value before) {
  auto fma = [&](Value x, Value y, Value z) { return vector::FMAOp::create(b, loc, x, y, z).getResult(); };
  Value converted = arith::SIToFPOp::create(b, loc, floats, sum);
  Value result = fma(converted, arith::MulFOp::create(b, loc, scale, broadcast(floats, step)), before);
  if (!negativeZero)
    return result;
  // The start is the sum of the row's codes times a power of two, which can be taken back exactly.
  Value codes = arith::SIToFPOp::create(b, loc, b.getF32Type(), start);
  Value middle = arith::ConstantOp::create(b, loc, b.getF32FloatAttr(std::ldexp(-1.0f, -getMiddleExponent(panels))));
  Value rowSum = arith::MulFOp::create(b, loc, arith::MulFOp::create(b, loc, codes, middle), step);
  return fma(broadcast(floats, rowSum), negativeZero, result);
}
