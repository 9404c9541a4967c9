//===- RaiseQMoe.cpp - com.microsoft.QMoE becomes routed form -------------===//
//
// The experts' matrices stay packed: each is a moe.dequantize in the body of the apply. What onnxruntime computes where
// the operator's text is open, or says otherwise, is in docs/onnx-deviations.md.
//
//===----------------------------------------------------------------------===//
#include "FusedMoe.h"
#include "QuantOperands.h"
#include "Raise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "moe/Dialect/Moe/IR/MoeBuilders.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// The inputs of one projection.
struct Projection {
  const char *name;
  unsigned weights, scales, bias, zeroPoints;
};
} // namespace

static const Projection fc1{"fc1", 2, 3, 4, 11}, fc2{"fc2", 5, 6, 7, 12}, fc3{"fc3", 8, 9, 10, 13};
static constexpr unsigned routerWeights = 14;

static std::string describeType(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}

static LogicalResult checkFormat(OnnxNodeOp node, int64_t bits) {
  if (!llvm::is_contained({2, 3, 4, 8}, bits))
    return refuse(node, "expert_weight_bits must be 2, 3, 4 or 8, got " + Twine(bits));
  for (const char *name : {"fc1_expert_weight_bits", "fc2_expert_weight_bits", "fc3_expert_weight_bits"})
    if (int64_t own = node.getInt(name, bits); own != bits)
      return refuse(node, Twine(name) + " = " + Twine(own) + " differs from expert_weight_bits = " + Twine(bits) +
                              ", which is not supported");
  if (StringRef kind = node.getString("quant_type", "int"); kind != "int")
    return refuse(node, "quant_type '" + kind + "' is not supported; export with quant_type 'int'");
  if (node.getInt("weights_prepacked", -1) > 0)
    return refuse(node, "weights_prepacked = 1 means bytes in an order of onnxruntime's own; export with 0");
  if (node.getInt("num_shared_experts", 0))
    return refuse(node, "num_shared_experts is not supported");
  for (unsigned i = routerWeights + 1; i < node.getInputs().size(); ++i)
    if (node.hasInput(i))
      return refuse(node, "input " + Twine(i) + " (global or activation scales) is not supported with integer weights");
  return success();
}

/// The matrices [experts, rows, columns] of a projection.
static LogicalResult readProjection(OnnxNodeOp node, NodeBuilder &nodes, const Projection &p, int64_t experts,
                                    int64_t rows, int64_t columns, int64_t bits, int64_t block, ExpertLinear &linear) {
  std::string name = std::string(p.name) + "_experts_weights";
  auto no = [&](const Twine &what, unsigned input, const Twine &expected) {
    return refuse(node, "expected '" + what + "' " + expected + ", got " +
                            (node.hasInput(input) ? describeType(node.getInputs()[input].getType()) : "none"));
  };
  auto typeOf = [&](unsigned i) {
    return node.hasInput(i) ? dyn_cast<RankedTensorType>(node.getInputs()[i].getType()) : RankedTensorType();
  };
  int64_t blocks = block ? columns / block : 1;
  linear.columns = columns;
  // 4: the file asks for activations of 8 bits. onnxruntime takes it for codes in blocks only.
  linear.integerRows = block && node.getInt("accuracy_level", 0) == 4;
  linear.format = QuantAttr::get(node.getContext(), QuantKind::Unsigned, bits, block, node.hasInput(p.zeroPoints));
  int64_t bytes = linear.format.getNumBytes(columns);
  RankedTensorType weights = typeOf(p.weights);
  if (!weights || weights.getShape() != ArrayRef<int64_t>({experts, rows, bytes}))
    return no(name, p.weights,
              "of shape [" + Twine(experts) + ", " + Twine(rows) + ", " + Twine(bytes) + "] (" + Twine(bits) +
                  " bits)");
  linear.matrices = asBytes(nodes, node.getInputs()[p.weights]);
  if (!linear.matrices)
    return no(name, p.weights, "to be a constant of uint8 that no other operator reads");
  RankedTensorType scales = typeOf(p.scales);
  SmallVector<int64_t> perBlock{experts, rows, blocks};
  bool isScale = scales && isa<FloatType>(scales.getElementType());
  if (isScale && scales.getShape() == ArrayRef<int64_t>(perBlock))
    linear.scales = node.getInputs()[p.scales];
  else if (isScale && blocks == 1 && scales.getShape() == ArrayRef<int64_t>(perBlock).drop_back())
    linear.scales = reshapeView(nodes, node.getInputs()[p.scales], perBlock);
  else
    return no(Twine(p.name) + "_scales", p.scales,
              "of shape [" + Twine(experts) + ", " + Twine(rows) + (block ? ", " + Twine(blocks) : Twine()) + "]");
  if (node.hasInput(p.zeroPoints)) {
    RankedTensorType type = typeOf(p.zeroPoints);
    Value packed = asBytes(nodes, node.getInputs()[p.zeroPoints]);
    int64_t alongBlocks = linear.format.getNumBytes(blocks), alongRows = linear.format.getNumBytes(rows);
    if (packed && type.getShape() == ArrayRef<int64_t>({experts, rows, alongBlocks}))
      linear.zeroPoints = packed;
    else if (packed && blocks == 1 && type.getShape() == ArrayRef<int64_t>({experts, alongRows}))
      linear.zeroPoints = unpackCodes(nodes, packed, bits, rows);
    else
      return no(Twine(p.name) + "_zero_points", p.zeroPoints, "to be a constant of packed uint8");
  }
  if (node.hasInput(p.bias)) {
    if (typeOf(p.bias).getShape() != ArrayRef<int64_t>({experts, rows}))
      return no(Twine(p.name) + "_experts_bias", p.bias, "of shape [" + Twine(experts) + ", " + Twine(rows) + "]");
    linear.bias = node.getInputs()[p.bias];
  }
  return success();
}

/// Chosen by the logits, weighted by another matrix; pairs of a weight that is not positive are dropped.
static Value buildWeightedRouting(OnnxNodeOp node, const FusedMoe &moe, NodeBuilder &nodes) {
  ImplicitLocOpBuilder &b = nodes.b;
  Value logits = nodes.widen(node.getInputs()[1]), weights = nodes.widen(node.getInputs()[routerWeights]);
  Value all = RouteOp::create(b, nodes.matchRows(weights, logits), Value());
  nodes.visited(all.getDefiningOp());
  Value routing =
      TopKOp::create(b, all, /*key=*/logits, /*k=*/Value(), b.getI64IntegerAttr(moe.k), AxisAttr(), IntegerAttr(),
                     IntegerAttr(), GroupScoreAttr(), TieBreakAttr::get(b.getContext(), TieBreak::Highest));
  if (moe.normalize)
    routing = NormalizeOp::create(b, routing, NormAttr::get(b.getContext(), Norm::Sum), AxisAttr(), FloatAttr());
  return selectPairs(b, routing, [&](ArrayRef<BlockArgument> pair) {
    Value zero = arith::ConstantOp::create(b, b.getZeroAttr(pair[0].getType()));
    return arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, pair[0], zero);
  });
}

LogicalResult mlir::moe::raiseQMoe(OnnxNodeOp node, SymbolicShapes &shapes) {
  FusedMoe moe;
  int64_t bits = node.getInt("expert_weight_bits", 4), block = node.getInt("block_size", 0);
  if (node.getInputs().size() < 7 || !node.hasInput(fc1.weights) || !node.hasInput(fc2.weights))
    return refuse(node, "expected at least the inputs input, router_probs, fc1 and fc2 weights and scales");
  if (failed(readAttributes(node, moe, fc3.weights)) || failed(checkFormat(node, bits)))
    return failure();
  auto first = dyn_cast<RankedTensorType>(node.getInputs()[fc1.weights].getType());
  auto second = dyn_cast<RankedTensorType>(node.getInputs()[fc2.weights].getType());
  if (!first || !second || first.getRank() != 3 || second.getRank() != 3 || !first.hasStaticShape() ||
      !second.hasStaticShape())
    return refuse(node, "expected expert weights of rank 3 and static shape");
  moe.experts = second.getDimSize(0);
  moe.hidden = second.getDimSize(1);
  moe.inner = first.getDimSize(1) / (moe.isFused() ? 2 : 1);
  if (failed(checkRows(node, moe)))
    return failure();
  if (block < 0 ||
      (block > 0 && (block < 16 || !llvm::isPowerOf2_64(block) || moe.hidden % block || moe.inner % block)))
    return refuse(node, "block_size must be a power of two >= 16 that divides the hidden size " + Twine(moe.hidden) +
                            " and the inner size " + Twine(moe.inner) + ", got " + Twine(block));
  if (node.hasInput(routerWeights) && node.getInputs()[routerWeights].getType() != node.getInputs()[1].getType())
    return refuse(node, "expected 'router_weights' of the type of 'router_probs', " +
                            describeType(node.getInputs()[1].getType()) + ", got " +
                            describeType(node.getInputs()[routerWeights].getType()));

  NodeBuilder nodes(node, shapes);
  ExpertLinear gate, up, down;
  if (failed(readProjection(node, nodes, fc1, moe.experts, first.getDimSize(1), moe.hidden, bits, block, gate)) ||
      failed(readProjection(node, nodes, fc2, moe.experts, moe.hidden, moe.inner, bits, block, down)))
    return failure();
  if (node.hasInput(fc3.weights) &&
      failed(readProjection(node, nodes, fc3, moe.experts, moe.inner, moe.hidden, bits, block, up)))
    return failure();
  if (moe.isFused())
    std::tie(gate, up) = cutGateUp(moe, nodes, gate);

  Value routing;
  if (node.hasInput(routerWeights)) {
    routing = buildWeightedRouting(node, moe, nodes);
  } else {
    routing = buildFusedRouting(node, moe, nodes);
    // As onnxruntime does: only the 3-bit profile reads normalize_routing_weights.
    if (moe.normalize || bits != 3)
      routing = NormalizeOp::create(nodes.b, routing, NormAttr::get(nodes.b.getContext(), Norm::Sum), AxisAttr(),
                                    FloatAttr());
  }
  buildExperts(node, moe, nodes, routing, gate, up, down);
  return success();
}
