//===- Activations.cpp - functions of one float, by formula ---------------===//
//
// A line of the table per operator: its formula, in the arithmetic of the element type or, for narrow floats, of f32,
// so that the result is rounded once.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Writes arithmetic on one float.
struct Scalar {
  ImplicitLocOpBuilder &b;
  Type type;
  Value constant(double value) { return arith::ConstantOp::create(b, b.getFloatAttr(type, value)); }
  Value add(Value x, Value y) { return arith::AddFOp::create(b, x, y); }
  Value sub(Value x, Value y) { return arith::SubFOp::create(b, x, y); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, x, y); }
  Value div(Value x, Value y) { return arith::DivFOp::create(b, x, y); }
  Value min(Value x, Value y) { return arith::MinimumFOp::create(b, x, y); }
  Value max(Value x, Value y) { return arith::MaximumFOp::create(b, x, y); }
  Value add(Value x, double y) { return add(x, constant(y)); }
  Value sub(Value x, double y) { return sub(x, constant(y)); }
  Value mul(Value x, double y) { return mul(x, constant(y)); }
  Value exp(Value x) { return math::ExpOp::create(b, x); }
  Value log(Value x) { return math::LogOp::create(b, x); }
  Value abs(Value x) { return math::AbsFOp::create(b, x); }
  Value tanh(Value x) { return math::TanhOp::create(b, x); }
  Value sqrt(Value x) { return math::SqrtOp::create(b, x); }
  Value negate(Value x) { return arith::NegFOp::create(b, x); }
  Value greater(Value x, double y) { return arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, x, constant(y)); }
  Value less(Value x, double y) { return arith::CmpFOp::create(b, arith::CmpFPredicate::OLT, x, constant(y)); }
  Value select(Value condition, Value x, Value y) { return arith::SelectOp::create(b, condition, x, y); }
  Value sigmoid(Value x) { return div(constant(1), add(exp(negate(x)), 1)); }
  /// log(1 + e^x) without overflow: max(x, 0) + log(1 + e^-|x|).
  Value softplus(Value x) {
    Value rest = math::Log1pOp::create(b, exp(negate(abs(x))));
    return add(max(x, constant(0)), rest);
  }
  /// e^x - 1, for x <= 0 at least.
  Value expm1(Value x) { return math::ExpM1Op::create(b, x); }
};

using Formula = Value (*)(Scalar s, Value x, OnnxNodeOp node);

struct Activation {
  StringRef name;
  int64_t since;
  Formula formula;
};

Value gelu(Scalar s, Value x, bool tanh) {
  Value half = s.mul(x, 0.5), inner;
  if (tanh)
    inner = s.tanh(s.mul(s.add(x, s.mul(s.mul(s.mul(x, x), x), 0.044715)), 0.7978845608028654));
  else
    inner = math::ErfOp::create(s.b, s.mul(x, 0.7071067811865476));
  return s.mul(half, s.add(inner, 1));
}

template <typename Op> Value function(Scalar s, Value x, OnnxNodeOp) { return Op::create(s.b, x); }

/// x * sigmoid(alpha x).
Value swish(Scalar s, Value x, OnnxNodeOp node) {
  double alpha = node.getFloat("alpha", node.getDomain().empty() ? 1.0 : 1.702);
  return s.mul(x, s.sigmoid(alpha == 1.0 ? x : s.mul(x, alpha)));
}

} // namespace

static const Activation activations[] = {
    {"Acos", 7, function<math::AcosOp>},
    {"Acosh", 9, function<math::AcoshOp>},
    {"Asin", 7, function<math::AsinOp>},
    {"Asinh", 9, function<math::AsinhOp>},
    {"Atan", 7, function<math::AtanOp>},
    {"Atanh", 9, function<math::AtanhOp>},
    {"Ceil", 6, function<math::CeilOp>},
    {"Celu", 12,
     [](Scalar s, Value x, OnnxNodeOp n) {
       double alpha = n.getFloat("alpha", 1.0);
       Value low = s.min(x, s.constant(0)), scaled = s.div(low, s.constant(alpha));
       return s.add(s.max(x, s.constant(0)), s.mul(s.expm1(scaled), alpha));
     }},
    {"Cos", 7, function<math::CosOp>},
    {"Cosh", 9, function<math::CoshOp>},
    {"Elu", 6,
     [](Scalar s, Value x, OnnxNodeOp n) {
       Value low = s.mul(s.expm1(s.min(x, s.constant(0))), n.getFloat("alpha", 1.0));
       return s.select(s.less(x, 0), low, x);
     }},
    {"Erf", 9, function<math::ErfOp>},
    {"Exp", 6, function<math::ExpOp>},
    {"Floor", 6, function<math::FloorOp>},
    {"Gelu", 20,
     [](Scalar s, Value x, OnnxNodeOp n) { return gelu(s, x, n.getString("approximate", "none") == "tanh"); }},
    {"HardSigmoid", 6,
     [](Scalar s, Value x, OnnxNodeOp n) {
       Value line = s.add(s.mul(x, n.getFloat("alpha", 0.2)), n.getFloat("beta", 0.5));
       return s.max(s.min(line, s.constant(1)), s.constant(0));
     }},
    {"HardSwish", 14,
     [](Scalar s, Value x, OnnxNodeOp) {
       return s.mul(x, s.max(s.min(s.add(s.mul(x, 1.0 / 6), 0.5), s.constant(1)), s.constant(0)));
     }},
    {"LeakyRelu", 6,
     [](Scalar s, Value x, OnnxNodeOp n) { return s.select(s.less(x, 0), s.mul(x, n.getFloat("alpha", 0.01)), x); }},
    {"Log", 6, function<math::LogOp>},
    {"Mish", 18, [](Scalar s, Value x, OnnxNodeOp) { return s.mul(x, s.tanh(s.softplus(x))); }},
    {"Reciprocal", 6, [](Scalar s, Value x, OnnxNodeOp) { return s.div(s.constant(1), x); }},
    {"Round", 11, function<math::RoundEvenOp>},
    {"Selu", 6,
     [](Scalar s, Value x, OnnxNodeOp n) {
       double alpha = n.getFloat("alpha", 1.67326319217681884765625),
              gamma = n.getFloat("gamma", 1.05070102214813232421875);
       Value low = s.mul(s.expm1(s.min(x, s.constant(0))), alpha);
       return s.mul(s.select(s.greater(x, 0), x, low), gamma);
     }},
    {"Shrink", 9,
     [](Scalar s, Value x, OnnxNodeOp n) {
       double lambda = n.getFloat("lambd", 0.5), bias = n.getFloat("bias", 0.0);
       Value high = s.select(s.greater(x, lambda), s.sub(x, bias), s.constant(0));
       return s.select(s.less(x, -lambda), s.add(x, bias), high);
     }},
    {"Sigmoid", 6, [](Scalar s, Value x, OnnxNodeOp) { return s.sigmoid(x); }},
    {"Sin", 7, function<math::SinOp>},
    {"Sinh", 9, function<math::SinhOp>},
    {"Softplus", 1, [](Scalar s, Value x, OnnxNodeOp) { return s.softplus(x); }},
    {"Softsign", 1, [](Scalar s, Value x, OnnxNodeOp) { return s.div(x, s.add(s.abs(x), 1)); }},
    {"Sqrt", 6, function<math::SqrtOp>},
    {"Swish", 24, swish},
    {"Tan", 7, function<math::TanOp>},
    {"Tanh", 6, function<math::TanhOp>},
    {"ThresholdedRelu", 10,
     [](Scalar s, Value x, OnnxNodeOp n) {
       return s.select(s.greater(x, n.getFloat("alpha", 1.0)), x, s.constant(0));
     }},
    {"com.microsoft.BiasGelu", 1, [](Scalar s, Value x, OnnxNodeOp) { return gelu(s, x, /*tanh=*/false); }},
    {"com.microsoft.FastGelu", 1, [](Scalar s, Value x, OnnxNodeOp) { return gelu(s, x, /*tanh=*/true); }},
    {"com.microsoft.Gelu", 1, [](Scalar s, Value x, OnnxNodeOp) { return gelu(s, x, /*tanh=*/false); }},
    {"com.microsoft.QuickGelu", 1, swish},
};

static LogicalResult lowerActivation(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  std::string name = node.getQualifiedName();
  const Activation *line = llvm::find_if(activations, [&](const Activation &a) { return a.name == name; });
  Shaped x = lower.input(node, 0);
  auto type = dyn_cast<FloatType>(x.element());
  if (!type)
    return lower.refuse(node) << "element type " << x.element() << " is not supported; cast to float";
  bool narrow = type.getWidth() < 32;
  SmallVector<Shaped> operands = {x};
  // BiasGelu and FastGelu may add a second operand first.
  if (node.hasInput(1))
    operands.push_back(lower.input(node, 1));
  results.push_back(lower.elementwise(
      operands, x.dims, type, OnnxLowering::describe(node), [&](ImplicitLocOpBuilder &b, ValueRange v) -> Value {
        Type wide = narrow ? Type(b.getF32Type()) : type;
        auto widen = [&](Value value) { return narrow ? Value(arith::ExtFOp::create(b, wide, value)) : value; };
        Value value = widen(v[0]);
        if (v.size() > 1)
          value = arith::AddFOp::create(b, value, widen(v[1]));
        value = line->formula({b, wide}, value, node);
        return narrow ? Value(arith::TruncFOp::create(b, type, value)) : value;
      }));
  return success();
}

void mlir::moe::addActivationOperators(SmallVectorImpl<OnnxOperator> &table) {
  for (const Activation &line : activations)
    table.push_back({line.name, line.since, lowerActivation, "floats"});
}
