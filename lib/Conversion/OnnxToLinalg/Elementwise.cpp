//===- Elementwise.cpp - operators that work on one element at a time -----===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

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

template <typename Op>
static LogicalResult mathUnary(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return unaryFloat(node, lower, results, [](Builder_ &b, Value x) -> Value { return Op::create(b, x); });
}

static Value sigmoid(Builder_ &b, Value x) {
  Value one = floatConstant(b, x.getType(), 1.0);
  Value e = math::ExpOp::create(b, arith::NegFOp::create(b, x));
  return arith::DivFOp::create(b, one, arith::AddFOp::create(b, one, e));
}

static LogicalResult lowerSigmoid(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return unaryFloat(node, lower, results, [](Builder_ &b, Value x) { return sigmoid(b, x); });
}

static LogicalResult lowerSwish(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  double alpha = node.getFloat("alpha", 1.0);
  return unaryFloat(node, lower, results, [&](Builder_ &b, Value x) -> Value {
    Value scaled = alpha == 1.0 ? x : Value(arith::MulFOp::create(b, x, floatConstant(b, x.getType(), alpha)));
    return arith::MulFOp::create(b, x, sigmoid(b, scaled));
  });
}

static LogicalResult lowerReciprocal(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return unaryFloat(node, lower, results, [](Builder_ &b, Value x) -> Value {
    return arith::DivFOp::create(b, floatConstant(b, x.getType(), 1.0), x);
  });
}

static LogicalResult lowerGelu(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  bool tanh = node.getString("approximate", "none") == "tanh";
  return unaryFloat(node, lower, results, [&](Builder_ &b, Value x) -> Value {
    Type type = x.getType();
    Value half = arith::MulFOp::create(b, x, floatConstant(b, type, 0.5)), inner;
    if (tanh) {
      Value cube = arith::MulFOp::create(b, arith::MulFOp::create(b, x, x), x);
      Value sum = arith::AddFOp::create(b, x, arith::MulFOp::create(b, cube, floatConstant(b, type, 0.044715)));
      inner = math::TanhOp::create(b, arith::MulFOp::create(b, sum, floatConstant(b, type, 0.7978845608028654)));
    } else {
      inner = math::ErfOp::create(b, arith::MulFOp::create(b, x, floatConstant(b, type, 0.7071067811865476)));
    }
    return arith::MulFOp::create(b, half, arith::AddFOp::create(b, inner, floatConstant(b, type, 1.0)));
  });
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

static LogicalResult lowerCast(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Value from = node.getInputs()[0], to = node.getResult(0);
  if (isa<NoneType>(to.getType()))
    return lower.refuse(node) << "the target type is not supported";
  results.push_back(lower.convert(lower.get(from), OnnxLowering::elementType(to), OnnxLowering::isUnsigned(from),
                                  OnnxLowering::isUnsigned(to)));
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
    if (isa<FloatType>(element))
      return arith::RemFOp::create(b, x, y);
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

static LogicalResult lowerPow(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped base = lower.input(node, 0), exponent = lower.input(node, 1);
  auto type = dyn_cast<FloatType>(base.element());
  if (!type)
    return lower.refuse(node) << "a base of element type " << base.element() << " is not supported; cast to float";
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
      return mathUnary<math::SqrtOp>(node, lower, results);
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
      {"Cast", 6, lowerCast, "no strings, no 8-bit or 4-bit floats, no 4-bit integers"},
      {"Ceil", 6, mathUnary<math::CeilOp>, ""},
      {"Clip", 11, lowerClip, ""},
      {"Cos", 7, mathUnary<math::CosOp>, ""},
      {"Div", 7, lowerDiv, "integer division by zero gives an unspecified number"},
      {"Equal", 7, comparison<F::OEQ, I::eq, I::eq>, "no strings"},
      {"Erf", 9, mathUnary<math::ErfOp>, "floats"},
      {"Exp", 6, mathUnary<math::ExpOp>, ""},
      {"Floor", 6, mathUnary<math::FloorOp>, ""},
      {"Gelu", 20, lowerGelu, ""},
      {"Greater", 7, comparison<F::OGT, I::sgt, I::ugt>, ""},
      {"GreaterOrEqual", 12, comparison<F::OGE, I::sge, I::uge>, ""},
      {"Identity", 1, lowerIdentity, "tensors"},
      {"Less", 7, comparison<F::OLT, I::slt, I::ult>, ""},
      {"LessOrEqual", 12, comparison<F::OLE, I::sle, I::ule>, ""},
      {"Log", 6, mathUnary<math::LogOp>, ""},
      {"Max", 8, arithmetic<arith::MaximumFOp, arith::MaxSIOp, arith::MaxUIOp>, ""},
      {"Mean", 8, lowerMean, ""},
      {"Min", 8, arithmetic<arith::MinimumFOp, arith::MinSIOp, arith::MinUIOp>, ""},
      {"Mod", 10, lowerMod, ""},
      {"Mul", 7, arithmetic<arith::MulFOp, arith::MulIOp, arith::MulIOp>, ""},
      {"Neg", 6, lowerNeg, ""},
      {"Not", 1, lowerNot, ""},
      {"Or", 7, logical<arith::OrIOp>, ""},
      {"Pow", 7, lowerPow, "a floating-point base"},
      {"Reciprocal", 6, lowerReciprocal, ""},
      {"Relu", 6, lowerRelu, ""},
      {"Round", 11, mathUnary<math::RoundEvenOp>, ""},
      {"Sigmoid", 6, lowerSigmoid, ""},
      {"Sin", 7, mathUnary<math::SinOp>, ""},
      {"Sqrt", 6, mathUnary<math::SqrtOp>, ""},
      {"Sub", 7, arithmetic<arith::SubFOp, arith::SubIOp, arith::SubIOp>, ""},
      {"Sum", 8, arithmetic<arith::AddFOp, arith::AddIOp, arith::AddIOp>, ""},
      {"Swish", 24, lowerSwish, ""},
      {"Tanh", 6, mathUnary<math::TanhOp>, ""},
      {"Where", 9, lowerWhere, ""},
      {"Xor", 7, logical<arith::XOrIOp>, ""},
  });
}
