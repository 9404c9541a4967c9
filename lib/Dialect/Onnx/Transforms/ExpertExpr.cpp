//===- ExpertExpr.cpp - what one expert's own nodes compute ---------------===//
#include "ExpertExpr.h"

using namespace mlir;
using namespace mlir::moe;

bool ExpertEvaluator::usesKind(const Layout &layout, LayerAxis::Kind kind) const {
  return llvm::any_of(
      layout, [&](const auto &dim) { return llvm::any_of(dim, [&](unsigned a) { return axes[a].kind == kind; }); });
}

/// Axes that values spread over several dimensions are their parts; axes of size 1 do not matter.
SmallVector<unsigned> ExpertEvaluator::refined(ArrayRef<unsigned> list) const {
  SmallVector<unsigned> result;
  for (unsigned a : list) {
    if (axes[a].size.is(1))
      continue;
    if (axes[a].parts.empty())
      result.push_back(a);
    else
      result.append(refined(axes[a].parts));
  }
  return result;
}

bool ExpertEvaluator::runsOver(const Layout &layout, bool withSlot) {
  SmallVector<unsigned> flat;
  for (const auto &dim : layout)
    flat.append(dim.begin(), dim.end());
  SmallVector<unsigned> found = refined(flat), wanted = refined(tokenAxes);
  if (found == wanted)
    return !withSlot || slotAxes.empty() || hasUnitSlot();
  if (!withSlot || found.empty() || axes[found.back()].kind != LayerAxis::Slot)
    return false;
  found.pop_back();
  return found == wanted;
}

bool ExpertEvaluator::hasUnitSlot() const {
  return llvm::any_of(slotAxes, [&](unsigned a) { return axes[a].size.is(1); });
}

/// What is summed over may be slots, or features of something beside the layer: each size has an axis.
std::optional<unsigned> ExpertEvaluator::slotOfSize(const DimExpr &size) {
  if (!size.isConstant() || size.constant() < 1)
    return std::nullopt;
  for (unsigned a : slotAxes)
    if (axes[a].size == size)
      return a;
  return slotAxes.emplace_back(addAxis(LayerAxis::Slot, size));
}

//===----------------------------------------------------------------------===//
// Positions
//===----------------------------------------------------------------------===//

std::optional<SmallVector<unsigned, 2>> ExpertEvaluator::axesOf(const Position &position, const DimExpr &size) {
  SmallVector<unsigned, 2> list;
  DimExpr inner(1);
  SmallVector<std::pair<unsigned, DimExpr>> left;
  for (auto &[axis, factor] : position)
    if (!axes[axis].size.is(1))
      left.push_back({axis, factor});
  while (!left.empty()) {
    auto next = llvm::find_if(left, [&](const auto &entry) { return entry.second == inner; });
    if (next == left.end())
      return std::nullopt;
    list.insert(list.begin(), next->first);
    inner = inner * axes[next->first].size;
    left.erase(next);
  }
  return inner == size ? std::optional(list) : std::nullopt;
}

std::optional<ExpertEvaluator::Position> ExpertEvaluator::positionOf(Value value, const Layout &layout,
                                                                     unsigned depth) {
  if (depth > 32)
    return std::nullopt;
  for (auto &[axis, list] : lists) {
    if (list.first != value || layout.size() != 2 || layout[1] != SmallVector<unsigned, 2>{axis})
      continue;
    size_t row = 0;
    if (layout[0].size() == 1 && axes[layout[0][0]].kind == LayerAxis::Fixed)
      row = axes[layout[0][0]].position;
    else if (!layout[0].empty() || list.second.size() != 1)
      return std::nullopt;
    return Position{{list.second[row], DimExpr(1)}};
  }
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (!node || !node.getDomain().empty())
    return std::nullopt;
  Layout inner;
  Value operand;
  if (selectBack(node, cast<OpResult>(value).getResultNumber(), layout, operand, inner))
    return positionOf(operand, inner, depth + 1);
  if (node.is("Add") || node.is("Mul")) {
    Position sum;
    std::optional<DimExpr> factor;
    for (Value input : node.getInputs()) {
      const DimList *number = shapes.getElements(input);
      if (number && number->size() == 1) {
        if (factor)
          return std::nullopt;
        factor = number->front();
        continue;
      }
      Layout operandLayout = broadcastTo(input, layout);
      const DimList *dims = shapes.getShape(input);
      if (!dims || operandLayout.size() != dims->size())
        return std::nullopt;
      auto part = positionOf(input, operandLayout, depth + 1);
      if (!part)
        return std::nullopt;
      sum.append(*part);
    }
    if (factor && node.is("Add"))
      return factor->is(0) ? std::optional(sum) : std::nullopt;
    if (node.is("Mul")) {
      if (!factor)
        return std::nullopt;
      for (auto &entry : sum)
        entry.second = entry.second * *factor;
    }
    return sum;
  }
  if (stepBack(node, layout, inner))
    return positionOf(node.getInputs()[0], inner, depth + 1);
  return std::nullopt;
}

bool ExpertEvaluator::isTokenNumber(Value value, const Layout &layout) {
  auto position = positionOf(value, layout);
  DimExpr tokens(1);
  for (unsigned a : tokenAxes)
    tokens = tokens * axes[a].size;
  auto list = position ? axesOf(*position, tokens) : std::nullopt;
  return list && refined(*list) == refined(tokenAxes);
}

bool ExpertEvaluator::pairsBack(OnnxNodeOp node, const Layout &layout, Layout &inner) {
  bool nd = node.is("GatherND");
  if ((!nd && !node.is("Gather")) || (nd && node.getInt("batch_dims", 0) != 0))
    return false;
  const DimList *dims = shapes.getShape(node.getInputs()[0]), *indexDims = shapes.getShape(node.getInputs()[1]);
  if (!dims || !indexDims || (nd && indexDims->empty()))
    return false;
  auto axis = nd ? std::optional<int64_t>(0) : normalizeAxis(node.getInt("axis", 0), dims->size());
  size_t count = indexDims->size() - (nd ? 1 : 0);
  if (!axis || *axis + count > layout.size())
    return false;
  Layout index(layout.begin() + *axis, layout.begin() + *axis + count);
  if (!usesKind(index, LayerAxis::Chosen))
    return false;
  inner.assign(layout.begin(), layout.begin() + *axis);
  int64_t read = nd ? indexDims->back().staticSize() : 1;
  if (read < 1 || *axis + read > static_cast<int64_t>(dims->size()))
    return false;
  for (int64_t i = 0; i < read; ++i) {
    Layout at = index;
    if (nd) {
      at.emplace_back();
      if (read > 1)
        at.back().push_back(addFixed(DimExpr(read), i));
    }
    auto position = positionOf(node.getInputs()[1], at);
    auto list = position ? axesOf(*position, (*dims)[*axis + i]) : std::nullopt;
    if (!list)
      return false;
    inner.push_back(*list);
  }
  inner.append(layout.begin() + *axis + count, layout.end());
  return inner.size() == dims->size();
}

std::optional<unsigned> ExpertEvaluator::chosenAxis(Value tokenNumbers) {
  // The NonZero behind the list, through whatever moves or combines its rows.
  OnnxNodeOp list;
  SmallVector<Value> todo = {tokenNumbers};
  for (size_t i = 0; i < todo.size() && i < 48 && !list; ++i) {
    auto node = todo[i].getDefiningOp<OnnxNodeOp>();
    if (!node)
      continue;
    if (node.is("NonZero"))
      list = node;
    else if (llvm::is_contained({"Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Gather", "Expand",
                                 "Cast", "Identity", "Flatten"},
                                node.getOpType()))
      todo.push_back(node.getInputs()[0]);
    else if (llvm::is_contained({"Concat", "Add", "Mul"}, node.getOpType()))
      todo.append(node.getInputs().begin(), node.getInputs().end());
  }
  if (!list)
    return std::nullopt;
  if (auto it = listAxes.find(list); it != listAxes.end())
    return it->second;
  Value mask = list.getInputs()[0];
  const DimList *dims = shapes.getShape(mask), *out = shapes.getShape(list.getResult(0));
  std::optional<unsigned> &answer = listAxes[list];
  if (!dims || !out || out->size() != 2)
    return answer;
  // One dimension runs over the slots, or none; the others over the tokens.
  for (size_t slotDim = 0; slotDim <= dims->size(); ++slotDim) {
    DimList rest;
    for (auto [i, dim] : llvm::enumerate(*dims))
      if (i != slotDim)
        rest.push_back(dim);
    Layout layout;
    if (!splitByDims(tokenAxes, rest, layout))
      continue;
    if (slotDim < dims->size()) {
      auto slot = slotOfSize((*dims)[slotDim]);
      if (!slot)
        continue;
      layout.insert(layout.begin() + slotDim, SmallVector<unsigned, 2>{*slot});
    }
    if (!llvm::all_of(layout, [](const auto &dim) { return dim.size() == 1; }))
      continue;
    auto form = gateOf(mask, layout);
    if (!form || !form->indices || form->weights || form->dense)
      continue;
    unsigned axis = addAxis(LayerAxis::Chosen, (*out)[1]);
    SmallVector<unsigned> rows;
    for (const auto &dim : layout)
      rows.push_back(dim[0]);
    lists[axis] = {list.getResult(0), rows};
    masks[axis] = *form;
    answer = axis;
    break;
  }
  return answer;
}

//===----------------------------------------------------------------------===//
// Expressions
//===----------------------------------------------------------------------===//

/// A part of an expert: a tensor of its own, or one entry of a bank.
PairExpr *ExpertEvaluator::weightLeaf(Value value, const Layout &layout) {
  PairExpr part{PairExpr::Part, value, {}, {}, {}};
  for (auto [i, dim] : llvm::enumerate(layout)) {
    if (dim.empty())
      continue;
    const LayerAxis &axis = axes[dim[0]];
    if (dim.size() > 1 || (axis.kind == LayerAxis::Fixed && (i != 0 || part.entry >= 0)))
      return nullptr;
    if (axis.kind == LayerAxis::Fixed)
      part.entry = axis.position;
    else
      part.features.push_back(dim[0]);
  }
  if (part.features.size() > 2)
    return nullptr;
  if (part.features.empty() && part.entry < 0)
    part.kind = PairExpr::Capture;
  bankSeen |= part.features.size() == 2;
  return make(part);
}

PairExpr *ExpertEvaluator::evaluateNode(OnnxNodeOp node, unsigned result, const Layout &layout) {
  Layout inner;
  Value operand;
  if (selectBack(node, result, layout, operand, inner))
    return evaluate(operand, inner);
  if (pairsBack(node, layout, inner))
    return evaluate(node.getInputs()[0], inner);
  if (node.is("Gather") || node.is("GatherND"))
    return fail("a gather at something else than the chosen pairs", node);
  if (node.is("Where")) {
    // Zero where the expert is not chosen: a product with the mask.
    Value mask = node.getInputs()[0], kept = node.getInputs()[1];
    auto negation = mask.getDefiningOp<OnnxNodeOp>();
    if (negation && negation.is("Not") && isZeros(kept)) {
      mask = negation.getInputs()[0];
      kept = node.getInputs()[2];
    } else if (!isZeros(node.getInputs()[2])) {
      return fail("a choice between two values", node);
    }
    auto form = gateOf(mask, broadcastTo(mask, layout));
    PairExpr *value = form ? evaluate(kept, broadcastTo(kept, layout)) : nullptr;
    if (!value)
      return fail("a choice by something else than the chosen experts", node);
    PairExpr gate{PairExpr::Gate, mask, {}, {}, {}};
    gate.gate = forms.emplace_back(std::make_unique<GateForm>(*form)).get();
    return multiply(make(gate), value);
  }
  return PairEvaluator::evaluateNode(node, result, layout);
}

PairExpr *ExpertEvaluator::evaluate(Value value, const Layout &layout) {
  MemoKey key{value.getAsOpaquePointer(), {}};
  for (const auto &dim : layout)
    key.second.emplace_back(dim.begin(), dim.end());
  auto [it, inserted] = ownMemo.try_emplace(key, nullptr);
  if (!inserted)
    return it->second ? it->second : fail(refusals[key]);
  auto remember = [&](PairExpr *expr) {
    if (!expr)
      refusals[key] = reason;
    return ownMemo[key] = expr;
  };
  if (isJoint(layout))
    return remember(evaluateJoint(value, layout));
  auto node = value.getDefiningOp<OnnxNodeOp>();
  unsigned number = node ? cast<OpResult>(value).getResultNumber() : 0;
  bool tokens = usesTokens(layout), chosen = usesKind(layout, LayerAxis::Chosen);
  SmallVector<unsigned, 2> features;
  for (const auto &dim : layout)
    for (unsigned a : dim)
      if (axes[a].kind == LayerAxis::Feature)
        features.push_back(a);

  if ((tokens || chosen) && features.empty())
    if (auto form = gateOf(value, layout); form && (form->expert >= 0 || usesSlot(layout) || chosen)) {
      PairExpr gate{PairExpr::Gate, value, {}, {}, {}};
      gate.gate = forms.emplace_back(std::make_unique<GateForm>(std::move(*form))).get();
      return remember(make(gate));
    }
  if (chosen)
    return remember(node ? evaluateNode(node, number, layout) : fail("a value per pair that is no node's"));
  if (!tokens) {
    std::string before = reason;
    if (node)
      if (PairExpr *expr = evaluateNode(node, number, layout))
        return remember(expr);
    reason = before;
    PairExpr *part = weightLeaf(value, layout);
    return remember(part ? part : fail("an expert's part is not indexed by features alone", node));
  }
  // A row of the layer's input: what the experts share.
  auto row = [&]() -> PairExpr * {
    Layout rest(layout);
    if (features.size() > 1 || layout.empty())
      return nullptr;
    if (features.size() == 1) {
      if (rest.back() != SmallVector<unsigned, 2>{features[0]})
        return nullptr;
      rest.pop_back();
    }
    if (rest.empty() || !runsOver(rest, /*withSlot=*/false))
      return nullptr;
    PairExpr expr{PairExpr::Row, value, {}, {}, {features.begin(), features.end()}};
    expr.leading = rest.size();
    return make(expr);
  };
  bool own = node && ownNodes.contains(node);
  PairExpr *expr = own ? nullptr : row();
  if (!expr && node) {
    std::string before = reason;
    expr = evaluateNode(node, number, layout);
    if (!expr && own) {
      std::string why = reason;
      if ((expr = row()))
        reason = before;
      else
        reason = why;
    }
  }
  if (!expr)
    fail("a value of another shape than rows, pairs or weights", node);
  return remember(expr);
}
