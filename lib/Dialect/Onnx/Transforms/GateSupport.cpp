//===- GateSupport.cpp - where dense gates are not zero -------------------===//
//
// Gates over all experts are mostly zero, whatever was computed with them: normalised after they were masked, a softmax
// over scores that are minus infinity where not chosen, a scatter. What is needed of such a tensor to route by it is
// the list of experts outside which it is zero: the gates themselves are then read at that list.
//
//===----------------------------------------------------------------------===//
#include "ExpertExpr.h"
#include "Raise.h"

using namespace mlir;
using namespace mlir::moe;

bool mlir::moe::isMinusInfinity(Value value) {
  auto number = splatNumber(value);
  if (!number)
    if (auto node = value.getDefiningOp<OnnxNodeOp>()) {
      if (node.is("Expand") || node.is("Cast") || node.is("Identity"))
        return isMinusInfinity(node.getInputs()[0]);
      if (auto fill =
              node.is("ConstantOfShape") ? node.getOnnxAttrs().getAs<DenseElementsAttr>("value") : DenseElementsAttr())
        if (auto splat = dyn_cast<SplatElementsAttr>(fill))
          if (auto real = dyn_cast<FloatAttr>(splat.getSplatValue<Attribute>()))
            number = real.getValueAsDouble();
    }
  return number && *number <= -1e30;
}

std::optional<int64_t> ExpertEvaluator::fixedPosition(const Layout &layout, size_t dim) const {
  if (dim < layout.size() && layout[dim].size() == 1 && axes[layout[dim][0]].kind == LayerAxis::Fixed)
    return axes[layout[dim][0]].position;
  return std::nullopt;
}

/// The TopK whose numbers are scattered at, where the scattered tensor has the experts in its last dimension.
Value ExpertEvaluator::scatteredAt(OnnxNodeOp node, const Layout &layout) {
  const DimList *dims = shapes.getShape(node.getResult(0)), *slots = shapes.getShape(node.getInputs()[1]);
  auto axis = dims ? normalizeAxis(node.getInt("axis", 0), dims->size()) : std::nullopt;
  if (!axis || !slots || slots->size() != layout.size() || *axis + 1 != static_cast<int64_t>(layout.size()) ||
      !fixedPosition(layout, layout.size() - 1) || node.getString("reduction", "none") != "none")
    return {};
  auto slot = slotOfSize(slots->back());
  if (!slot)
    return {};
  Layout at = layout;
  at.back() = {*slot};
  Value indices = indicesOf(node.getInputs()[1], at);
  auto source = indices ? indices.getDefiningOp<OnnxNodeOp>() : OnnxNodeOp();
  return source && source.is("TopK") ? indices : Value();
}

Value ExpertEvaluator::supportOf(Value value, const Layout &layout, int64_t expert, bool ofMinusInfinity,
                                 unsigned depth) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  const DimList *dims = shapes.getShape(value);
  if (!node || depth > 24 || !dims || dims->size() != layout.size() || !node.getDomain().empty())
    return {};
  auto operand = [&](unsigned i, bool infinite) -> Value {
    Layout inner = broadcastTo(node.getInputs()[i], layout);
    const DimList *operandDims = shapes.getShape(node.getInputs()[i]);
    if (!operandDims || inner.size() != operandDims->size())
      return {};
    return supportOf(node.getInputs()[i], inner, expert, infinite, depth + 1);
  };
  if (!ofMinusInfinity)
    if (auto form = gateOf(value, layout); form && form->indices && form->expert == expert)
      return form->indices;
  Layout inner;
  Value from;
  if (node.is("Where")) {
    auto absent = [&](Value other) { return ofMinusInfinity ? isMinusInfinity(other) : isZeros(other); };
    if (absent(node.getInputs()[2]))
      if (Value chosen = operand(0, false))
        return chosen;
    auto negation = node.getInputs()[0].getDefiningOp<OnnxNodeOp>();
    if (negation && negation.is("Not") && absent(node.getInputs()[1])) {
      Value mask = negation.getInputs()[0];
      Layout at = broadcastTo(mask, layout);
      const DimList *maskDims = shapes.getShape(mask);
      if (maskDims && at.size() == maskDims->size())
        if (Value chosen = supportOf(mask, at, expert, false, depth + 1))
          return chosen;
    }
    return {};
  }
  if (node.is("ScatterElements")) {
    bool absent = ofMinusInfinity ? isMinusInfinity(node.getInputs()[0]) : isZeros(node.getInputs()[0]);
    return absent ? scatteredAt(node, layout) : Value();
  }
  if (node.is("Cast") || node.is("Identity"))
    return operand(0, ofMinusInfinity);
  if (stepBack(node, layout, inner))
    return supportOf(node.getInputs()[0], inner, expert, ofMinusInfinity, depth + 1);
  if (selectBack(node, cast<OpResult>(value).getResultNumber(), layout, from, inner))
    return supportOf(from, inner, expert, ofMinusInfinity, depth + 1);
  if (ofMinusInfinity)
    return {};
  if (node.is("Mul") || node.is("And")) {
    Value left = operand(0, false);
    return left ? left : operand(1, false);
  }
  if (node.is("Div") || node.is("Relu") || node.is("Greater"))
    return node.is("Greater") && !isZeros(node.getInputs()[1]) ? Value() : operand(0, false);
  if (node.is("Exp") || node.is("Sigmoid"))
    return operand(0, true);
  // At least one expert is chosen, so that the others' part of a softmax is zero.
  if (node.is("Softmax")) {
    auto axis = normalizeAxis(node.getInt("axis", -1), dims->size());
    return axis && fixedPosition(layout, *axis) == expert ? operand(0, true) : Value();
  }
  return {};
}

DenseGates mlir::moe::readDenseGates(SymbolicShapes &shapes, Value gates, int64_t experts) {
  const DimList *dims = shapes.getShape(gates);
  DenseGates read;
  if (!dims || dims->size() < 2 || !dims->back().is(experts) || experts < 1)
    return read;
  ExpertEvaluator evaluator(shapes);
  SmallVector<unsigned> tokens;
  Layout layout;
  DimExpr count(1);
  for (const DimExpr &dim : ArrayRef(*dims).drop_back()) {
    tokens.push_back(evaluator.addAxis(LayerAxis::Token, dim));
    layout.push_back({tokens.back()});
    count = count * dim;
  }
  evaluator.setTokenAxes(tokens);
  layout.emplace_back();
  std::optional<GateForm> form;
  bool exact = true;
  for (int64_t e = 0; e < experts; ++e) {
    layout.back() = {evaluator.addFixed(DimExpr(experts), e)};
    if (exact) {
      auto at = evaluator.gateOf(gates, layout);
      exact = at && at->indices && at->weights && !at->dense && at->expert == e &&
              (!form || (form->indices == at->indices && form->weights == at->weights && form->keep == at->keep &&
                         form->summed == at->summed));
      form = exact ? at : form;
    }
    Value indices = exact ? form->indices : evaluator.supportOf(gates, layout, e);
    if (!indices || (read.indices && read.indices != indices))
      return {};
    read.indices = indices;
  }
  const DimList *indexDims = shapes.getShape(read.indices);
  auto slots = indexDims ? productOf(*indexDims).dividedBy(count) : std::nullopt;
  auto source = read.indices.getDefiningOp<OnnxNodeOp>();
  bool distinct = source && (source.is("TopK") || source.is("ArgMax"));
  if (!slots || !slots->isConstant() || slots->constant() < 1)
    return {};
  read.slots = slots->constant();
  if (exact && (form->summed || read.slots == 1)) {
    read.weights = form->weights;
    read.keep = form->keep;
  } else if (!distinct) {
    return {}; // an expert that is chosen twice would be counted twice
  }
  return read;
}
