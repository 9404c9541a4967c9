//===- FusedMoe.cpp - what com.microsoft.MoE and QMoE share ---------------===//
//
// router_probs holds logits. The gates are the softmax over all experts; the k largest logits are chosen, the highest
// expert among equal ones; normalising divides by the sum of the chosen gates. A token whose logits have no softmax
// (NaN, +inf, all -inf) gets a zero row: it is masked and chooses nobody.
//
//===----------------------------------------------------------------------===//
#include "FusedMoe.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult mlir::moe::refuse(OnnxNodeOp node, const Twine &why) {
  return emitError(node.getLoc()) << "node '" << node.getNodeName() << "' (" << node.getQualifiedName() << "): " << why;
}

LogicalResult mlir::moe::readAttributes(OnnxNodeOp node, FusedMoe &moe, unsigned fc3) {
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
    if (fusion == 0 && !node.hasInput(fc3))
      return refuse(node, "swiglu with swiglu_fusion = 0 needs the input fc3_experts_weights");
    if (fusion != 0 && node.hasInput(fc3))
      return refuse(node, "swiglu_fusion = " + Twine(fusion) + " and fc3_experts_weights exclude each other");
  }
  return success();
}

LogicalResult mlir::moe::checkRows(OnnxNodeOp node, FusedMoe &moe) {
  auto input = dyn_cast<RankedTensorType>(node.getInputs()[0].getType());
  auto logits = dyn_cast<RankedTensorType>(node.getInputs()[1].getType());
  if (!input || (input.getRank() != 2 && input.getRank() != 3))
    return refuse(node, "expected 'input' of rank 2 or 3");
  if (!logits || logits.getRank() != 2)
    return refuse(node, "expected 'router_probs' of rank 2");
  moe.tokensRank = input.getRank() - 1;
  if (!ShapedType::isDynamic(input.getShape().back()) && input.getShape().back() != moe.hidden)
    return refuse(node, "'input' has rows of " + Twine(input.getShape().back()) +
                            ", fc2_experts_weights gives rows of " + Twine(moe.hidden));
  if (logits.getDimSize(1) != moe.experts)
    return refuse(node, "'router_probs' has " + Twine(logits.getDimSize(1)) + " columns, expected one for each of " +
                            Twine(moe.experts) + " experts");
  if (moe.k < 1 || moe.k > moe.experts)
    return refuse(node,
                  "k must be between 1 and the number of experts, " + Twine(moe.experts) + ", got " + Twine(moe.k));
  return success();
}

Value mlir::moe::buildFusedRouting(OnnxNodeOp node, const FusedMoe &moe, NodeBuilder &nodes) {
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

std::pair<ExpertLinear, ExpertLinear> mlir::moe::cutGateUp(const FusedMoe &moe, NodeBuilder &nodes,
                                                           const ExpertLinear &whole) {
  int64_t stride = moe.interleaved ? 2 : 1, second = moe.interleaved ? 1 : moe.inner;
  ExpertLinear parts[2] = {whole, whole};
  // The two parts of one operand stand side by side.
  for (Value ExpertLinear::*part :
       {&ExpertLinear::matrices, &ExpertLinear::scales, &ExpertLinear::zeroPoints, &ExpertLinear::bias})
    if (whole.*part) {
      parts[0].*part = nodes.cutBank(whole.*part, 1, 0, stride, moe.inner);
      parts[1].*part = nodes.cutBank(whole.*part, 1, second, stride, moe.inner);
    }
  return {parts[0], parts[1]};
}

void mlir::moe::buildExperts(OnnxNodeOp node, const FusedMoe &moe, NodeBuilder &nodes, Value routing, ExpertLinear gate,
                             ExpertLinear up, ExpertLinear down) {
  ImplicitLocOpBuilder &b = nodes.b;
  Value input = node.getInputs()[0];
  Type element = cast<RankedTensorType>(input.getType()).getElementType();
  Type wide = cast<FloatType>(element).getWidth() < 32 ? Type(b.getF32Type()) : element;
  Value rows = nodes.matchRows(nodes.flatten(input, moe.tokensRank), node.getInputs()[1]);

  // Operands: the matrices that rows meet first, then their biases, then fc2 and its bias.
  SmallVector<Value> banks;
  auto addMatrices = [&](const ExpertLinear &linear) {
    for (Value part : {linear.matrices, linear.scales, linear.zeroPoints})
      if (part)
        banks.push_back(part);
  };
  addMatrices(gate);
  if (up)
    addMatrices(up);
  if (gate.bias)
    banks.push_back(gate.bias);
  if (up.bias)
    banks.push_back(up.bias);
  addMatrices(down);
  if (down.bias)
    banks.push_back(down.bias);

  auto resultType = RankedTensorType::get({cast<RankedTensorType>(rows.getType()).getDimSize(0), moe.hidden}, wide);
  auto apply =
      buildApply(b, routing, rows, banks, WeightMode::After, resultType,
                 [&](ImplicitLocOpBuilder &body, ValueRange arguments) -> Value {
                   Value block = arguments[0];
                   unsigned next = 1;
                   auto multiply = [&](Value x, const ExpertLinear &linear) {
                     Value matrix = arguments[next++];
                     if (linear.format) {
                       Value scales = arguments[next++], zeroPoints = linear.zeroPoints ? arguments[next++] : Value();
                       auto type = RankedTensorType::get(
                           {cast<RankedTensorType>(matrix.getType()).getDimSize(0), linear.columns}, body.getF32Type());
                       auto numbers = DequantizeOp::create(body, type, matrix, scales, zeroPoints, linear.format);
                       setIntegerRows(numbers, linear.integerRows);
                       matrix = numbers;
                     }
                     return buildMatmul(body, x, matrix, /*transposed=*/true);
                   };
                   SmallVector<Value> operands = {multiply(block, gate)};
                   if (up)
                     operands.push_back(multiply(block, up));
                   if (gate.bias)
                     operands.push_back(arguments[next++]);
                   if (up.bias)
                     operands.push_back(arguments[next++]);
                   SmallVector<bool> perRow(operands.size(), false);
                   Value hidden = operands[0];
                   if (operands.size() > 1 || moe.activation != "identity")
                     hidden = buildElementwise(body, block, moe.inner, wide, operands, perRow,
                                               [&](ImplicitLocOpBuilder &inner, ValueRange v) {
                                                 Value g = v[0], u = up ? v[1] : Value();
                                                 unsigned bias = up ? 2 : 1;
                                                 if (gate.bias)
                                                   g = arith::AddFOp::create(inner, g, v[bias++]);
                                                 if (up.bias)
                                                   u = arith::AddFOp::create(inner, u, v[bias]);
                                                 return emitActivation(inner, moe, g, u);
                                               });
                   Value out = multiply(hidden, down);
                   if (down.bias)
                     out = buildElementwise(body, block, moe.hidden, wide, {out, arguments[next]}, {false, false},
                                            [](ImplicitLocOpBuilder &inner, ValueRange v) -> Value {
                                              return arith::AddFOp::create(inner, v[0], v[1]);
                                            });
                   return out;
                 });
  noteSource(apply, node.getQualifiedName(), node, /*scores=*/Value());
  nodes.visited(apply);
  Value result = nodes.castTo(apply.getResult(0), element);
  result = nodes.unflatten(result, input, moe.tokensRank);
  if (result.getType() != node.getResult(0).getType())
    result = nodes.node("Identity", 13, result, node.getResult(0).getType());
  node.getResult(0).replaceAllUsesWith(result);
  node.erase();
}
