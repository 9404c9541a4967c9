//===- Dequantize.cpp - quantised matrices as numbers ---------------------===//
//
// The plain form, for one matrix at a time: every element looks up its code, scale and zero point.
//
//===----------------------------------------------------------------------===//
#include "PlannedLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// The code number `position` of the row of packed bytes at `lead`, as i32 with the code's sign.
static Value unpack(LoopBuilder &b, Value bytes, ValueRange lead, Value position, QuantAttr format) {
  int64_t bits = format.getBits();
  Value bit = b.mul(position, b.index(bits)), byte = arith::ShRUIOp::create(b, bit, b.index(3));
  auto load = [&](Value at) -> Value {
    Values indices(lead);
    indices.push_back(at);
    return arith::ExtUIOp::create(b, b.getI32Type(), b.extract(bytes, indices));
  };
  Value code = load(byte);
  if (8 % bits != 0) {
    // The code may end in the next byte; behind the last one there is none, and none is needed.
    Value last = b.sub(b.dim(bytes, lead.size()), b.index(1));
    Value next = load(b.minimum(b.add(byte, b.index(1)), last));
    code = b.lor(code, arith::ShLIOp::create(b, next, b.i32(8)));
  }
  Value shift = b.toType(arith::AndIOp::create(b, bit, b.index(7)), b.getI32Type());
  code = b.land(arith::ShRUIOp::create(b, code, shift), b.i32((1 << bits) - 1));
  if (format.getKind() != QuantKind::Signed)
    return code;
  Value sign = b.i32(int64_t(1) << (bits - 1));
  return b.sub(arith::XOrIOp::create(b, code, sign), sign);
}

/// The value of a code of e2m1.
static Value decodeE2M1(LoopBuilder &b, Value code) {
  static const float values[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6};
  auto type = RankedTensorType::get({16}, b.getF32Type());
  Value table = arith::ConstantOp::create(b, DenseElementsAttr::get(type, ArrayRef<float>(values)));
  return b.extract(table, b.toIndex(code));
}

Value moe::lowerDequantize(LoopBuilder &b, Value codes, Value scales, Value zeroPoints, QuantAttr format,
                           RankedTensorType type) {
  SmallVector<OpFoldResult> shape;
  for (int64_t d = 0; d < type.getRank() - 1; ++d)
    shape.push_back(b.dimOrAttr(codes, d));
  shape.push_back(b.getIndexAttr(type.getShape().back()));
  Value init = b.empty(shape, type.getElementType());
  unsigned rank = type.getRank();
  return linalg::GenericOp::create(
             b, init.getType(), ValueRange{}, init, b.getMultiDimIdentityMap(rank),
             SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
             [&](OpBuilder &inner, Location loc, ValueRange) {
               LoopBuilder nested(loc, inner);
               Values lead;
               for (unsigned d = 0; d + 1 < rank; ++d)
                 lead.push_back(linalg::IndexOp::create(nested, d));
               Value k = linalg::IndexOp::create(nested, rank - 1), block = nested.index(0);
               if (format.getBlock())
                 block = arith::DivUIOp::create(nested, k, nested.index(format.getBlock()));
               Values atBlock(lead);
               atBlock.push_back(block);
               Type f32 = nested.getF32Type();
               Value code = unpack(nested, codes, lead, k, format), value;
               if (format.getKind() == QuantKind::E2M1) {
                 value = decodeE2M1(nested, code);
               } else if (zeroPoints && isa<FloatType>(cast<RankedTensorType>(zeroPoints.getType()).getElementType())) {
                 Value zero = nested.toFloat(nested.extract(zeroPoints, atBlock), f32);
                 value = arith::SubFOp::create(nested, arith::SIToFPOp::create(nested, f32, code), zero);
               } else {
                 Value zero =
                     zeroPoints ? unpack(nested, zeroPoints, lead, block, format) : nested.i32(format.getMiddle());
                 value = arith::SIToFPOp::create(nested, f32, nested.sub(code, zero));
               }
               Value scale = nested.toFloat(nested.extract(scales, atBlock), f32);
               value = arith::MulFOp::create(nested, value, scale);
               linalg::YieldOp::create(nested, nested.toFloat(value, type.getElementType()));
             })
      .getResult(0);
}
