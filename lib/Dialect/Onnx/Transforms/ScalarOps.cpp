//===- ScalarOps.cpp - ONNX operators inside an expert's body -------------===//
#include "PairExpr.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

using namespace mlir;
using namespace mlir::moe;

std::optional<double> mlir::moe::splatNumber(Value value) {
  auto constant = value.getDefiningOp<OnnxConstantOp>();
  auto splat = constant ? dyn_cast<SplatElementsAttr>(constant.getValue()) : SplatElementsAttr();
  if (!splat)
    return std::nullopt;
  if (auto number = dyn_cast<FloatAttr>(splat.getSplatValue<Attribute>()))
    return number.getValueAsDouble();
  if (auto number = dyn_cast<IntegerAttr>(splat.getSplatValue<Attribute>()))
    return number.getValue().getSExtValue();
  return std::nullopt;
}

static Type elementOf(Value value) { return cast<ShapedType>(value.getType()).getElementType(); }

bool mlir::moe::keepsNumbers(OnnxNodeOp cast) {
  Type from = elementOf(cast.getInputs()[0]), to = elementOf(cast.getResult(0));
  return isa<FloatType>(from) ? isa<FloatType>(to) : isa<IntegerType>(to) && (from.isInteger(1) || !to.isInteger(1));
}

bool mlir::moe::isZeros(Value value) {
  if (auto number = splatNumber(value))
    return *number == 0.0;
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (!node)
    return false;
  if (node.is("ConstantOfShape")) {
    auto fill = node.getOnnxAttrs().getAs<DenseElementsAttr>("value");
    if (!fill)
      return true;
    auto splat = dyn_cast<SplatElementsAttr>(fill);
    Attribute number = splat ? splat.getSplatValue<Attribute>() : Attribute();
    if (auto real = dyn_cast_or_null<FloatAttr>(number))
      return real.getValueAsDouble() == 0.0;
    auto integer = dyn_cast_or_null<IntegerAttr>(number);
    return integer && integer.getValue().isZero();
  }
  if (llvm::is_contained({"Expand", "Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Tile"}, node.getOpType()))
    return isZeros(node.getInputs()[0]);
  return false;
}

static bool isFloat(Value value) { return isa<FloatType>(cast<ShapedType>(value.getType()).getElementType()); }

bool mlir::moe::isScalarOperator(OnnxNodeOp node, const SymbolicShapes &shapes) {
  if (!node.getDomain().empty() || node.getNumResults() != 1)
    return false;
  for (Value operand : node.getInputs())
    if (!isa<ShapedType>(operand.getType()) ? !isa<NoneType>(operand.getType()) : !isFloat(operand))
      return false;
  StringRef op = node.getOpType();
  if (op == "Clip")
    return true;
  if (op == "Pow") {
    auto exponent = splatNumber(node.getInputs()[1]);
    return exponent && (*exponent == 2.0 || *exponent == 3.0);
  }
  return llvm::is_contained({"Add", "Sub", "Mul", "Div", "Sigmoid", "Relu", "Tanh", "Erf", "Exp", "Log", "Neg", "Abs",
                             "Sqrt", "Reciprocal", "Min", "Max", "Sum", "Gelu", "Swish"},
                            op);
}

Value mlir::moe::emitScalarOperator(ImplicitLocOpBuilder &b, OnnxNodeOp node, const SymbolicShapes &shapes,
                                    ValueRange v) {
  StringRef op = node.getOpType();
  Type type = v[0].getType();
  auto number = [&](double x) -> Value { return arith::ConstantOp::create(b, b.getFloatAttr(type, x)); };
  auto fold = [&](auto combine) {
    Value value = v[0];
    for (Value next : v.drop_front())
      value = combine(value, next);
    return value;
  };
  auto sigmoid = [&](Value x) -> Value {
    Value e = math::ExpOp::create(b, arith::NegFOp::create(b, x));
    return arith::DivFOp::create(b, number(1.0), arith::AddFOp::create(b, number(1.0), e));
  };
  if (op == "Add" || op == "Sum")
    return fold([&](Value x, Value y) -> Value { return arith::AddFOp::create(b, x, y); });
  if (op == "Min")
    return fold([&](Value x, Value y) -> Value { return arith::MinimumFOp::create(b, x, y); });
  if (op == "Max")
    return fold([&](Value x, Value y) -> Value { return arith::MaximumFOp::create(b, x, y); });
  if (op == "Sub")
    return arith::SubFOp::create(b, v[0], v[1]);
  if (op == "Mul")
    return arith::MulFOp::create(b, v[0], v[1]);
  if (op == "Div")
    return arith::DivFOp::create(b, v[0], v[1]);
  if (op == "Sigmoid")
    return sigmoid(v[0]);
  if (op == "Swish") {
    double alpha = node.getFloat("alpha", 1.0);
    return arith::MulFOp::create(b, v[0],
                                 sigmoid(alpha == 1.0 ? v[0] : Value(arith::MulFOp::create(b, v[0], number(alpha)))));
  }
  if (op == "Relu")
    return arith::MaximumFOp::create(b, v[0], number(0.0));
  if (op == "Tanh")
    return math::TanhOp::create(b, v[0]);
  if (op == "Erf")
    return math::ErfOp::create(b, v[0]);
  if (op == "Exp")
    return math::ExpOp::create(b, v[0]);
  if (op == "Log")
    return math::LogOp::create(b, v[0]);
  if (op == "Neg")
    return arith::NegFOp::create(b, v[0]);
  if (op == "Abs")
    return math::AbsFOp::create(b, v[0]);
  if (op == "Sqrt")
    return math::SqrtOp::create(b, v[0]);
  if (op == "Reciprocal")
    return arith::DivFOp::create(b, number(1.0), v[0]);
  if (op == "Gelu") {
    Value half = arith::MulFOp::create(b, v[0], number(0.5)), inner;
    if (node.getString("approximate", "none") == "tanh") {
      Value cube = arith::MulFOp::create(b, arith::MulFOp::create(b, v[0], v[0]), v[0]);
      Value sum = arith::AddFOp::create(b, v[0], arith::MulFOp::create(b, cube, number(0.044715)));
      inner = math::TanhOp::create(b, arith::MulFOp::create(b, sum, number(0.7978845608028654)));
    } else {
      inner = math::ErfOp::create(b, arith::MulFOp::create(b, v[0], number(0.7071067811865476)));
    }
    return arith::MulFOp::create(b, half, arith::AddFOp::create(b, inner, number(1.0)));
  }
  if (op == "Pow") {
    Value square = arith::MulFOp::create(b, v[0], v[0]);
    return *splatNumber(node.getInputs()[1]) == 2.0 ? square : Value(arith::MulFOp::create(b, square, v[0]));
  }
  if (op == "Clip") {
    Value value = v[0];
    unsigned next = 1;
    if (node.hasInput(1))
      value = arith::MaximumFOp::create(b, value, v[next++]);
    if (node.hasInput(2))
      value = arith::MinimumFOp::create(b, value, v[next]);
    return value;
  }
  llvm_unreachable("not a scalar operator");
}
