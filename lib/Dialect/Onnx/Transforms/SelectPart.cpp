//===- SelectPart.cpp - operators that take a part of a dimension ---------===//
#include "PairExpr.h"

using namespace mlir;
using namespace mlir::moe;

bool PairEvaluator::selectBack(OnnxNodeOp node, unsigned result, const Layout &layout, Value &operand, Layout &inner) {
  if (!node.getDomain().empty() || node.getInputs().empty())
    return false;
  operand = node.getInputs()[0];
  const DimList *dims = shapes.getShape(operand), *out = shapes.getShape(node.getResult(result));
  if (!dims || !out || out->size() != layout.size())
    return false;
  if (node.is("Gather")) {
    auto index = shapes.getConstants(node.getInputs()[1]);
    const DimList *indexDims = shapes.getShape(node.getInputs()[1]);
    auto axis = normalizeAxis(node.getInt("axis", 0), dims->size());
    if (!index || index->size() != 1 || !indexDims || indexDims->size() > 1 || !axis || !(*dims)[*axis].isConstant())
      return false;
    int64_t size = (*dims)[*axis].constant(), at = index->front() < 0 ? index->front() + size : index->front();
    if (at < 0 || at >= size)
      return false;
    inner = layout;
    SmallVector<unsigned, 2> fixed = {addFixed(DimExpr(size), at)};
    if (indexDims->empty())
      inner.insert(inner.begin() + *axis, fixed);
    else
      inner[*axis] = fixed;
    return true;
  }
  auto fixedAt = [&](size_t axis) -> std::optional<int64_t> {
    if ((*out)[axis].is(1))
      return 0;
    if (layout[axis].size() == 1 && axes[layout[axis][0]].kind == LayerAxis::Fixed)
      return axes[layout[axis][0]].position;
    return std::nullopt;
  };
  if (node.is("Concat")) {
    auto axis = normalizeAxis(node.getInt("axis", 0), dims->size());
    auto at = axis ? fixedAt(*axis) : std::nullopt;
    if (!at || (*out)[*axis].is(1))
      return false;
    for (Value input : node.getInputs()) {
      const DimList *piece = shapes.getShape(input);
      if (!piece || piece->size() != layout.size() || !(*piece)[*axis].isConstant())
        return false;
      int64_t size = (*piece)[*axis].constant();
      if (*at >= size) {
        *at -= size;
        continue;
      }
      operand = input;
      inner = layout;
      inner[*axis].clear();
      if (size != 1)
        inner[*axis].push_back(addFixed(DimExpr(size), *at));
      return true;
    }
    return false;
  }
  std::optional<size_t> axis;
  int64_t offset = 0, stride = 1;
  if (node.is("Split")) {
    auto sizes = splitSizes(node, shapes);
    axis = normalizeAxis(node.getInt("axis", 0), dims->size());
    if (!sizes || !axis)
      return false;
    for (unsigned i = 0; i < result; ++i) {
      if (!(*sizes)[i].isConstant())
        return false;
      offset += (*sizes)[i].constant();
    }
  } else if (node.is("Slice")) {
    auto slice = sliceDims(node, shapes);
    if (!slice)
      return false;
    for (size_t i = 0; i < dims->size(); ++i) {
      if (slice->lengths[i] == (*dims)[i] && slice->steps[i] == 1)
        continue;
      if (axis || !slice->starts[i].isConstant())
        return false;
      axis = i;
      offset = slice->starts[i].constant();
      stride = slice->steps[i];
    }
    if (!axis) {
      inner = layout;
      return true;
    }
  } else {
    return false;
  }
  auto at = fixedAt(*axis);
  if (!at || (*dims)[*axis].is(1))
    return false;
  inner = layout;
  inner[*axis] = {addFixed((*dims)[*axis], offset + *at * stride)};
  return true;
}

/// A dimension that runs over a feature and fixed positions is a part of one larger feature: gate and up that were
/// stored side by side and told apart by a reshape.
PairExpr *PairEvaluator::evaluateJoint(Value value, const Layout &layout) {
  const DimList *dims = shapes.getShape(value);
  if (!dims || dims->size() != layout.size())
    return nullptr;
  for (auto [dim, list] : llvm::enumerate(layout)) {
    std::optional<unsigned> feature;
    int64_t offset = 0, stride = 1, size = 1;
    bool fixed = false, readable = list.size() > 1;
    for (unsigned a : llvm::reverse(list)) {
      const LayerAxis &axis = axes[a];
      readable &= axis.size.isConstant();
      if (!readable)
        break;
      if (axis.kind == LayerAxis::Fixed) {
        offset += axis.position * size;
        fixed = true;
      } else if (axis.kind == LayerAxis::Feature && !feature) {
        feature = a;
        stride = size;
      } else {
        readable = false;
      }
      size *= axis.size.constant();
    }
    if (!readable || !feature || !fixed || !(*dims)[dim].is(size))
      continue;
    auto node = value.getDefiningOp<OnnxNodeOp>();
    unsigned whole = addAxis(LayerAxis::Feature, DimExpr(size));
    Layout inner = layout;
    inner[dim] = {whole};
    BankCut cut;
    cut.offset = offset;
    cut.stride = stride;
    cut.size = axes[*feature].size.constant();
    PairExpr *expr = evaluate(value, inner);
    return expr ? cutExpr(expr, whole, *feature, cut, node) : nullptr;
  }
  return nullptr;
}
