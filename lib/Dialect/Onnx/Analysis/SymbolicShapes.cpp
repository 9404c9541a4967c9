//===- SymbolicShapes.cpp - shapes and shape tensors of a function --------===//
#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"

#include "ShapeFunctions.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::moe;

/// Tensors with more elements are data, not shapes.
static constexpr int64_t maxTrackedElements = 256;
/// No tensor has more dimensions than half of this (Pad names two numbers for each).
static constexpr int64_t maxReadSizes = 32;

SymbolicShapes::SymbolicShapes(func::FuncOp function) {
  llvm::StringMap<DimExpr> named;
  for (auto [i, argument] : llvm::enumerate(function.getArguments())) {
    setFromType(argument);
    // One integer from outside may be a size (the total length of a cache).
    auto integers = dyn_cast<RankedTensorType>(argument.getType());
    if (integers && integers.hasStaticShape() && integers.getNumElements() == 1 &&
        !function.getArgAttr(i, "moe.weight") &&
        (integers.getElementType().isInteger(32) || integers.getElementType().isInteger(64)))
      elements[argument] = {atoms.element(argument, 0)};
    auto names = function.getArgAttrOfType<ArrayAttr>(i, "moe.dim_names");
    auto type = dyn_cast<RankedTensorType>(argument.getType());
    if (!names || !type || static_cast<int64_t>(names.size()) != type.getRank())
      continue;
    for (auto [dim, name] : llvm::enumerate(names.getAsRange<StringAttr>()))
      if (type.isDynamicDim(dim) && !name.getValue().empty())
        shapes[argument][dim] = named.try_emplace(name.getValue(), shapes[argument][dim]).first->second;
  }
  function.getBody().front().walk<WalkOrder::PreOrder>([&](Operation *op) {
    visit(op);
    // Subgraphs see values of their own, which nothing outside names.
    return op->getNumRegions() > 0 ? WalkResult::skip() : WalkResult::advance();
  });
}

const DimList *SymbolicShapes::getShape(Value value) const {
  auto it = shapes.find(value);
  return it == shapes.end() ? nullptr : &it->second;
}

const DimList *SymbolicShapes::getElements(Value value) const {
  auto it = elements.find(value);
  return it == elements.end() ? nullptr : &it->second;
}

std::optional<SmallVector<int64_t>> SymbolicShapes::getConstants(Value value) const {
  const DimList *list = getElements(value);
  if (!list || !llvm::all_of(*list, [](const DimExpr &e) { return e.isConstant(); }))
    return std::nullopt;
  return llvm::map_to_vector(*list, [](const DimExpr &e) { return e.constant(); });
}

std::optional<DimList> SymbolicShapes::getSizes(Value value) {
  if (const DimList *known = getElements(value))
    return *known;
  const DimList *shape = getShape(value);
  auto type = dyn_cast<ShapedType>(value.getType());
  if (!shape || !type || !(type.getElementType().isInteger(32) || type.getElementType().isInteger(64)))
    return std::nullopt;
  DimExpr count = productOf(*shape);
  if (!count.isConstant() || count.constant() < 0 || count.constant() > maxReadSizes ||
      !llvm::all_of(*shape, [](const DimExpr &dim) { return dim.isConstant(); }))
    return std::nullopt;
  DimList sizes;
  for (int64_t i = 0; i < count.constant(); ++i)
    sizes.push_back(atoms.element(value, i));
  return sizes;
}

DimExpr SymbolicShapes::getTokens(Value routing) const { return tokens.lookup(routing); }

void SymbolicShapes::setFromType(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type)
    return;
  DimList dims;
  for (auto [i, size] : llvm::enumerate(type.getShape()))
    dims.push_back(ShapedType::isDynamic(size) ? atoms.valueDim(value, i) : DimExpr(size));
  shapes[value] = std::move(dims);
}

void SymbolicShapes::visitConstant(OnnxConstantOp constant) {
  setFromType(constant.getResult());
  auto dense = dyn_cast<DenseIntElementsAttr>(constant.getValue());
  if (!dense || dense.getNumElements() > maxTrackedElements)
    return;
  DimList list;
  bool isUnsigned = dense.getElementType().isUnsignedInteger() || dense.getElementType().isInteger(1);
  for (const APInt &value : dense.getValues<APInt>())
    list.push_back(isUnsigned ? int64_t(value.getZExtValue()) : value.getSExtValue());
  elements[constant.getResult()] = std::move(list);
}

/// Integers that data decide and that an operator takes as sizes or positions: each is an unknown of its own.
bool SymbolicShapes::namesSizes(Value value, DimList &list) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  const DimList *dims = getShape(value);
  if (!type || !dims || dims->size() > 1 ||
      !(type.getElementType().isInteger(64) || type.getElementType().isInteger(32)))
    return false;
  DimExpr count = productOf(*dims);
  bool asked = llvm::any_of(value.getUses(), [](OpOperand &use) {
    auto node = dyn_cast<OnnxNodeOp>(use.getOwner());
    if (!node || !node.getDomain().empty())
      return false;
    unsigned number = use.getOperandNumber();
    return ((node.is("Split") || node.is("Reshape") || node.is("Expand") || node.is("Tile")) && number == 1) ||
           (node.is("Slice") && (number == 1 || number == 2)) || node.is("Range") || node.is("ConstantOfShape");
  });
  if (!asked || !count.isConstant() || count.constant() > maxTrackedElements)
    return false;
  for (int64_t i = 0; i < count.constant(); ++i)
    list.push_back(atoms.element(value, i));
  return true;
}

void SymbolicShapes::visitNode(OnnxNodeOp node) {
  if (ShapeFunction function = lookupShapeFunction(node))
    if (std::optional<SmallVector<DimList>> dims = function(node, *this)) {
      for (auto [result, list] : llvm::zip(node.getResults(), *dims))
        shapes[result] = std::move(list);
      DimList list;
      if (node.getNumResults() == 1 && (computeElements(node, list) || namesSizes(node.getResult(0), list)))
        elements[node.getResult(0)] = std::move(list);
      return;
    }
  for (Value result : node.getResults())
    setFromType(result);
}

void SymbolicShapes::visit(Operation *op) {
  if (auto node = dyn_cast<OnnxNodeOp>(op))
    return visitNode(node);
  if (auto constant = dyn_cast<OnnxConstantOp>(op))
    return visitConstant(constant);
  for (Value result : op->getResults())
    setFromType(result);
  // Ops of the moe dialect: rows of the weights are the tokens of the routing, and the rows of what is applied.
  auto rowsOf = [&](Value value) {
    const DimList *dims = getShape(value);
    return dims && !dims->empty() ? dims->front() : DimExpr();
  };
  if (auto route = dyn_cast<RouteOp>(op))
    tokens[route.getResult()] = rowsOf(route.getWeights());
  else if (auto slots = dyn_cast<FromSlotsOp>(op))
    tokens[slots.getResult()] = rowsOf(slots.getIndices());
  else if (auto apply = dyn_cast<ApplyOp>(op)) {
    DimExpr rows = getTokens(apply.getRouting());
    for (auto [i, result] : llvm::enumerate(apply.getResults())) {
      auto type = dyn_cast<RankedTensorType>(result.getType());
      if (type && type.getRank() > 0 && type.isDynamicDim(0) && apply.getOutMode(i) != OutMode::Buckets)
        shapes[result][0] = rows;
    }
  } else {
    for (Value result : op->getResults()) {
      if (isa<RoutingType>(result.getType()) && op->getNumOperands() > 0)
        tokens[result] = getTokens(op->getOperand(0));
      else if (isa<ToSlotsOp, ToDenseOp>(op) && shapes.count(result) && !shapes[result][0].isConstant())
        shapes[result][0] = getTokens(op->getOperand(0));
    }
  }
}

/// Integer arithmetic that exporters spend on shapes. Everything elementwise, on equal shapes or with a single
/// element on one side.
static std::optional<DimExpr> computeBinary(StringRef op, const DimExpr &a, const DimExpr &b, DimAtoms &atoms) {
  if (op == "Add")
    return a + b;
  if (op == "Sub")
    return a - b;
  if (op == "Mul")
    return a * b;
  if (op == "Div") {
    // Integer division truncates; it equals floor division where both are not negative.
    if (atoms.isNonNegative(a) && b.isConstant() && b.constant() > 0)
      return atoms.floorDiv(a, b);
    if (auto quotient = a.dividedBy(b); quotient && b.isConstant())
      return quotient;
    return std::nullopt;
  }
  if (op == "Mod" && b.isConstant() && b.constant() > 0)
    return atoms.mod(a, b);
  if (op == "Min")
    return atoms.min(a, b);
  if (op == "Max")
    return atoms.max(a, b);
  DimExpr difference = a - b;
  auto known = [&](bool value) { return DimExpr(value ? 1 : 0); };
  bool alwaysLess = atoms.isNonNegative(DimExpr(-1) - difference),
       alwaysGreater = atoms.isNonNegative(difference - DimExpr(1));
  if (op == "Equal") {
    if (difference.is(0))
      return known(true);
    if (alwaysLess || alwaysGreater)
      return known(false);
  }
  if (op == "Less" && (alwaysLess || atoms.isNonNegative(difference)))
    return known(alwaysLess);
  if (op == "Greater" && (alwaysGreater || atoms.isNonNegative(DimExpr(0) - difference)))
    return known(alwaysGreater);
  if (a.isConstant() && b.isConstant()) {
    if (op == "And")
      return known(a.constant() && b.constant());
    if (op == "Or")
      return known(a.constant() || b.constant());
    if (op == "GreaterOrEqual")
      return known(a.constant() >= b.constant());
    if (op == "LessOrEqual")
      return known(a.constant() <= b.constant());
  }
  return std::nullopt;
}

bool SymbolicShapes::computeElements(OnnxNodeOp node, DimList &out) {
  if (!node.getDomain().empty())
    return false;
  Value result = node.getResult(0);
  auto type = dyn_cast<ShapedType>(result.getType());
  if (!type || !isa<IntegerType>(type.getElementType()))
    return false;
  StringRef op = node.getOpType();
  if (op == "Shape") {
    const DimList *dims = getShape(node.getInputs()[0]);
    if (!dims)
      return false;
    int64_t rank = dims->size();
    auto clamp = [&](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
    int64_t start = clamp(node.getInt("start", 0)), end = clamp(node.getInt("end", rank));
    if (start < end)
      out.append(dims->begin() + start, dims->begin() + end);
    return true;
  }
  const DimList *shape = getShape(result);
  DimExpr count = productOf(*shape);
  if (!count.isConstant() || count.constant() > maxTrackedElements || count.constant() < 0)
    return false;
  if (op == "Size") {
    const DimList *dims = getShape(node.getInputs()[0]);
    if (dims)
      out.push_back(productOf(*dims));
    return dims != nullptr;
  }
  if (op == "ConstantOfShape") {
    auto value = node.getOnnxAttrs().getAs<DenseIntElementsAttr>("value");
    if (!value)
      return false;
    out.assign(count.constant(), DimExpr((*value.getValues<APInt>().begin()).getSExtValue()));
    return true;
  }
  auto input = [&](unsigned i) { return node.hasInput(i) ? getElements(node.getInputs()[i]) : nullptr; };
  const DimList *a = input(0);
  if (!a && !(op == "Concat" && llvm::any_of(node.getInputs(), [&](Value part) { return getElements(part); })))
    return false;
  bool fromInt = isa<IntegerType>(cast<ShapedType>(node.getInputs()[0].getType()).getElementType());
  if (op == "Reshape" || op == "Squeeze" || op == "Unsqueeze" || op == "Identity" || op == "Flatten" ||
      (op == "Cast" && fromInt && !type.getElementType().isInteger(1))) {
    out = *a;
    return true;
  }
  if (op == "Concat") {
    if (shape->size() != 1)
      return false;
    // Where some parts are known the others are read at run time: [batch, data, -1].
    for (Value part : node.getInputs()) {
      auto sizes = getSizes(part);
      if (!sizes)
        return false;
      out.append(sizes->begin(), sizes->end());
    }
    return true;
  }
  if (op == "Gather") {
    auto indices = node.hasInput(1) ? getConstants(node.getInputs()[1]) : std::nullopt;
    if (!indices || getShape(node.getInputs()[0])->size() != 1)
      return false;
    int64_t size = a->size();
    for (int64_t index : *indices) {
      if (index < -size || index >= size)
        return false;
      out.push_back((*a)[index < 0 ? index + size : index]);
    }
    return true;
  }
  if (op == "Slice") {
    auto slice = sliceDims(node, *this);
    if (!slice || slice->starts.size() != 1 || !slice->starts[0].isConstant())
      return false;
    for (int64_t i = 0, at = slice->starts[0].constant(); i < count.constant(); ++i, at += slice->steps[0]) {
      if (at < 0 || at >= static_cast<int64_t>(a->size()))
        return false;
      out.push_back((*a)[at]);
    }
    return true;
  }
  if (op == "OneHot") {
    // TorchScript writes repeat counts this way.
    auto indices = getConstants(node.getInputs()[0]), depth = getConstants(node.getInputs()[1]);
    const DimList *values = input(2);
    int64_t axis = node.getInt("axis", -1);
    if (!indices || !depth || !values || values->size() != 2 ||
        (axis != -1 && axis + 1 != static_cast<int64_t>(shape->size())))
      return false;
    for (int64_t index : *indices)
      for (int64_t i = 0; i < depth->front(); ++i)
        out.push_back((*values)[i == (index < 0 ? index + depth->front() : index)]);
    return true;
  }
  if (op == "Expand" && a->size() == 1) {
    out.assign(count.constant(), a->front());
    return true;
  }
  if (op == "Neg" || op == "Not") {
    for (const DimExpr &e : *a) {
      if (op == "Not" && !e.isConstant())
        return false;
      out.push_back(op == "Neg" ? DimExpr(0) - e : DimExpr(e.constant() ? 0 : 1));
    }
    return true;
  }
  if (op == "ReduceProd" && count.is(1)) {
    out.push_back(productOf(*a));
    return true;
  }
  if (op == "Range") {
    auto start = getConstants(node.getInputs()[0]), delta = getConstants(node.getInputs()[2]);
    if (!start || !delta)
      return false;
    for (int64_t i = 0; i < count.constant(); ++i)
      out.push_back(start->front() + i * delta->front());
    return true;
  }
  auto pick = [&](const DimList &list, int64_t i) -> std::optional<DimExpr> {
    if (static_cast<int64_t>(list.size()) == count.constant())
      return list[i];
    if (list.size() == 1)
      return list[0];
    return std::nullopt;
  };
  const DimList *b = input(1);
  if (!b)
    return false;
  const DimList *c = op == "Where" ? input(2) : nullptr;
  if ((op == "Where") != (c != nullptr))
    return false;
  for (int64_t i = 0; i < count.constant(); ++i) {
    auto x = pick(*a, i), y = pick(*b, i);
    std::optional<DimExpr> value;
    if (x && y && c) {
      auto z = pick(*c, i);
      if (z && x->isConstant())
        value = x->constant() ? y : z;
    } else if (x && y && node.getInputs().size() == 2) {
      value = computeBinary(op, *x, *y, atoms);
    }
    if (!value)
      return false;
    out.push_back(*value);
  }
  return true;
}
