//===- RaisePairSum.cpp - sums over slots of gated expert outputs ---------===//
//
// The root is a ReduceSum over one dimension: the slots of a token (weights were gathered per pair), or the experts
// (all were computed, gates are zero where not chosen).
//
//===----------------------------------------------------------------------===//
#include "BodyEmitter.h"
#include "Raise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Remarks.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// What the root sums: the product of `factors`, over the slots; the layout is that of the root's result.
struct PairSum {
  Layout layout;
  SmallVector<std::pair<Value, Layout>, 2> factors;
  SmallVector<unsigned> tokens;
  unsigned slot = 0, feature = 0;
};
} // namespace

/// Reads the root; false if it sums over no single dimension of known size.
static bool readRoot(OnnxNodeOp root, SymbolicShapes &shapes, PairEvaluator &evaluator, PairSum &sum) {
  const DimList *dims = shapes.getShape(root.getResult(0));
  auto type = dyn_cast<RankedTensorType>(root.getResult(0).getType());
  if (!dims || dims->empty() || !type || !isa<FloatType>(type.getElementType()) || !dims->back().isConstant())
    return false;
  std::optional<int64_t> slotDim;
  std::optional<DimExpr> size;
  bool keeps = false;
  if (root.is("ReduceSum") || root.is("ReduceMean")) {
    const DimList *from = shapes.getShape(root.getInputs()[0]);
    auto axes = from ? getAxes(root, shapes, from->size()) : std::nullopt;
    if (!axes || axes->size() != 1 || from->size() < 3 || axes->front() + 1 == static_cast<int64_t>(from->size()))
      return false;
    slotDim = axes->front();
    size = (*from)[*slotDim];
    keeps = root.getInt("keepdims", 1) != 0;
  } else {
    // A product with gates: neither side is a weight.
    for (Value operand : root.getInputs())
      if (!operand.getDefiningOp<OnnxNodeOp>())
        return false;
    size = evaluator.contractedSize(root);
  }
  if (!size || !size->isConstant())
    return false;
  // The last dimension runs over the features, all others over tokens; what is summed over, over the slots.
  sum.layout.resize(dims->size());
  for (size_t i = 0; i + 1 < dims->size(); ++i) {
    if (keeps ? static_cast<int64_t>(i) == *slotDim : !slotDim && (*dims)[i].is(1))
      continue;
    sum.tokens.push_back(evaluator.addAxis(LayerAxis::Token, (*dims)[i]));
    sum.layout[i] = {sum.tokens.back()};
  }
  if (sum.tokens.empty())
    return false;
  sum.feature = evaluator.addAxis(LayerAxis::Feature, dims->back());
  sum.layout.back() = {sum.feature};
  sum.slot = evaluator.addAxis(LayerAxis::Slot, *size);
  // A single slot stands in no layout: dimensions of size 1 have no axes.
  SmallVector<unsigned, 2> slots;
  if (!size->is(1))
    slots.push_back(sum.slot);
  if (slotDim) {
    Layout inner = sum.layout;
    if (keeps)
      inner[*slotDim] = slots;
    else
      inner.insert(inner.begin() + *slotDim, slots);
    sum.factors.push_back({root.getInputs()[0], inner});
    return true;
  }
  Layout left, right;
  if (slots.empty() || !evaluator.contractionLayouts(root, sum.layout, sum.slot, left, right))
    return false;
  sum.factors.push_back({root.getInputs()[0], left});
  sum.factors.push_back({root.getInputs()[1], right});
  return true;
}

static bool tryRaise(OnnxNodeOp sum, const PairSum &pairs, SymbolicShapes &shapes, PairEvaluator &evaluator,
                     std::string &reason) {
  ArrayRef<unsigned> tokens = pairs.tokens;
  unsigned feature = pairs.feature;
  evaluator.setTokenAxes(tokens);
  evaluator.setSlotAxis(pairs.slot);
  PairExpr *root = nullptr;
  for (auto &[value, layout] : pairs.factors) {
    PairExpr *factor = evaluator.evaluate(value, layout);
    root = !factor ? nullptr : root ? evaluator.multiply(root, factor) : factor;
    if (!root)
      break;
  }
  if (!root) {
    reason = evaluator.getReason();
    return false;
  }
  if (!evaluator.sawBank()) {
    reason = "no expert weights";
    return false;
  }
  SmallVector<PairExpr *, 2> gates;
  PairExpr *body = splitGates(evaluator, root, gates);
  if (gates.size() != 1) {
    reason = gates.empty() ? "no factor is the pair's gate" : "more than one factor is a gate of the pair";
    return false;
  }
  PairExpr *gate = gates.front();
  if (body->features.size() != 1 || body->features[0] != feature) {
    reason = "the experts' output does not have one row per pair";
    return false;
  }

  NodeBuilder nodes(sum, shapes);
  ImplicitLocOpBuilder &b = nodes.b;
  Type element = cast<RankedTensorType>(sum.getResult(0).getType()).getElementType();
  Type wide = cast<FloatType>(element).getWidth() < 32 ? Type(b.getF32Type()) : element;
  BodyEmitter emitter(nodes, shapes, evaluator, wide);
  if (!emitter.collect(body) || emitter.rows.empty()) {
    reason = emitter.rows.empty() ? "no rows enter the experts" : "the gates are used inside the experts";
    return false;
  }
  int64_t tokenDims = tokens.size();
  std::string router;
  Value routing;
  if (evaluator.getIndices()) {
    routing = buildRouting(nodes, shapes, evaluator.getIndices(), gate->value, tokenDims, evaluator.getExperts(),
                           reason, router);
  } else {
    routing = buildDenseRouting(nodes, shapes, gate->value, evaluator.getExperts(), router);
  }
  if (!routing)
    return false;
  nodes.visited(routing.getDefiningOp());
  ApplyOp apply = buildLayer(nodes, emitter, body, routing, tokenDims, evaluator.axis(feature).size.staticSize(), wide);
  noteSource(apply, evaluator.getIndices() ? "weights gathered per pair" : "all experts computed", sum,
             scoresOf(evaluator.getIndices() ? evaluator.getIndices() : gate->value));
  Value result = nodes.unflatten(nodes.castTo(apply.getResult(0), element), gate->value, tokenDims);
  if (sum.is("ReduceMean")) {
    // The mean over the slots is their sum, scaled.
    auto scalar = RankedTensorType::get({}, element);
    double factor = 1.0 / evaluator.axis(pairs.slot).size.constant();
    auto number = OnnxConstantOp::create(
        b, scalar, cast<ElementsAttr>(DenseElementsAttr::get(scalar, Attribute(b.getFloatAttr(element, factor)))));
    nodes.visited(number);
    result = nodes.node("Mul", 14, {result, number}, result.getType());
  }
  Value old = sum.getResult(0);
  SmallVector<int64_t> ones;
  for (auto [i, dim] : llvm::enumerate(pairs.layout))
    if (dim.empty())
      ones.push_back(i);
  if (!ones.empty())
    result = nodes.node("Unsqueeze", 13, {result, nodes.constant(ones)}, old.getType());
  else if (result.getType() != old.getType())
    result = nodes.node("Identity", 13, result, old.getType());
  old.replaceAllUsesWith(result);
  remark::passed(sum.getLoc(), remark::RemarkOpts::name("MoeRaised").category("onnx-raise-moe"))
      << (llvm::Twine("an MoE layer of ") + llvm::Twine(evaluator.getExperts()) + " experts, router " + router).str();
  return true;
}

bool mlir::moe::raisePairSum(OnnxNodeOp sum, SymbolicShapes &shapes) {
  bool reduces = sum.is("ReduceSum") || sum.is("ReduceMean");
  if (!reduces && !sum.is("MatMul") && !sum.is("Einsum"))
    return false;
  PairEvaluator evaluator(shapes);
  PairSum pairs;
  std::string reason;
  if (!readRoot(sum, shapes, evaluator, pairs))
    return false;
  if (tryRaise(sum, pairs, shapes, evaluator, reason))
    return true;
  if (evaluator.sawBank() && reduces)
    noteNotRaised(sum, reason);
  return false;
}
