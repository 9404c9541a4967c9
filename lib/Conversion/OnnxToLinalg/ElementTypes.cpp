//===- ElementTypes.cpp - Cast between all element types ------------------===//
//
// Below the onnx level floats of 8 bits and fewer are their codes in i8, and integers of 2 and 4 bits are i8 numbers in
// their range. A small float is decoded by a table of all its codes and encoded by rounding the bits of an f32.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

bool OnnxLowering::isCoded(Type element) { return isa<FloatType>(element) && element.getIntOrFloatBitWidth() <= 8; }

Type OnnxLowering::storageType(Type element) {
  auto *context = element.getContext();
  if (isCoded(element))
    return IntegerType::get(context, 8);
  auto integer = dyn_cast<IntegerType>(element);
  if (!integer)
    return element;
  unsigned width = integer.getWidth();
  return IntegerType::get(context, width == 1 ? 1 : std::max(width, 8u));
}

StringAttr OnnxLowering::storageName(Type element) {
  auto named = [&](const Twine &name) { return StringAttr::get(element.getContext(), name); };
  unsigned width = element.getIntOrFloatBitWidth();
  if (isCoded(element)) {
    std::string text;
    llvm::raw_string_ostream(text) << element; // "f8E4M3FN"
    return named(width == 8 ? StringRef(text).lower() : "u8");
  }
  if (element.isUnsignedInteger())
    return named("u" + Twine(std::max(width, 8u)));
  return {};
}

static Value integer(Builder_ &b, Type type, int64_t value) {
  return arith::ConstantOp::create(b, b.getIntegerAttr(type, value));
}

/// f64 to f32 such that rounding the result once more to a narrower type is rounding the f64 once: towards zero, with
/// the last bit set if anything was lost ("round to odd").
static Value roundToOdd(Builder_ &b, Value x) {
  Type f32 = b.getF32Type(), i32 = b.getI32Type();
  Value near = arith::TruncFOp::create(b, f32, x), back = arith::ExtFOp::create(b, x.getType(), near);
  Value lost = arith::CmpFOp::create(b, arith::CmpFPredicate::ONE, back, x);
  Value above =
      arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, math::AbsFOp::create(b, back), math::AbsFOp::create(b, x));
  Value bits = arith::BitcastOp::create(b, i32, near);
  Value down = arith::SelectOp::create(b, above, arith::SubIOp::create(b, bits, integer(b, i32, 1)), bits);
  Value odd = arith::OrIOp::create(b, down, integer(b, i32, 1));
  return arith::SelectOp::create(b, lost, arith::BitcastOp::create(b, f32, odd), near);
}

/// Between f16, bf16, f32 and f64.
static Value convertFloat(Builder_ &b, Value x, FloatType to) {
  auto from = mlir::cast<FloatType>(x.getType());
  if (from == to)
    return x;
  if (from.getWidth() == 64 && to.getWidth() == 16)
    return arith::TruncFOp::create(b, to, roundToOdd(b, x));
  // Between the two 16-bit formats the way leads through f32.
  if (from.getWidth() == to.getWidth())
    return arith::TruncFOp::create(b, to, arith::ExtFOp::create(b, b.getF32Type(), x));
  if (from.getWidth() < to.getWidth())
    return arith::ExtFOp::create(b, to, x);
  return arith::TruncFOp::create(b, to, x);
}

static Value convertScalar(Builder_ &b, Value x, Type to, bool fromUnsigned, bool toUnsigned) {
  Type type = x.getType();
  bool fromBool = type.isInteger(1);
  if (isa<FloatType>(type)) {
    if (auto target = dyn_cast<FloatType>(to))
      return convertFloat(b, x, target);
    if (to.isInteger(1)) {
      Value zero = arith::ConstantOp::create(b, mlir::cast<TypedAttr>(b.getZeroAttr(type)));
      return arith::CmpFOp::create(b, arith::CmpFPredicate::UNE, x, zero);
    }
    // By way of i64, so that numbers out of the target's range wrap instead of being undefined.
    if (toUnsigned && to.isInteger(64))
      return arith::FPToUIOp::create(b, to, x);
    if (to.getIntOrFloatBitWidth() >= 32 && !toUnsigned)
      return arith::FPToSIOp::create(b, to, x);
    return arith::TruncIOp::create(b, to, arith::FPToSIOp::create(b, b.getI64Type(), x));
  }
  if (isa<FloatType>(to)) {
    if (fromUnsigned || fromBool)
      return arith::UIToFPOp::create(b, to, x);
    return arith::SIToFPOp::create(b, to, x);
  }
  if (type == to)
    return x;
  if (to.isInteger(1)) {
    Value zero = arith::ConstantOp::create(b, mlir::cast<TypedAttr>(b.getZeroAttr(type)));
    return arith::CmpIOp::create(b, arith::CmpIPredicate::ne, x, zero);
  }
  if (type.getIntOrFloatBitWidth() > to.getIntOrFloatBitWidth())
    return arith::TruncIOp::create(b, to, x);
  if (fromUnsigned || fromBool)
    return arith::ExtUIOp::create(b, to, x);
  return arith::ExtSIOp::create(b, to, x);
}

Value OnnxLowering::convert(Shaped from, Type to, bool fromUnsigned, bool toUnsigned) {
  if (from.element() == to)
    return from.value;
  return elementwise({from}, from.dims, to, "Cast", [&](Builder_ &inner, ValueRange v) -> Value {
    return convertScalar(inner, v[0], to, fromUnsigned, toUnsigned);
  });
}

//===----------------------------------------------------------------------===//
// Small floats
//===----------------------------------------------------------------------===//

Value OnnxLowering::decode(Shaped codes, Type element) {
  if (!isCoded(element))
    return codes.value;
  const llvm::fltSemantics &semantics = mlir::cast<FloatType>(element).getFloatSemantics();
  unsigned width = element.getIntOrFloatBitWidth();
  SmallVector<float> values;
  for (unsigned code = 0; code < 1u << width; ++code) {
    APFloat value(semantics, APInt(width, code));
    bool lost;
    value.convert(APFloat::IEEEsingle(), APFloat::rmNearestTiesToEven, &lost);
    values.push_back(value.convertToFloat());
  }
  auto type = RankedTensorType::get({int64_t(1) << width}, b.getF32Type());
  Value table = constant(DenseElementsAttr::get(type, ArrayRef<float>(values)));
  return elementwise({codes}, codes.dims, b.getF32Type(), "Cast", [&](Builder_ &inner, ValueRange v) -> Value {
    Value at = arith::IndexCastUIOp::create(inner, inner.getIndexType(), v[0]);
    return tensor::ExtractOp::create(inner, table, at);
  });
}

/// The code of an f32 in a format with a sign: to nearest even; too large gives the largest number if `saturate`.
static Value encodeScalar(Builder_ &b, Value x, FloatType type, bool saturate) {
  const llvm::fltSemantics &semantics = type.getFloatSemantics();
  unsigned mantissa = APFloat::semanticsPrecision(semantics) - 1, width = type.getWidth();
  int bias = 1 - APFloat::semanticsMinExponent(semantics);
  auto codeOf = [&](const APFloat &value) { return int64_t(value.bitcastToAPInt().getZExtValue()); };
  int64_t largest = codeOf(APFloat::getLargest(semantics));
  bool hasNaN = APFloat::semanticsHasNaN(semantics), hasInf = APFloat::semanticsHasInf(semantics);
  bool signedZero = APFloat::semanticsHasZero(semantics) && codeOf(APFloat::getZero(semantics, true)) != 0;
  signedZero &= !hasNaN || codeOf(APFloat::getNaN(semantics)) != int64_t(1) << (width - 1);
  // A format without NaN has -0 there, as the ONNX package does it.
  int64_t nan = hasNaN ? codeOf(APFloat::getNaN(semantics)) : int64_t(1) << (width - 1);
  int64_t beyond = saturate || (!hasInf && !hasNaN) ? largest : hasInf ? codeOf(APFloat::getInf(semantics)) : nan;

  Type i32 = b.getI32Type(), f32 = b.getF32Type();
  auto constant = [&](int64_t value) { return integer(b, i32, value); };
  Value bits = arith::BitcastOp::create(b, i32, x);
  Value magnitudeBits = arith::AndIOp::create(b, bits, constant(0x7fffffff));
  Value magnitude = arith::BitcastOp::create(b, f32, magnitudeBits);
  // Normal numbers: the mantissa is cut behind its rounding, a carry moves on into the exponent.
  unsigned cut = 23 - mantissa;
  Value last = arith::AndIOp::create(b, arith::ShRUIOp::create(b, magnitudeBits, constant(cut)), constant(1));
  Value half = arith::AddIOp::create(b, last, constant((int64_t(1) << (cut - 1)) - 1));
  Value rounded = arith::ShRUIOp::create(b, arith::AddIOp::create(b, magnitudeBits, half), constant(cut));
  Value normal = arith::SubIOp::create(b, rounded, constant(int64_t(127 - bias) << mantissa));
  // Subnormal numbers are multiples of the smallest one.
  Value scale = arith::ConstantOp::create(b, b.getF32FloatAttr(std::ldexp(1.0f, bias - 1 + mantissa)));
  Value limit = arith::ConstantOp::create(b, b.getF32FloatAttr(std::ldexp(1.0f, 1 - bias)));
  Value isSmall = arith::CmpFOp::create(b, arith::CmpFPredicate::OLT, magnitude, limit);
  Value zero = arith::ConstantOp::create(b, b.getF32FloatAttr(0));
  Value small = arith::SelectOp::create(b, isSmall, magnitude, zero);
  Value steps = math::RoundEvenOp::create(b, arith::MulFOp::create(b, small, scale));
  Value code = arith::SelectOp::create(b, isSmall, arith::FPToSIOp::create(b, i32, steps), normal);
  Value over = arith::CmpIOp::create(b, arith::CmpIPredicate::sgt, code, constant(largest));
  Value infinite = arith::CmpIOp::create(b, arith::CmpIPredicate::uge, magnitudeBits, constant(0x7f800000));
  code = arith::SelectOp::create(b, arith::OrIOp::create(b, over, infinite), constant(beyond), code);
  Value isNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, x, x);
  code = arith::SelectOp::create(b, isNaN, constant(nan), code);
  Value sign = arith::ShLIOp::create(b, arith::ShRUIOp::create(b, bits, constant(31)), constant(width - 1));
  // In some formats the code of -0 is the NaN.
  Value plain = isNaN;
  if (!signedZero)
    plain = arith::OrIOp::create(b, plain, arith::CmpIOp::create(b, arith::CmpIPredicate::eq, code, constant(0)));
  if (beyond == nan && hasNaN && !signedZero)
    plain = arith::OrIOp::create(b, plain, arith::CmpIOp::create(b, arith::CmpIPredicate::eq, code, constant(nan)));
  code = arith::SelectOp::create(b, plain, code, arith::OrIOp::create(b, code, sign));
  return arith::TruncIOp::create(b, b.getI8Type(), code);
}

/// The code of a power of two (f8E8M0): the exponent alone, rounded as the attribute says.
static Value encodePower(Builder_ &b, Value x, StringRef mode, bool saturate) {
  Type i32 = b.getI32Type();
  auto constant = [&](int64_t value) { return integer(b, i32, value); };
  Value bits = arith::AndIOp::create(b, arith::BitcastOp::create(b, i32, x), constant(0x7fffffff));
  Value exponent = arith::ShRUIOp::create(b, bits, constant(23));
  Value rest = arith::AndIOp::create(b, bits, constant(0x7fffff));
  if (mode != "down") {
    Value least = constant(mode == "up" ? 1 : 0x400000);
    Value more = arith::CmpIOp::create(b, arith::CmpIPredicate::sge, rest, least);
    exponent = arith::AddIOp::create(b, exponent, arith::ExtUIOp::create(b, i32, more));
  }
  Value top = constant(saturate ? 254 : 255);
  Value code = arith::MinSIOp::create(b, exponent, top);
  Value isNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, x, x);
  code = arith::SelectOp::create(b, isNaN, constant(255), code);
  return arith::TruncIOp::create(b, b.getI8Type(), code);
}

Value OnnxLowering::encode(Shaped from, Type element, bool saturate, StringRef mode) {
  // The last rounding is the only one: from f64 by way of an f32 rounded to odd.
  bool isDouble = from.element().isF64();
  Shaped x = isDouble ? from : Shaped{convert(from, b.getF32Type()), from.dims};
  return elementwise({x}, x.dims, b.getI8Type(), "Cast", [&](Builder_ &inner, ValueRange v) -> Value {
    Value value = isDouble ? roundToOdd(inner, v[0]) : v[0];
    if (isa<Float8E8M0FNUType>(element))
      return encodePower(inner, value, mode, saturate);
    return encodeScalar(inner, value, mlir::cast<FloatType>(element), saturate);
  });
}

Value OnnxLowering::castElements(Shaped from, Type fromType, Type toType, bool saturate, StringRef mode) {
  if (fromType == toType)
    return from.value;
  if (isCoded(fromType))
    from.value = decode(from, fromType);
  bool fromUnsigned = fromType.isUnsignedInteger(), toUnsigned = toType.isUnsignedInteger();
  if (isCoded(toType)) {
    if (!isa<FloatType>(from.element()))
      from.value = convert(from, b.getF32Type(), fromUnsigned);
    return encode(from, toType, saturate, mode);
  }
  Shaped to{convert(from, storageType(toType), fromUnsigned, toUnsigned), from.dims};
  unsigned width = toType.getIntOrFloatBitWidth();
  if (isa<FloatType>(toType) || width == 1 || width >= 8)
    return to.value;
  // Integers of 2 and 4 bits wrap within their byte.
  return elementwise({to}, to.dims, to.element(), "Cast", [&](Builder_ &inner, ValueRange v) -> Value {
    Value by = integer(inner, to.element(), 8 - width);
    Value high = arith::ShLIOp::create(inner, v[0], by);
    if (toUnsigned)
      return arith::ShRUIOp::create(inner, high, by);
    return arith::ShRSIOp::create(inner, high, by);
  });
}
