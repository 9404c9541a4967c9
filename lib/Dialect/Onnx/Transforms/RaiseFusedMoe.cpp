//===- RaiseFusedMoe.cpp - com.microsoft.MoE becomes routed form ----------===//
//
// router_probs holds logits. The gates are the softmax over all experts; the k largest logits are chosen, the highest
// expert among equal ones; `normalize_routing_weights` divides by the sum of the chosen gates. A token whose logits
// have no softmax (NaN, +inf, all -inf) gets a zero row: it is masked and chooses nobody.
//
//===----------------------------------------------------------------------===//
#include "Raise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
struct FusedMoe {
  int64_t tokensRank, hidden, inner, experts, k;
  StringRef activation;
  bool normalize;
  bool interleaved = false, concatenated = false; // swiglu with gate and up in fc1
  double alpha, beta;
  std::optional<double> limit;
};
} // namespace

static LogicalResult refuse(OnnxNodeOp node, const Twine &why) {
  return emitError(node.getLoc()) << "node '" << node.getNodeName() << "' (" << node.getQualifiedName() << "): " << why;
}

static LogicalResult readAttributes(OnnxNodeOp node, FusedMoe &moe) {
  moe.k = node.getInt("k", 1);
  moe.activation = node.getString("activation_type", "relu");
  moe.normalize = node.getInt("normalize_routing_weights", 0) != 0;
  moe.alpha = node.getFloat("activation_alpha", 1.0);
  moe.beta = node.getFloat("activation_beta", 0.0);
  moe.limit = node.getFloat("swiglu_limit");
  if (!llvm::is_contained({"relu", "gelu", "silu", "identity", "swiglu"}, moe.activation))
    return refuse(node, "activation_type '" + moe.activation + "' is not one of relu, gelu, silu, identity, swiglu");
  if (node.getInt("use_sparse_mixer", 0))
    return refuse(node, "use_sparse_mixer = 1 is not supported; export the router as operators and the experts with "
                        "plain top-k");
  if (node.getInt("swiglu_limit_after_activation", 0))
    return refuse(node, "swiglu_limit_after_activation = 1 is not supported");
  if (moe.limit && !(*moe.limit >= 0))
    return refuse(node, "swiglu_limit must not be negative, got " + Twine(std::to_string(*moe.limit)));
  int64_t fusion = node.getInt("swiglu_fusion", 0);
  if (fusion < 0 || fusion > 2)
    return refuse(node, "swiglu_fusion must be 0, 1 or 2, got " + Twine(fusion));
  if (moe.activation == "swiglu") {
    moe.interleaved = fusion == 1;
    moe.concatenated = fusion == 2;
    if (fusion == 0 && !node.hasInput(6))
      return refuse(node, "swiglu with swiglu_fusion = 0 needs the input fc3_experts_weights");
    if (fusion != 0 && node.hasInput(6))
      return refuse(node, "swiglu_fusion = " + Twine(fusion) + " and fc3_experts_weights exclude each other");
  }
  return success();
}

/// The shapes that the operator's specification gives.
static LogicalResult readShapes(OnnxNodeOp node, FusedMoe &moe) {
  auto typeOf = [&](unsigned i) { return dyn_cast<RankedTensorType>(node.getInputs()[i].getType()); };
  if (node.getInputs().size() < 5 || !node.hasInput(2) || !node.hasInput(4))
    return refuse(node, "expected at least the inputs input, router_probs, fc1_experts_weights, fc2_experts_weights");
  auto input = typeOf(0), logits = typeOf(1), fc1 = typeOf(2), fc2 = typeOf(4);
  if (!input || (input.getRank() != 2 && input.getRank() != 3))
    return refuse(node, "expected 'input' of rank 2 or 3");
  if (!logits || logits.getRank() != 2)
    return refuse(node, "expected 'router_probs' of rank 2");
  if (!fc1 || !fc2 || !fc1.hasStaticShape() || !fc2.hasStaticShape() || fc1.getRank() != 3 || fc2.getRank() != 3)
    return refuse(node, "expected expert weights of rank 3 and static shape");
  Type element = input.getElementType();
  if (!element.isF32() && !element.isF16() && !element.isBF16() && !element.isF64())
    return refuse(node, "element type is not a float");
  bool fused = moe.interleaved || moe.concatenated;
  moe.tokensRank = input.getRank() - 1;
  moe.experts = fc2.getDimSize(0);
  moe.hidden = fc2.getDimSize(1);
  moe.inner = fc2.getDimSize(2);
  auto expect = [&](unsigned i, StringRef name, ArrayRef<int64_t> shape) -> LogicalResult {
    auto type = typeOf(i);
    if (type && type.getElementType() == element && type.getShape() == shape)
      return success();
    std::string text, got;
    llvm::raw_string_ostream(text) << RankedTensorType::get(shape, element);
    llvm::raw_string_ostream(got) << node.getInputs()[i].getType();
    return refuse(node,
                  "expected '" + name + "' of type " + text + ", got " + got + "; weights are [experts, out, in]");
  };
  int64_t wide = fused ? 2 * moe.inner : moe.inner;
  if (!ShapedType::isDynamic(input.getShape().back()) && input.getShape().back() != moe.hidden)
    return refuse(node, "'input' has rows of " + Twine(input.getShape().back()) +
                            ", fc2_experts_weights gives rows of " + Twine(moe.hidden));
  if (logits.getDimSize(1) != moe.experts)
    return refuse(node, "'router_probs' has " + Twine(logits.getDimSize(1)) + " columns, expected one for each of " +
                            Twine(moe.experts) + " experts");
  if (failed(expect(2, "fc1_experts_weights", {moe.experts, wide, moe.hidden})) ||
      (node.hasInput(3) && failed(expect(3, "fc1_experts_bias", {moe.experts, wide}))) ||
      (node.hasInput(5) && failed(expect(5, "fc2_experts_bias", {moe.experts, moe.hidden}))) ||
      (node.hasInput(6) && failed(expect(6, "fc3_experts_weights", {moe.experts, moe.inner, moe.hidden}))) ||
      (node.hasInput(7) && failed(expect(7, "fc3_experts_bias", {moe.experts, moe.inner}))))
    return failure();
  if (moe.k < 1 || moe.k > moe.experts)
    return refuse(node,
                  "k must be between 1 and the number of experts, " + Twine(moe.experts) + ", got " + Twine(moe.k));
  return success();
}

/// The routing of the node's logits.
static Value buildFusedRouting(OnnxNodeOp node, const FusedMoe &moe, NodeBuilder &nodes) {
  ImplicitLocOpBuilder &b = nodes.b;
  Value logits = nodes.widen(node.getInputs()[1]);
  auto type = cast<RankedTensorType>(logits.getType());
  auto minusOne = [&](StringRef name) { return b.getNamedAttr(name, b.getI64IntegerAttr(-1)); };
  Value gates = nodes.node("Softmax", 13, logits, type, {minusOne("axis")});
  // A row with a softmax sums to about 1; one without is NaN, which equals nothing.
  auto column = RankedTensorType::get({type.getDimSize(0), 1}, type.getElementType());
  Value sum = nodes.node("ReduceSum", 13, {gates, nodes.constant({-1})}, column,
                         {b.getNamedAttr("keepdims", b.getI64IntegerAttr(1))});
  Value valid = nodes.node("Equal", 13, {sum, sum}, column.clone(b.getI1Type()));
  Value all = RouteOp::create(b, gates, valid);
  Value routing =
      TopKOp::create(b, all, /*key=*/logits, /*k=*/Value(), b.getI64IntegerAttr(moe.k), AxisAttr(), IntegerAttr(),
                     IntegerAttr(), GroupScoreAttr(), TieBreakAttr::get(b.getContext(), TieBreak::Highest));
  if (moe.normalize)
    routing = NormalizeOp::create(b, routing, NormAttr::get(b.getContext(), Norm::Sum), AxisAttr(), FloatAttr());
  return routing;
}

/// The scalar part of the activation: of the gate alone, or of gate and up.
static Value emitActivation(ImplicitLocOpBuilder &b, const FusedMoe &moe, Value gate, Value up) {
  Type type = gate.getType();
  auto number = [&](double x) -> Value { return arith::ConstantOp::create(b, b.getFloatAttr(type, x)); };
  auto sigmoid = [&](Value x) -> Value {
    Value e = math::ExpOp::create(b, arith::NegFOp::create(b, x));
    return arith::DivFOp::create(b, number(1.0), arith::AddFOp::create(b, number(1.0), e));
  };
  if (moe.activation == "swiglu") {
    if (moe.limit) {
      gate = arith::MinimumFOp::create(b, gate, number(*moe.limit));
      up = arith::MaximumFOp::create(b, arith::MinimumFOp::create(b, up, number(*moe.limit)), number(-*moe.limit));
    }
    Value scaled = moe.alpha == 1.0 ? gate : Value(arith::MulFOp::create(b, gate, number(moe.alpha)));
    Value value = arith::MulFOp::create(b, gate, sigmoid(scaled));
    if (moe.beta != 0.0)
      up = arith::AddFOp::create(b, up, number(moe.beta));
    return arith::MulFOp::create(b, value, up);
  }
  Value value = gate;
  if (moe.activation == "relu") {
    // max with the number first: relu of NaN is 0 here, as in onnxruntime.
    value = arith::MaxNumFOp::create(b, gate, number(0.0));
  } else if (moe.activation == "silu") {
    value = arith::MulFOp::create(b, gate, sigmoid(gate));
  } else if (moe.activation == "gelu") {
    Value cube = arith::MulFOp::create(b, arith::MulFOp::create(b, gate, gate), gate);
    Value sum = arith::AddFOp::create(b, gate, arith::MulFOp::create(b, cube, number(0.044715)));
    Value t = math::TanhOp::create(b, arith::MulFOp::create(b, sum, number(0.7978845608028654)));
    value =
        arith::MulFOp::create(b, arith::MulFOp::create(b, gate, number(0.5)), arith::AddFOp::create(b, t, number(1.0)));
  }
  return up ? Value(arith::MulFOp::create(b, value, up)) : value;
}

LogicalResult mlir::moe::raiseFusedMoe(OnnxNodeOp node, SymbolicShapes &shapes) {
  FusedMoe moe;
  if (failed(readAttributes(node, moe)) || failed(readShapes(node, moe)))
    return failure();
  NodeBuilder nodes(node, shapes);
  ImplicitLocOpBuilder &b = nodes.b;
  Value input = node.getInputs()[0];
  Type element = cast<RankedTensorType>(input.getType()).getElementType();
  Type wide = cast<FloatType>(element).getWidth() < 32 ? Type(b.getF32Type()) : element;
  Value rows = nodes.matchRows(nodes.flatten(input, moe.tokensRank), node.getInputs()[1]);
  Value routing = buildFusedRouting(node, moe, nodes);

  // Operands: the matrices that rows meet first, then their biases, then fc2 and its bias.
  SmallVector<Value> banks;
  auto addCut = [&](unsigned i, int64_t offset, int64_t stride) {
    banks.push_back(nodes.cutBank(node.getInputs()[i], 1, offset, stride, moe.inner));
  };
  bool fused = moe.interleaved || moe.concatenated, gated = fused || node.hasInput(6);
  bool gateBias = node.hasInput(3), upBias = fused ? node.hasInput(3) : node.hasInput(7);
  int64_t stride = moe.interleaved ? 2 : 1, second = moe.interleaved ? 1 : moe.inner;
  if (fused) {
    addCut(2, 0, stride);
    addCut(2, second, stride);
    if (gateBias) {
      addCut(3, 0, stride);
      addCut(3, second, stride);
    }
  } else {
    banks.push_back(node.getInputs()[2]);
    if (gated)
      banks.push_back(node.getInputs()[6]);
    if (gateBias)
      banks.push_back(node.getInputs()[3]);
    if (gated && upBias)
      banks.push_back(node.getInputs()[7]);
  }
  banks.push_back(node.getInputs()[4]);
  if (node.hasInput(5))
    banks.push_back(node.getInputs()[5]);

  auto resultType = RankedTensorType::get({cast<RankedTensorType>(rows.getType()).getDimSize(0), moe.hidden}, wide);
  auto apply =
      buildApply(b, routing, rows, banks, WeightMode::After, resultType,
                 [&](ImplicitLocOpBuilder &body, ValueRange arguments) -> Value {
                   Value block = arguments[0];
                   unsigned next = 1;
                   SmallVector<Value> operands = {buildMatmul(body, block, arguments[next++], /*transposed=*/true)};
                   if (gated)
                     operands.push_back(buildMatmul(body, block, arguments[next++], /*transposed=*/true));
                   if (gateBias)
                     operands.push_back(arguments[next++]);
                   if (gated && upBias)
                     operands.push_back(arguments[next++]);
                   SmallVector<bool> perRow(operands.size(), false);
                   Value hidden = operands[0];
                   if (operands.size() > 1 || moe.activation != "identity")
                     hidden = buildElementwise(body, block, moe.inner, wide, operands, perRow,
                                               [&](ImplicitLocOpBuilder &inner, ValueRange v) {
                                                 Value gate = v[0], up = gated ? v[1] : Value();
                                                 unsigned bias = gated ? 2 : 1;
                                                 if (gateBias)
                                                   gate = arith::AddFOp::create(inner, gate, v[bias++]);
                                                 if (gated && upBias)
                                                   up = arith::AddFOp::create(inner, up, v[bias]);
                                                 return emitActivation(inner, moe, gate, up);
                                               });
                   Value out = buildMatmul(body, hidden, arguments[next++], /*transposed=*/true);
                   if (node.hasInput(5))
                     out = buildElementwise(body, block, moe.hidden, wide, {out, arguments[next]}, {false, false},
                                            [](ImplicitLocOpBuilder &inner, ValueRange v) -> Value {
                                              return arith::AddFOp::create(inner, v[0], v[1]);
                                            });
                   return out;
                 });
  apply->setAttr("moe.source", b.getStringAttr("com.microsoft.MoE"));
  nodes.visited(apply);
  Value result = nodes.castTo(apply.getResult(0), element);
  result = nodes.unflatten(result, input, moe.tokensRank);
  if (result.getType() != node.getResult(0).getType())
    result = nodes.node("Identity", 13, result, node.getResult(0).getType());
  node.getResult(0).replaceAllUsesWith(result);
  node.erase();
  return success();
}
