//===- PairExpr.cpp - evaluating values under layouts ---------------------===//
#include "mlir/IR/ImplicitLocOpBuilder.h"

#include "PairExpr.h"

#include <array>

using namespace mlir;
using namespace mlir::moe;

bool PairEvaluator::usesTokens(const Layout &layout) const {
  return llvm::any_of(layout, [&](const auto &dim) {
    return llvm::any_of(dim, [&](unsigned a) { return axes[a].kind == LayerAxis::Token; });
  });
}

bool PairEvaluator::usesSlot(const Layout &layout) const {
  return llvm::any_of(layout, [&](const auto &dim) {
    return llvm::any_of(dim, [&](unsigned a) { return axes[a].kind == LayerAxis::Slot; });
  });
}

PairExpr *PairEvaluator::fail(const Twine &why, Operation *at) {
  if (reason.empty()) {
    reason = why.str();
    if (auto node = dyn_cast_or_null<OnnxNodeOp>(at))
      reason += (" at node '" + node.getNodeName() + "' (" + node.getQualifiedName() + ")").str();
  }
  return nullptr;
}

/// Cuts a flat list of axes into dimensions of the given sizes.
bool PairEvaluator::splitByDims(ArrayRef<unsigned> flat, ArrayRef<DimExpr> dims, Layout &layout) {
  size_t next = 0;
  layout.clear();
  SmallVector<unsigned> axesLeft(flat);
  for (const DimExpr &dim : dims) {
    SmallVector<unsigned, 2> list;
    DimExpr product(1);
    while (product != dim && next < axesLeft.size()) {
      unsigned axis = axesLeft[next];
      // Tokens [batch * length] of which this dimension has the batch alone: the axis falls into two.
      auto missing = product.is(0) ? std::nullopt : dim.dividedBy(product);
      if (missing && axes[axis].kind == LayerAxis::Token && !missing->is(1) && *missing != axes[axis].size)
        if (auto rest = axes[axis].size.dividedBy(*missing)) {
          if (axes[axis].parts.empty()) {
            unsigned outer = addAxis(LayerAxis::Token, *missing), inner = addAxis(LayerAxis::Token, *rest);
            axes[axis].parts = {outer, inner};
          }
          if (axes[axes[axis].parts[0]].size != *missing)
            return false;
          SmallVector<unsigned, 2> parts = axes[axis].parts;
          axesLeft.erase(axesLeft.begin() + next);
          axesLeft.insert(axesLeft.begin() + next, parts.begin(), parts.end());
          continue;
        }
      ++next;
      if (axes[axis].kind == LayerAxis::Slot && axes[axis].size.is(1))
        continue; // an only slot is in no dimension
      product = product * axes[axis].size;
      list.push_back(axis);
    }
    if (product != dim)
      return false;
    layout.push_back(list);
  }
  // Axes of size 1 may be left over.
  for (; next < axesLeft.size(); ++next) {
    if (!axes[axesLeft[next]].size.is(1) || layout.empty())
      return false;
    if (axes[axesLeft[next]].kind == LayerAxis::Slot)
      continue;
    layout.back().push_back(axesLeft[next]);
  }
  return true;
}

/// The layout of an operand that broadcasts against a result of `layout`.
Layout PairEvaluator::broadcastTo(Value operand, const Layout &layout) {
  const DimList *dims = shapes.getShape(operand);
  Layout inner;
  if (!dims || dims->size() > layout.size())
    return inner;
  size_t offset = layout.size() - dims->size();
  for (auto [i, dim] : llvm::enumerate(*dims)) {
    inner.push_back({});
    DimExpr product(1);
    for (unsigned a : layout[offset + i])
      product = product * axes[a].size;
    if (dim == product && !product.is(1))
      inner.back() = layout[offset + i];
    else if (!dim.is(1))
      return {}; // not known whether it broadcasts
  }
  return inner;
}

bool PairEvaluator::isJoint(const Layout &layout) const {
  return llvm::any_of(layout, [&](const auto &dim) {
    auto has = [&](LayerAxis::Kind kind) {
      return llvm::any_of(dim, [&](unsigned a) { return axes[a].kind == kind; });
    };
    return dim.size() > 1 && has(LayerAxis::Fixed) && has(LayerAxis::Feature);
  });
}

bool PairEvaluator::isPairMatrix(const Layout &layout) const {
  // [t0, t1, ..., slot], dimensions of size 1 not counted.
  SmallVector<unsigned> flat;
  for (const auto &dim : layout) {
    if (dim.size() > 1)
      return false;
    flat.append(dim.begin(), dim.end());
  }
  SmallVector<unsigned> wanted(tokenAxes);
  if (unitSlot())
    return flat == wanted && layout.size() == wanted.size() + 1 && layout.back().empty();
  wanted.push_back(slotAxis);
  return flat == wanted && layout.size() == wanted.size();
}

static bool isGroupedMatMul(OnnxNodeOp node) {
  return node.is("GroupedMatMul") || node.is("GroupedMatMul", "com.microsoft");
}

bool PairEvaluator::dependsOnGather(Value value, unsigned depth) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (!node || depth == 0)
    return false;
  if (auto it = gatherMemo.find(value); it != gatherMemo.end())
    return it->second;
  bool found = isGroupedMatMul(node);
  found |= (node.is("Gather") || node.is("GatherND")) && !shapes.getConstants(node.getInputs()[1]) &&
           cast<ShapedType>(node.getInputs()[0].getType()).hasRank() &&
           cast<ShapedType>(node.getInputs()[0].getType()).getRank() > 2;
  for (Value operand : node.getInputs())
    found = found || dependsOnGather(operand, depth - 1);
  return gatherMemo[value] = found;
}

/// Reshapes to the shape that a value has already.
Value PairEvaluator::throughSameShape(Value value) {
  while (auto node = value.getDefiningOp<OnnxNodeOp>()) {
    const DimList *in = node.is("Reshape") ? shapes.getShape(node.getInputs()[0]) : nullptr,
                  *out = shapes.getShape(value);
    if (!in || !out || ArrayRef<DimExpr>(*in) != ArrayRef<DimExpr>(*out))
      break;
    value = node.getInputs()[0];
  }
  return value;
}

/// Element-moving operators, read backwards.
bool PairEvaluator::stepBack(OnnxNodeOp node, const Layout &layout, Layout &inner) {
  if (!node.getDomain().empty())
    return false;
  StringRef op = node.getOpType();
  Value operand = node.getInputs()[0];
  const DimList *dims = shapes.getShape(operand);
  if (!dims)
    return false;
  if (op == "Identity" || (op == "Cast" && keepsNumbers(node))) {
    inner = layout;
    return true;
  }
  if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze") {
    SmallVector<unsigned> flat;
    for (const auto &dim : layout)
      flat.append(dim.begin(), dim.end());
    // A broadcast dimension has no axes; unless its size is 1 the elements' order is not described by the axes left.
    const DimList *out = shapes.getShape(node.getResult(0));
    for (auto [dim, list] : llvm::zip(*out, layout)) {
      DimExpr product(1);
      for (unsigned a : list)
        product = product * axes[a].size;
      if (product != dim)
        return false;
    }
    return splitByDims(flat, *dims, inner);
  }
  if (op == "Transpose") {
    auto perm = node.getInts("perm");
    inner.assign(layout.size(), {});
    for (size_t i = 0; i < layout.size(); ++i)
      inner[perm ? (*perm)[i] : layout.size() - 1 - i] = layout[i];
    return true;
  }
  if (op == "Expand") {
    inner = broadcastTo(operand, layout);
    return inner.size() == dims->size();
  }
  if (op == "Tile") {
    // Element i of the result is element i mod n: the inner axes are the operand's, the outer ones only repeat.
    inner.clear();
    for (auto [dim, list] : llvm::zip(*dims, layout)) {
      SmallVector<unsigned, 2> kept;
      DimExpr product(1);
      for (unsigned a : llvm::reverse(list)) {
        if (product == dim)
          break;
        product = product * axes[a].size;
        kept.insert(kept.begin(), a);
      }
      if (product != dim)
        return false;
      inner.push_back(kept);
    }
    return true;
  }
  return false;
}

/// A value that does not depend on the slot, or is one number per pair, or a bank.
PairExpr *PairEvaluator::leaf(Value value, const Layout &layout) {
  SmallVector<unsigned> features, flat;
  for (const auto &dim : layout)
    for (unsigned a : dim) {
      flat.push_back(a);
      if (axes[a].kind == LayerAxis::Feature)
        features.push_back(a);
      if (axes[a].kind == LayerAxis::Fixed)
        return nullptr;
    }
  bool tokens = usesTokens(layout), slot = usesSlot(layout);
  if (!tokens && !slot) {
    if (features.size() > 1)
      return nullptr;
    return make({PairExpr::Capture, value, {}, {}, {features.begin(), features.end()}});
  }
  if (unitSlot() && isPairMatrix(layout))
    return make({PairExpr::Gate, throughSameShape(value), {}, {}, {}});
  if (tokens && !slot) {
    // [tokens, feature]: the token axes in order, then at most one feature.
    SmallVector<unsigned> wanted(tokenAxes);
    wanted.append(features.begin(), features.end());
    if (flat != wanted || features.size() > 1 || layout.size() != flat.size())
      return nullptr;
    return make({PairExpr::Row, value, {}, {}, {features.begin(), features.end()}});
  }
  if (tokens && slot)
    return isPairMatrix(layout) ? make({PairExpr::Gate, value, {}, {}, {}}) : nullptr;
  // A bank whose slots are the experts.
  if (layout.empty() || layout[0].size() != 1 || layout[0][0] != slotAxis || features.empty())
    return nullptr;
  for (const auto &dim : layout) // dimensions of size 1 are dropped when the bank is used
    if (dim.size() > 1)
      return nullptr;
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (indices || !type || type.isDynamicDim(0))
    return nullptr;
  if (experts >= 0 && experts != type.getDimSize(0))
    return nullptr;
  experts = type.getDimSize(0);
  if (features.size() > 1)
    bankSeen = true;
  return make({PairExpr::Part, value, {}, {}, {features.begin(), features.end()}});
}

PairEvaluator::IndexKind PairEvaluator::evaluateIndex(Value value, Layout layout) {
  while (true) {
    if (isPairMatrix(layout)) {
      value = throughSameShape(value);
      while (auto node = value.getDefiningOp<OnnxNodeOp>()) {
        if (!node.is("Identity") && !node.is("Cast"))
          break;
        value = throughSameShape(node.getInputs()[0]);
      }
      if (indices && indices != value)
        return IndexKind::None;
      indices = value;
      return IndexKind::Expert;
    }
    SmallVector<unsigned> flat;
    for (const auto &dim : layout)
      flat.append(dim.begin(), dim.end());
    // Constants: a table of token numbers is one whose entry for (t, s) is t.
    if (auto constants = shapes.getConstants(value)) {
      int64_t inner = 1, total = constants->size();
      SmallVector<unsigned> rest = flat;
      while (!rest.empty() && axes[rest.back()].kind != LayerAxis::Token) {
        if (!axes[rest.back()].size.isConstant())
          return IndexKind::None;
        inner *= axes[rest.pop_back_val()].size.constant();
      }
      if (rest != tokenAxes || inner == 0)
        return IndexKind::None;
      for (int64_t i = 0; i < total; ++i)
        if ((*constants)[i] != i / inner)
          return IndexKind::None;
      return IndexKind::Token;
    }
    auto node = value.getDefiningOp<OnnxNodeOp>();
    if (!node)
      return IndexKind::None;
    if (node.is("Range") && flat == tokenAxes) {
      auto start = shapes.getConstants(node.getInputs()[0]), delta = shapes.getConstants(node.getInputs()[2]);
      return start && delta && start->front() == 0 && delta->front() == 1 ? IndexKind::Token : IndexKind::None;
    }
    Layout inner;
    if (!stepBack(node, layout, inner))
      return IndexKind::None;
    layout = inner;
    value = node.getInputs()[0];
  }
}

PairExpr *PairEvaluator::evaluateGather(OnnxNodeOp node, const Layout &layout) {
  Value data = node.getInputs()[0], index = node.getInputs()[1];
  const DimList *indexDims = shapes.getShape(index), *dataDims = shapes.getShape(data);
  if (!indexDims || !dataDims)
    return fail("shapes are unknown", node);
  size_t leading = indexDims->size();
  if (node.is("GatherND")) {
    if (node.getInt("batch_dims", 0) != 0 || indexDims->empty() || !indexDims->back().is(1))
      return fail("more than one index per element", node);
    --leading;
  } else if (*normalizeAxis(node.getInt("axis", 0), dataDims->size()) != 0) {
    return fail("a gather along an inner dimension", node);
  }
  Layout indexLayout(layout.begin(), layout.begin() + leading), rest(layout.begin() + leading, layout.end());
  if (node.is("GatherND"))
    indexLayout.push_back({});
  switch (evaluateIndex(index, indexLayout)) {
  case IndexKind::None:
    return fail("the gather's indices are neither tokens nor the chosen experts", node);
  case IndexKind::Token: {
    Layout inner;
    inner.push_back({tokenAxes.begin(), tokenAxes.end()});
    inner.append(rest.begin(), rest.end());
    return evaluate(data, inner);
  }
  case IndexKind::Expert:
    break;
  }
  auto type = dyn_cast<RankedTensorType>(data.getType());
  if (!type || type.isDynamicDim(0) || (experts >= 0 && experts != type.getDimSize(0)))
    return fail("the banks do not all have the same number of experts", node);
  experts = type.getDimSize(0);
  bankSeen |= type.getRank() > 2;
  PairExpr part{PairExpr::Part, data, {}, {}, {}};
  for (const auto &dim : rest) {
    if (dim.size() != 1 || axes[dim[0]].kind != LayerAxis::Feature)
      return fail("an expert's part is not indexed by features alone", node);
    part.features.push_back(dim[0]);
  }
  return make(part);
}

PairExpr *PairEvaluator::evaluateElementwise(OnnxNodeOp node, const Layout &layout) {
  PairExpr expr{PairExpr::Elementwise, {}, node, {}, {}};
  for (Value operand : node.getInputs()) {
    if (isa<NoneType>(operand.getType()))
      continue;
    Layout inner = broadcastTo(operand, layout);
    const DimList *dims = shapes.getShape(operand);
    if (!dims || inner.size() != dims->size())
      return fail("operands whose broadcast is not known", node);
    PairExpr *value = evaluate(operand, inner);
    if (!value)
      return nullptr;
    expr.operands.push_back(value);
    for (unsigned feature : value->features)
      if (!llvm::is_contained(expr.features, feature))
        expr.features.push_back(feature);
  }
  if (expr.features.size() > 1)
    return fail("an elementwise operator over more than one feature", node);
  return make(expr);
}

/// The letters of the two operands and the result of an einsum, and the one letter that is summed over; 0 if the
/// equation is of another form.
static std::pair<std::array<std::string, 3>, char> readEinsum(OnnxNodeOp node) {
  std::string equation;
  for (char c : node.getString("equation"))
    if (c != ' ')
      equation += c;
  auto [inputs, output] = StringRef(equation).split("->");
  auto [left, right] = inputs.split(',');
  std::array<std::string, 3> terms = {left.str(), right.str(), output.str()};
  if (right.empty() || right.contains(',') || StringRef(equation).contains('.') || node.getInputs().size() != 2)
    return {terms, 0};
  char summed = 0;
  for (const std::string &term : terms)
    for (size_t i = 0; i < term.size(); ++i)
      if (term.find(term[i], i + 1) != std::string::npos)
        return {terms, 0}; // a diagonal
  for (const std::string &term : {terms[0], terms[1]})
    for (char letter : term) {
      if (output.contains(letter) || letter == summed)
        continue;
      if (summed)
        return {terms, 0};
      summed = letter;
    }
  for (char letter : output)
    if (!StringRef(terms[0]).contains(letter) && !StringRef(terms[1]).contains(letter))
      return {terms, 0};
  return {terms, summed};
}

PairExpr *PairEvaluator::contract(PairExpr *left, PairExpr *right, unsigned k, OnnxNodeOp node) {
  if (!left || !right)
    return nullptr;
  // One side is an expert's part with two features, the other a vector over k.
  if (left->kind == PairExpr::Part && left->features.size() == 2)
    std::swap(left, right);
  if (right->kind != PairExpr::Part || right->features.size() != 2)
    return fail("a product of two values of which neither is an expert's matrix", node);
  if (left->features.size() != 1 || left->features[0] != k || left->kind == PairExpr::Part)
    return fail("a product with something else than one row per pair", node);
  PairExpr expr{PairExpr::Contract, {}, node, {left, right}, {}};
  if (right->features[1] == k) {
    expr.transposed = true;
    expr.features.push_back(right->features[0]);
  } else if (right->features[0] == k) {
    expr.features.push_back(right->features[1]);
  } else {
    return fail("the contracted dimension is not the part's", node);
  }
  return make(expr);
}

std::optional<DimExpr> PairEvaluator::contractedSize(OnnxNodeOp node) {
  if (!node.getDomain().empty() || node.getInputs().size() < 2)
    return std::nullopt;
  const DimList *left = shapes.getShape(node.getInputs()[0]), *right = shapes.getShape(node.getInputs()[1]);
  if (!left || !right)
    return std::nullopt;
  if (node.is("MatMul"))
    return left->size() < 2 || right->size() < 2 || left->back() != (*right)[right->size() - 2]
               ? std::nullopt
               : std::optional(left->back());
  if (!node.is("Einsum"))
    return std::nullopt;
  auto [terms, letter] = readEinsum(node);
  if (!letter || terms[0].size() != left->size() || terms[1].size() != right->size())
    return std::nullopt;
  size_t at = StringRef(terms[0]).find(letter), other = StringRef(terms[1]).find(letter);
  if (at == StringRef::npos || other == StringRef::npos || (*left)[at] != (*right)[other])
    return std::nullopt;
  return (*left)[at];
}

bool PairEvaluator::contractionLayouts(OnnxNodeOp node, const Layout &layout, unsigned k, Layout &left, Layout &right) {
  const DimList &leftDims = *shapes.getShape(node.getInputs()[0]), &rightDims = *shapes.getShape(node.getInputs()[1]);
  left.clear();
  right.clear();
  if (node.is("Einsum")) {
    auto [terms, letter] = readEinsum(node);
    if (terms[2].size() != layout.size())
      return false;
    std::map<char, SmallVector<unsigned, 2>> letters;
    for (auto [name, dim] : llvm::zip(terms[2], layout))
      letters[name] = dim;
    letters[letter] = {k};
    for (char name : terms[0])
      left.push_back(letters[name]);
    for (char name : terms[1])
      right.push_back(letters[name]);
    return true;
  }
  Layout batch(layout.begin(), layout.end() - 2);
  // Batch dimensions broadcast like any others.
  auto operandLayout = [&](const DimList &dims, SmallVector<unsigned, 2> row, SmallVector<unsigned, 2> column,
                           Layout &inner) {
    size_t count = dims.size() - 2;
    if (count > batch.size())
      return false;
    for (size_t i = 0; i < count; ++i) {
      const auto &list = batch[batch.size() - count + i];
      DimExpr product(1);
      for (unsigned a : list)
        product = product * axes[a].size;
      if (dims[i] == product && !product.is(1))
        inner.push_back(list);
      else if (dims[i].is(1))
        inner.push_back({});
      else
        return false;
    }
    inner.push_back(row);
    inner.push_back(column);
    return true;
  };
  return operandLayout(leftDims, layout[layout.size() - 2], {k}, left) &&
         operandLayout(rightDims, {k}, layout.back(), right);
}

PairExpr *PairEvaluator::evaluateMatMul(OnnxNodeOp node, const Layout &layout) {
  auto size = contractedSize(node);
  if (!size)
    return fail("a contraction of another form", node);
  unsigned k = addAxis(LayerAxis::Feature, *size);
  Layout l, r;
  if (!contractionLayouts(node, layout, k, l, r))
    return fail("batch dimensions whose broadcast is not known", node);
  PairExpr *x = evaluate(node.getInputs()[0], l);
  PairExpr *y = x ? evaluate(node.getInputs()[1], r) : nullptr;
  return contract(x, y, k, node);
}

PairExpr *PairEvaluator::evaluateGemm(OnnxNodeOp node, const Layout &layout) {
  const DimList *left = shapes.getShape(node.getInputs()[0]), *right = shapes.getShape(node.getInputs()[1]);
  bool transposed = node.getInt("transB", 0) != 0;
  if (!left || !right || left->size() != 2 || right->size() != 2 || layout.size() != 2 || node.getInt("transA", 0) ||
      node.getFloat("alpha", 1.0) != 1.0 || left->back() != (*right)[transposed ? 1 : 0])
    return fail("a Gemm of another form", node);
  unsigned k = addAxis(LayerAxis::Feature, left->back());
  PairExpr *x = evaluate(node.getInputs()[0], Layout{layout[0], {k}});
  PairExpr *y =
      x ? evaluate(node.getInputs()[1], transposed ? Layout{layout[1], {k}} : Layout{{k}, layout[1]}) : nullptr;
  PairExpr *product = contract(x, y, k, node);
  if (!product || !node.hasInput(2))
    return product;
  if (node.getFloat("beta", 1.0) != 1.0)
    return fail("a Gemm of another form", node);
  Layout inner = broadcastTo(node.getInputs()[2], layout);
  const DimList *dims = shapes.getShape(node.getInputs()[2]);
  if (!dims || inner.size() != dims->size())
    return fail("operands whose broadcast is not known", node);
  PairExpr *bias = evaluate(node.getInputs()[2], inner);
  if (!bias)
    return nullptr;
  PairExpr sum{PairExpr::Elementwise, {}, {}, {product, bias}, product->features};
  sum.implied = "Add";
  return make(sum);
}

/// x[m] times the matrix of group[m, j] (+ the group's bias), where the groups are the experts that the pairs chose.
PairExpr *PairEvaluator::evaluateGroupedMatMul(OnnxNodeOp node, const Layout &layout) {
  Value bank = node.getInputs()[1];
  auto type = dyn_cast<RankedTensorType>(bank.getType());
  const DimList *rows = shapes.getShape(node.getInputs()[0]);
  if (!rows || rows->size() != 2 || !type || type.getRank() != 3 || !type.hasStaticShape() || layout.size() != 3 ||
      layout[2].size() != 1 || axes[layout[2][0]].kind != LayerAxis::Feature || !rows->back().is(type.getDimSize(1)))
    return fail("a product of another form", node);
  if (evaluateIndex(node.getInputs()[2], Layout{layout[0], layout[1]}) != IndexKind::Expert)
    return fail("the groups are not the chosen experts", node);
  if (experts >= 0 && experts != type.getDimSize(0))
    return fail("the banks do not all have the same number of experts", node);
  experts = type.getDimSize(0);
  bankSeen = true;
  unsigned k = addAxis(LayerAxis::Feature, rows->back()), n = layout[2][0];
  PairExpr *row = evaluate(node.getInputs()[0], Layout{layout[0], {k}});
  PairExpr *product = row ? contract(row, make({PairExpr::Part, bank, {}, {}, {k, n}}), k, node) : nullptr;
  if (!product || !node.hasInput(3))
    return product;
  PairExpr sum{PairExpr::Elementwise, {}, {}, {product, make({PairExpr::Part, node.getInputs()[3], {}, {}, {n}})}, {n}};
  sum.implied = "Add";
  return make(sum);
}

PairExpr *PairEvaluator::multiply(PairExpr *left, PairExpr *right) {
  if (!left || !right)
    return nullptr;
  PairExpr product{PairExpr::Elementwise, {}, {}, {left, right}, left->features};
  product.implied = "Mul";
  for (unsigned feature : right->features)
    if (!llvm::is_contained(product.features, feature))
      product.features.push_back(feature);
  return product.features.size() > 1 ? fail("a product of values over different features") : make(product);
}

/// Whether cutting the banks below costs nothing: every k-th column of a matrix stored [k, n] is no run of memory.
static bool cutsRuns(PairExpr *expr, unsigned feature, int64_t stride) {
  if (stride == 1 || !llvm::is_contained(expr->features, feature))
    return true;
  if (expr->kind == PairExpr::Contract)
    return expr->transposed;
  return llvm::all_of(expr->operands, [&](PairExpr *operand) { return cutsRuns(operand, feature, stride); });
}

/// Restricts an expression to a part of a feature, pushing the cut into the banks: cutting a weight is free.
PairExpr *PairEvaluator::cutExpr(PairExpr *expr, unsigned from, unsigned to, BankCut cut, OnnxNodeOp node) {
  auto at = llvm::find(expr->features, from);
  if (at == expr->features.end())
    return expr;
  if (!cutsRuns(expr, from, cut.stride))
    return make({PairExpr::Cut, {}, node, {expr}, {to}, cut});
  switch (expr->kind) {
  case PairExpr::Part: {
    if (expr->cut.dim >= 0)
      return fail("a part that is cut twice", node);
    PairExpr part = *expr;
    part.cut = cut;
    part.cut.dim = 1 + (at - expr->features.begin());
    part.features[at - expr->features.begin()] = to;
    return make(part);
  }
  case PairExpr::Elementwise: {
    PairExpr result = *expr;
    result.features = {to};
    for (PairExpr *&operand : result.operands)
      if (!(operand = cutExpr(operand, from, to, cut, node)))
        return nullptr;
    return make(result);
  }
  case PairExpr::Contract: {
    PairExpr result = *expr;
    result.features = {to};
    if (!(result.operands[1] = cutExpr(expr->operands[1], from, to, cut, node)))
      return nullptr;
    return make(result);
  }
  default:
    return make({PairExpr::Cut, {}, node, {expr}, {to}, cut});
  }
}

/// Split and Slice along a feature.
PairExpr *PairEvaluator::evaluateCut(OnnxNodeOp node, unsigned result, const Layout &layout) {
  const DimList *dims = shapes.getShape(node.getInputs()[0]);
  const DimList *out = shapes.getShape(node.getResult(result));
  if (!dims || !out || dims->size() != out->size())
    return fail("shapes are unknown", node);
  BankCut cut;
  std::optional<size_t> axis;
  if (node.is("Split")) {
    auto sizes = splitSizes(node, shapes);
    if (!sizes)
      return fail("pieces of unknown size", node);
    axis = *normalizeAxis(node.getInt("axis", 0), dims->size());
    for (unsigned i = 0; i < result; ++i) {
      if (!(*sizes)[i].isConstant())
        return fail("pieces of unknown size", node);
      cut.offset += (*sizes)[i].constant();
    }
  } else {
    auto slice = sliceDims(node, shapes);
    if (!slice)
      return fail("a slice of unknown size", node);
    for (size_t i = 0; i < dims->size(); ++i) {
      if (slice->lengths[i] == (*dims)[i] && slice->steps[i] == 1)
        continue;
      if (axis || !slice->starts[i].isConstant() || slice->steps[i] < 1)
        return fail("a slice along two dimensions, or backwards", node);
      axis = i;
      cut.offset = slice->starts[i].constant();
      cut.stride = slice->steps[i];
    }
    if (!axis)
      return evaluate(node.getInputs()[0], layout);
  }
  if (layout[*axis].size() != 1 || axes[layout[*axis][0]].kind != LayerAxis::Feature || !(*out)[*axis].isConstant())
    return fail("a slice along something else than a feature", node);
  unsigned to = layout[*axis][0];
  cut.size = (*out)[*axis].constant();
  unsigned from = addAxis(LayerAxis::Feature, (*dims)[*axis]);
  Layout inner = layout;
  inner[*axis] = {from};
  PairExpr *expr = evaluate(node.getInputs()[0], inner);
  return expr ? cutExpr(expr, from, to, cut, node) : nullptr;
}

PairExpr *PairEvaluator::evaluateNode(OnnxNodeOp node, unsigned result, const Layout &layout) {
  if (node.is("MatMul") || node.is("Einsum"))
    return evaluateMatMul(node, layout);
  if (node.is("Gemm"))
    return evaluateGemm(node, layout);
  if (isGroupedMatMul(node))
    return evaluateGroupedMatMul(node, layout);
  Layout inner;
  Value operand;
  if (selectBack(node, result, layout, operand, inner))
    return evaluate(operand, inner);
  if (node.is("Gather") || node.is("GatherND"))
    return evaluateGather(node, layout);
  if (node.is("Split") || node.is("Slice"))
    return evaluateCut(node, result, layout);
  if (node.is("Cast") || !isScalarOperator(node, shapes)) {
    if (stepBack(node, layout, inner))
      return evaluate(node.getInputs()[0], inner);
    return fail("an operator that cannot stand in an expert's body", node);
  }
  return evaluateElementwise(node, layout);
}

PairExpr *PairEvaluator::evaluate(Value value, const Layout &layout) {
  MemoKey key{value.getAsOpaquePointer(), {}};
  for (const auto &dim : layout)
    key.second.emplace_back(dim.begin(), dim.end());
  auto [it, inserted] = memo.try_emplace(key, nullptr);
  if (!inserted)
    return it->second ? it->second : fail(refusals[key]);
  auto remember = [&](PairExpr *expr) {
    if (!expr)
      refusals[key] = reason;
    return memo[key] = expr;
  };
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (isJoint(layout))
    return remember(evaluateJoint(value, layout));
  PairExpr *result = nullptr;
  if (unitSlot() && node && dependsOnGather(value, 64)) {
    std::string before = reason;
    if ((result = evaluateNode(node, cast<OpResult>(value).getResultNumber(), layout)))
      return remember(result);
    reason = before;
  }
  result = leaf(value, layout);
  // A leaf in a shape that is not the plain one: look further back for one that is.
  if (!result && node)
    result = evaluateNode(node, cast<OpResult>(value).getResultNumber(), layout);
  if (!result)
    fail("a value of another shape than rows, pairs or banks", value.getDefiningOp());
  return remember(result);
}
