//===- RaiseExpertSum.cpp - sums of experts with nodes of their own -------===//
//
// The root is the last node of a sum: a chain of Add, Sum and scatters into an accumulator, or a contraction with a
// Concat of the experts' outputs. It is taken apart into terms; a term whose expression has the gate of an expert is
// that expert's contribution, the others (a residual, a shared expert) stay what they are.
//
//===----------------------------------------------------------------------===//
#include "BodyEmitter.h"
#include "ExpertExpr.h"
#include "MergeExperts.h"
#include "Raise.h"

#include "mlir/IR/Remarks.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// One summand: a product of values, each under its layout.
struct Term {
  SmallVector<std::pair<Value, Layout>, 2> factors;
  /// The axis of the pairs that the values are listed for and scattered from; nothing if they run over all tokens.
  std::optional<unsigned> chosen;
  /// Whether the term is a value of the sum's own shape, which can be added again as it is.
  bool plain = false;
  /// Whether the scatter replaced what was there.
  bool replaces = false;
  /// Whether the scatter adds: a token that is listed twice gets both.
  bool accumulates = false;
  GateForm gate;
  PairExpr *body = nullptr;
};

class SumReader {
public:
  SumReader(OnnxNodeOp root, SymbolicShapes &shapes, llvm::DenseSet<Operation *> &read)
      : root(root), shapes(shapes), read(read), evaluator(shapes) {}

  /// Sets the layout of the sum and takes it apart. False if it is no sum of several terms.
  bool takeApart();
  /// Reads the terms; false if fewer than two have a gate.
  bool readTerms();
  LogicalResult raise(bool allowTraced);

private:
  void addTerms(Value value, bool isRoot);
  bool addScatter(OnnxNodeOp node);
  bool addContraction(OnnxNodeOp node);
  bool readTerm(Term &term);
  LogicalResult raiseGroup(SmallVectorImpl<Term *> &group, ValueRange others, Value &result);
  LogicalResult checkTraced(ArrayRef<Term *> group, int64_t bankSize);
  void missed(const Twine &reason) { noteNotRaised(root, reason); }

  OnnxNodeOp root;
  SymbolicShapes &shapes;
  llvm::DenseSet<Operation *> &read;
  ExpertEvaluator evaluator;
  Layout layout;
  unsigned feature = 0;
  std::vector<Term> terms;
};
} // namespace

/// Whether a use only asks for the shape.
static bool isShapeUse(Operation *op, unsigned depth = 0) {
  auto node = dyn_cast<OnnxNodeOp>(op);
  if (!node || depth > 3)
    return false;
  if (node.is("Shape") || node.is("Size"))
    return true;
  return (node.is("Slice") || node.is("Gather")) &&
         llvm::all_of(op->getUsers(), [&](Operation *user) { return isShapeUse(user, depth + 1); });
}

/// Whether a value is there for one node alone, apart from its shape and from being read before it is written.
static bool feedsOneNode(Value value) {
  llvm::SmallPtrSet<Operation *, 4> users;
  for (Operation *user : value.getUsers()) {
    auto node = dyn_cast<OnnxNodeOp>(user);
    if (isShapeUse(user) || (node && (node.is("GatherND") || node.is("Gather")) && user->hasOneUse()))
      continue;
    users.insert(user);
    if (users.size() > 1)
      return false;
  }
  return users.size() == 1;
}

static bool isAccumulation(OnnxNodeOp node) {
  return node.getDomain().empty() &&
         llvm::is_contained({"Add", "Sum", "ScatterND", "ScatterElements", "ReduceSum", "MatMul", "Einsum"},
                            node.getOpType());
}

//===----------------------------------------------------------------------===//
// Taking the sum apart
//===----------------------------------------------------------------------===//

bool SumReader::takeApart() {
  const DimList *dims = shapes.getShape(root.getResult(0));
  auto type = dyn_cast<RankedTensorType>(root.getResult(0).getType());
  if (!dims || dims->size() < 2 || !type || !isa<FloatType>(type.getElementType()))
    return false;
  // The last dimension that is not 1 holds the features, all before it the tokens.
  size_t last = dims->size() - 1;
  while (last > 0 && (*dims)[last].is(1))
    --last;
  if (last == 0 || !(*dims)[last].isConstant())
    return false;
  SmallVector<unsigned> tokens;
  bool allOne = llvm::all_of(ArrayRef(*dims).take_front(last), [](const DimExpr &dim) { return dim.is(1); });
  layout.resize(dims->size());
  for (size_t i = 0; i < last; ++i)
    if (allOne || !(*dims)[i].is(1)) {
      tokens.push_back(evaluator.addAxis(LayerAxis::Token, (*dims)[i]));
      layout[i] = {tokens.back()};
    }
  feature = evaluator.addAxis(LayerAxis::Feature, (*dims)[last]);
  layout[last] = {feature};
  evaluator.setTokenAxes(tokens);
  addTerms(root.getResult(0), /*isRoot=*/true);
  return terms.size() > 1;
}

void SumReader::addTerms(Value value, bool isRoot) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  const DimList *dims = shapes.getShape(value), *wanted = shapes.getShape(root.getResult(0));
  if (isZeros(value))
    return;
  auto sameShape = [&](Value other) {
    const DimList *otherDims = shapes.getShape(other);
    return otherDims && ArrayRef<DimExpr>(*otherDims) == ArrayRef<DimExpr>(*wanted);
  };
  if (node && isAccumulation(node) && (isRoot || feedsOneNode(value)) && dims && sameShape(value)) {
    if ((node.is("Add") || node.is("Sum")) &&
        llvm::all_of(node.getInputs(), [&](Value input) { return sameShape(input); })) {
      read.insert(node);
      for (Value input : node.getInputs())
        addTerms(input, /*isRoot=*/false);
      return;
    }
    if ((node.is("ScatterND") || node.is("ScatterElements")) && addScatter(node))
      return;
    if ((node.is("ReduceSum") || node.is("MatMul") || node.is("Einsum")) && addContraction(node))
      return;
  }
  Term term;
  term.factors.push_back({value, layout});
  term.plain = true;
  terms.push_back(term);
}

bool SumReader::addScatter(OnnxNodeOp node) {
  Value data = node.getInputs()[0], index = node.getInputs()[1], updates = node.getInputs()[2];
  const DimList *indexDims = shapes.getShape(index), *updateDims = shapes.getShape(updates);
  if (layout.size() != 2 || !indexDims || !updateDims || indexDims->size() != 2 || updateDims->size() != 2)
    return false;
  if (node.is("ScatterND") ? !indexDims->back().is(1) : node.getInt("axis", 0) != 0)
    return false;
  auto chosen = evaluator.chosenAxis(index);
  if (!chosen)
    return false;
  Layout at = {{*chosen}, {}};
  if (node.is("ScatterElements"))
    at[1] = {feature};
  if (!evaluator.isTokenNumber(index, at))
    return false;
  Term term;
  term.chosen = chosen;
  StringRef reduction = node.getString("reduction", "none");
  if (reduction == "none") {
    // What is there is read, added to, and written back; or replaced, which is a sum where nothing was there yet.
    auto sum = updates.getDefiningOp<OnnxNodeOp>();
    std::optional<unsigned> own;
    if (sum && sum.is("Add"))
      for (unsigned i : {0u, 1u}) {
        auto gather = sum.getInputs()[i].getDefiningOp<OnnxNodeOp>();
        if (!gather || !(gather.is("GatherND") || gather.is("Gather")) || gather.getInputs()[0] != data ||
            gather.getInt("axis", 0) != 0 || gather.getInt("batch_dims", 0) != 0)
          continue;
        Layout where = {{*chosen}};
        if (gather.is("GatherND"))
          where.emplace_back();
        const DimList *whereDims = shapes.getShape(gather.getInputs()[1]);
        if (whereDims && whereDims->size() == where.size() && evaluator.isTokenNumber(gather.getInputs()[1], where))
          own = 1 - i;
      }
    if (own)
      updates = sum.getInputs()[*own];
    else
      term.replaces = !isZeros(data);
  } else if (reduction != "add") {
    return false;
  } else {
    term.accumulates = true;
  }
  read.insert(node);
  term.factors.push_back({updates, Layout{{*chosen}, {feature}}});
  addTerms(data, /*isRoot=*/false);
  terms.push_back(term);
  return true;
}

/// Whether a Concat of several pieces is near: only then is it worth reading a contraction piece by piece.
static bool hasConcat(Value value, int64_t pieces, unsigned depth = 0) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (!node || depth > 6)
    return false;
  if (node.is("Concat"))
    return static_cast<int64_t>(node.getInputs().size()) == pieces;
  if (llvm::is_contained({"Mul", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Cast", "Identity"}, node.getOpType()))
    return llvm::any_of(node.getInputs(), [&](Value input) { return hasConcat(input, pieces, depth + 1); });
  return false;
}

bool SumReader::addContraction(OnnxNodeOp node) {
  if (node.is("ReduceSum")) {
    const DimList *from = shapes.getShape(node.getInputs()[0]);
    auto list = from ? getAxes(node, shapes, from->size()) : std::nullopt;
    if (!list || list->size() != 1 || !(*from)[list->front()].isConstant())
      return false;
    int64_t count = (*from)[list->front()].constant();
    if (count < 2 || !hasConcat(node.getInputs()[0], count))
      return false;
    read.insert(node);
    for (int64_t i = 0; i < count; ++i) {
      Layout at = layout;
      SmallVector<unsigned, 2> fixed = {evaluator.addFixed(DimExpr(count), i)};
      if (node.getInt("keepdims", 1))
        at[list->front()] = fixed;
      else
        at.insert(at.begin() + list->front(), fixed);
      terms.emplace_back().factors.push_back({node.getInputs()[0], at});
    }
    return true;
  }
  auto size = evaluator.contractedSize(node);
  if (!size || !size->isConstant() || size->constant() < 2 ||
      !llvm::any_of(node.getInputs(), [&](Value input) { return hasConcat(input, size->constant()); }))
    return false;
  SmallVector<Term, 0> made;
  for (int64_t i = 0; i < size->constant(); ++i) {
    Layout left, right;
    if (!evaluator.contractionLayouts(node, layout, evaluator.addFixed(*size, i), left, right))
      return false;
    Term term;
    term.factors.push_back({node.getInputs()[0], left});
    term.factors.push_back({node.getInputs()[1], right});
    made.push_back(term);
  }
  read.insert(node);
  terms.insert(terms.end(), made.begin(), made.end());
  return true;
}

//===----------------------------------------------------------------------===//
// Reading the terms
//===----------------------------------------------------------------------===//

/// The most nodes that one expert may have. More are no expert: a residual has the whole model before it.
static constexpr size_t maxOwnNodes = 512;

/// The nodes that nothing but the given values needs; `maxOwnNodes` or more if there are that many.
static llvm::DenseSet<Operation *> nodesFor(ArrayRef<std::pair<Value, Layout>> values) {
  llvm::DenseSet<Operation *> own;
  llvm::DenseMap<Operation *, unsigned> missing;
  SmallVector<Operation *> todo;
  for (auto &[value, at] : values)
    if (Operation *op = value.getDefiningOp<OnnxNodeOp>(); op && own.insert(op).second)
      todo.push_back(op);
  while (!todo.empty() && own.size() < maxOwnNodes) {
    Operation *op = todo.pop_back_val();
    for (Value operand : op->getOperands()) {
      Operation *def = operand.getDefiningOp<OnnxNodeOp>();
      if (!def || own.contains(def))
        continue;
      auto [it, inserted] = missing.try_emplace(def, 0);
      if (inserted)
        it->second = std::distance(def->use_begin(), def->use_end());
      if (--it->second == 0) {
        own.insert(def);
        todo.push_back(def);
      }
    }
  }
  return own;
}

/// Whether a value may be an expert's output: a product, perhaps moved, that nothing else reads.
static bool mayBeOutput(Value value) {
  for (unsigned i = 0; i < 8 && feedsOneNode(value); ++i) {
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node || !node.getDomain().empty())
      return false;
    if (llvm::is_contained({"Mul", "Where", "MatMul", "Gemm", "Einsum"}, node.getOpType()))
      return true;
    if (!llvm::is_contained({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand"},
                            node.getOpType()))
      return false;
    value = node.getInputs()[0];
  }
  return false;
}

bool SumReader::readTerm(Term &term) {
  if (term.plain && !mayBeOutput(term.factors[0].first))
    return false;
  auto own = nodesFor(term.factors);
  if (own.size() >= maxOwnNodes)
    return false;
  evaluator.setOwnNodes(std::move(own));
  PairExpr *product = nullptr;
  for (auto &[value, at] : term.factors) {
    PairExpr *expr = evaluator.evaluate(value, at);
    if (!expr)
      return false;
    product = product ? evaluator.multiply(product, expr) : expr;
  }
  SmallVector<PairExpr *, 2> gates;
  PairExpr *body = product ? splitGates(evaluator, product, gates) : nullptr;
  if (!body || body->features.size() != 1 || evaluator.axis(body->features[0]).size != evaluator.axis(feature).size)
    return false;
  std::optional<GateForm> form;
  if (term.chosen)
    form = evaluator.maskOf(*term.chosen);
  for (PairExpr *gate : gates) {
    form = form ? ExpertEvaluator::combine(*form, *gate->gate) : *gate->gate;
    if (!form)
      return false;
  }
  if (!form || form->expert < 0 || (!form->indices && !form->dense))
    return false;
  term.gate = *form;
  term.body = body;
  return true;
}

bool SumReader::readTerms() {
  unsigned gated = 0;
  for (Term &term : terms) {
    if (readTerm(term))
      ++gated;
    else if (!term.plain && gated == 0 && &term - terms.data() > 2)
      return false;
  }
  if (gated < 2)
    return false;
  for (Term &term : terms)
    if (!term.body && !term.plain) {
      missed("one of its terms is no expert's output: " + Twine(evaluator.getReason()));
      return false;
    }
  return true;
}

//===----------------------------------------------------------------------===//
// Raising
//===----------------------------------------------------------------------===//

/// Whether `value` is computed from the results of `source`.
static bool isComputedFrom(Value value, Operation *source) {
  llvm::SetVector<Operation *> todo;
  if (Operation *op = value.getDefiningOp())
    todo.insert(op);
  for (size_t i = 0; i < todo.size(); ++i) {
    if (todo[i] == source)
      return true;
    for (Value operand : todo[i]->getOperands())
      if (Operation *op = operand.getDefiningOp(); op && (op == source || source->isBeforeInBlock(op)))
        todo.insert(op);
  }
  return false;
}

/// An error if the group provably lacks experts: its numbers have gaps, or its weights are part of a bank of more.
/// Experts at the end (or the start) that add nothing may be meant, null experts: a warning.
LogicalResult SumReader::checkTraced(ArrayRef<Term *> group, int64_t bankSize) {
  Operation *source = group[0]->gate.indices ? group[0]->gate.indices.getDefiningOp() : nullptr;
  auto router = dyn_cast_or_null<OnnxNodeOp>(source);
  if (!router || !(router.is("TopK") || router.is("ArgMax")))
    return success();
  // A router that chooses among no more experts than there are lacks none.
  int64_t columns = cast<ShapedType>(router.getInputs()[0].getType()).getShape().back();
  if (columns <= static_cast<int64_t>(group.size())) // or not known: negative
    return success();
  int64_t first = group.front()->gate.expert, last = group.back()->gate.expert;
  bool gaps = last - first + 1 > static_cast<int64_t>(group.size());
  bool proved = gaps || bankSize > static_cast<int64_t>(group.size());
  // An expert of another kind may be in a term that could not be read.
  for (Term &term : terms)
    if (!term.body && isComputedFrom(term.factors[0].first, router))
      return success();
  std::string numbers;
  for (Term *term : group)
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(term->gate.expert);
  if (!proved) {
    // Null experts look like this, and so does a trace that happened to hit the first ones: nothing in the file tells.
    auto warning = emitWarning(root.getLoc())
                   << "node '" << root.getNodeName() << "' (" << root.getQualifiedName() << "): router '"
                   << router.getNodeName() << "' (" << router.getQualifiedName() << ") chooses among " << columns
                   << " experts, the file holds those numbered " << numbers << "; tokens get nothing from the others";
    warning.attachNote() << "that is right if the others are null experts; if the model has " << columns
                         << " experts, the file is a trace that holds only those that were chosen while it was "
                            "exported, and its results are wrong: export again with a loop over all experts, or with "
                            "experts that are all run and masked";
    return success();
  }
  auto error = emitError(root.getLoc())
               << "node '" << root.getNodeName() << "' (" << root.getQualifiedName()
               << "): the file holds the experts that were chosen while the model was traced, not all experts";
  error.attachNote(router.getLoc()) << "node '" << router.getNodeName() << "' (" << router.getQualifiedName()
                                    << ") chooses among " << columns << " experts, the sum has those numbered "
                                    << numbers
                                    << (bankSize > static_cast<int64_t>(group.size())
                                            ? " of a bank of " + std::to_string(bankSize)
                                            : "");
  error.attachNote() << "export again with a loop over all experts, or with experts that are all run and masked; "
                        "'--allow-traced-experts' compiles the file as it is";
  return failure();
}

/// Whether the scores that `later` chose from are minus infinity at the numbers `earlier`.
static bool excludes(Value later, Value earlier) {
  auto strip = [](Value value) {
    while (auto node = value.getDefiningOp<OnnxNodeOp>()) {
      if (!node.is("Cast") && !node.is("Identity"))
        break;
      value = node.getInputs()[0];
    }
    return value;
  };
  auto choice = strip(later).getDefiningOp<OnnxNodeOp>();
  if (!choice || !(choice.is("ArgMax") || choice.is("TopK")) || !choice.getInt("largest", 1))
    return false;
  Value scores = choice.getInputs()[0];
  for (unsigned depth = 0; depth < 8; ++depth) {
    auto node = strip(scores).getDefiningOp<OnnxNodeOp>();
    if (!node)
      return false;
    if (node.is("Where")) { // masked further
      scores = isMinusInfinity(node.getInputs()[1]) ? node.getInputs()[2] : node.getInputs()[1];
      if (!isMinusInfinity(node.getInputs()[1]) && !isMinusInfinity(node.getInputs()[2]))
        return false;
      continue;
    }
    if (!node.is("ScatterElements") || node.getString("reduction", "none") != "none" ||
        !isMinusInfinity(node.getInputs()[2]))
      return false;
    if (strip(node.getInputs()[1]) == strip(earlier))
      return true;
    scores = node.getInputs()[0];
  }
  return false;
}

/// Whether no token chooses an expert twice: the numbers of one TopK, or choices that each leave out those before (a
/// sparse mixer).
static bool areDistinct(Value indices) {
  auto source = indices.getDefiningOp<OnnxNodeOp>();
  if (!source)
    return false;
  if (source.is("TopK"))
    return true;
  auto type = dyn_cast<RankedTensorType>(indices.getType());
  if (!source.is("Concat") || !type || normalizeAxis(source.getInt("axis", 0), type.getRank()) != type.getRank() - 1)
    return false;
  auto parts = source.getInputs();
  for (size_t i = 0; i < parts.size(); ++i) {
    auto part = dyn_cast<RankedTensorType>(parts[i].getType());
    if (!part || part.getShape().back() != 1)
      return false;
    for (size_t j = 0; j < i; ++j)
      if (!excludes(parts[i], parts[j]))
        return false;
  }
  return true;
}

LogicalResult SumReader::raiseGroup(SmallVectorImpl<Term *> &group, ValueRange others, Value &result) {
  const GateForm &gate = group.front()->gate;
  int64_t experts = group.size();
  for (auto [i, term] : llvm::enumerate(group)) {
    const GateForm &other = term->gate;
    if (other.expert != static_cast<int64_t>(i)) {
      missed("the graph has " + Twine(experts) + " experts, but expert " + Twine(std::min<int64_t>(i, other.expert)) +
             (other.expert < static_cast<int64_t>(i) ? " twice" : " not"));
      return failure();
    }
    if (other.indices != gate.indices || other.weights != gate.weights || other.dense != gate.dense ||
        other.keep != gate.keep) {
      missed("the experts' gates come from different values");
      return failure();
    }
  }
  NodeBuilder nodes(root, shapes);
  ImplicitLocOpBuilder &b = nodes.b;
  ExpertMerger merger(nodes, shapes, evaluator);
  PairExpr *body = merger.merge(llvm::map_to_vector(group, [](Term *term) { return term->body; }));
  if (!body || !evaluator.sawBank()) {
    missed(body ? "no expert weights" : merger.getReason());
    return failure();
  }
  // Expert numbers per token, and what they are compared by.
  int64_t slots = 1;
  if (gate.indices) {
    const DimList &dims = *shapes.getShape(gate.indices);
    DimExpr tokens(1);
    for (unsigned axis : evaluator.getTokenAxes())
      tokens = tokens * evaluator.axis(axis).size;
    auto perToken = productOf(dims).dividedBy(tokens);
    if (!perToken || !perToken->isConstant()) {
      missed("the number of experts per token is not known");
      return failure();
    }
    slots = perToken->constant();
    bool distinct = slots == 1 || areDistinct(gate.indices);
    for (Term *term : group)
      if (term->chosen ? term->replaces ? slots != 1 || terms.size() != group.size() : !distinct && !term->accumulates
                       : !gate.summed && slots != 1) {
        missed("a token may choose an expert twice, or an expert's output replaces another's");
        return failure();
      }
  } else if (cast<RankedTensorType>(gate.dense.getType()).getShape().back() != experts) {
    missed("the gates have " + Twine(cast<RankedTensorType>(gate.dense.getType()).getShape().back()) +
           " columns, the graph has " + Twine(experts) + " experts");
    return failure();
  }
  Type element = cast<RankedTensorType>(root.getResult(0).getType()).getElementType();
  Type wide = cast<FloatType>(element).getWidth() < 32 ? Type(b.getF32Type()) : element;
  // Banks last: an argument that is stacked for nothing would stay.
  merger.stackWeights();
  BodyEmitter emitter(nodes, shapes, evaluator, wide);
  if (!emitter.collect(body) || emitter.rows.empty()) {
    missed(emitter.rows.empty() ? "no rows enter the experts" : "the gates are used inside the experts");
    return failure();
  }
  std::string router;
  Value routing =
      gate.indices ? buildComparedRouting(nodes, shapes, gate.indices, gate.weights, gate.keep, slots, experts, router)
                   : buildDenseRouting(nodes, shapes, gate.dense, experts, router);
  nodes.visited(routing.getDefiningOp());
  Value rows = emitter.rows[0];
  unsigned leading = emitter.rowLeading[0];
  bool listed = group.front()->chosen.has_value();
  ApplyOp apply = buildLayer(nodes, emitter, body, routing, 1, evaluator.axis(feature).size.staticSize(), wide);
  noteSource(apply, listed ? "a loop over the experts, pairs listed" : "a loop over the experts, all tokens", root,
             scoresOf(gate.indices ? gate.indices : gate.dense), others);
  result = nodes.castTo(apply.getResult(0), element);
  if (evaluator.getTokenAxes().size() > 1 && leading == evaluator.getTokenAxes().size())
    result = nodes.unflatten(result, rows, leading);
  auto type = cast<RankedTensorType>(root.getResult(0).getType());
  if (cast<RankedTensorType>(result.getType()).getRank() != type.getRank()) {
    SmallVector<int64_t> ones;
    for (auto [i, dim] : llvm::enumerate(layout))
      if (dim.empty())
        ones.push_back(i);
    if (cast<RankedTensorType>(result.getType()).getRank() + static_cast<int64_t>(ones.size()) != type.getRank()) {
      missed("the rows have other dimensions than the result");
      return failure();
    }
    result = nodes.node("Unsqueeze", 13, {result, nodes.constant(ones)}, type);
  }
  remark::passed(root.getLoc(), remark::RemarkOpts::name("MoeRaised").category("onnx-raise-moe"))
      << ("an MoE layer of " + Twine(experts) + " experts with nodes of their own, router " + router).str();
  return success();
}

/// The number of experts in the largest bank of which an expression reads the entry of its own number.
static int64_t largestBank(PairExpr *expr, int64_t expert) {
  int64_t size = 0;
  if (expr->kind == PairExpr::Part && expr->entry == expert && expr->features.size() == 2)
    size = cast<RankedTensorType>(expr->value.getType()).getDimSize(0);
  for (PairExpr *operand : expr->operands)
    size = std::max(size, largestBank(operand, expert));
  return size;
}

LogicalResult SumReader::raise(bool allowTraced) {
  // Terms of one router belong together; two layers may add to one sum.
  llvm::MapVector<Value, SmallVector<Term *>> groups;
  for (Term &term : terms)
    if (term.body)
      groups[term.gate.indices ? term.gate.indices : term.gate.dense].push_back(&term);
  SmallVector<Value> summands;
  for (Term &term : terms)
    if (!term.body)
      summands.push_back(term.factors[0].first);
  for (auto &[key, group] : groups) {
    Value result;
    llvm::stable_sort(group, [](Term *a, Term *b) { return a->gate.expert < b->gate.expert; });
    int64_t bankSize = 0;
    for (Term *term : group)
      bankSize = std::max(bankSize, largestBank(term->body, term->gate.expert));
    if (!allowTraced && failed(checkTraced(group, bankSize)))
      return failure();
    if (failed(raiseGroup(group, summands, result)))
      return success(); // as written
    summands.push_back(result);
  }
  NodeBuilder nodes(root, shapes);
  Value old = root.getResult(0), sum = summands[0];
  for (Value next : ArrayRef(summands).drop_front())
    sum = nodes.node("Add", 14, {sum, next}, old.getType());
  if (sum.getType() != old.getType())
    sum = nodes.node("Identity", 13, sum, old.getType());
  old.replaceAllUsesWith(sum);
  return success();
}

LogicalResult mlir::moe::raiseExpertSum(OnnxNodeOp root, SymbolicShapes &shapes, bool allowTraced,
                                        llvm::DenseSet<Operation *> &read) {
  if (!isAccumulation(root) || read.contains(root) || root->use_empty())
    return success();
  SumReader reader(root, shapes, read);
  if (!reader.takeApart() || !reader.readTerms())
    return success();
  return reader.raise(allowTraced);
}
