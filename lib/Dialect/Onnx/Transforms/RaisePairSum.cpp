//===- RaisePairSum.cpp - sums over slots of gated expert outputs ---------===//
//
// The root is a ReduceSum over one dimension: the slots of a token (weights were gathered per pair), or the experts
// (all were computed, gates are zero where not chosen).
//
//===----------------------------------------------------------------------===//
#include "Raise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Remarks.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Emits an expression as the body of an apply.
class BodyEmitter {
public:
  BodyEmitter(NodeBuilder &nodes, SymbolicShapes &shapes, PairEvaluator &evaluator, Type wide)
      : nodes(nodes), shapes(shapes), evaluator(evaluator), wide(wide) {}

  /// Lists the operands of the apply that an expression needs; false if it reads the gates.
  bool collect(PairExpr *expr);
  Value emit(ImplicitLocOpBuilder &b, PairExpr *expr);

  SmallVector<Value> rows, banks;
  llvm::DenseMap<PairExpr *, unsigned> rowNumber, bankNumber;
  llvm::DenseMap<PairExpr *, Value> captures;
  ValueRange arguments;

private:
  int64_t widthOf(PairExpr *expr) {
    return expr->features.empty() ? 1 : evaluator.axis(expr->features[0]).size.staticSize();
  }
  Value scalarOf(ImplicitLocOpBuilder &b, PairExpr *expr, llvm::DenseMap<PairExpr *, Value> &leaves);
  void leavesOf(PairExpr *expr, SmallVectorImpl<PairExpr *> &leaves);
  Value contract(ImplicitLocOpBuilder &b, PairExpr *expr);

  NodeBuilder &nodes;
  SymbolicShapes &shapes;
  PairEvaluator &evaluator;
  Type wide;
  llvm::DenseMap<PairExpr *, Value> emitted;
  SmallVector<std::pair<PairExpr *, BankCut>> partsSeen;
  SmallVector<std::pair<PairExpr *, Value>> contractions;
  llvm::DenseMap<PairExpr *, bool> seen;
};

} // namespace

bool BodyEmitter::collect(PairExpr *expr) {
  if (!seen.try_emplace(expr, true).second)
    return true;
  for (PairExpr *operand : expr->operands)
    if (!collect(operand))
      return false;
  switch (expr->kind) {
  case PairExpr::Gate:
    return false;
  case PairExpr::Row: {
    auto at = llvm::find(rows, expr->value);
    rowNumber[expr] = at - rows.begin();
    if (at == rows.end())
      rows.push_back(expr->value);
    return true;
  }
  case PairExpr::Part: {
    for (auto [i, other] : llvm::enumerate(partsSeen))
      if (other.first->value == expr->value && other.second == expr->cut) {
        bankNumber[expr] = i;
        return true;
      }
    bankNumber[expr] = partsSeen.size();
    partsSeen.push_back({expr, expr->cut});
    Value bank = expr->value;
    auto type = cast<RankedTensorType>(bank.getType());
    if (type.getRank() != static_cast<int64_t>(expr->features.size()) + 1) {
      SmallVector<int64_t> shape = {type.getDimSize(0)};
      for (int64_t size : type.getShape().drop_front())
        if (size != 1)
          shape.push_back(size);
      bank =
          nodes.node("Reshape", 14, {bank, nodes.constant(shape)}, RankedTensorType::get(shape, type.getElementType()));
    }
    if (expr->cut.dim >= 0)
      bank = nodes.cutBank(bank, expr->cut.dim, expr->cut.offset, expr->cut.stride, expr->cut.size);
    banks.push_back(bank);
    return true;
  }
  case PairExpr::Capture:
    if (!splatNumber(expr->value) && !captures.count(expr)) {
      // One dimension of features, or a scalar.
      Value value = expr->value;
      auto type = cast<RankedTensorType>(value.getType());
      int64_t rank = expr->features.empty() ? 0 : 1;
      if (type.getRank() != rank) {
        SmallVector<int64_t> shape(rank, widthOf(expr));
        value = nodes.node("Reshape", 14, {value, nodes.constant(shape)},
                           RankedTensorType::get(shape, type.getElementType()));
      }
      captures[expr] = value;
    }
    return true;
  default:
    return true;
  }
}

/// The non-elementwise expressions below an elementwise one.
void BodyEmitter::leavesOf(PairExpr *expr, SmallVectorImpl<PairExpr *> &leaves) {
  if (expr->kind == PairExpr::Elementwise) {
    for (PairExpr *operand : expr->operands)
      leavesOf(operand, leaves);
  } else if (!llvm::is_contained(leaves, expr)) {
    leaves.push_back(expr);
  }
}

Value BodyEmitter::scalarOf(ImplicitLocOpBuilder &b, PairExpr *expr, llvm::DenseMap<PairExpr *, Value> &values) {
  if (auto it = values.find(expr); it != values.end())
    return it->second;
  if (expr->kind == PairExpr::Capture)
    if (auto number = splatNumber(expr->value))
      return values[expr] = arith::ConstantOp::create(b, b.getFloatAttr(wide, *number));
  SmallVector<Value> operands;
  for (PairExpr *operand : expr->operands)
    operands.push_back(scalarOf(b, operand, values));
  return values[expr] = emitScalarOperator(b, expr->op, shapes, operands);
}

Value BodyEmitter::contract(ImplicitLocOpBuilder &b, PairExpr *expr) {
  // The same product may have been written twice, once per half of its columns.
  for (auto &[other, value] : contractions)
    if (other->operands[0] == expr->operands[0] && bankNumber[other->operands[1]] == bankNumber[expr->operands[1]] &&
        other->transposed == expr->transposed)
      return value;
  Value row = emit(b, expr->operands[0]), part = emit(b, expr->operands[1]);
  Value result = buildMatmul(b, row, part, expr->transposed);
  contractions.push_back({expr, result});
  return result;
}

Value BodyEmitter::emit(ImplicitLocOpBuilder &b, PairExpr *expr) {
  if (auto it = emitted.find(expr); it != emitted.end())
    return it->second;
  Value value;
  switch (expr->kind) {
  case PairExpr::Row:
    value = arguments[rowNumber[expr]];
    break;
  case PairExpr::Part:
    value = arguments[rows.size() + bankNumber[expr]];
    break;
  case PairExpr::Capture:
    value = captures.lookup(expr);
    break;
  case PairExpr::Contract:
    value = contract(b, expr);
    break;
  case PairExpr::Cut: {
    Value from = emit(b, expr->operands[0]);
    auto type = cast<RankedTensorType>(from.getType());
    OpFoldResult count = tensor::DimOp::create(b, from, 0).getResult();
    SmallVector<OpFoldResult> offsets = {b.getIndexAttr(0), b.getIndexAttr(expr->cut.offset)},
                              sizes = {count, b.getIndexAttr(expr->cut.size)},
                              strides = {b.getIndexAttr(1), b.getIndexAttr(expr->cut.stride)};
    value = tensor::ExtractSliceOp::create(
        b, RankedTensorType::get({ShapedType::kDynamic, expr->cut.size}, type.getElementType()), from, offsets, sizes,
        strides);
    break;
  }
  case PairExpr::Elementwise: {
    SmallVector<PairExpr *> leaves;
    leavesOf(expr, leaves);
    SmallVector<PairExpr *> slots;
    SmallVector<Value> operands;
    SmallVector<bool> perRow;
    llvm::DenseMap<PairExpr *, Value> fixed;
    for (PairExpr *leaf : leaves) {
      if (leaf->kind == PairExpr::Capture && splatNumber(leaf->value))
        continue;
      Value operand = emit(b, leaf);
      if (leaf->kind == PairExpr::Capture && leaf->features.empty()) {
        fixed[leaf] = tensor::ExtractOp::create(b, operand, ValueRange{});
        continue;
      }
      slots.push_back(leaf);
      operands.push_back(operand);
      perRow.push_back(leaf->kind == PairExpr::Row && leaf->features.empty());
    }
    value = buildElementwise(
        b, arguments[0], widthOf(expr), wide, operands, perRow, [&](ImplicitLocOpBuilder &inner, ValueRange v) {
          llvm::DenseMap<PairExpr *, Value> values;
          for (auto &[leaf, scalar] : fixed)
            values[leaf] = scalar.getType() == wide ? scalar : Value(arith::ExtFOp::create(inner, wide, scalar));
          for (auto [leaf, scalar] : llvm::zip(slots, v))
            values[leaf] = scalar;
          return scalarOf(inner, expr, values);
        });
    break;
  }
  case PairExpr::Gate:
    llvm_unreachable("gates are not part of a body");
  }
  return emitted[expr] = value;
}

/// Takes the gates out of a product: the factors without features that differ by pair.
static PairExpr *splitGates(PairExpr *expr, PairExpr *&gate) {
  if (expr->kind != PairExpr::Elementwise || !expr->op.is("Mul") || expr->operands.size() != 2)
    return expr;
  for (unsigned i : {0u, 1u}) {
    PairExpr *factor = expr->operands[i], *other = expr->operands[1 - i];
    if (factor->kind == PairExpr::Gate && !gate) {
      gate = factor;
      return other;
    }
  }
  // (x * g) * c and the like: the gate may sit deeper in the product.
  for (unsigned i : {0u, 1u}) {
    PairExpr *rest = splitGates(expr->operands[i], gate);
    if (rest != expr->operands[i]) {
      expr->operands[i] = rest;
      return expr;
    }
  }
  return expr;
}

static void missed(OnnxNodeOp node, const Twine &reason) {
  remark::missed(node.getLoc(), remark::RemarkOpts::name("MoeNotRaised").category("onnx-raise-moe"))
      << ("a sum over expert outputs was not raised: " + reason).str();
}

static bool tryRaise(OnnxNodeOp sum, int64_t slotDim, SymbolicShapes &shapes, PairEvaluator &evaluator,
                     std::string &reason) {
  Value input = sum.getInputs()[0];
  const DimList &dims = *shapes.getShape(input);
  int64_t rank = dims.size();
  // The reduced dimension runs over the slots, the last one over the features, all others over tokens.
  Layout layout(rank);
  SmallVector<unsigned> tokens;
  unsigned feature = 0, slot = 0;
  for (int64_t i = 0; i < rank; ++i) {
    auto kind = i == slotDim ? LayerAxis::Slot : i == rank - 1 ? LayerAxis::Feature : LayerAxis::Token;
    unsigned axis = evaluator.addAxis(kind, dims[i]);
    if (kind == LayerAxis::Token)
      tokens.push_back(axis);
    (i == slotDim ? slot : feature) = i == slotDim ? axis : i == rank - 1 ? axis : feature;
    // A single slot stands in no layout: dimensions of size 1 have no axes.
    if (kind != LayerAxis::Slot || !dims[i].is(1))
      layout[i].push_back(axis);
  }
  evaluator.setTokenAxes(tokens);
  evaluator.setSlotAxis(slot);
  PairExpr *root = evaluator.evaluate(input, layout);
  if (!root) {
    reason = evaluator.getReason();
    return false;
  }
  if (!evaluator.sawBank()) {
    reason = "no expert weights";
    return false;
  }
  PairExpr *gate = nullptr;
  PairExpr *body = splitGates(root, gate);
  if (!gate) {
    reason = "no factor is the pair's gate";
    return false;
  }
  if (body->features.size() != 1 || body->features[0] != feature) {
    reason = "the experts' output does not have one row per pair";
    return false;
  }

  NodeBuilder nodes(sum, shapes);
  ImplicitLocOpBuilder &b = nodes.b;
  Type element = cast<RankedTensorType>(input.getType()).getElementType();
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
    routing = buildDenseRouting(nodes, shapes, nodes.flatten(gate->value, tokenDims), evaluator.getExperts(), router);
  }
  if (!routing)
    return false;
  nodes.visited(routing.getDefiningOp());
  for (Value &value : emitter.rows)
    value = nodes.flatten(value, tokenDims);
  int64_t rowCount = cast<RankedTensorType>(emitter.rows[0].getType()).getDimSize(0);
  auto resultType = RankedTensorType::get({rowCount, evaluator.axis(feature).size.staticSize()}, wide);
  auto apply = buildApply(b, routing, emitter.rows, emitter.banks, WeightMode::After, resultType,
                          [&](ImplicitLocOpBuilder &inner, ValueRange arguments) {
                            emitter.arguments = arguments;
                            Value out = emitter.emit(inner, body);
                            if (cast<RankedTensorType>(out.getType()).getElementType() != wide)
                              out = buildElementwise(inner, out, resultType.getDimSize(1), wide, out, {false},
                                                     [](ImplicitLocOpBuilder &, ValueRange v) { return v[0]; });
                            return out;
                          });
  apply->setAttr("moe.source",
                 b.getStringAttr(evaluator.getIndices() ? "weights gathered per pair" : "all experts computed"));
  nodes.visited(apply);
  Value result =
      nodes.unflatten(nodes.castTo(apply.getResult(0), element), emitter.rows.empty() ? input : gate->value, tokenDims);
  Value old = sum.getResult(0);
  const DimList *oldDims = shapes.getShape(old);
  if (static_cast<int64_t>(oldDims->size()) != tokenDims + 1)
    result = nodes.node("Unsqueeze", 13, {result, nodes.constant({slotDim})}, old.getType());
  else if (result.getType() != old.getType())
    result = nodes.node("Identity", 13, result, old.getType());
  old.replaceAllUsesWith(result);
  remark::passed(sum.getLoc(), remark::RemarkOpts::name("MoeRaised").category("onnx-raise-moe"))
      << (llvm::Twine("an MoE layer of ") + llvm::Twine(evaluator.getExperts()) + " experts, router " + router).str();
  return true;
}

bool mlir::moe::raisePairSum(OnnxNodeOp sum, SymbolicShapes &shapes) {
  if (!sum.is("ReduceSum"))
    return false;
  const DimList *dims = shapes.getShape(sum.getInputs()[0]);
  auto type = dyn_cast<RankedTensorType>(sum.getInputs()[0].getType());
  auto axes = dims ? getAxes(sum, shapes, dims->size()) : std::nullopt;
  if (!axes || axes->size() != 1 || dims->size() < 3 || !type || !isa<FloatType>(type.getElementType()))
    return false;
  int64_t slotDim = axes->front(), rank = dims->size();
  if (slotDim == rank - 1 || !dims->back().isConstant() || !(*dims)[slotDim].isConstant())
    return false;
  PairEvaluator evaluator(shapes);
  std::string reason;
  if (tryRaise(sum, slotDim, shapes, evaluator, reason))
    return true;
  if (evaluator.sawBank())
    missed(sum, reason);
  return false;
}
