//===- IndexingShapes.cpp - shapes, slices, gathers ----------------------===//
#include "ShapeFunctions.h"
#include <cmath>

using namespace mlir;
using namespace mlir::moe;

using Shapes = ShapeResult;

std::optional<DimList> mlir::moe::reshapeDims(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  const DimList *target = node.hasInput(1) ? shapes.getElements(node.getInputs()[1]) : nullptr;
  if (!from || !target)
    return std::nullopt;
  bool allowZero = node.getInt("allowzero", 0) != 0;
  DimList dims;
  std::optional<unsigned> inferred;
  DimExpr known(1), total = productOf(*from);
  for (auto [i, size] : llvm::enumerate(*target)) {
    DimExpr dim = size;
    if (size.is(-1)) {
      if (inferred)
        return std::nullopt;
      inferred = i;
      dims.push_back(DimExpr(1));
      continue;
    }
    if (size.is(0) && !allowZero) {
      if (i >= from->size())
        return std::nullopt;
      dim = (*from)[i];
    } else if (!shapes.getAtoms().isNonNegative(size)) {
      return std::nullopt; // might be -1 at run time
    }
    known = known * dim;
    dims.push_back(dim);
  }
  if (inferred)
    dims[*inferred] = shapes.getAtoms().floorDiv(total, known);
  return dims;
}

std::optional<SliceDims> mlir::moe::sliceDims(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from || node.getInputs().size() < 3)
    return std::nullopt;
  DimAtoms &atoms = shapes.getAtoms();
  auto starts = shapes.getSizes(node.getInputs()[1]), ends = shapes.getSizes(node.getInputs()[2]);
  if (!starts || !ends || starts->size() != ends->size())
    return std::nullopt;
  int64_t rank = from->size(), count = starts->size();
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, count)), steps(count, 1);
  if (node.hasInput(3)) {
    auto given = shapes.getConstants(node.getInputs()[3]);
    if (!given)
      return std::nullopt;
    axes = *given;
  }
  if (node.hasInput(4)) {
    auto given = shapes.getConstants(node.getInputs()[4]);
    if (!given)
      return std::nullopt;
    steps = *given;
  }
  if (static_cast<int64_t>(axes.size()) != count || static_cast<int64_t>(steps.size()) != count)
    return std::nullopt;
  SliceDims slice;
  slice.starts.assign(rank, DimExpr(0));
  slice.lengths.assign(from->begin(), from->end());
  slice.steps.assign(rank, 1);
  for (int64_t i = 0; i < count; ++i) {
    auto axis = normalizeAxis(axes[i], rank);
    if (!axis || steps[i] == 0)
      return std::nullopt;
    const DimExpr &size = (*from)[*axis];
    DimExpr start = atoms.wrap((*starts)[i], size), end = atoms.wrap((*ends)[i], size), length;
    if (steps[i] > 0) {
      start = atoms.min(atoms.max(start, DimExpr(0)), size);
      end = atoms.min(atoms.max(end, DimExpr(0)), size);
      length = atoms.max(atoms.ceilDiv(end - start, steps[i]), DimExpr(0));
    } else {
      // Backwards: the start is the last index at most, the end is exclusive and may be "before the first".
      start = atoms.min(start, size - DimExpr(1));
      bool whole = (*ends)[i].isConstant() && (*ends)[i].constant() < -(int64_t(1) << 30);
      end = whole ? DimExpr(-1) : atoms.max(end, DimExpr(-1));
      length = atoms.max(atoms.ceilDiv(start - end, -steps[i]), DimExpr(0));
    }
    slice.starts[*axis] = start;
    slice.lengths[*axis] = length;
    slice.steps[*axis] = steps[i];
  }
  return slice;
}

std::optional<DimList> mlir::moe::splitSizes(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  auto axis = normalizeAxis(node.getInt("axis", 0), from->size());
  if (!axis)
    return std::nullopt;
  DimList sizes;
  if (auto attr = node.getInts("split")) {
    for (int64_t size : *attr)
      sizes.push_back(DimExpr(size));
  } else if (node.hasInput(1)) {
    auto given = shapes.getSizes(node.getInputs()[1]);
    if (!given)
      return std::nullopt;
    // A negative size is an error that the lowering reports; the shape has to be one all the same.
    for (const DimExpr &size : *given)
      sizes.push_back(shapes.getAtoms().max(size, DimExpr(0)));
  } else {
    // Equal pieces; the last one may be smaller.
    int64_t pieces = node.getInt("num_outputs", node.getNumResults());
    DimAtoms &atoms = shapes.getAtoms();
    DimExpr piece = atoms.ceilDiv((*from)[*axis], pieces), rest = (*from)[*axis];
    if (auto exact = (*from)[*axis].dividedBy(DimExpr(pieces)))
      piece = *exact;
    for (int64_t i = 0; i + 1 < pieces; ++i) {
      sizes.push_back(piece);
      rest = rest - piece;
    }
    sizes.push_back(rest);
  }
  if (sizes.size() != node.getNumResults())
    return std::nullopt;
  return sizes;
}

static Shapes reshape(OnnxNodeOp node, SymbolicShapes &shapes) {
  if (auto dims = reshapeDims(node, shapes))
    return one(*dims);
  // Sizes that data tells: 0 and -1 have a meaning of their own, so only the result knows what they are.
  auto target = node.hasInput(1) ? shapes.getSizes(node.getInputs()[1]) : std::nullopt;
  if (!target || llvm::count(*target, DimExpr(-1)) > 1)
    return std::nullopt;
  DimList dims;
  for (auto [i, size] : llvm::enumerate(*target)) {
    bool known = shapes.getAtoms().isNonNegative(size) && !size.is(0);
    dims.push_back(known ? size : shapes.getAtoms().valueDim(node.getResult(0), i));
  }
  return one(dims);
}

static Shapes flatten(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  int64_t rank = from->size(), axis = node.getInt("axis", 1);
  if (axis < -rank || axis > rank)
    return std::nullopt;
  axis = axis < 0 ? axis + rank : axis;
  ArrayRef<DimExpr> dims(*from);
  return one({productOf(dims.take_front(axis)), productOf(dims.drop_front(axis))});
}

static Shapes transpose(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  DimList dims(from->rbegin(), from->rend());
  if (auto perm = node.getInts("perm")) {
    if (perm->size() != from->size())
      return std::nullopt;
    for (auto [dim, source] : llvm::zip(dims, *perm)) {
      if (source < 0 || source >= static_cast<int64_t>(from->size()))
        return std::nullopt;
      dim = (*from)[source];
    }
  }
  return one(dims);
}

static Shapes squeeze(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  auto axes = getAxes(node, shapes, from->size());
  if (!axes)
    return std::nullopt;
  DimList dims;
  for (auto [i, dim] : llvm::enumerate(*from)) {
    if (axes->empty() ? dim.is(1) : llvm::is_contained(*axes, static_cast<int64_t>(i)))
      continue;
    if (axes->empty() && !dim.isConstant())
      return std::nullopt;
    dims.push_back(dim);
  }
  return one(dims);
}

static Shapes unsqueeze(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  auto constants = node.getInts("axes") ? std::optional(llvm::to_vector(*node.getInts("axes")))
                   : node.hasInput(1)   ? shapes.getConstants(node.getInputs()[1])
                                        : std::nullopt;
  if (!constants)
    return std::nullopt;
  auto axes = getAxes(node, shapes, from->size() + constants->size());
  if (!axes)
    return std::nullopt;
  DimList dims(from->begin(), from->end());
  for (int64_t axis : *axes)
    dims.insert(dims.begin() + axis, DimExpr(1));
  return one(dims);
}

static Shapes concat(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *first = shapes.getShape(node.getInputs()[0]);
  auto axis = first ? normalizeAxis(node.getInt("axis", 0), first->size()) : std::nullopt;
  if (!axis)
    return std::nullopt;
  DimList dims = *first;
  for (Value input : node.getInputs().drop_front()) {
    const DimList *list = shapes.getShape(input);
    if (!list || list->size() != dims.size())
      return std::nullopt;
    dims[*axis] = dims[*axis] + (*list)[*axis];
  }
  return one(dims);
}

static Shapes split(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto sizes = splitSizes(node, shapes);
  if (!sizes)
    return std::nullopt;
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  int64_t axis = *normalizeAxis(node.getInt("axis", 0), from->size());
  SmallVector<DimList> results;
  for (const DimExpr &size : *sizes) {
    results.push_back(*from);
    results.back()[axis] = size;
  }
  return results;
}

static Shapes slice(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto dims = sliceDims(node, shapes);
  return dims ? one(dims->lengths) : Shapes();
}

static Shapes shapeOf(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  int64_t rank = from->size();
  auto clamp = [&](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
  int64_t start = clamp(node.getInt("start", 0)), end = clamp(node.getInt("end", rank));
  return one({DimExpr(std::max<int64_t>(end - start, 0))});
}

static Shapes scalar(OnnxNodeOp, SymbolicShapes &) { return one({}); }

static Shapes range(OnnxNodeOp node, SymbolicShapes &shapes) {
  // Whatever is not known yet, the lowering counts.
  auto ownLength = [&] { return one({shapes.getAtoms().valueDim(node.getResult(0), 0)}); };
  if (auto type = dyn_cast<ShapedType>(node.getResult(0).getType()); type && isa<FloatType>(type.getElementType())) {
    auto start = getScalarConstant(node.getInputs()[0]), limit = getScalarConstant(node.getInputs()[1]),
         delta = getScalarConstant(node.getInputs()[2]);
    if (!start || !limit || !delta)
      return ownLength();
    if (*delta == 0)
      return std::nullopt;
    double length = std::ceil((*limit - *start) / *delta);
    return length < 1e9 ? one({DimExpr(length > 0 ? static_cast<int64_t>(length) : 0)}) : Shapes();
  }
  auto start = shapes.getSizes(node.getInputs()[0]), limit = shapes.getSizes(node.getInputs()[1]);
  auto delta = shapes.getConstants(node.getInputs()[2]);
  if (!start || !limit || start->size() != 1 || limit->size() != 1 || (delta && delta->size() != 1) ||
      (delta && delta->front() == 0))
    return std::nullopt;
  if (!delta)
    return ownLength();
  DimAtoms &atoms = shapes.getAtoms();
  DimExpr distance = delta->front() > 0 ? limit->front() - start->front() : start->front() - limit->front();
  return one({atoms.max(atoms.ceilDiv(distance, std::abs(delta->front())), DimExpr(0))});
}

/// The sizes that input `i` gives; the lowering refuses negative ones at run time.
static std::optional<DimList> targetShape(OnnxNodeOp node, unsigned i, SymbolicShapes &shapes) {
  auto target = shapes.getSizes(node.getInputs()[i]);
  if (!target)
    return std::nullopt;
  for (DimExpr &size : *target) {
    if (size.isConstant() && size.constant() < 0)
      return std::nullopt;
    size = shapes.getAtoms().max(size, DimExpr(0));
  }
  return target;
}

static Shapes expand(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto target = targetShape(node, 1, shapes);
  if (!target)
    return std::nullopt;
  auto dims = broadcastDims({shapes.getShape(node.getInputs()[0]), &*target}, shapes);
  return dims ? one(*dims) : Shapes();
}

static Shapes tile(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto repeats = shapes.getSizes(node.getInputs()[1]);
  if (!from || !repeats || repeats->size() != from->size())
    return std::nullopt;
  DimList dims;
  for (auto [size, count] : llvm::zip(*from, *repeats))
    dims.push_back(size * shapes.getAtoms().max(count, DimExpr(0)));
  return one(dims);
}

static Shapes constantOfShape(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto target = targetShape(node, 0, shapes);
  return target ? one(*target) : Shapes();
}

static Shapes gather(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *data = shapes.getShape(node.getInputs()[0]), *indices = shapes.getShape(node.getInputs()[1]);
  auto axis = data ? normalizeAxis(node.getInt("axis", 0), data->size()) : std::nullopt;
  if (!axis || !indices)
    return std::nullopt;
  DimList dims(data->begin(), data->begin() + *axis);
  dims.append(indices->begin(), indices->end());
  dims.append(data->begin() + *axis + 1, data->end());
  return one(dims);
}

static Shapes gatherND(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *data = shapes.getShape(node.getInputs()[0]), *indices = shapes.getShape(node.getInputs()[1]);
  if (!data || !indices || indices->empty() || !indices->back().isConstant())
    return std::nullopt;
  int64_t batch = node.getInt("batch_dims", 0), depth = indices->back().constant();
  if (batch < 0 || depth < 0 || batch + depth > static_cast<int64_t>(data->size()))
    return std::nullopt;
  DimList dims(indices->begin(), indices->end() - 1);
  dims.append(data->begin() + batch + depth, data->end());
  return one(dims);
}

static Shapes sameAsSecond(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *dims = node.hasInput(1) ? shapes.getShape(node.getInputs()[1]) : nullptr;
  return dims ? one(*dims) : Shapes();
}

static Shapes topK(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto k = node.hasInput(1) ? shapes.getSizes(node.getInputs()[1]) : std::nullopt;
  auto axis = from ? normalizeAxis(node.getInt("axis", -1), from->size()) : std::nullopt;
  if (!axis || !k || k->size() != 1)
    return std::nullopt;
  DimList dims = *from;
  dims[*axis] = shapes.getAtoms().max(k->front(), DimExpr(0));
  return SmallVector<DimList>(node.getNumResults(), dims);
}

static Shapes oneHot(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *indices = shapes.getShape(node.getInputs()[0]);
  auto depth = shapes.getSizes(node.getInputs()[1]);
  if (auto value = getScalarConstant(node.getInputs()[1]); !depth && value)
    depth = DimList{DimExpr(static_cast<int64_t>(*value))};
  if (!indices || !depth || depth->size() != 1)
    return std::nullopt;
  auto axis = normalizeAxis(node.getInt("axis", -1), indices->size() + 1);
  if (!axis)
    return std::nullopt;
  DimList dims = *indices;
  dims.insert(dims.begin() + *axis, shapes.getAtoms().max(depth->front(), DimExpr(0)));
  return one(dims);
}

static Shapes nonZero(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  return one({DimExpr(static_cast<int64_t>(from->size())), shapes.getAtoms().valueDim(node.getResult(0), 1)});
}

/// Compress keeps what a list of booleans says: the result knows how many there are.
static Shapes compress(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  auto given = node.getInt("axis");
  auto axis = given ? normalizeAxis(*given, from->size()) : std::optional<int64_t>(0);
  if (!axis)
    return std::nullopt;
  DimList dims(given ? *from : DimList(1));
  dims[*axis] = shapes.getAtoms().valueDim(node.getResult(0), *axis);
  return one(dims);
}

static Shapes depthToSpace(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  DimExpr block(node.getInt("blocksize", 0));
  auto depth = from && from->size() == 4 && !block.is(0) ? (*from)[1].dividedBy(block * block) : std::nullopt;
  return depth ? one({(*from)[0], *depth, (*from)[2] * block, (*from)[3] * block}) : Shapes();
}

static Shapes spaceToDepth(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  int64_t block = node.getInt("blocksize", 0);
  if (!from || from->size() != 4 || block < 1)
    return std::nullopt;
  DimAtoms &atoms = shapes.getAtoms();
  auto part = [&](const DimExpr &size) { return atoms.floorDiv(size, DimExpr(block)); };
  return one({(*from)[0], (*from)[1] * DimExpr(block * block), part((*from)[2]), part((*from)[3])});
}

std::optional<PadAmounts> mlir::moe::padAmounts(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto pads = node.hasInput(1) ? shapes.getSizes(node.getInputs()[1]) : std::nullopt;
  if (!from || !pads)
    return std::nullopt;
  int64_t rank = from->size();
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, rank));
  if (node.hasInput(3)) {
    auto given = shapes.getConstants(node.getInputs()[3]);
    if (!given)
      return std::nullopt;
    axes = *given;
  }
  if (pads->size() != 2 * axes.size())
    return std::nullopt;
  PadAmounts amounts;
  amounts.begin.assign(rank, DimExpr(0));
  amounts.end.assign(rank, DimExpr(0));
  for (auto [i, given] : llvm::enumerate(axes)) {
    auto axis = normalizeAxis(given, rank);
    if (!axis)
      return std::nullopt;
    amounts.begin[*axis] = (*pads)[i];
    amounts.end[*axis] = (*pads)[i + axes.size()];
  }
  return amounts;
}

static Shapes pad(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto amounts = padAmounts(node, shapes);
  if (!amounts)
    return std::nullopt;
  DimList dims;
  for (auto [dim, begin, end] : llvm::zip_equal(*shapes.getShape(node.getInputs()[0]), amounts->begin, amounts->end))
    dims.push_back(shapes.getAtoms().max(dim + begin + end, DimExpr(0)));
  return one(dims);
}

void mlir::moe::addIndexingShapes(ShapeTable &table) {
  table["Compress"] = compress;
  table["Concat"] = concat;
  table["ConstantOfShape"] = constantOfShape;
  table["DepthToSpace"] = depthToSpace;
  table["Expand"] = expand;
  table["Flatten"] = flatten;
  table["Gather"] = gather;
  table["GatherElements"] = sameAsSecond;
  table["GatherND"] = gatherND;
  table["NonZero"] = nonZero;
  table["OneHot"] = oneHot;
  table["Pad"] = pad;
  table["Range"] = range;
  table["Reshape"] = reshape;
  table["Shape"] = shapeOf;
  table["Size"] = scalar;
  table["Slice"] = slice;
  table["SpaceToDepth"] = spaceToDepth;
  table["Split"] = split;
  table["Squeeze"] = squeeze;
  table["Tile"] = tile;
  table["TopK"] = topK;
  table["Transpose"] = transpose;
  table["Unsqueeze"] = unsqueeze;
}
