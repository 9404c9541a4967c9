//===- Indexing.cpp - gathers, TopK, OneHot, NonZero ----------------------===//
#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

/// Emits the check of a tensor of indices, unless they are constants in range.
static LogicalResult checkIndices(OnnxNodeOp node, OnnxLowering &lower, Value onnxIndices, Shaped indices,
                                  const DimExpr &size) {
  if (auto constants = lower.shapes.getConstants(onnxIndices); constants && size.isConstant()) {
    for (int64_t index : *constants)
      if (index < -size.constant() || index >= size.constant())
        return lower.refuse(node) << "index " << index << " is out of bounds for a dimension of " << size.constant();
    return success();
  }
  lower.requireInBounds(indices, size, OnnxLowering::describe(node) + ": an index is out of bounds");
  return success();
}

static LogicalResult lowerGather(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped data = lower.input(node, 0), indices = lower.input(node, 1);
  int64_t axis = *normalizeAxis(node.getInt("axis", 0), data.rank());
  const DimExpr &size = data.dims[axis];
  if (failed(checkIndices(node, lower, node.getInputs()[1], indices, size)))
    return failure();
  DimList dims = lower.dimsOf(node.getResult(0));
  Builder_ &b = lower.b;
  auto constants = lower.shapes.getConstants(node.getInputs()[1]);
  if (constants && constants->size() == 1 && size.isConstant()) {
    // One known index is a slice.
    DimList slice = data.dims;
    slice[axis] = DimExpr(1);
    SmallVector<OpFoldResult> offsets(data.rank(), b.getIndexAttr(0)), strides(data.rank(), b.getIndexAttr(1));
    int64_t at = constants->front();
    offsets[axis] = b.getIndexAttr(at < 0 ? at + size.constant() : at);
    Value piece = tensor::ExtractSliceOp::create(b, lower.typeOf(slice, data.element()), data.value, offsets,
                                                 lower.foldedSizes(slice), strides);
    results.push_back(lower.reshape({piece, slice}, dims, OnnxLowering::describe(node)));
    return success();
  }
  Value limit = lower.size(size);
  int64_t indexRank = indices.rank();
  results.push_back(lower.generate(dims, data.element(), [&](Builder_ &inner, ValueRange at) -> Value {
    Value index = tensor::ExtractOp::create(inner, indices.value, at.slice(axis, indexRank));
    SmallVector<Value> position(at.begin(), at.begin() + axis);
    position.push_back(OnnxLowering::clampIndex(inner, index, limit));
    position.append(at.begin() + axis + indexRank, at.end());
    return tensor::ExtractOp::create(inner, data.value, position);
  }));
  return success();
}

static LogicalResult lowerGatherElements(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped data = lower.input(node, 0), indices = lower.input(node, 1);
  auto axis = normalizeAxis(node.getInt("axis", 0), data.rank());
  if (!axis || indices.rank() != data.rank())
    return lower.refuse(node) << "indices of rank " << indices.rank() << " for data of rank " << data.rank();
  if (failed(checkIndices(node, lower, node.getInputs()[1], indices, data.dims[*axis])))
    return failure();
  SmallVector<Value> limits;
  for (auto [i, dim] : llvm::enumerate(data.dims)) {
    limits.push_back(lower.size(dim));
    if (static_cast<int64_t>(i) != *axis && dim != indices.dims[i])
      lower.require(
          arith::CmpIOp::create(lower.b, arith::CmpIPredicate::sle, lower.size(indices.dims[i]), limits.back()),
          OnnxLowering::describe(node) + ": the indices are larger than the data");
  }
  results.push_back(lower.generate(indices.dims, data.element(), [&](Builder_ &inner, ValueRange at) -> Value {
    SmallVector<Value> position(at);
    for (auto [i, dim] : llvm::enumerate(data.dims)) {
      if (static_cast<int64_t>(i) == *axis)
        position[i] = OnnxLowering::clampIndex(inner, tensor::ExtractOp::create(inner, indices.value, at), limits[i]);
      else if (dim != indices.dims[i])
        position[i] = OnnxLowering::clampIndex(inner, at[i], limits[i]);
    }
    return tensor::ExtractOp::create(inner, data.value, position);
  }));
  return success();
}

static LogicalResult lowerGatherND(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped data = lower.input(node, 0), indices = lower.input(node, 1);
  int64_t batch = node.getInt("batch_dims", 0);
  if (!indices.rank() || !indices.dims.back().isConstant())
    return lower.refuse(node) << "the last dimension of the indices must be static";
  int64_t depth = indices.dims.back().constant(), leading = indices.rank() - 1;
  if (batch < 0 || batch > leading || batch + depth > data.rank())
    return lower.refuse(node) << "batch_dims " << batch << " and " << depth << " indices for data of rank "
                              << data.rank();
  Builder_ &b = lower.b;
  SmallVector<Value> limits;
  for (const DimExpr &dim : data.dims)
    limits.push_back(lower.size(dim));
  for (int64_t c = 0; c < depth; ++c) {
    DimList column = indices.dims;
    column.back() = DimExpr(1);
    SmallVector<OpFoldResult> offsets(indices.rank(), b.getIndexAttr(0)), strides(indices.rank(), b.getIndexAttr(1));
    offsets.back() = b.getIndexAttr(c);
    Value part = tensor::ExtractSliceOp::create(b, lower.typeOf(column, indices.element()), indices.value, offsets,
                                                lower.foldedSizes(column), strides);
    lower.requireInBounds({part, column}, data.dims[batch + c],
                          OnnxLowering::describe(node) + ": an index is out of bounds");
  }
  for (int64_t i = 0; i < batch; ++i)
    if (data.dims[i] != indices.dims[i])
      lower.require(arith::CmpIOp::create(b, arith::CmpIPredicate::eq, lower.size(indices.dims[i]), limits[i]),
                    OnnxLowering::describe(node) + ": the batch dimensions differ");
  results.push_back(
      lower.generate(lower.dimsOf(node.getResult(0)), data.element(), [&](Builder_ &inner, ValueRange at) -> Value {
        SmallVector<Value> position;
        for (int64_t i = 0; i < batch; ++i)
          position.push_back(OnnxLowering::clampIndex(inner, at[i], limits[i]));
        SmallVector<Value> row(at.begin(), at.begin() + leading);
        for (int64_t c = 0; c < depth; ++c) {
          row.push_back(arith::ConstantIndexOp::create(inner, c));
          Value index = tensor::ExtractOp::create(inner, indices.value, row);
          row.pop_back();
          position.push_back(OnnxLowering::clampIndex(inner, index, limits[batch + c]));
        }
        position.append(at.begin() + leading, at.end());
        return tensor::ExtractOp::create(inner, data.value, position);
      }));
  return success();
}

/// TopK is routing without experts: the rows' entries are the pairs of a routing.
static LogicalResult lowerTopK(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto axis = normalizeAxis(node.getInt("axis", -1), x.rank());
  auto k = lower.shapes.getConstants(node.getInputs()[1]);
  if (!axis || *axis != x.rank() - 1 || !x.dims.back().isConstant())
    return lower.refuse(node) << "the axis must be the last one and of a static size";
  if (!k || k->size() != 1)
    return lower.refuse(node) << "k must be a constant";
  int64_t columns = x.dims.back().constant();
  if (k->front() < 1 || k->front() > columns)
    return lower.refuse(node) << "k = " << k->front() << " of " << columns << " elements";
  Type element = x.element();
  if (!isa<FloatType>(element))
    return lower.refuse(node) << "element type " << element << " is not supported; cast to float";
  Builder_ &b = lower.b;
  bool largest = node.getInt("largest", 1) != 0;
  DimExpr rows = productOf(ArrayRef<DimExpr>(x.dims).drop_back());
  DimList flat = {rows, DimExpr(columns)};
  Shaped matrix{lower.reshape(x, flat, ""), flat};
  Value route = RouteOp::create(b, matrix.value, Value());
  Value key;
  if (!largest)
    key = lower.elementwise({matrix}, flat, element, "",
                            [](Builder_ &inner, ValueRange v) -> Value { return arith::NegFOp::create(inner, v[0]); });
  Value chosen = TopKOp::create(b, route, key, /*k=*/Value(), b.getI64IntegerAttr(k->front()), AxisAttr(),
                                /*groups=*/IntegerAttr(),
                                /*keep=*/IntegerAttr(), GroupScoreAttr(), TieBreakAttr());
  auto slots = ToSlotsOp::create(b, chosen);
  DimList kept = {rows, DimExpr(k->front())};
  Shaped indices{slots.getIndices(), kept}, values{slots.getWeights(), kept};
  indices.value = lower.convert(indices, OnnxLowering::elementType(node.getResult(1)));
  DimList dims = lower.dimsOf(node.getResult(0));
  results.push_back(lower.reshape(values, dims, ""));
  results.push_back(lower.reshape(indices, dims, ""));
  return success();
}

static LogicalResult lowerOneHot(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped indices = lower.input(node, 0), values = lower.input(node, 2);
  DimList dims = lower.dimsOf(node.getResult(0));
  if (static_cast<int64_t>(dims.size()) != indices.rank() + 1 || !lower.shapes.getElements(node.getInputs()[1]))
    return lower.refuse(node) << "the depth must be a constant or computed from shapes";
  int64_t axis = *normalizeAxis(node.getInt("axis", -1), dims.size());
  Builder_ &b = lower.b;
  if (!isa<IntegerType>(indices.element()))
    indices.value = lower.convert(indices, b.getI64Type());
  Value depth = lower.size(dims[axis]);
  Value off = tensor::ExtractOp::create(b, values.value, ValueRange{lower.index(0)});
  Value on = tensor::ExtractOp::create(b, values.value, ValueRange{lower.index(1)});
  results.push_back(lower.generate(dims, values.element(), [&](Builder_ &inner, ValueRange at) -> Value {
    SmallVector<Value> position(at);
    position.erase(position.begin() + axis);
    Value index = arith::IndexCastOp::create(inner, inner.getIndexType(),
                                             tensor::ExtractOp::create(inner, indices.value, position));
    Value zero = arith::ConstantIndexOp::create(inner, 0);
    Value negative = arith::CmpIOp::create(inner, arith::CmpIPredicate::slt, index, zero);
    index = arith::SelectOp::create(inner, negative, arith::AddIOp::create(inner, index, depth), index);
    Value hit = arith::CmpIOp::create(inner, arith::CmpIPredicate::eq, index, at[axis]);
    return arith::SelectOp::create(inner, hit, on, off);
  }));
  return success();
}

static LogicalResult lowerNonZero(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  if (x.rank() == 0)
    return lower.refuse(node) << "a scalar operand is not supported";
  Builder_ &b = lower.b;
  // A scan in row-major order: the positions found so far and their number.
  DimExpr total = productOf(x.dims), rank(static_cast<int64_t>(x.rank()));
  Value found = lower.empty({rank, total}, b.getI64Type());
  SmallVector<Value> sizes = llvm::map_to_vector(x.dims, [&](const DimExpr &e) { return lower.size(e); });
  auto loop =
      scf::ForOp::create(b, lower.index(0), lower.size(total), lower.index(1), ValueRange{lower.index(0), found});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value rest = loop.getInductionVar();
    SmallVector<Value> position(x.rank());
    for (int64_t i = x.rank() - 1; i >= 0; --i) {
      position[i] = i == 0 ? rest : Value(arith::RemSIOp::create(b, rest, sizes[i]));
      if (i > 0)
        rest = arith::DivSIOp::create(b, rest, sizes[i]);
    }
    Value element = tensor::ExtractOp::create(b, x.value, position), zero = lower.constant(lower.zero(x.element())),
          set;
    if (isa<FloatType>(x.element()))
      set = arith::CmpFOp::create(b, arith::CmpFPredicate::UNE, element, zero);
    else
      set = arith::CmpIOp::create(b, arith::CmpIPredicate::ne, element, zero);
    Value count = loop.getRegionIterArg(0), list = loop.getRegionIterArg(1);
    // Written whether set or not: a later entry overwrites one that does not count.
    for (int64_t i = 0; i < x.rank(); ++i) {
      Value index = arith::IndexCastOp::create(b, b.getI64Type(), position[i]);
      list = tensor::InsertOp::create(b, index, list, ValueRange{lower.index(i), count});
    }
    Value next = arith::AddIOp::create(b, count, arith::SelectOp::create(b, set, lower.index(1), lower.index(0)));
    scf::YieldOp::create(b, ValueRange{next, list});
  }
  SmallVector<OpFoldResult> offsets(2, b.getIndexAttr(0)), strides(2, b.getIndexAttr(1));
  SmallVector<OpFoldResult> kept = {b.getIndexAttr(x.rank()), loop.getResult(0)};
  auto type = RankedTensorType::get({x.rank(), ShapedType::kDynamic}, b.getI64Type());
  results.push_back(tensor::ExtractSliceOp::create(b, type, loop.getResult(1), offsets, kept, strides));
  return success();
}

void mlir::moe::addIndexingOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"Gather", 1, lowerGather, ""},
      {"GatherElements", 11, lowerGatherElements, ""},
      {"GatherND", 11, lowerGatherND, ""},
      {"NonZero", 9, lowerNonZero, "rank 1 or more"},
      {"OneHot", 9, lowerOneHot, "the depth is a constant or computed from shapes"},
      {"TopK", 10, lowerTopK, "floats, the last axis, its size and k static"},
  });
}
