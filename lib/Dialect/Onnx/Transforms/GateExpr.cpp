//===- GateExpr.cpp - which expert a value without features is the gate of ===//
#include "ExpertExpr.h"

using namespace mlir;
using namespace mlir::moe;

static Type elementOf(Value value) {
  auto type = dyn_cast<ShapedType>(value.getType());
  return type ? type.getElementType() : Type();
}

std::optional<GateForm> ExpertEvaluator::combine(GateForm a, const GateForm &b) {
  auto merge = [](Value &mine, Value other) {
    if (mine && other && mine != other)
      return false;
    mine = mine ? mine : other;
    return true;
  };
  // A square of weights is no gate; a square of a mask is the mask.
  if ((a.weights && b.weights) || (a.dense && b.dense) || (a.expert >= 0 && b.expert >= 0 && a.expert != b.expert) ||
      !merge(a.indices, b.indices) || !merge(a.keep, b.keep))
    return std::nullopt;
  a.weights = a.weights ? a.weights : b.weights;
  a.dense = a.dense ? a.dense : b.dense;
  a.expert = std::max(a.expert, b.expert);
  a.summed |= b.summed;
  return a;
}

/// Whether a value is 0 or 1 because it comes from a comparison.
bool ExpertEvaluator::isMaskSource(Value value) {
  for (unsigned i = 0; i < 8; ++i) {
    Type element = elementOf(value);
    if (element && element.isInteger(1))
      return true;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node || !(node.is("Cast") || node.is("Identity") || node.is("Reshape") || node.is("Unsqueeze") ||
                   node.is("Squeeze") || node.is("Transpose")))
      return false;
    value = node.getInputs()[0];
  }
  return false;
}

std::optional<int64_t> ExpertEvaluator::integerAt(Value value, const Layout &layout, unsigned depth) {
  if (auto number = splatNumber(value))
    return *number == static_cast<int64_t>(*number) ? std::optional<int64_t>(*number) : std::nullopt;
  const DimList *dims = shapes.getShape(value);
  if (auto constants = shapes.getConstants(value); constants && dims && dims->size() == layout.size()) {
    int64_t at = 0;
    bool varies = constants->empty();
    for (auto [dim, list] : llvm::zip(*dims, layout)) {
      int64_t position = 0;
      if (list.size() == 1 && axes[list[0]].kind == LayerAxis::Fixed)
        position = axes[list[0]].position;
      else
        varies |= !dim.is(1);
      at = at * dim.constant() + position;
    }
    if (!varies && at < static_cast<int64_t>(constants->size()))
      return (*constants)[at];
    if (llvm::all_equal(*constants) && !constants->empty())
      return constants->front();
    return std::nullopt;
  }
  auto node = value.getDefiningOp<OnnxNodeOp>();
  Layout inner;
  Value operand;
  if (!node || depth > 16)
    return std::nullopt;
  if (selectBack(node, cast<OpResult>(value).getResultNumber(), layout, operand, inner))
    return integerAt(operand, inner, depth + 1);
  if (stepBack(node, layout, inner))
    return integerAt(node.getInputs()[0], inner, depth + 1);
  return std::nullopt;
}

Value ExpertEvaluator::indicesOf(Value value, Layout layout) {
  Value found;
  while (true) {
    // One number per token is a list of one slot.
    Type element = elementOf(value);
    if ((runsOver(layout, true) || runsOver(layout, false)) && element && !element.isInteger(1))
      found = value;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    Layout inner;
    if (!node || !stepBack(node, layout, inner))
      break;
    value = node.getInputs()[0];
    layout = inner;
  }
  return found;
}

Value ExpertEvaluator::weightsOf(Value value, Layout layout, bool withinGate) {
  Value found;
  // An only slot is in no dimension: one number per token is its weight where it meets a mask.
  bool unit = withinGate && hasUnitSlot();
  while (true) {
    bool slots = unit || usesSlot(layout);
    if (slots && runsOver(layout, true) && isa_and_nonnull<FloatType>(elementOf(value)))
      found = value;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    Layout inner;
    if (!node || !stepBack(node, layout, inner))
      break;
    value = node.getInputs()[0];
    layout = inner;
  }
  return found;
}

/// OneHot and scatters count negative numbers from the end, comparisons do not: only numbers of a router are never
/// negative.
static bool isNeverNegative(Value indices) {
  auto node = indices ? indices.getDefiningOp<OnnxNodeOp>() : OnnxNodeOp();
  // Routers that choose in rounds put the numbers of the rounds side by side.
  if (node && node.is("Concat"))
    return llvm::all_of(node.getInputs(), isNeverNegative);
  if (node && llvm::is_contained({"Unsqueeze", "Squeeze", "Reshape", "Identity"}, node.getOpType()))
    return isNeverNegative(node.getInputs()[0]);
  return node && (node.is("TopK") || node.is("ArgMax"));
}

bool mlir::moe::isZeroOne(Value value) {
  auto constant = value.getDefiningOp<OnnxConstantOp>();
  auto dense = constant ? dyn_cast<DenseElementsAttr>(constant.getValue()) : DenseElementsAttr();
  if (!dense || dense.getNumElements() != 2)
    return false;
  SmallVector<double, 2> numbers;
  for (Attribute entry : dense.getValues<Attribute>()) {
    if (auto real = dyn_cast<FloatAttr>(entry))
      numbers.push_back(real.getValueAsDouble());
    else if (auto integer = dyn_cast<IntegerAttr>(entry))
      numbers.push_back(integer.getValue().isZero() ? 0 : integer.getValue().isOne() ? 1 : 2);
  }
  return numbers.size() == 2 && numbers[0] == 0.0 && numbers[1] == 1.0;
}

std::optional<GateForm> ExpertEvaluator::gateOf(Value value, const Layout &layout, unsigned depth) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  const DimList *dims = shapes.getShape(value);
  if (depth > 48 || !dims || dims->size() != layout.size())
    return std::nullopt;
  auto operandGate = [&](unsigned i) -> std::optional<GateForm> {
    Value operand = node.getInputs()[i];
    const DimList *operandDims = shapes.getShape(operand);
    Layout inner = broadcastTo(operand, layout);
    if (!operandDims || inner.size() != operandDims->size())
      return std::nullopt;
    return gateOf(operand, inner, depth + 1);
  };
  auto fixedAt = [&](size_t dim) -> std::optional<int64_t> {
    if (dim < layout.size() && layout[dim].size() == 1 && axes[layout[dim][0]].kind == LayerAxis::Fixed)
      return axes[layout[dim][0]].position;
    return std::nullopt;
  };
  auto isMask = [](const std::optional<GateForm> &form) {
    return form && form->indices && !form->weights && !form->dense;
  };
  if (node && node.getDomain().empty()) {
    Layout inner;
    Value operand;
    if (selectBack(node, cast<OpResult>(value).getResultNumber(), layout, operand, inner))
      if (auto form = gateOf(operand, inner, depth + 1))
        return form;
    if (pairsBack(node, layout, inner))
      if (auto form = gateOf(node.getInputs()[0], inner, depth + 1))
        return form;
    if (node.is("Cast")) {
      auto form = gateOf(node.getInputs()[0], layout, depth + 1);
      // Weights that were made integers are other weights.
      if (form && (isMask(form) || form->keep || isa<FloatType>(elementOf(value))))
        return form;
    } else if (stepBack(node, layout, inner)) {
      if (auto form = gateOf(node.getInputs()[0], inner, depth + 1))
        return form;
    }
    if (node.is("Mul") || node.is("And")) {
      auto left = operandGate(0), right = left ? operandGate(1) : std::nullopt;
      if (right)
        if (auto form = combine(*left, *right); form && form->expert >= 0)
          return form;
    } else if (node.is("Where")) {
      auto negation = node.getInputs()[0].getDefiningOp<OnnxNodeOp>();
      if (isZeros(node.getInputs()[2])) {
        auto mask = operandGate(0), kept = isMask(mask) ? operandGate(1) : std::nullopt;
        if (kept)
          return combine(*mask, *kept);
      } else if (negation && negation.is("Not") && isZeros(node.getInputs()[1])) {
        auto mask = gateOf(negation.getInputs()[0], broadcastTo(negation.getInputs()[0], layout), depth + 1);
        auto kept = isMask(mask) ? operandGate(2) : std::nullopt;
        if (kept)
          return combine(*mask, *kept);
      }
    } else if (node.is("Greater")) {
      if (auto mask = isZeros(node.getInputs()[1]) ? operandGate(0) : std::nullopt; isMask(mask))
        return mask;
    } else if (node.is("Equal")) {
      for (unsigned i : {0u, 1u}) {
        Value number = node.getInputs()[i], other = node.getInputs()[1 - i];
        auto expert = integerAt(number, broadcastTo(number, layout));
        Layout at = broadcastTo(other, layout);
        const DimList *otherDims = shapes.getShape(other);
        if (!expert || !otherDims || at.size() != otherDims->size())
          continue;
        GateForm form;
        form.indices = indicesOf(other, at);
        form.expert = *expert;
        if (form.indices)
          return form;
      }
    } else if (node.is("OneHot")) {
      auto axis = normalizeAxis(node.getInt("axis", -1), dims->size());
      auto expert = axis ? fixedAt(*axis) : std::nullopt;
      if (expert && isZeroOne(node.getInputs()[2])) {
        Layout at = layout;
        at.erase(at.begin() + *axis);
        GateForm form;
        form.indices = indicesOf(node.getInputs()[0], at);
        form.expert = *expert;
        if (isNeverNegative(form.indices))
          return form;
      }
    } else if (node.is("ScatterElements") && !layout.empty()) {
      auto axis = normalizeAxis(node.getInt("axis", 0), dims->size());
      auto expert = fixedAt(layout.size() - 1);
      const DimList *slots = shapes.getShape(node.getInputs()[1]);
      StringRef reduction = node.getString("reduction", "none");
      if (axis && *axis + 1 == static_cast<int64_t>(layout.size()) && expert && slots &&
          slots->size() == layout.size() && isZeros(node.getInputs()[0]) && (reduction == "none" || reduction == "add"))
        if (auto slot = slotOfSize(slots->back())) {
          Layout at = layout;
          at.back() = {*slot};
          GateForm form;
          form.indices = indicesOf(node.getInputs()[1], at);
          form.weights = weightsOf(node.getInputs()[2], at, /*withinGate=*/true);
          form.expert = *expert;
          form.summed = true;
          // Numbers that occur twice in a row would overwrite each other; TopK repeats none.
          auto source = form.indices ? form.indices.getDefiningOp<OnnxNodeOp>() : OnnxNodeOp();
          if (form.indices && form.weights &&
              (reduction == "add" || axes[*slot].size.is(1) || (source && source.is("TopK"))))
            return form;
        }
    } else if (node.is("ReduceSum") || node.is("ReduceMax")) {
      const DimList *from = shapes.getShape(node.getInputs()[0]);
      auto list = from ? getAxes(node, shapes, from->size()) : std::nullopt;
      if (list && list->size() == 1)
        if (auto slot = slotOfSize((*from)[list->front()])) {
          Layout at = layout;
          if (node.getInt("keepdims", 1))
            at[list->front()] = {*slot};
          else
            at.insert(at.begin() + list->front(), SmallVector<unsigned, 2>{*slot});
          auto form = gateOf(node.getInputs()[0], at, depth + 1);
          if (form && form->indices && !form->dense && (!form->summed || axes[*slot].size.is(1)) &&
              (node.is("ReduceSum") || isMask(form))) {
            form->summed = true;
            return form;
          }
        }
    } else if (node.is("MatMul") || node.is("Einsum")) {
      auto size = contractedSize(node);
      auto slot = size ? slotOfSize(*size) : std::nullopt;
      Layout left, right;
      if (slot && contractionLayouts(node, layout, *slot, left, right)) {
        auto a = gateOf(node.getInputs()[0], left, depth + 1);
        auto b = a ? gateOf(node.getInputs()[1], right, depth + 1) : std::nullopt;
        auto form = b ? combine(*a, *b) : std::nullopt;
        if (form && form->indices && !form->dense) {
          form->summed = true;
          return form;
        }
      }
    }
  }
  // What cannot be read further: weights per slot, or a column of a matrix of gates.
  if (usesKind(layout, LayerAxis::Chosen) || usesKind(layout, LayerAxis::Feature))
    return std::nullopt;
  GateForm form;
  if (!usesKind(layout, LayerAxis::Fixed)) {
    form.weights = weightsOf(value, layout, /*withinGate=*/depth > 0);
    return form.weights ? std::optional(form) : std::nullopt;
  }
  auto expert = fixedAt(layout.size() - 1);
  Layout rest(layout.begin(), layout.end() - 1);
  if (!expert || usesKind(rest, LayerAxis::Fixed) || !runsOver(rest, /*withSlot=*/false))
    return std::nullopt;
  form.expert = *expert;
  if (isMaskSource(value))
    form.keep = value;
  else if (isa<FloatType>(elementOf(value)))
    form.dense = value;
  else
    return std::nullopt;
  return form;
}
