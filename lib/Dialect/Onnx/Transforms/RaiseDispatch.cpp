//===- RaiseDispatch.cpp - dispatch and combine by one-hot tensors --------===//
//
// Tokens are moved to the places of each expert by a contraction with a tensor D[token, expert, place] of zeros and
// ones, and back by one with D times the gates. A token's place is the number of tokens before it that chose the
// expert; places beyond the capacity do not exist, so that such a token is dropped. That is a limit of the routing by
// row.
//
//===----------------------------------------------------------------------===//
#include "BodyEmitter.h"
#include "ExpertExpr.h"
#include "Raise.h"

#include "mlir/IR/Remarks.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// What a tensor over (token, one expert, place) is the product of.
struct DispatchForm {
  Value position; // [tokens, experts], before it was made an integer
  int64_t capacity = 0;
  std::optional<GateForm> gate;
};

class DispatchReader {
public:
  DispatchReader(SymbolicShapes &shapes) : shapes(shapes), gates(shapes) {}
  /// Reads D, or D times gates, at one expert.
  std::optional<DispatchForm> read(Value value, const Layout &layout, unsigned depth = 0);
  std::optional<DispatchForm> readAt(Value value, int64_t experts, int64_t expert);

  SymbolicShapes &shapes;
  ExpertEvaluator gates;
  unsigned token = 0, place = 0;
};

/// Evaluates the experts over their places: what the dispatch brings there are the rows.
class PlaceEvaluator : public PairEvaluator {
public:
  using PairEvaluator::PairEvaluator;
  Value dispatch;
  DimExpr tokens;

protected:
  PairExpr *evaluateNode(OnnxNodeOp node, unsigned result, const Layout &layout) override;
};
} // namespace

static Value throughCasts(Value value) {
  while (auto node = value.getDefiningOp<OnnxNodeOp>()) {
    if (!node.is("Cast") && !node.is("Identity"))
      break;
    value = node.getInputs()[0];
  }
  return value;
}

std::optional<DispatchForm> DispatchReader::readAt(Value value, int64_t experts, int64_t expert) {
  return read(value, Layout{{token}, {gates.addFixed(DimExpr(experts), expert)}, {place}});
}

std::optional<DispatchForm> DispatchReader::read(Value value, const Layout &layout, unsigned depth) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  const DimList *dims = shapes.getShape(value);
  if (!node || depth > 12 || !dims || dims->size() != layout.size() || !node.getDomain().empty())
    return std::nullopt;
  auto usesPlace = [&](const Layout &at) {
    return llvm::any_of(at, [&](const auto &dim) { return llvm::is_contained(dim, place); });
  };
  if (!usesPlace(layout)) {
    auto gate = gates.gateOf(value, layout);
    return gate ? std::optional(DispatchForm{{}, 0, gate}) : std::nullopt;
  }
  if (node.is("Mul")) {
    DispatchForm product;
    for (Value operand : node.getInputs()) {
      const DimList *operandDims = shapes.getShape(operand);
      Layout at = gates.broadcastLayout(operand, layout);
      auto factor = operandDims && at.size() == operandDims->size() ? read(operand, at, depth + 1) : std::nullopt;
      if (!factor || (factor->position && product.position))
        return std::nullopt;
      if (factor->position) {
        product.position = factor->position;
        product.capacity = factor->capacity;
      }
      if (factor->gate)
        product.gate = product.gate ? ExpertEvaluator::combine(*product.gate, *factor->gate) : factor->gate;
      if (factor->gate && !product.gate)
        return std::nullopt;
    }
    return product;
  }
  if (node.is("OneHot") && layout.size() == 3 && layout.back() == SmallVector<unsigned, 2>{place} &&
      *normalizeAxis(node.getInt("axis", -1), 3) == 2 && isZeroOne(node.getInputs()[2]))
    return DispatchForm{throughCasts(node.getInputs()[0]), dims->back().staticSize(), std::nullopt};
  if (node.is("Cast") && keepsNumbers(node))
    return read(node.getInputs()[0], layout, depth + 1);
  return std::nullopt;
}

PairExpr *PlaceEvaluator::evaluateNode(OnnxNodeOp node, unsigned result, const Layout &layout) {
  // sum over the tokens of D[t, e, c] * x[t, h]
  auto size = contractedSize(node);
  if (size && *size == tokens && (node.is("Einsum") || node.is("MatMul")))
    for (unsigned i : {0u, 1u}) {
      Value moved = node.getInputs()[i], rows = node.getInputs()[1 - i];
      if (layout.size() < 2 || layout.back().size() != 1)
        continue;
      unsigned k = addAxis(LayerAxis::Feature, *size);
      Layout left, right;
      if (!contractionLayouts(node, layout, k, left, right))
        continue;
      Layout atDispatch = i ? right : left, inner;
      const Layout &atRows = i ? left : right;
      // As a matrix: its places side by side, or turned.
      while (moved != dispatch) {
        auto step = moved.getDefiningOp<OnnxNodeOp>();
        if (!step || !stepBack(step, atDispatch, inner))
          break;
        atDispatch = inner;
        moved = step.getInputs()[0];
      }
      if (moved != dispatch || atDispatch != Layout{{k}, {slotAxis}, {tokenAxes[0]}} ||
          atRows != Layout{{k}, layout.back()})
        continue;
      PairExpr row{PairExpr::Row, rows, {}, {}, {layout.back()[0]}};
      row.leading = 1;
      return make(row);
    }
  return PairEvaluator::evaluateNode(node, result, layout);
}

/// Whether position == (the number of tokens so far that chose the expert) - 1; gives the mask that is counted.
static Value countedMask(Value position, SymbolicShapes &shapes) {
  auto minus = position.getDefiningOp<OnnxNodeOp>();
  bool exclusive = false;
  Value count = position;
  if (minus && minus.is("Sub") && splatNumber(minus.getInputs()[1]) == 1.0)
    count = throughCasts(minus.getInputs()[0]);
  else
    exclusive = true;
  auto sum = count.getDefiningOp<OnnxNodeOp>();
  if (!sum || !sum.is("CumSum") || sum.getInt("reverse", 0) || (sum.getInt("exclusive", 0) != 0) != exclusive)
    return {};
  auto axis = shapes.getConstants(sum.getInputs()[1]);
  const DimList *dims = shapes.getShape(count);
  if (!axis || axis->size() != 1 || !dims || dims->size() != 2 || normalizeAxis(axis->front(), 2) != 0)
    return {};
  return sum.getInputs()[0];
}

/// The tensor of three dimensions whose last two, or first two, a value has as one.
static Value unjoined(Value value, bool last, SymbolicShapes &shapes) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  const DimList *joined = shapes.getShape(value);
  const DimList *dims =
      node && (node.is("Reshape") || node.is("Flatten")) ? shapes.getShape(node.getInputs()[0]) : nullptr;
  if (!dims || dims->size() != 3 || !joined || joined->size() != 2)
    return {};
  return (*joined)[last ? 0 : 1] == (*dims)[last ? 0 : 2] ? node.getInputs()[0] : Value();
}

/// The operands of a sum over (e, c) of combine[t, e, c] * out[e, c, h], in either order; as an Einsum, or a MatMul of
/// the two as matrices.
static std::optional<std::pair<Value, Value>> readCombine(OnnxNodeOp root, SymbolicShapes &shapes) {
  if (root.is("MatMul")) {
    Value combine = unjoined(root.getInputs()[0], /*last=*/true, shapes),
          out = unjoined(root.getInputs()[1], /*last=*/false, shapes);
    const DimList *left = combine ? shapes.getShape(combine) : nullptr, *right = out ? shapes.getShape(out) : nullptr;
    if (!left || !right || (*left)[1] != (*right)[0] || (*left)[2] != (*right)[1])
      return std::nullopt;
    return std::pair(combine, out);
  }
  if (!root.is("Einsum") || root.getInputs().size() != 2)
    return std::nullopt;
  std::string equation;
  for (char c : root.getString("equation"))
    if (c != ' ')
      equation += c;
  auto [inputs, output] = StringRef(equation).split("->");
  auto [first, second] = inputs.split(',');
  if (output.size() != 2 || first.size() != 3 || second.size() != 3)
    return std::nullopt;
  bool swapped = first.front() != output[0];
  StringRef combineTerm = swapped ? second : first, outTerm = swapped ? first : second;
  if (combineTerm[0] != output[0] || outTerm[2] != output[1] || combineTerm.drop_front() != outTerm.drop_back() ||
      combineTerm[1] == combineTerm[2] || outTerm.contains(output[0]))
    return std::nullopt;
  return std::pair(root.getInputs()[swapped ? 1 : 0], root.getInputs()[swapped ? 0 : 1]);
}

bool mlir::moe::raiseDispatch(OnnxNodeOp root, SymbolicShapes &shapes) {
  auto product = readCombine(root, shapes);
  if (!product)
    return false;
  auto [combine, out] = *product;
  const DimList *dims = shapes.getShape(combine), *outDims = shapes.getShape(out);
  auto type = dyn_cast<RankedTensorType>(root.getResult(0).getType());
  if (!dims || !outDims || dims->size() != 3 || outDims->size() != 3 || !type || !(*dims)[1].isConstant() ||
      !(*dims)[2].isConstant() || !(*outDims)[2].isConstant() || (*dims)[1].constant() < 1)
    return false;
  int64_t experts = (*dims)[1].constant();

  DispatchReader reader(shapes);
  reader.token = reader.gates.addAxis(LayerAxis::Token, (*dims)[0]);
  reader.place = reader.gates.addAxis(LayerAxis::Feature, (*dims)[2]);
  reader.gates.setTokenAxes({reader.token});
  auto form = reader.readAt(combine, experts, 0), last = reader.readAt(combine, experts, experts - 1);
  if (!form || !last || !form->position || !form->gate || !last->gate)
    return false;
  auto missed = [&](const Twine &reason) {
    noteNotRaised(root, reason);
    return false;
  };
  const GateForm &gate = *form->gate;
  Value mask = countedMask(form->position, shapes);
  auto counted = mask ? reader.gates.gateOf(mask, Layout{{reader.token}, {reader.gates.addFixed(DimExpr(experts), 0)}})
                      : std::nullopt;
  if (!gate.indices || gate.expert != 0 || last->gate->expert != experts - 1 || last->gate->indices != gate.indices ||
      last->gate->weights != gate.weights || last->position != form->position)
    return missed("the combined tensor is not the dispatch times the gates of the chosen experts");
  auto router = gate.indices.getDefiningOp<OnnxNodeOp>();
  if (!counted || counted->indices != gate.indices || counted->weights || counted->keep || counted->dense || !router ||
      !router.is("TopK"))
    return missed("a token's place is not the number of tokens before it that chose the expert");
  // The mask of what fits says the same as the number of places, or less.
  int64_t capacity = form->capacity;
  Value keep = gate.keep;
  if (auto less = keep ? throughCasts(keep).getDefiningOp<OnnxNodeOp>() : OnnxNodeOp())
    if (auto bound = less.is("Less") ? splatNumber(less.getInputs()[1]) : std::nullopt;
        bound && throughCasts(less.getInputs()[0]) == form->position && *bound == static_cast<int64_t>(*bound)) {
      capacity = std::min<int64_t>(capacity, *bound);
      keep = {};
    }
  if (keep)
    return missed("tokens are dropped by something else than the capacity");

  // The experts, over their places.
  PlaceEvaluator evaluator(shapes);
  evaluator.tokens = (*dims)[0];
  unsigned place = evaluator.addAxis(LayerAxis::Token, (*dims)[2]),
           slot = evaluator.addAxis(LayerAxis::Slot, (*dims)[1]);
  unsigned feature = evaluator.addAxis(LayerAxis::Feature, (*outDims)[2]);
  evaluator.setTokenAxes({place});
  evaluator.setSlotAxis(slot);
  // What is multiplied with the gates in the combined tensor is the dispatch.
  SmallVector<Value> todo = {combine};
  for (size_t i = 0; i < todo.size() && i < 16; ++i) {
    auto plain = reader.readAt(todo[i], experts, 0);
    if (plain && plain->position && plain->gate && !plain->gate->weights && plain->gate->indices == gate.indices) {
      evaluator.dispatch = todo[i];
      break;
    }
    if (auto node = todo[i].getDefiningOp<OnnxNodeOp>())
      todo.append(node.getInputs().begin(), node.getInputs().end());
  }
  PairExpr *body = evaluator.dispatch ? evaluator.evaluate(out, Layout{{slot}, {place}, {feature}}) : nullptr;
  if (!body || !evaluator.sawBank() || body->features.size() != 1)
    return missed(evaluator.getReason().empty() ? "no dispatch of the same tokens" : evaluator.getReason());

  NodeBuilder nodes(root, shapes);
  ImplicitLocOpBuilder &b = nodes.b;
  Type element = type.getElementType();
  Type wide = cast<FloatType>(element).getWidth() < 32 ? Type(b.getF32Type()) : element;
  BodyEmitter emitter(nodes, shapes, evaluator, wide);
  if (!emitter.collect(body) || emitter.rows.empty())
    return missed("no rows enter the experts");
  std::string kind;
  int64_t slots = cast<RankedTensorType>(gate.indices.getType()).getShape().back();
  Value routing =
      buildComparedRouting(nodes, shapes, gate.indices, gate.weights, /*keep=*/Value(), slots, experts, kind);
  nodes.visited(routing.getDefiningOp());
  routing = LimitOp::create(b, routing, /*key=*/Value(), /*cap=*/Value(), b.getI64IntegerAttr(capacity),
                            LimitOrderAttr::get(b.getContext(), LimitOrder::Row));
  nodes.visited(routing.getDefiningOp());
  ApplyOp apply = buildLayer(nodes, emitter, body, routing, 1, evaluator.axis(feature).size.staticSize(), wide);
  noteSource(apply, "dispatch and combine with a capacity", root, scoresOf(gate.indices));
  Value result = nodes.castTo(apply.getResult(0), element);
  if (result.getType() != type)
    result = nodes.node("Identity", 13, result, type);
  root.getResult(0).replaceAllUsesWith(result);
  remark::passed(root.getLoc(), remark::RemarkOpts::name("MoeRaised").category("onnx-raise-moe"))
      << ("an MoE layer of " + Twine(experts) + " experts with a capacity of " + Twine(capacity)).str();
  return true;
}
