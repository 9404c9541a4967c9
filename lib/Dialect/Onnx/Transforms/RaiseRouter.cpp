//===- RaiseRouter.cpp - index and gate tensors become a routing ----------===//
#include "ExpertExpr.h"
#include "Raise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/ADT/SetVector.h"

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

/// Whether no element is negative: a reduction of absolute values is then a sum.
static bool isNonNegative(Value value, unsigned depth = 0) {
  if (auto number = splatNumber(value))
    return *number >= 0.0;
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (!node || depth > 12)
    return false;
  if (llvm::is_contained({"Softmax", "Sigmoid", "Exp", "Relu", "Abs", "Softplus", "OneHot"}, node.getOpType()))
    return node.is("OneHot") ? isZeroOne(node.getInputs()[2]) : true;
  if (node.is("Mul") || node.is("Div") || node.is("Add"))
    return llvm::all_of(node.getInputs(), [&](Value input) { return isNonNegative(input, depth + 1); });
  if (llvm::is_contained({"TopK", "GatherElements", "GatherND", "Gather", "Cast", "Identity", "Reshape", "Unsqueeze",
                          "Squeeze", "Transpose", "ReduceSum"},
                         node.getOpType()))
    return isNonNegative(node.getInputs()[0], depth + 1);
  return false;
}

namespace {
/// Reads the way from the scores at the chosen experts to the gates: divide by the sum, softmax, scale.
struct GateChain {
  SymbolicShapes &shapes;
  OnnxNodeOp topK;
  /// No sum of the chosen scores is less than this: of a softmax over n, the k largest sum to k / n at least.
  double leastSum = 0.0;
  Value gathered = {}; // scores read at the indices, if the gates are not the keys themselves
  std::optional<Norm> norm = {};
  double eps = 0.0;
  std::optional<double> scaleBefore = {}, scaleAfter = {};

  bool isBase(Value value) {
    if (value == topK.getResult(0))
      return true;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node)
      return false;
    const DimList *dims = shapes.getShape(value);
    if (node.is("GatherElements") && isLastAxis(value, node.getInt("axis", 0)) &&
        stripIndex(node.getInputs()[1]) == topK.getResult(1)) {
      gathered = node.getInputs()[0];
      return true;
    }
    // The same with an index of one number behind batch dimensions.
    auto index = node.is("GatherND") ? node.getInputs()[1].getDefiningOp<OnnxNodeOp>() : OnnxNodeOp();
    if (index && index.is("Unsqueeze") && dims && stripIndex(index.getInputs()[0]) == topK.getResult(1) &&
        node.getInt("batch_dims", 0) + 1 == static_cast<int64_t>(dims->size())) {
      auto axes = getAxes(index, shapes, dims->size() + 1);
      if (!axes || axes->size() != 1 || axes->front() != static_cast<int64_t>(dims->size()))
        return false;
      gathered = node.getInputs()[0];
      return true;
    }
    return isOneHotSum(node);
  }
  /// The sum over the experts of one-hot numbers times scores.
  bool isOneHotSum(OnnxNodeOp sum) {
    const DimList *from = sum.is("ReduceSum") ? shapes.getShape(sum.getInputs()[0]) : nullptr;
    auto axes = from ? getAxes(sum, shapes, from->size()) : std::nullopt;
    auto product = from ? stripCasts(sum.getInputs()[0]).getDefiningOp<OnnxNodeOp>() : OnnxNodeOp();
    if (!axes || axes->size() != 1 || axes->front() + 1 != static_cast<int64_t>(from->size()) ||
        sum.getInt("keepdims", 1) || !product || !product.is("Mul"))
      return false;
    for (unsigned i : {0u, 1u}) {
      Value side = product.getInputs()[i];
      while (auto cast = side.getDefiningOp<OnnxNodeOp>()) {
        if (!cast.is("Cast"))
          break;
        side = cast.getInputs()[0];
      }
      auto hot = side.getDefiningOp<OnnxNodeOp>();
      auto scores = stripCasts(product.getInputs()[1 - i]).getDefiningOp<OnnxNodeOp>();
      if (!hot || !hot.is("OneHot") || !isLastAxis(side, hot.getInt("axis", -1)) || !isZeroOne(hot.getInputs()[2]) ||
          stripIndex(hot.getInputs()[0]) != topK.getResult(1) || !scores || !scores.is("Unsqueeze"))
        continue;
      auto where = getAxes(scores, shapes, from->size());
      const DimList *rows = shapes.getShape(scores.getInputs()[0]), *keys = shapes.getShape(topK.getInputs()[0]);
      if (!where || where->size() != 1 || where->front() + 2 != static_cast<int64_t>(from->size()) || !rows || !keys ||
          ArrayRef<DimExpr>(*rows) != ArrayRef<DimExpr>(*keys))
        continue;
      gathered = scores.getInputs()[0];
      return true;
    }
    return false;
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
    // A lower bound that the sum never comes near.
    if (node.is("Clip") && node.hasInput(1) && !node.hasInput(2))
      if (auto least = splatNumber(node.getInputs()[1]); least && *least < 0.99 * leastSum)
        return isPlainBase(of) && isRowSum(node.getInputs()[0], of);
    if (node.is("Max") && node.getInputs().size() == 2)
      for (unsigned i : {0u, 1u})
        if (auto least = splatNumber(node.getInputs()[i]); least && *least < 0.99 * leastSum)
          return isPlainBase(of) && isRowSum(node.getInputs()[1 - i], of);
    const DimList *dims = shapes.getShape(of);
    bool keeps = true;
    if (node.is("Unsqueeze") && dims) {
      auto axes = getAxes(node, shapes, dims->size());
      auto sum = node.getInputs()[0].getDefiningOp<OnnxNodeOp>();
      if (!axes || axes->size() != 1 || axes->front() + 1 != static_cast<int64_t>(dims->size()) || !sum)
        return false;
      node = sum;
      keeps = false;
    }
    if ((!node.is("ReduceSum") && !(node.is("ReduceL1") && isNonNegative(of))) ||
        stripCasts(node.getInputs()[0]) != stripCasts(of) || (node.getInt("keepdims", 1) != 0) != keeps)
      return false;
    auto axes = getAxes(node, shapes, cast<RankedTensorType>(of.getType()).getRank());
    return axes && axes->size() == 1 && isLastAxis(of, axes->front());
  }
  /// The chosen keys themselves, whatever reads them.
  bool isPlainBase(Value value) {
    GateChain other{shapes, topK};
    value = stripCasts(value);
    return other.isBase(value) && (!other.gathered || stripCasts(other.gathered) == stripCasts(topK.getInputs()[0]));
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
    if (auto number = node.is("Div") ? splatNumber(node.getInputs()[1]) : std::nullopt) {
      std::optional<double> &scale = norm ? scaleBefore : scaleAfter;
      if (scale || *number == 0.0)
        return false;
      scale = 1.0 / *number;
      return read(node.getInputs()[0]);
    }
    if (norm)
      return false;
    if (node.is("Mul"))
      for (unsigned i : {0u, 1u}) {
        auto inverse = stripCasts(node.getInputs()[i]).getDefiningOp<OnnxNodeOp>();
        if (inverse && inverse.is("Reciprocal") && isRowSum(inverse.getInputs()[0], node.getInputs()[1 - i])) {
          norm = Norm::Sum;
          return read(node.getInputs()[1 - i]);
        }
      }
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

static Value buildSlots(NodeBuilder &nodes, Value indices, Value gates, int64_t tokenDims, int64_t experts,
                        std::string &router) {
  router = "slots";
  Value flatIndices = nodes.flatten(indices, tokenDims), flatGates = nodes.widen(nodes.flatten(gates, tokenDims));
  return FromSlotsOp::create(nodes.b, flatIndices, flatGates, experts);
}

/// Whether all numbers are in [0, experts); otherwise `reason` says what is not known.
static bool areExpertNumbers(Value value, int64_t experts, SymbolicShapes &shapes, std::string &reason,
                             unsigned depth = 0) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (auto constants = shapes.getConstants(value)) {
    if (llvm::all_of(*constants, [&](int64_t number) { return number >= 0 && number < experts; }))
      return true;
    reason = "constant expert numbers are outside [0, " + std::to_string(experts) + ")";
    return false;
  }
  if (node && depth < 16 && node.getDomain().empty()) {
    if ((node.is("TopK") && value == node.getResult(1)) || node.is("ArgMax") || node.is("ArgMin")) {
      auto scores = cast<RankedTensorType>(node.getInputs()[0].getType());
      auto axis = normalizeAxis(node.getInt("axis", node.is("TopK") ? -1 : 0), scores.getRank());
      int64_t columns = axis ? scores.getDimSize(*axis) : ShapedType::kDynamic;
      if (!ShapedType::isDynamic(columns) && columns <= experts)
        return true;
      reason = "the router chooses among " +
               (ShapedType::isDynamic(columns) ? "an unknown number of" : std::to_string(columns)) +
               " columns, the weights hold " + std::to_string(experts) + " experts";
      return false;
    }
    if (llvm::is_contained({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice",
                            "Split", "Gather", "GatherND", "GatherElements", "Expand", "Tile"},
                           node.getOpType()))
      return areExpertNumbers(node.getInputs()[0], experts, shapes, reason, depth + 1);
    if (node.is("Concat"))
      return llvm::all_of(node.getInputs(),
                          [&](Value input) { return areExpertNumbers(input, experts, shapes, reason, depth + 1); });
    if (node.is("Mod") && !node.getInt("fmod", 0))
      if (auto divisor = splatNumber(node.getInputs()[1]); divisor && *divisor > 0 && *divisor <= experts)
        return true;
  }
  if (reason.empty())
    reason = "the experts' numbers come from neither TopK nor ArgMax" +
             (node ? (", but from node '" + node.getNodeName() + "' (" + node.getQualifiedName() + ")").str()
                   : std::string()) +
             ", so they cannot be proved to be in range";
  return false;
}

Value mlir::moe::buildRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value indices, Value gates, int64_t tokenDims,
                              int64_t experts, std::string &reason, std::string &router) {
  ImplicitLocOpBuilder &b = nodes.b;
  if (!areExpertNumbers(indices, experts, shapes, reason))
    return {};
  auto topK = indices.getDefiningOp<OnnxNodeOp>();
  bool isTopK = topK && topK.is("TopK") && indices == topK.getResult(1) && isLastAxis(indices, topK.getInt("axis", -1));
  if (!isTopK)
    return buildSlots(nodes, indices, gates, tokenDims, experts, router);
  Value scores = topK.getInputs()[0];
  auto scoreType = cast<RankedTensorType>(scores.getType());
  int64_t columns = scoreType.getShape().back();
  auto k = shapes.getConstants(topK.getInputs()[1]);
  GateChain chain{shapes, topK};
  auto maker = stripCasts(scores).getDefiningOp<OnnxNodeOp>();
  if (k && k->size() == 1 && maker && maker.is("Softmax") && isLastAxis(scores, maker.getInt("axis", -1)))
    chain.leastSum = static_cast<double>(k->front()) / columns;
  // In which order the slots are listed does not matter to their sum.
  if (k && k->size() == 1 && topK.getInt("largest", 1) && columns == experts &&
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
  return buildSlots(nodes, indices, gates, tokenDims, experts, router);
}

Value mlir::moe::scoresOf(Value value) {
  llvm::SetVector<Value> todo;
  todo.insert(value);
  // The way from a choice to its gates is a dozen nodes and meets no product with weights.
  for (size_t i = 0; i < todo.size() && i < 64; ++i) {
    auto node = todo[i].getDefiningOp<OnnxNodeOp>();
    if (!node || multipliesWeights(node))
      continue;
    if (node.is("TopK") || node.is("ArgMax"))
      return node.getInputs()[0];
    todo.insert(node.getInputs().begin(), node.getInputs().end());
  }
  return {};
}

/// [tokens, slots] of a tensor [tokens..., slots].
static Value asMatrix(NodeBuilder &nodes, Value value) {
  return nodes.flatten(value, cast<RankedTensorType>(value.getType()).getRank() - 1);
}

/// [tokens, slots] of a tensor of so many elements.
static Value asSlots(NodeBuilder &nodes, Value value, int64_t slots) {
  auto from = cast<RankedTensorType>(value.getType());
  if (from.getRank() == 2 && from.getDimSize(1) == slots)
    return value;
  return nodes.node("Reshape", 14, {value, nodes.constant({-1, slots})},
                    RankedTensorType::get({ShapedType::kDynamic, slots}, from.getElementType()));
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
  auto matrixOf = [&](Value value) { return asSlots(nodes, value, slots); };
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
  DenseGates sparse = readDenseGates(shapes, gates, experts);
  if (sparse.indices && sparse.weights)
    return buildComparedRouting(nodes, shapes, sparse.indices, sparse.weights, sparse.keep, sparse.slots, experts,
                                router);
  gates = nodes.widen(asMatrix(nodes, gates));
  if (!sparse.indices) {
    router = "dense";
    return RouteOp::create(b, gates, Value());
  }
  Value numbers = asSlots(nodes, sparse.indices, sparse.slots);
  auto type = cast<RankedTensorType>(numbers.getType());
  Value weights = nodes.node("GatherElements", 13, {gates, numbers},
                             type.clone(cast<RankedTensorType>(gates.getType()).getElementType()),
                             {b.getNamedAttr("axis", b.getI64IntegerAttr(1))});
  router = "slots";
  return FromSlotsOp::create(b, numbers, weights, experts);
}
