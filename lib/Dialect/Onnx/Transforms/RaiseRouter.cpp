//===- RaiseRouter.cpp - index and gate tensors become a routing ----------===//
#include "Raise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace mlir::moe;

static Value stripCasts(Value value) {
  while (auto node = value.getDefiningOp<OnnxNodeOp>()) {
    if (!node.is("Identity") &&
        !(node.is("Cast") && isa<FloatType>(cast<ShapedType>(value.getType()).getElementType()) &&
          isa<FloatType>(cast<ShapedType>(node.getInputs()[0].getType()).getElementType())))
      return value;
    value = node.getInputs()[0];
  }
  return value;
}

static bool isLastAxis(Value value, int64_t axis) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && (axis == -1 || axis == type.getRank() - 1);
}

namespace {
/// Reads the way from the scores at the chosen experts to the gates: divide by the sum, softmax, scale.
struct GateChain {
  SymbolicShapes &shapes;
  OnnxNodeOp topK;
  Value gathered; // scores read at the indices (GatherElements), if the gates are not the keys themselves
  std::optional<Norm> norm;
  double eps = 0.0;
  std::optional<double> scaleBefore, scaleAfter;

  bool isBase(Value value) {
    if (value == topK.getResult(0))
      return true;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node || !node.is("GatherElements") || !isLastAxis(value, node.getInt("axis", 0)) ||
        stripIndex(node.getInputs()[1]) != topK.getResult(1))
      return false;
    gathered = node.getInputs()[0];
    return true;
  }
  static Value stripIndex(Value value) {
    while (auto node = value.getDefiningOp<OnnxNodeOp>()) {
      if (!node.is("Identity") && !node.is("Cast"))
        break;
      value = node.getInputs()[0];
    }
    return value;
  }
  /// value == base's row sum (+ eps)?
  bool isRowSum(Value value, Value of) {
    value = stripCasts(value);
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node)
      return false;
    if (node.is("Add"))
      for (unsigned i : {0u, 1u})
        if (auto number = splatNumber(node.getInputs()[i]); number && *number >= 0 && eps == 0.0) {
          eps = *number;
          if (isRowSum(node.getInputs()[1 - i], of))
            return true;
          eps = 0.0;
        }
    if (!node.is("ReduceSum") || stripCasts(node.getInputs()[0]) != stripCasts(of) || !node.getInt("keepdims", 1))
      return false;
    auto axes = getAxes(node, shapes, cast<RankedTensorType>(of.getType()).getRank());
    return axes && axes->size() == 1 && isLastAxis(of, axes->front());
  }
  bool read(Value value) {
    value = stripCasts(value);
    if (isBase(value))
      return true;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node)
      return false;
    if (node.is("Mul"))
      for (unsigned i : {0u, 1u})
        if (auto number = splatNumber(node.getInputs()[i])) {
          std::optional<double> &scale = norm ? scaleBefore : scaleAfter;
          if (scale || *number == 0.0)
            return false;
          scale = *number;
          return read(node.getInputs()[1 - i]);
        }
    if (norm)
      return false;
    if (node.is("Softmax") && isLastAxis(value, node.getInt("axis", -1))) {
      norm = Norm::Softmax;
      return read(node.getInputs()[0]);
    }
    if (node.is("Div") && isRowSum(node.getInputs()[1], node.getInputs()[0])) {
      norm = Norm::Sum;
      return read(node.getInputs()[0]);
    }
    return false;
  }
};
} // namespace

static Value scaled(ImplicitLocOpBuilder &b, Value routing, double factor) {
  auto type = cast<RoutingType>(routing.getType());
  auto map = MapOp::create(b, routing);
  Block *block = b.createBlock(&map.getBody(), {}, {type.getElementType(), b.getIndexType(), b.getIndexType()},
                               {b.getLoc(), b.getLoc(), b.getLoc()});
  Value number = arith::ConstantOp::create(b, b.getFloatAttr(type.getElementType(), factor));
  YieldOp::create(b, ValueRange{arith::MulFOp::create(b, block->getArgument(0), number)});
  b.setInsertionPointAfter(map);
  return map;
}

Value mlir::moe::buildRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value indices, Value gates, int64_t tokenDims,
                              int64_t experts, std::string &reason, std::string &router) {
  ImplicitLocOpBuilder &b = nodes.b;
  auto topK = indices.getDefiningOp<OnnxNodeOp>();
  bool isTopK = topK && topK.is("TopK") && indices == topK.getResult(1) && isLastAxis(indices, topK.getInt("axis", -1));
  bool isArgMax = topK && topK.is("ArgMax") && isLastAxis(topK.getInputs()[0], topK.getInt("axis", 0)) &&
                  topK.getInt("keepdims", 1);
  if (!isTopK && !isArgMax) {
    reason = "the experts' numbers come from neither TopK nor ArgMax, so they cannot be proved to be in range";
    return {};
  }
  Value scores = topK.getInputs()[0];
  auto scoreType = cast<RankedTensorType>(scores.getType());
  int64_t columns = scoreType.getShape().back();
  if (ShapedType::isDynamic(columns) || columns > experts) {
    reason = "the router chooses among " +
             (ShapedType::isDynamic(columns) ? "an unknown number" : std::to_string(columns)) +
             " columns, the weights hold " + std::to_string(experts) + " experts";
    return {};
  }
  auto k = isTopK ? shapes.getConstants(topK.getInputs()[1]) : std::nullopt;
  GateChain chain{shapes, topK, {}, {}, 0.0, {}, {}};
  if (isTopK && k && k->size() == 1 && topK.getInt("largest", 1) && topK.getInt("sorted", 1) && columns == experts &&
      isa<FloatType>(scoreType.getElementType()) && chain.read(gates)) {
    auto matrix = [&](Value value) { return nodes.widen(nodes.flatten(value, tokenDims)); };
    Value keys = matrix(scores), weights = chain.gathered ? matrix(chain.gathered) : keys;
    if (weights.getType() == keys.getType()) {
      Value routing = RouteOp::create(b, weights, Value());
      routing = TopKOp::create(b, routing, chain.gathered ? keys : Value(), Value(), b.getI64IntegerAttr(k->front()),
                               AxisAttr(), IntegerAttr(), IntegerAttr(), GroupScoreAttr(), TieBreakAttr());
      if (chain.scaleBefore)
        routing = scaled(b, routing, *chain.scaleBefore);
      if (chain.norm)
        routing = NormalizeOp::create(b, routing, NormAttr::get(b.getContext(), *chain.norm), AxisAttr(),
                                      chain.eps != 0.0 ? b.getF64FloatAttr(chain.eps) : FloatAttr());
      if (chain.scaleAfter)
        routing = scaled(b, routing, *chain.scaleAfter);
      router = "top-k";
      return routing;
    }
  }
  router = "slots";
  Value flatIndices = nodes.flatten(indices, tokenDims), flatGates = nodes.widen(nodes.flatten(gates, tokenDims));
  return FromSlotsOp::create(b, flatIndices, flatGates, experts);
}

Value mlir::moe::scoresOf(Value value) {
  for (unsigned i = 0; i < 8; ++i) {
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node)
      return {};
    if (node.is("TopK") || node.is("ArgMax"))
      return node.getInputs()[0];
    bool moved =
        llvm::is_contained({"Cast", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze"}, node.getOpType());
    if (!moved && !node.is("ScatterElements"))
      return {};
    value = node.getInputs()[moved ? 0 : 1];
  }
  return {};
}

/// [tokens, slots] of a tensor [tokens..., slots].
static Value asMatrix(NodeBuilder &nodes, Value value) {
  return nodes.flatten(value, cast<RankedTensorType>(value.getType()).getRank() - 1);
}

Value mlir::moe::buildComparedRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value indices, Value weights,
                                      Value keep, int64_t slots, int64_t experts, std::string &router) {
  ImplicitLocOpBuilder &b = nodes.b;
  auto topK = indices.getDefiningOp<OnnxNodeOp>();
  auto type = cast<RankedTensorType>(indices.getType());
  if (weights && !keep && topK && topK.is("TopK") && type.getRank() > 1 &&
      type.getRank() == cast<RankedTensorType>(weights.getType()).getRank()) {
    std::string reason;
    auto scores = cast<RankedTensorType>(topK.getInputs()[0].getType());
    if (scores.getShape().back() == experts)
      if (Value routing = buildRouting(nodes, shapes, indices, weights, type.getRank() - 1, experts, reason, router))
        return routing;
  }
  // A number that no expert is compared with is an empty slot here too.
  router = "slots";
  auto matrixOf = [&](Value value) {
    auto from = cast<RankedTensorType>(value.getType());
    if (from.getRank() == 2 && from.getDimSize(1) == slots)
      return value;
    return nodes.node("Reshape", 14, {value, nodes.constant({-1, slots})},
                      RankedTensorType::get({ShapedType::kDynamic, slots}, from.getElementType()));
  };
  Value numbers = matrixOf(indices);
  auto numberType = cast<RankedTensorType>(numbers.getType());
  if (keep) {
    // A token that the expert has no room for: its slot is empty.
    Value kept = nodes.node("GatherElements", 13, {asMatrix(nodes, keep), numbers},
                            numberType.clone(cast<RankedTensorType>(keep.getType()).getElementType()),
                            {b.getNamedAttr("axis", b.getI64IntegerAttr(1))});
    if (!cast<RankedTensorType>(kept.getType()).getElementType().isInteger(1))
      kept =
          nodes.node("Cast", 13, kept, numberType.clone(b.getI1Type()), {b.getNamedAttr("to", b.getI64IntegerAttr(9))});
    auto scalar = RankedTensorType::get({}, numberType.getElementType());
    auto none = OnnxConstantOp::create(
        b, scalar, cast<ElementsAttr>(DenseElementsAttr::get(scalar, b.getIntegerAttr(scalar.getElementType(), -1))));
    nodes.visited(none);
    numbers = nodes.node("Where", 16, {kept, numbers, none}, numberType);
    router = "slots with a limit per expert";
  }
  if (weights) {
    weights = nodes.widen(matrixOf(weights));
  } else {
    Value shape = nodes.node("Shape", 15, numbers, RankedTensorType::get({2}, b.getI64Type()));
    auto one = RankedTensorType::get({1}, b.getF32Type());
    weights = nodes.node("ConstantOfShape", 9, shape, numberType.clone(b.getF32Type()),
                         {b.getNamedAttr("value", DenseElementsAttr::get(one, 1.0f))});
  }
  return FromSlotsOp::create(b, numbers, weights, experts);
}

Value mlir::moe::buildDenseRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value gates, int64_t experts,
                                   std::string &router) {
  ImplicitLocOpBuilder &b = nodes.b;
  Value value = stripCasts(gates);
  auto scatter = value.getDefiningOp<OnnxNodeOp>();
  // Gates scattered into zeros at the chosen experts: the routing is what was scattered.
  if (scatter && scatter.is("ScatterElements") && isLastAxis(value, scatter.getInt("axis", 0)) &&
      scatter.getString("reduction", "none") == "none") {
    bool zeros = splatNumber(scatter.getInputs()[0]) == 0.0;
    if (auto fill = scatter.getInputs()[0].getDefiningOp<OnnxNodeOp>()) {
      if (fill.is("ConstantOfShape")) {
        auto number = fill.getOnnxAttrs().getAs<DenseElementsAttr>("value");
        auto splat = number ? dyn_cast<SplatElementsAttr>(number) : SplatElementsAttr();
        zeros = !number || (splat && isa<FloatAttr>(splat.getSplatValue<Attribute>()) &&
                            cast<FloatAttr>(splat.getSplatValue<Attribute>()).getValueAsDouble() == 0.0);
      } else if (fill.is("Expand")) {
        zeros = splatNumber(fill.getInputs()[0]) == 0.0;
      }
    }
    const DimList *slots = shapes.getShape(scatter.getInputs()[1]), *dense = shapes.getShape(value);
    std::string reason;
    Value indices = GateChain::stripIndex(scatter.getInputs()[1]);
    if (zeros && slots && dense && slots->size() == 2 && slots->front() == dense->front()) {
      auto topK = indices.getDefiningOp<OnnxNodeOp>();
      // Equal experts in one row would overwrite each other: TopK never repeats an index.
      if (topK && topK.is("TopK"))
        if (Value routing = buildRouting(nodes, shapes, indices, scatter.getInputs()[2], 1, experts, reason, router))
          return routing;
    }
  }
  router = "dense";
  return RouteOp::create(b, nodes.widen(gates), Value());
}
