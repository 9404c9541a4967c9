//===- Elementwise.cpp - operators that work on one element at a time -----===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

static Value floatConstant(Builder_ &b, Type type, double value) {
  return arith::ConstantOp::create(b, b.getFloatAttr(type, value));
}

//===----------------------------------------------------------------------===//
// One operand
//===----------------------------------------------------------------------===//

/// Narrow floats are computed in f32: the result is rounded once.
template <typename Body>
static LogicalResult unaryFloat(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results, Body body) {
  Shaped x = lower.input(node, 0);
  auto type = dyn_cast<FloatType>(x.element());
  if (!type)
    return lower.refuse(node) << "element type " << x.element() << " is not supported; cast to float";
  bool narrow = type.getWidth() < 32;
  results.push_back(lower.elementwise({x}, x.dims, type, OnnxLowering::describe(node), [&](Builder_ &b, ValueRange v) {
    Value value = narrow ? Value(arith::ExtFOp::create(b, b.getF32Type(), v[0])) : v[0];
    value = body(b, value);
    return narrow ? Value(arith::TruncFOp::create(b, type, value)) : value;
  }));
  return success();
}

static LogicalResult lowerRelu(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  results.push_back(lower.elementwise({x}, x.dims, x.element(), "Relu", [&](Builder_ &b, ValueRange v) -> Value {
    Value zero = arith::ConstantOp::create(b, lower.zero(x.element()));
    if (isa<FloatType>(x.element()))
      return arith::MaximumFOp::create(b, v[0], zero);
    return arith::MaxSIOp::create(b, v[0], zero);
  }));
  return success();
}

static LogicalResult lowerNeg(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  results.push_back(lower.elementwise({x}, x.dims, x.element(), "Neg", [&](Builder_ &b, ValueRange v) -> Value {
    if (isa<FloatType>(x.element()))
      return arith::NegFOp::create(b, v[0]);
    return arith::SubIOp::create(b, arith::ConstantOp::create(b, lower.zero(x.element())), v[0]);
  }));
  return success();
}

static LogicalResult lowerAbs(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  results.push_back(lower.elementwise({x}, x.dims, x.element(), "Abs", [&](Builder_ &b, ValueRange v) -> Value {
    if (isa<FloatType>(x.element()))
      return math::AbsFOp::create(b, v[0]);
    return isUnsigned ? v[0] : Value(math::AbsIOp::create(b, v[0]));
  }));
  return success();
}

static LogicalResult lowerNot(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  results.push_back(lower.elementwise({x}, x.dims, x.element(), "Not", [&](Builder_ &b, ValueRange v) -> Value {
    return arith::XOrIOp::create(b, v[0], arith::ConstantOp::create(b, b.getBoolAttr(true)));
  }));
  return success();
}

static LogicalResult lowerIdentity(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  results.push_back(lower.input(node, 0).value);
  return success();
}

static LogicalResult lowerSign(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  results.push_back(lower.elementwise({x}, x.dims, x.element(), "Sign", [&](Builder_ &b, ValueRange v) -> Value {
    Value zero = arith::ConstantOp::create(b, lower.zero(x.element()));
    if (isa<FloatType>(x.element())) {
      Value one = floatConstant(b, x.element(), 1.0);
      Value isZero = arith::CmpFOp::create(b, arith::CmpFPredicate::UEQ, v[0], zero); // a NaN stays
      return arith::SelectOp::create(b, isZero, v[0], math::CopySignOp::create(b, one, v[0]));
    }
    auto greater = isUnsigned ? arith::CmpIPredicate::ugt : arith::CmpIPredicate::sgt;
    Value one = arith::ConstantOp::create(b, b.getIntegerAttr(x.element(), 1));
    Value minusOne = arith::ConstantOp::create(b, b.getIntegerAttr(x.element(), -1));
    Value positive = arith::SelectOp::create(b, arith::CmpIOp::create(b, greater, v[0], zero), one, zero);
    Value negative = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, v[0], zero);
    return isUnsigned ? positive : Value(arith::SelectOp::create(b, negative, minusOne, positive));
  }));
  return success();
}

static LogicalResult lowerIsNaN(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  results.push_back(lower.elementwise({x}, x.dims, lower.b.getI1Type(), "", [](Builder_ &b, ValueRange v) -> Value {
    return arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, v[0], v[0]);
  }));
  return success();
}

static LogicalResult lowerIsInf(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  bool positive = node.getInt("detect_positive", 1) != 0, negative = node.getInt("detect_negative", 1) != 0;
  auto type = mlir::cast<FloatType>(x.element());
  results.push_back(lower.elementwise({x}, x.dims, lower.b.getI1Type(), "", [&](Builder_ &b, ValueRange v) -> Value {
    auto is = [&](bool minus) -> Value {
      Value inf = arith::ConstantOp::create(b, b.getFloatAttr(type, APFloat::getInf(type.getFloatSemantics(), minus)));
      return arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, v[0], inf);
    };
    if (positive && negative)
      return arith::OrIOp::create(b, is(false), is(true));
    if (positive || negative)
      return is(negative);
    return arith::ConstantOp::create(b, b.getBoolAttr(false));
  }));
  return success();
}

static LogicalResult lowerBitwiseNot(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  results.push_back(lower.elementwise({x}, x.dims, x.element(), "", [&](Builder_ &b, ValueRange v) -> Value {
    return arith::XOrIOp::create(b, v[0], arith::ConstantOp::create(b, b.getIntegerAttr(x.element(), -1)));
  }));
  return success();
}

static LogicalResult lowerBitCast(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Type to = OnnxLowering::elementType(node.getResult(0));
  if (to == x.element()) {
    results.push_back(x.value);
    return success();
  }
  if (x.element().isInteger(1) && to.isInteger(8)) {
    results.push_back(lower.convert(x, to));
    return success();
  }
  if (to.getIntOrFloatBitWidth() != x.element().getIntOrFloatBitWidth())
    return lower.refuse(node) << "element types " << x.element() << " and " << to << " differ in size";
  results.push_back(lower.elementwise(
      {x}, x.dims, to, "", [&](Builder_ &b, ValueRange v) -> Value { return arith::BitcastOp::create(b, to, v[0]); }));
  return success();
}

/// At inference Dropout passes its operand on; the mask says that nothing was dropped.
static LogicalResult lowerDropout(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (node.hasInput(2)) {
    auto training = lower.shapes.getConstants(node.getInputs()[2]);
    if (!training || training->front())
      return lower.refuse(node) << "training mode is not supported; export the model for inference";
  }
  Shaped x = lower.input(node, 0);
  results.push_back(x.value);
  if (node.getNumResults() > 1)
    results.push_back(lower.filled(x.dims, lower.b.getBoolAttr(true)));
  return success();
}

static LogicalResult lowerCast(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Value from = node.getInputs()[0], to = node.getResult(0);
  if (isa<NoneType>(to.getType()))
    return lower.refuse(node) << "the target type is not supported";
  results.push_back(lower.castElements(lower.get(from), OnnxLowering::onnxType(from), OnnxLowering::onnxType(to),
                                       node.getInt("saturate", 1) != 0, node.getString("round_mode", "up")));
  return success();
}

static LogicalResult lowerClip(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  SmallVector<Shaped> operands = {x};
  bool hasMin = node.hasInput(1), hasMax = node.hasInput(2);
  for (unsigned i : {1u, 2u})
    if (node.hasInput(i)) {
      operands.push_back(lower.input(node, i));
      if (operands.back().rank() != 0)
        return lower.refuse(node) << "a limit must be a scalar";
    }
  bool isFloat = isa<FloatType>(x.element()), isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  results.push_back(lower.elementwise(operands, x.dims, x.element(), "Clip", [&](Builder_ &b, ValueRange v) -> Value {
    Value value = v[0];
    // min(max(x, low), high): a NaN stays.
    if (hasMin)
      value = isFloat      ? Value(arith::MaximumFOp::create(b, value, v[1]))
              : isUnsigned ? Value(arith::MaxUIOp::create(b, value, v[1]))
                           : Value(arith::MaxSIOp::create(b, value, v[1]));
    if (hasMax)
      value = isFloat      ? Value(arith::MinimumFOp::create(b, value, v.back()))
              : isUnsigned ? Value(arith::MinUIOp::create(b, value, v.back()))
                           : Value(arith::MinSIOp::create(b, value, v.back()));
    return value;
  }));
  return success();
}

//===----------------------------------------------------------------------===//
// Several operands
//===----------------------------------------------------------------------===//

template <typename Body>
static LogicalResult nary(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results, Type element,
                          Body body) {
  SmallVector<Shaped> operands;
  for (unsigned i = 0; i < node.getInputs().size(); ++i) {
    operands.push_back(lower.input(node, i));
    if (operands[i].element() != operands[0].element())
      return lower.refuse(node) << "operands of element types " << operands[0].element() << " and "
                                << operands[i].element();
  }
  DimList dims = lower.dimsOf(node.getResult(0));
  results.push_back(
      lower.elementwise(operands, dims, element, OnnxLowering::describe(node), [&](Builder_ &b, ValueRange v) {
        Value value = v[0];
        if (v.size() == 2)
          return body(b, v[0], v[1]);
        for (Value next : v.drop_front())
          value = body(b, value, next);
        return value;
      }));
  return success();
}

template <typename FloatOp, typename SignedOp, typename UnsignedOp>
static LogicalResult arithmetic(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  bool isFloat = isa<FloatType>(element), isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  return nary(node, lower, results, element, [&](Builder_ &b, Value x, Value y) -> Value {
    if (isFloat)
      return FloatOp::create(b, x, y);
    if (isUnsigned)
      return UnsignedOp::create(b, x, y);
    return SignedOp::create(b, x, y);
  });
}

static LogicalResult lowerDiv(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  return nary(node, lower, results, element, [&](Builder_ &b, Value x, Value y) -> Value {
    if (isa<FloatType>(element))
      return arith::DivFOp::create(b, x, y);
    // Division by zero and INT_MIN / -1 trap; ONNX leaves their results open.
    Value zero = arith::ConstantOp::create(b, lower.zero(element));
    Value one = arith::ConstantOp::create(b, b.getIntegerAttr(element, 1));
    Value isZero = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, y, zero);
    if (isUnsigned)
      return arith::DivUIOp::create(b, x, arith::SelectOp::create(b, isZero, one, y));
    Value minusOne = arith::ConstantOp::create(b, b.getIntegerAttr(element, -1));
    Value isMinusOne = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, y, minusOne);
    Value safe = arith::SelectOp::create(b, arith::OrIOp::create(b, isZero, isMinusOne), one, y);
    Value quotient = arith::DivSIOp::create(b, x, safe);
    return arith::SelectOp::create(b, isMinusOne, arith::SubIOp::create(b, zero, x), quotient);
  });
}

static LogicalResult lowerMod(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]), fmod = node.getInt("fmod", 0) != 0;
  return nary(node, lower, results, element, [&](Builder_ &b, Value x, Value y) -> Value {
    if (isa<FloatType>(element)) {
      Value rest = arith::RemFOp::create(b, x, y);
      if (fmod)
        return rest;
      // The sign of the divisor, a zero included.
      Value zero = arith::ConstantOp::create(b, lower.zero(element));
      auto compare = [&](arith::CmpFPredicate p, Value l, Value r) { return arith::CmpFOp::create(b, p, l, r); };
      Value isZero = compare(arith::CmpFPredicate::OEQ, rest, zero);
      Value differ = arith::XOrIOp::create(b, compare(arith::CmpFPredicate::OLT, rest, zero),
                                           compare(arith::CmpFPredicate::OLT, y, zero));
      Value moved = arith::SelectOp::create(b, differ, arith::AddFOp::create(b, rest, y), rest);
      return arith::SelectOp::create(b, isZero, math::CopySignOp::create(b, zero, y), moved);
    }
    Value zero = arith::ConstantOp::create(b, lower.zero(element));
    Value one = arith::ConstantOp::create(b, b.getIntegerAttr(element, 1));
    Value isZero = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, y, zero);
    if (isUnsigned)
      return arith::RemUIOp::create(b, x, arith::SelectOp::create(b, isZero, one, y));
    Value minusOne = arith::ConstantOp::create(b, b.getIntegerAttr(element, -1));
    Value isMinusOne = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, y, minusOne);
    Value safe = arith::SelectOp::create(b, arith::OrIOp::create(b, isZero, isMinusOne), one, y);
    Value rest = arith::RemSIOp::create(b, x, safe);
    if (fmod)
      return rest;
    // The sign of the divisor: a rest of the other sign moves by one divisor.
    Value nonZero = arith::CmpIOp::create(b, arith::CmpIPredicate::ne, rest, zero);
    Value differ = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, arith::XOrIOp::create(b, rest, safe), zero);
    return arith::SelectOp::create(b, arith::AndIOp::create(b, nonZero, differ), arith::AddIOp::create(b, rest, safe),
                                   rest);
  });
}

/// x * 2^y, or x / 2^y rounded down; a shift by the width or more leaves nothing but the sign.
static LogicalResult lowerBitShift(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  bool left = node.getString("direction") == "LEFT", isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  return nary(node, lower, results, element, [&](Builder_ &b, Value x, Value y) -> Value {
    Value width = arith::ConstantOp::create(b, b.getIntegerAttr(element, element.getIntOrFloatBitWidth()));
    Value zero = arith::ConstantOp::create(b, lower.zero(element));
    Value fits = arith::CmpIOp::create(b, arith::CmpIPredicate::ult, y, width);
    if (!left && !isUnsigned) {
      Value most = arith::ConstantOp::create(b, b.getIntegerAttr(element, element.getIntOrFloatBitWidth() - 1));
      return arith::ShRSIOp::create(b, x, arith::SelectOp::create(b, fits, y, most));
    }
    Value by = arith::SelectOp::create(b, fits, y, zero);
    Value shifted = left ? Value(arith::ShLIOp::create(b, x, by)) : Value(arith::ShRUIOp::create(b, x, by));
    return arith::SelectOp::create(b, fits, shifted, zero);
  });
}

template <typename Op>
static LogicalResult bitwise(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return nary(node, lower, results, OnnxLowering::elementType(node.getInputs()[0]),
              [](Builder_ &b, Value x, Value y) -> Value { return Op::create(b, x, y); });
}

static LogicalResult lowerPRelu(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  return nary(node, lower, results, element, [&](Builder_ &b, Value x, Value slope) -> Value {
    Value zero = arith::ConstantOp::create(b, lower.zero(element));
    if (!isa<FloatType>(element)) {
      Value negative = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, x, zero);
      return arith::SelectOp::create(b, negative, arith::MulIOp::create(b, x, slope), x);
    }
    Value negative = arith::CmpFOp::create(b, arith::CmpFPredicate::OLT, x, zero);
    return arith::SelectOp::create(b, negative, arith::MulFOp::create(b, x, slope), x);
  });
}

/// a * sigmoid(alpha a) * b.
static LogicalResult lowerSwiGLU(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  auto type = mlir::cast<FloatType>(OnnxLowering::elementType(node.getInputs()[0]));
  double alpha = node.getFloat("alpha", 1.0);
  return nary(node, lower, results, type, [&](Builder_ &b, Value x, Value y) -> Value {
    bool narrow = type.getWidth() < 32;
    if (narrow) {
      x = arith::ExtFOp::create(b, b.getF32Type(), x);
      y = arith::ExtFOp::create(b, b.getF32Type(), y);
    }
    Value scaled = arith::MulFOp::create(b, x, floatConstant(b, x.getType(), -alpha));
    Value one = floatConstant(b, x.getType(), 1.0);
    Value sum = arith::AddFOp::create(b, math::ExpOp::create(b, scaled), one);
    Value value = arith::MulFOp::create(b, arith::DivFOp::create(b, x, sum), y);
    return narrow ? Value(arith::TruncFOp::create(b, type, value)) : value;
  });
}

/// Powers of integers by squaring, in the wrapping arithmetic of i64. A negative exponent leaves 1, -1 or 0.
static Value integerPower(Builder_ &b, Value base, Value exponent, bool isUnsigned) {
  Type type = base.getType(), wide = b.getI64Type();
  auto widen = [&](Value v, bool zero) -> Value {
    if (v.getType() == wide)
      return v;
    return zero ? Value(arith::ExtUIOp::create(b, wide, v)) : Value(arith::ExtSIOp::create(b, wide, v));
  };
  auto constant = [&](int64_t value) { return arith::ConstantOp::create(b, b.getI64IntegerAttr(value)); };
  Value x = widen(base, isUnsigned), n = widen(exponent, false), zero = constant(0), one = constant(1);
  Value first = arith::ConstantIndexOp::create(b, 0), last = arith::ConstantIndexOp::create(b, 64);
  auto loop = scf::ForOp::create(b, first, last, arith::ConstantIndexOp::create(b, 1), ValueRange{one, x, n});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value result = loop.getRegionIterArg(0), power = loop.getRegionIterArg(1), rest = loop.getRegionIterArg(2);
    Value odd = arith::TruncIOp::create(b, b.getI1Type(), rest);
    Value next = arith::SelectOp::create(b, odd, arith::MulIOp::create(b, result, power), result);
    scf::YieldOp::create(
        b, ValueRange{next, arith::MulIOp::create(b, power, power), arith::ShRUIOp::create(b, rest, one)});
  }
  auto is = [&](arith::CmpIPredicate p, Value l, Value r) { return arith::CmpIOp::create(b, p, l, r); };
  // 1 and -1 to the power of n depend on its last bit alone, so the loop has them right.
  Value unit =
      arith::OrIOp::create(b, is(arith::CmpIPredicate::eq, x, one), is(arith::CmpIPredicate::eq, x, constant(-1)));
  Value good = arith::OrIOp::create(b, unit, is(arith::CmpIPredicate::sge, n, zero));
  Value result = arith::SelectOp::create(b, good, loop.getResult(0), zero);
  return type == wide ? result : Value(arith::TruncIOp::create(b, type, result));
}

static LogicalResult lowerPow(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped base = lower.input(node, 0), exponent = lower.input(node, 1);
  auto type = dyn_cast<FloatType>(base.element());
  if (!type && isa<IntegerType>(exponent.element())) {
    results.push_back(lower.elementwise({base, exponent}, lower.dimsOf(node.getResult(0)), base.element(),
                                        OnnxLowering::describe(node), [&](Builder_ &b, ValueRange v) -> Value {
                                          return integerPower(b, v[0], v[1],
                                                              OnnxLowering::isUnsigned(node.getInputs()[0]));
                                        }));
    return success();
  }
  if (!type) {
    // An integer to a fractional power: in f64, then back.
    Type wide = lower.b.getF64Type();
    Shaped x{lower.convert(base, wide, OnnxLowering::isUnsigned(node.getInputs()[0])), base.dims};
    Shaped y{lower.convert(exponent, wide), exponent.dims};
    DimList dims = lower.dimsOf(node.getResult(0));
    Value power =
        lower.elementwise({x, y}, dims, wide, OnnxLowering::describe(node), [](Builder_ &b, ValueRange v) -> Value {
          // The last places are not exact: what should be a whole number is made one.
          Value value = math::PowFOp::create(b, v[0], v[1]);
          Value whole = math::RoundEvenOp::create(b, value);
          Value off = math::AbsFOp::create(b, arith::SubFOp::create(b, value, whole));
          Value slack =
              arith::MulFOp::create(b, math::AbsFOp::create(b, value), floatConstant(b, value.getType(), 1e-12));
          Value near = arith::CmpFOp::create(b, arith::CmpFPredicate::OLE, off, slack);
          return arith::SelectOp::create(b, near, whole, value);
        });
    results.push_back(lower.convert({power, dims}, base.element()));
    return success();
  }
  std::optional<double> known;
  if (auto constant = node.getInputs()[1].getDefiningOp<OnnxConstantOp>())
    if (auto splat = dyn_cast<SplatElementsAttr>(constant.getValue())) {
      if (auto value = dyn_cast<FloatAttr>(splat.getSplatValue<Attribute>()))
        known = value.getValueAsDouble();
      else if (auto integer = dyn_cast<IntegerAttr>(splat.getSplatValue<Attribute>()))
        known = integer.getValue().getSExtValue();
    }
  DimList dims = lower.dimsOf(node.getResult(0));
  if (known && (*known == 1.0 || *known == 2.0 || *known == 3.0 || *known == 0.5) &&
      ArrayRef<DimExpr>(dims) == ArrayRef<DimExpr>(base.dims)) {
    if (*known == 0.5)
      return unaryFloat(node, lower, results, [](Builder_ &b, Value x) -> Value { return math::SqrtOp::create(b, x); });
    return unaryFloat(node, lower, results, [&](Builder_ &b, Value x) -> Value {
      Value power = x;
      for (int i = 1; i < *known; ++i)
        power = arith::MulFOp::create(b, power, x);
      return power;
    });
  }
  bool narrow = type.getWidth() < 32;
  Type wide = narrow ? Type(lower.b.getF32Type()) : type;
  Shaped wideExponent = {lower.convert(exponent, wide), exponent.dims};
  Shaped wideBase = {lower.convert(base, wide), base.dims};
  Value power =
      lower.elementwise({wideBase, wideExponent}, dims, wide, OnnxLowering::describe(node),
                        [&](Builder_ &b, ValueRange v) -> Value { return math::PowFOp::create(b, v[0], v[1]); });
  results.push_back(lower.convert({power, dims}, type));
  return success();
}

static LogicalResult lowerMean(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  if (failed(nary(node, lower, results, element,
                  [](Builder_ &b, Value x, Value y) -> Value { return arith::AddFOp::create(b, x, y); })))
    return failure();
  Shaped sum{results[0], lower.dimsOf(node.getResult(0))};
  double count = node.getInputs().size();
  results[0] = lower.elementwise({sum}, sum.dims, element, "Mean", [&](Builder_ &b, ValueRange v) -> Value {
    return arith::DivFOp::create(b, v[0], floatConstant(b, element, count));
  });
  return success();
}

template <arith::CmpFPredicate floatPredicate, arith::CmpIPredicate signedPredicate,
          arith::CmpIPredicate unsignedPredicate>
static LogicalResult comparison(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getInputs()[0]);
  bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]) || element.isInteger(1);
  return nary(node, lower, results, lower.b.getI1Type(), [&](Builder_ &b, Value x, Value y) -> Value {
    if (isa<FloatType>(element))
      return arith::CmpFOp::create(b, floatPredicate, x, y);
    return arith::CmpIOp::create(b, isUnsigned ? unsignedPredicate : signedPredicate, x, y);
  });
}

template <typename Op>
static LogicalResult logical(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return nary(node, lower, results, lower.b.getI1Type(),
              [](Builder_ &b, Value x, Value y) -> Value { return Op::create(b, x, y); });
}

static LogicalResult lowerWhere(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped condition = lower.input(node, 0), x = lower.input(node, 1), y = lower.input(node, 2);
  if (x.element() != y.element())
    return lower.refuse(node) << "operands of element types " << x.element() << " and " << y.element();
  results.push_back(lower.elementwise(
      {condition, x, y}, lower.dimsOf(node.getResult(0)), x.element(), OnnxLowering::describe(node),
      [](Builder_ &b, ValueRange v) -> Value { return arith::SelectOp::create(b, v[0], v[1], v[2]); }));
  return success();
}

void mlir::moe::addElementwiseOperators(SmallVectorImpl<OnnxOperator> &table) {
  using F = arith::CmpFPredicate;
  using I = arith::CmpIPredicate;
  table.append({
      {"Abs", 6, lowerAbs, ""},
      {"Add", 7, arithmetic<arith::AddFOp, arith::AddIOp, arith::AddIOp>, ""},
      {"And", 7, logical<arith::AndIOp>, ""},
      {"BitCast", 26, lowerBitCast, "element types of equal size"},
      {"BitShift", 11, lowerBitShift, ""},
      {"BitwiseAnd", 18, bitwise<arith::AndIOp>, ""},
      {"BitwiseNot", 18, lowerBitwiseNot, ""},
      {"BitwiseOr", 18, bitwise<arith::OrIOp>, ""},
      {"BitwiseXor", 18, bitwise<arith::XOrIOp>, ""},
      {"CastLike", 15, lowerCast, "as Cast"},
      {"Cast", 6, lowerCast, "no strings"},
      {"Clip", 11, lowerClip, ""},
      {"Div", 7, lowerDiv, "integer division by zero gives an unspecified number"},
      {"Dropout", 7, lowerDropout, "inference"},
      {"Equal", 7, comparison<F::OEQ, I::eq, I::eq>, "no strings"},
      {"Greater", 7, comparison<F::OGT, I::sgt, I::ugt>, ""},
      {"GreaterOrEqual", 12, comparison<F::OGE, I::sge, I::uge>, ""},
      {"Identity", 1, lowerIdentity, "tensors"},
      {"IsInf", 10, lowerIsInf, ""},
      {"IsNaN", 9, lowerIsNaN, ""},
      {"Less", 7, comparison<F::OLT, I::slt, I::ult>, ""},
      {"LessOrEqual", 12, comparison<F::OLE, I::sle, I::ule>, ""},
      {"Max", 8, arithmetic<arith::MaximumFOp, arith::MaxSIOp, arith::MaxUIOp>, ""},
      {"Mean", 8, lowerMean, ""},
      {"Min", 8, arithmetic<arith::MinimumFOp, arith::MinSIOp, arith::MinUIOp>, ""},
      {"Mod", 10, lowerMod, ""},
      {"Mul", 7, arithmetic<arith::MulFOp, arith::MulIOp, arith::MulIOp>, ""},
      {"Neg", 6, lowerNeg, ""},
      {"Not", 1, lowerNot, ""},
      {"Or", 7, logical<arith::OrIOp>, ""},
      {"Pow", 7, lowerPow, ""},
      {"PRelu", 7, lowerPRelu, ""},
      {"Relu", 6, lowerRelu, ""},
      {"Sign", 9, lowerSign, ""},
      {"Sub", 7, arithmetic<arith::SubFOp, arith::SubIOp, arith::SubIOp>, ""},
      {"Sum", 8, arithmetic<arith::AddFOp, arith::AddIOp, arith::AddIOp>, ""},
      {"SwiGLU", 28, lowerSwiGLU, "floats"},
      {"Where", 9, lowerWhere, ""},
      {"Xor", 7, logical<arith::XOrIOp>, ""},
  });
}
