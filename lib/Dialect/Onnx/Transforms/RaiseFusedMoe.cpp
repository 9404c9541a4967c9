//===- RaiseFusedMoe.cpp - com.microsoft.MoE becomes routed form ----------===//
#include "FusedMoe.h"
#include "Raise.h"

using namespace mlir;
using namespace mlir::moe;

/// The shapes that the operator's specification gives.
static LogicalResult readShapes(OnnxNodeOp node, FusedMoe &moe) {
  auto typeOf = [&](unsigned i) { return dyn_cast<RankedTensorType>(node.getInputs()[i].getType()); };
  if (node.getInputs().size() < 5 || !node.hasInput(2) || !node.hasInput(4))
    return refuse(node, "expected at least the inputs input, router_probs, fc1_experts_weights, fc2_experts_weights");
  auto input = typeOf(0), fc1 = typeOf(2), fc2 = typeOf(4);
  if (!input)
    return refuse(node, "expected 'input' of rank 2 or 3");
  if (!fc1 || !fc2 || !fc1.hasStaticShape() || !fc2.hasStaticShape() || fc1.getRank() != 3 || fc2.getRank() != 3)
    return refuse(node, "expected expert weights of rank 3 and static shape");
  Type element = input.getElementType();
  if (!element.isF32() && !element.isF16() && !element.isBF16() && !element.isF64())
    return refuse(node, "element type is not a float");
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
  int64_t wide = moe.isFused() ? 2 * moe.inner : moe.inner;
  if (failed(expect(2, "fc1_experts_weights", {moe.experts, wide, moe.hidden})) ||
      (node.hasInput(3) && failed(expect(3, "fc1_experts_bias", {moe.experts, wide}))) ||
      (node.hasInput(5) && failed(expect(5, "fc2_experts_bias", {moe.experts, moe.hidden}))) ||
      (node.hasInput(6) && failed(expect(6, "fc3_experts_weights", {moe.experts, moe.inner, moe.hidden}))) ||
      (node.hasInput(7) && failed(expect(7, "fc3_experts_bias", {moe.experts, moe.inner}))))
    return failure();
  return checkRows(node, moe);
}

LogicalResult mlir::moe::raiseFusedMoe(OnnxNodeOp node, SymbolicShapes &shapes) {
  FusedMoe moe;
  if (failed(readAttributes(node, moe, /*fc3=*/6)) || failed(readShapes(node, moe)))
    return failure();
  NodeBuilder nodes(node, shapes);
  Value routing = buildFusedRouting(node, moe, nodes);
  if (moe.normalize)
    routing =
        NormalizeOp::create(nodes.b, routing, NormAttr::get(nodes.b.getContext(), Norm::Sum), AxisAttr(), FloatAttr());
  auto linear = [&](unsigned weights, unsigned bias) {
    ExpertLinear result;
    result.matrices = node.getInputOrNull(weights);
    result.bias = node.getInputOrNull(bias);
    return result;
  };
  ExpertLinear gate = linear(2, 3), up = linear(6, 7);
  if (moe.isFused())
    std::tie(gate, up) = cutGateUp(moe, nodes, gate);
  if (!up)
    up.bias = Value();
  buildExperts(node, moe, nodes, routing, gate, up, linear(4, 5));
  return success();
}
