//===- ShapeFunctions.cpp - the shapes of each operator's results ---------===//
#include "ShapeFunctions.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include <cmath>

using namespace mlir;
using namespace mlir::moe;

using Shapes = std::optional<SmallVector<DimList>>;

DimExpr mlir::moe::productOf(ArrayRef<DimExpr> dims) {
  DimExpr product(1);
  for (const DimExpr &dim : dims)
    product = product * dim;
  return product;
}

std::optional<int64_t> mlir::moe::normalizeAxis(int64_t axis, int64_t rank) {
  if (axis < -rank || axis >= rank)
    return std::nullopt;
  return axis < 0 ? axis + rank : axis;
}

std::optional<SmallVector<int64_t>> mlir::moe::getAxes(OnnxNodeOp node, const SymbolicShapes &shapes, int64_t rank) {
  SmallVector<int64_t> axes;
  if (auto attr = node.getInts("axes")) {
    axes.assign(attr->begin(), attr->end());
  } else if (node.hasInput(1)) {
    auto constants = shapes.getConstants(node.getInputs()[1]);
    if (!constants)
      return std::nullopt;
    axes = *constants;
  }
  for (int64_t &axis : axes) {
    auto normal = normalizeAxis(axis, rank);
    if (!normal)
      return std::nullopt;
    axis = *normal;
  }
  llvm::sort(axes);
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end())
    return std::nullopt;
  return axes;
}

std::optional<double> mlir::moe::getScalarConstant(Value value) {
  auto constant = value.getDefiningOp<OnnxConstantOp>();
  auto dense = constant ? dyn_cast<DenseElementsAttr>(constant.getValue()) : DenseElementsAttr();
  if (!dense || dense.getNumElements() != 1)
    return std::nullopt;
  Attribute element = *dense.getValues<Attribute>().begin();
  if (auto real = dyn_cast<FloatAttr>(element))
    return real.getValueAsDouble();
  if (auto integer = dyn_cast<IntegerAttr>(element))
    return integer.getValue().signedRoundToDouble();
  return std::nullopt;
}

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
  const DimList *starts = shapes.getElements(node.getInputs()[1]), *ends = shapes.getElements(node.getInputs()[2]);
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
      if (!(*ends)[i].isConstant() || !(*starts)[i].isConstant())
        return std::nullopt;
      start = atoms.min(start, size - DimExpr(1));
      end = (*ends)[i].constant() < -(int64_t(1) << 30) ? DimExpr(-1) : atoms.max(end, DimExpr(-1));
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
    const DimList *given = shapes.getElements(node.getInputs()[1]);
    if (!given)
      return std::nullopt;
    sizes = *given;
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

//===----------------------------------------------------------------------===//
// Shape functions
//===----------------------------------------------------------------------===//

static Shapes one(DimList dims) { return SmallVector<DimList>{std::move(dims)}; }

static Shapes sameAsFirst(OnnxNodeOp node, SymbolicShapes &shapes) {
  if (!node.hasInput(0))
    return std::nullopt;
  const DimList *dims = shapes.getShape(node.getInputs()[0]);
  // The mask of Dropout has the shape as well; further results of BatchNormalization mean training, which is refused.
  if (!dims || (node.getNumResults() != 1 && !node.is("Dropout") && !node.is("BatchNormalization")))
    return std::nullopt;
  return SmallVector<DimList>(node.getNumResults(), *dims);
}

static std::optional<DimList> broadcastDims(ArrayRef<const DimList *> lists, SymbolicShapes &shapes) {
  DimList result;
  for (const DimList *list : lists) {
    if (!list)
      return std::nullopt;
    while (result.size() < list->size())
      result.insert(result.begin(), DimExpr(1));
  }
  for (const DimList *list : lists)
    for (size_t i = 0; i < list->size(); ++i) {
      DimExpr &dim = result[result.size() - list->size() + i];
      dim = shapes.getAtoms().broadcast(dim, (*list)[i]);
    }
  return result;
}

static Shapes broadcast(OnnxNodeOp node, SymbolicShapes &shapes) {
  SmallVector<const DimList *> lists;
  for (Value input : node.getInputs())
    lists.push_back(shapes.getShape(input));
  auto dims = broadcastDims(lists, shapes);
  return dims ? one(*dims) : Shapes();
}

static Shapes matmulDims(const DimList *a, const DimList *b, SymbolicShapes &shapes) {
  if (!a || !b || a->empty() || b->empty())
    return std::nullopt;
  DimList left(a->begin(), a->end()), right(b->begin(), b->end());
  bool dropRow = left.size() == 1, dropColumn = right.size() == 1;
  if (dropRow)
    left.insert(left.begin(), DimExpr(1));
  if (dropColumn)
    right.push_back(DimExpr(1));
  DimList leftBatch(left.begin(), left.end() - 2), rightBatch(right.begin(), right.end() - 2);
  auto dims = broadcastDims({&leftBatch, &rightBatch}, shapes);
  if (!dims)
    return std::nullopt;
  if (!dropRow)
    dims->push_back(left[left.size() - 2]);
  if (!dropColumn)
    dims->push_back(right.back());
  return one(*dims);
}

static Shapes matMulNBits(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *rows = shapes.getShape(node.getInputs()[0]);
  std::optional<int64_t> columns = node.getInt("N");
  if (!rows || rows->empty() || !columns)
    return std::nullopt;
  DimList dims(rows->begin(), rows->end() - 1);
  dims.push_back(DimExpr(*columns));
  return one(dims);
}

static Shapes matmul(OnnxNodeOp node, SymbolicShapes &shapes) {
  return matmulDims(shapes.getShape(node.getInputs()[0]), shapes.getShape(node.getInputs()[1]), shapes);
}

static Shapes gemm(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *a = shapes.getShape(node.getInputs()[0]), *b = shapes.getShape(node.getInputs()[1]);
  if (!a || !b || a->size() != 2 || b->size() != 2)
    return std::nullopt;
  return one({(*a)[node.getInt("transA", 0) ? 1 : 0], (*b)[node.getInt("transB", 0) ? 0 : 1]});
}

static Shapes reshape(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto dims = reshapeDims(node, shapes);
  return dims ? one(*dims) : Shapes();
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

static Shapes reduce(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto axes = from ? getAxes(node, shapes, from->size()) : std::nullopt;
  if (!axes)
    return std::nullopt;
  if (axes->empty() && node.getInt("noop_with_empty_axes", 0))
    return one(*from);
  bool keep = node.getInt("keepdims", 1) != 0;
  DimList dims;
  for (auto [i, dim] : llvm::enumerate(*from)) {
    if (!axes->empty() && !llvm::is_contained(*axes, static_cast<int64_t>(i)))
      dims.push_back(dim);
    else if (keep)
      dims.push_back(DimExpr(1));
  }
  return one(dims);
}

static Shapes argReduce(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto axis = from ? normalizeAxis(node.getInt("axis", 0), from->size()) : std::nullopt;
  if (!axis)
    return std::nullopt;
  DimList dims = *from;
  if (node.getInt("keepdims", 1))
    dims[*axis] = DimExpr(1);
  else
    dims.erase(dims.begin() + *axis);
  return one(dims);
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
  if (auto type = dyn_cast<ShapedType>(node.getResult(0).getType()); type && isa<FloatType>(type.getElementType())) {
    auto start = getScalarConstant(node.getInputs()[0]), limit = getScalarConstant(node.getInputs()[1]),
         delta = getScalarConstant(node.getInputs()[2]);
    if (!start || !limit || !delta || *delta == 0)
      return std::nullopt;
    double length = std::ceil((*limit - *start) / *delta);
    return length < 1e9 ? one({DimExpr(length > 0 ? static_cast<int64_t>(length) : 0)}) : Shapes();
  }
  const DimList *start = shapes.getElements(node.getInputs()[0]), *limit = shapes.getElements(node.getInputs()[1]);
  auto delta = shapes.getConstants(node.getInputs()[2]);
  if (!start || !limit || !delta || start->size() != 1 || limit->size() != 1 || delta->size() != 1 ||
      delta->front() == 0)
    return std::nullopt;
  DimAtoms &atoms = shapes.getAtoms();
  DimExpr distance = delta->front() > 0 ? limit->front() - start->front() : start->front() - limit->front();
  return one({atoms.max(atoms.ceilDiv(distance, std::abs(delta->front())), DimExpr(0))});
}

static Shapes expand(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *target = shapes.getElements(node.getInputs()[1]);
  if (!target)
    return std::nullopt;
  for (const DimExpr &size : *target)
    if (!shapes.getAtoms().isNonNegative(size))
      return std::nullopt;
  auto dims = broadcastDims({shapes.getShape(node.getInputs()[0]), target}, shapes);
  return dims ? one(*dims) : Shapes();
}

static Shapes tile(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]), *repeats = shapes.getElements(node.getInputs()[1]);
  if (!from || !repeats || repeats->size() != from->size())
    return std::nullopt;
  DimList dims;
  for (auto [size, count] : llvm::zip(*from, *repeats))
    dims.push_back(size * shapes.getAtoms().max(count, DimExpr(0)));
  return one(dims);
}

static Shapes constantOfShape(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *target = shapes.getElements(node.getInputs()[0]);
  if (!target || !llvm::all_of(*target, [&](const DimExpr &e) { return shapes.getAtoms().isNonNegative(e); }))
    return std::nullopt;
  return one(*target);
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
  const DimList *k = node.hasInput(1) ? shapes.getElements(node.getInputs()[1]) : nullptr;
  auto axis = from ? normalizeAxis(node.getInt("axis", -1), from->size()) : std::nullopt;
  if (!axis || !k || k->size() != 1)
    return std::nullopt;
  DimList dims = *from;
  dims[*axis] = k->front();
  return SmallVector<DimList>(node.getNumResults(), dims);
}

static Shapes oneHot(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *indices = shapes.getShape(node.getInputs()[0]), *depth = shapes.getElements(node.getInputs()[1]);
  DimList constant;
  if (auto value = getScalarConstant(node.getInputs()[1]); !depth && value) {
    constant.push_back(DimExpr(static_cast<int64_t>(*value)));
    depth = &constant;
  }
  if (!indices || !depth || depth->size() != 1)
    return std::nullopt;
  auto axis = normalizeAxis(node.getInt("axis", -1), indices->size() + 1);
  if (!axis)
    return std::nullopt;
  DimList dims = *indices;
  dims.insert(dims.begin() + *axis, depth->front());
  return one(dims);
}

static Shapes nonZero(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from)
    return std::nullopt;
  return one({DimExpr(static_cast<int64_t>(from->size())), shapes.getAtoms().valueDim(node.getResult(0), 1)});
}

std::optional<PadAmounts> mlir::moe::padAmounts(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  const DimList *pads = node.hasInput(1) ? shapes.getElements(node.getInputs()[1]) : nullptr;
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

std::optional<EinsumEquation> mlir::moe::parseEinsum(OnnxNodeOp node, SymbolicShapes &shapes) {
  std::string text;
  for (char c : node.getString("equation"))
    if (c != ' ')
      text += c;
  auto [left, right] = StringRef(text).split("->");
  bool written = StringRef(text).contains("->");
  SmallVector<StringRef> terms;
  left.split(terms, ',');
  if (terms.size() != node.getInputs().size())
    return std::nullopt;
  // The dimensions of the ellipsis are '0', '1', ... from the last one backwards, so that shorter ones fit the end.
  EinsumEquation equation;
  int64_t longest = 0;
  for (auto [term, input] : llvm::zip(terms, node.getInputs())) {
    const DimList *dims = shapes.getShape(input);
    if (!dims)
      return std::nullopt;
    auto [before, after] = term.split("...");
    std::string letters = before.str();
    int64_t named = before.size() + after.size(), rest = static_cast<int64_t>(dims->size()) - named;
    if (rest < 0 || rest > 10 || (rest > 0 && !term.contains("...")))
      return std::nullopt;
    for (int64_t i = rest; i-- > 0;)
      letters += static_cast<char>('0' + i);
    longest = std::max(longest, rest);
    equation.terms.push_back(letters + after.str());
    for (auto [letter, dim] : llvm::zip_equal(equation.terms.back(), *dims)) {
      auto [it, isNew] = equation.sizes.try_emplace(letter, dim);
      if (!isNew)
        it->second = shapes.getAtoms().broadcast(it->second, dim);
    }
  }
  std::string ellipsis;
  for (int64_t i = longest; i-- > 0;)
    ellipsis += static_cast<char>('0' + i);
  if (written) {
    auto [before, after] = right.split("...");
    equation.result = before.str() + (right.contains("...") ? ellipsis : "") + after.str();
  } else {
    equation.result = ellipsis;
    std::map<char, int> counts;
    for (StringRef term : terms)
      for (char c : term)
        counts[c] += llvm::isAlpha(c);
    for (auto [letter, count] : counts)
      if (count == 1)
        equation.result += letter;
  }
  for (char letter : equation.result)
    if (!equation.sizes.count(letter))
      return std::nullopt;
  return equation;
}

static Shapes einsum(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto equation = parseEinsum(node, shapes);
  if (!equation)
    return std::nullopt;
  DimList dims;
  for (char letter : equation->result)
    dims.push_back(equation->sizes[letter]);
  return one(dims);
}

/// Attention: the result, the keys and values with those of the past, the scores.
static Shapes attention(OnnxNodeOp node, SymbolicShapes &shapes) {
  SmallVector<DimList> heads;
  int64_t counts[] = {node.getInt("q_num_heads", 0), node.getInt("kv_num_heads", 0), node.getInt("kv_num_heads", 0)};
  bool flat = false;
  for (unsigned i = 0; i < 3; ++i) {
    const DimList *dims = shapes.getShape(node.getInputs()[i]);
    if (!dims || (dims->size() != 3 && dims->size() != 4))
      return std::nullopt;
    heads.push_back(*dims);
    if (dims->size() == 4)
      continue;
    auto size = counts[i] > 0 ? (*dims)[2].dividedBy(DimExpr(counts[i])) : std::nullopt;
    if (!size)
      return std::nullopt;
    flat = true;
    heads.back() = {(*dims)[0], DimExpr(counts[i]), (*dims)[1], *size};
  }
  for (unsigned i : {1u, 2u})
    if (const DimList *past = node.hasInput(3 + i) ? shapes.getShape(node.getInputs()[3 + i]) : nullptr) {
      if (past->size() != 4)
        return std::nullopt;
      heads[i][2] = heads[i][2] + (*past)[2];
    }
  const DimList &q = heads[0], &k = heads[1], &v = heads[2];
  SmallVector<DimList> results = {{q[0], q[1], q[2], v[3]}, k, v, {q[0], q[1], q[2], k[2]}};
  if (flat)
    results[0] = {q[0], q[2], q[1] * v[3]};
  results.resize(node.getNumResults());
  return results;
}

/// MultiHeadAttention: queries of three dimensions, keys and values of three or four.
static Shapes multiHeadAttention(OnnxNodeOp node, SymbolicShapes &shapes) {
  if (!node.hasInput(1) || !node.hasInput(2))
    return std::nullopt;
  int64_t count = node.getInt("num_heads", 0);
  SmallVector<DimList> heads;
  for (unsigned i = 0; i < 3; ++i) {
    const DimList *dims = shapes.getShape(node.getInputs()[i]);
    auto size = dims && dims->size() == 3 && count > 0 ? (*dims)[2].dividedBy(DimExpr(count)) : std::nullopt;
    if (size)
      heads.push_back({(*dims)[0], DimExpr(count), (*dims)[1], *size});
    else if (dims && dims->size() == 4 && i > 0)
      heads.push_back(*dims);
    else
      return std::nullopt;
    if (const DimList *past = i > 0 && node.hasInput(5 + i) ? shapes.getShape(node.getInputs()[5 + i]) : nullptr) {
      if (past->size() != 4)
        return std::nullopt;
      heads[i][2] = heads[i][2] + (*past)[2];
    }
  }
  const DimList &q = heads[0], &k = heads[1], &v = heads[2];
  SmallVector<DimList> results = {{q[0], q[2], q[1] * v[3]}, k, v, {q[0], q[1], q[2], k[2]}};
  results.resize(node.getNumResults());
  return results;
}

/// GroupQueryAttention: the cache afterwards is as long as the buffer before, or as all tokens if that is more.
static Shapes groupQueryAttention(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *q = shapes.getShape(node.getInputs()[0]);
  int64_t heads = node.getInt("num_heads", 0), groups = node.getInt("kv_num_heads", 0);
  if (!q || q->size() != 3 || heads < 1 || groups < 1 || !node.hasInput(5) || !node.hasInput(6))
    return std::nullopt;
  bool packed = !node.hasInput(1);
  auto size = (*q)[2].dividedBy(DimExpr(packed ? heads + 2 * groups : heads));
  const DimList *total = shapes.getElements(node.getInputs()[6]);
  if (!size || !total || total->size() != 1)
    return std::nullopt;
  DimExpr length = total->front();
  if (const DimList *past = node.hasInput(3) ? shapes.getShape(node.getInputs()[3]) : nullptr) {
    if (past->size() != 4)
      return std::nullopt;
    length = shapes.getAtoms().max(length, (*past)[2]);
  }
  DimList cache = {(*q)[0], DimExpr(groups), length, *size};
  SmallVector<DimList> results = {{(*q)[0], (*q)[1], *size * DimExpr(heads)}, cache, cache};
  results.resize(node.getNumResults());
  return results;
}

static Shapes groupedMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *bank = shapes.getShape(node.getInputs()[1]), *indices = shapes.getShape(node.getInputs()[2]);
  if (!bank || !indices || bank->size() != 3 || indices->size() != 2)
    return std::nullopt;
  return one({(*indices)[0], (*indices)[1], (*bank)[2]});
}

static Shapes fusedMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *a = shapes.getShape(node.getInputs()[0]), *b = shapes.getShape(node.getInputs()[1]);
  if (!a || !b || a->size() < 2 || b->size() < 2)
    return std::nullopt;
  DimList left = *a, right = *b;
  if (node.getInt("transA", 0))
    std::swap(left[left.size() - 1], left[left.size() - 2]);
  if (node.getInt("transB", 0))
    std::swap(right[right.size() - 1], right[right.size() - 2]);
  return matmulDims(&left, &right, shapes);
}

static Shapes dynamicQuantize(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  return from ? Shapes(SmallVector<DimList>{*from, DimList(), DimList()}) : Shapes();
}

static Shapes qLinearMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  return matmulDims(shapes.getShape(node.getInputs()[0]), shapes.getShape(node.getInputs()[3]), shapes);
}

/// LayerNormalization and its relatives: the result, then statistics with size 1 along the axes, then (for the Skip
/// forms) the sum of the operands.
static Shapes normalization(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto axis = from ? normalizeAxis(node.getInt("axis", -1), from->size()) : std::nullopt;
  if (!axis)
    return std::nullopt;
  DimList kept = *from;
  for (size_t i = *axis; i < kept.size(); ++i)
    kept[i] = DimExpr(1);
  SmallVector<DimList> results(node.getNumResults(), kept);
  results.front() = *from;
  if (results.size() > 3)
    results[3] = *from;
  return results;
}

ShapeFunction mlir::moe::lookupShapeFunction(OnnxNodeOp node) {
  static const llvm::StringMap<ShapeFunction> table = [] {
    llvm::StringMap<ShapeFunction> map;
    for (const char *name : {"Abs",
                             "Acos",
                             "Acosh",
                             "Asin",
                             "Asinh",
                             "Atan",
                             "Atanh",
                             "BatchNormalization",
                             "BitCast",
                             "BitwiseNot",
                             "Cast",
                             "CastLike",
                             "Ceil",
                             "Celu",
                             "Clip",
                             "Cos",
                             "Cosh",
                             "CumProd",
                             "CumSum",
                             "DequantizeLinear",
                             "Dropout",
                             "Elu",
                             "Erf",
                             "Exp",
                             "Floor",
                             "Gelu",
                             "GroupNormalization",
                             "Hardmax",
                             "HardSigmoid",
                             "HardSwish",
                             "Identity",
                             "InstanceNormalization",
                             "IsInf",
                             "IsNaN",
                             "LeakyRelu",
                             "Log",
                             "LogSoftmax",
                             "LpNormalization",
                             "MeanVarianceNormalization",
                             "Mish",
                             "Neg",
                             "Not",
                             "QuantizeLinear",
                             "RMSNormalization",
                             "Reciprocal",
                             "Relu",
                             "ReverseSequence",
                             "RotaryEmbedding",
                             "Round",
                             "Scatter",
                             "ScatterElements",
                             "ScatterND",
                             "Selu",
                             "Shrink",
                             "Sigmoid",
                             "Sign",
                             "Sin",
                             "Sinh",
                             "Softmax",
                             "Softplus",
                             "Softsign",
                             "Sqrt",
                             "Swish",
                             "Tan",
                             "Tanh",
                             "TensorScatter",
                             "ThresholdedRelu",
                             "Trilu",
                             "com.microsoft.BiasGelu",
                             "com.microsoft.FastGelu",
                             "com.microsoft.Gelu",
                             "com.microsoft.MoE",
                             "com.microsoft.QMoE",
                             "com.microsoft.QuickGelu",
                             "com.microsoft.RotaryEmbedding"})
      map[name] = sameAsFirst;
    for (const char *name : {"Add",        "And",         "BitShift", "BitwiseAnd", "BitwiseOr",
                             "BitwiseXor", "Div",         "Equal",    "Greater",    "GreaterOrEqual",
                             "Less",       "LessOrEqual", "Max",      "Mean",       "Min",
                             "Mod",        "Mul",         "Or",       "PRelu",      "Pow",
                             "Sub",        "Sum",         "SwiGLU",   "Where",      "Xor"})
      map[name] = broadcast;
    for (const char *name : {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
                             "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"})
      map[name] = reduce;
    for (const char *name : {"LayerNormalization", "SimplifiedLayerNormalization",
                             "com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization"})
      map[name] = normalization;
    map["ArgMax"] = map["ArgMin"] = argReduce;
    map["MatMul"] = map["MatMulInteger"] = matmul;
    map["QLinearMatMul"] = qLinearMatMul;
    map["Pad"] = pad;
    map["EyeLike"] = sameAsFirst;
    map["DynamicQuantizeLinear"] = dynamicQuantize;
    map["Attention"] = attention;
    map["com.microsoft.MultiHeadAttention"] = multiHeadAttention;
    map["com.microsoft.GroupQueryAttention"] = groupQueryAttention;
    map["com.microsoft.FusedMatMul"] = fusedMatMul;
    map["GroupedMatMul"] = map["com.microsoft.GroupedMatMul"] = groupedMatMul;
    map["Gemm"] = gemm;
    map["com.microsoft.MatMulNBits"] = matMulNBits;
    map["Reshape"] = reshape;
    map["Flatten"] = flatten;
    map["Transpose"] = transpose;
    map["Squeeze"] = squeeze;
    map["Unsqueeze"] = unsqueeze;
    map["Concat"] = concat;
    map["Split"] = split;
    map["Slice"] = slice;
    map["Shape"] = shapeOf;
    map["Size"] = scalar;
    map["Range"] = range;
    map["Expand"] = expand;
    map["Tile"] = tile;
    map["ConstantOfShape"] = constantOfShape;
    map["Gather"] = gather;
    map["GatherND"] = gatherND;
    map["GatherElements"] = sameAsSecond;
    map["TopK"] = topK;
    map["OneHot"] = oneHot;
    map["NonZero"] = nonZero;
    map["Einsum"] = einsum;
    return map;
  }();
  return table.lookup(node.getQualifiedName());
}
