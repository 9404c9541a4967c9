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

/// TopK of floats along rows of a known size is routing without experts: the rows' entries are the pairs of a routing.
static void topKByRouting(OnnxNodeOp node, OnnxLowering &lower, Shaped matrix, int64_t k, bool largest, Shaped &values,
                          Shaped &indices) {
  Builder_ &b = lower.b;
  Value route = RouteOp::create(b, matrix.value, Value());
  Value key;
  if (!largest)
    key = lower.elementwise({matrix}, matrix.dims, matrix.element(), "",
                            [](Builder_ &inner, ValueRange v) -> Value { return arith::NegFOp::create(inner, v[0]); });
  Value chosen = TopKOp::create(b, route, key, /*k=*/Value(), b.getI64IntegerAttr(k), AxisAttr(),
                                /*groups=*/IntegerAttr(),
                                /*keep=*/IntegerAttr(), GroupScoreAttr(), TieBreakAttr());
  auto slots = ToSlotsOp::create(b, chosen);
  DimList kept = {matrix.dims[0], DimExpr(k)};
  indices = {slots.getIndices(), kept};
  values = {slots.getWeights(), kept};
}

/// A signed 64-bit number in the order of the elements: the bits of a float with those of negative ones reversed; a NaN
/// is below everything.
static Value sortKey(Builder_ &b, Value x, bool isUnsigned, bool largest) {
  Type i64 = b.getI64Type(), type = x.getType();
  auto constant = [&](int64_t value) { return arith::ConstantOp::create(b, b.getI64IntegerAttr(value)); };
  Value key;
  if (isa<FloatType>(type)) {
    if (!type.isF64())
      x = arith::ExtFOp::create(b, b.getF64Type(), x);
    Value bits = arith::BitcastOp::create(b, i64, x);
    Value sign = arith::ShRSIOp::create(b, bits, constant(63));
    Value flip = arith::AndIOp::create(b, sign, constant(std::numeric_limits<int64_t>::max()));
    key = arith::XOrIOp::create(b, bits, flip);
    // -0 is as large as 0.
    Value zero = arith::ConstantOp::create(b, b.getF64FloatAttr(0));
    Value isZero = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, x, zero);
    key = arith::SelectOp::create(b, isZero, constant(0), key);
  } else if (type.isInteger(64)) {
    key = isUnsigned ? Value(arith::XOrIOp::create(b, x, constant(std::numeric_limits<int64_t>::min()))) : x;
  } else {
    key = isUnsigned ? Value(arith::ExtUIOp::create(b, i64, x)) : Value(arith::ExtSIOp::create(b, i64, x));
  }
  if (!largest)
    key = arith::XOrIOp::create(b, key, constant(-1));
  if (isa<FloatType>(type)) {
    Value isNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, x, x);
    key = arith::SelectOp::create(b, isNaN, constant(std::numeric_limits<int64_t>::min()), key);
  }
  return key;
}

/// Any elements, any k: each place of a row takes the best element behind the one before, by value and then by index.
static Value topKBySelection(OnnxLowering &lower, Shaped keys, const DimExpr &k) {
  Builder_ &b = lower.b;
  Type i64 = b.getI64Type();
  Value rows = lower.size(keys.dims[0]), columns = lower.size(keys.dims[1]), places = lower.size(k);
  Value zero = lower.index(0), one = lower.index(1), init = lower.empty({keys.dims[0], k}, i64);
  auto constant = [&](int64_t value) { return arith::ConstantOp::create(b, b.getI64IntegerAttr(value)); };
  OpBuilder::InsertionGuard guard(b);
  auto overRows = scf::ForOp::create(b, zero, rows, one, ValueRange{init});
  b.setInsertionPointToStart(overRows.getBody());
  Value highest = constant(std::numeric_limits<int64_t>::max()), none = constant(-1);
  auto overPlaces = scf::ForOp::create(b, zero, places, one, ValueRange{overRows.getRegionIterArg(0), highest, none});
  b.setInsertionPointToStart(overPlaces.getBody());
  Value lastKey = overPlaces.getRegionIterArg(1), lastIndex = overPlaces.getRegionIterArg(2);
  Value lowest = constant(std::numeric_limits<int64_t>::min());
  auto scan = scf::ForOp::create(b, zero, columns, one, ValueRange{lowest, none});
  b.setInsertionPointToStart(scan.getBody());
  auto compare = [&](arith::CmpIPredicate p, Value x, Value y) { return arith::CmpIOp::create(b, p, x, y); };
  using P = arith::CmpIPredicate;
  Value key = tensor::ExtractOp::create(b, keys.value, ValueRange{overRows.getInductionVar(), scan.getInductionVar()});
  Value index = arith::IndexCastOp::create(b, i64, scan.getInductionVar());
  Value equal = arith::AndIOp::create(b, compare(P::eq, key, lastKey), compare(P::sgt, index, lastIndex));
  Value behind = arith::OrIOp::create(b, compare(P::slt, key, lastKey), equal);
  Value better = arith::OrIOp::create(b, compare(P::sgt, key, scan.getRegionIterArg(0)),
                                      compare(P::eq, scan.getRegionIterArg(1), constant(-1)));
  Value take = arith::AndIOp::create(b, behind, better);
  scf::YieldOp::create(b, ValueRange{arith::SelectOp::create(b, take, key, scan.getRegionIterArg(0)),
                                     arith::SelectOp::create(b, take, index, scan.getRegionIterArg(1))});
  b.setInsertionPointAfter(scan);
  Value next = tensor::InsertOp::create(b, scan.getResult(1), overPlaces.getRegionIterArg(0),
                                        ValueRange{overRows.getInductionVar(), overPlaces.getInductionVar()});
  scf::YieldOp::create(b, ValueRange{next, scan.getResult(0), scan.getResult(1)});
  b.setInsertionPointAfter(overPlaces);
  scf::YieldOp::create(b, overPlaces.getResult(0));
  return overRows.getResult(0);
}

static LogicalResult lowerTopK(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto axis = normalizeAxis(node.getInt("axis", -1), x.rank());
  auto elements = lower.shapes.getSizes(node.getInputs()[1]);
  if (!axis || !elements || elements->size() != 1)
    return lower.refuse(node) << "k must be one number, and the axis within the rank " << x.rank();
  DimExpr k = elements->front(), columns = x.dims[*axis];
  bool largest = node.getInt("largest", 1) != 0, known = k.isConstant() && columns.isConstant();
  if (known && (k.constant() < 0 || k.constant() > columns.constant()))
    return lower.refuse(node) << "k = " << k.constant() << " of " << columns.constant() << " elements";
  Value enough;
  if (!known) {
    lower.requireSizes(node, k);
    k = lower.shapes.getAtoms().max(k, DimExpr(0));
    enough = arith::CmpIOp::create(lower.b, arith::CmpIPredicate::sle, lower.size(k), lower.size(columns));
    lower.require(enough, OnnxLowering::describe(node) + ": k is larger than the number of elements");
  }
  // The axis goes last, the rest is rows.
  SmallVector<int64_t> forth, back(x.rank());
  for (int64_t i = 0; i < x.rank(); ++i)
    if (i != *axis)
      forth.push_back(i);
  forth.push_back(*axis);
  DimList moved;
  for (auto [i, from] : llvm::enumerate(forth)) {
    moved.push_back(x.dims[from]);
    back[from] = i;
  }
  DimList flat = {productOf(ArrayRef<DimExpr>(moved).drop_back()), columns};
  Shaped matrix{lower.reshape({lower.transpose(x, forth), moved}, flat, ""), flat}, values, indices;
  if (isa<FloatType>(x.element()) && known && k.constant() > 0) {
    topKByRouting(node, lower, matrix, k.constant(), largest, values, indices);
  } else {
    bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
    Value keys = lower.elementwise({matrix}, flat, lower.b.getI64Type(), "",
                                   [&](Builder_ &b, ValueRange v) { return sortKey(b, v[0], isUnsigned, largest); });
    DimList kept = {flat[0], k};
    indices = {topKBySelection(lower, {keys, flat}, k), kept};
    auto read = [&](Builder_ &b, ValueRange at) -> Value {
      Value index = tensor::ExtractOp::create(b, indices.value, at);
      Value column = arith::IndexCastOp::create(b, b.getIndexType(), index);
      return tensor::ExtractOp::create(b, matrix.value, ValueRange{at[0], column});
    };
    Value taken = lower.generate(kept, x.element(), [&](Builder_ &b, ValueRange at) -> Value {
      if (!enough)
        return read(b, at);
      // Should the check have failed, there are places without an element.
      auto choice = scf::IfOp::create(b, TypeRange{x.element()}, enough, /*withElseRegion=*/true);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(choice.elseBlock());
      scf::YieldOp::create(b, ValueRange{arith::ConstantOp::create(b, lower.zero(x.element()))});
      b.setInsertionPointToStart(choice.thenBlock());
      scf::YieldOp::create(b, read(b, at));
      return choice.getResult(0);
    });
    values = {taken, kept};
  }
  indices.value = lower.convert(indices, OnnxLowering::elementType(node.getResult(1)));
  moved.back() = k;
  for (Shaped part : {values, indices})
    results.push_back(lower.transpose({lower.reshape(part, moved, ""), moved}, back));
  return success();
}

static LogicalResult lowerOneHot(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped indices = lower.input(node, 0), values = lower.input(node, 2);
  DimList dims = lower.dimsOf(node.getResult(0));
  if (static_cast<int64_t>(dims.size()) != indices.rank() + 1 ||
      (!lower.shapes.getSizes(node.getInputs()[1]) && !getScalarConstant(node.getInputs()[1])))
    return lower.refuse(node) << "the depth must be one integer";
  if (auto depth = lower.shapes.getSizes(node.getInputs()[1]))
    lower.requireSizes(node, *depth);
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

/// The slices along an axis (or the elements, if there is none) at which a list of booleans is true.
static LogicalResult lowerCompress(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0), condition = lower.input(node, 1);
  auto given = node.getInt("axis");
  int64_t axis = given ? *normalizeAxis(*given, x.rank()) : 0;
  if (condition.rank() != 1)
    return lower.refuse(node) << "a condition of rank " << condition.rank() << ", expected 1";
  if (!given) {
    DimList flat = {productOf(x.dims)};
    x = {lower.reshape(x, flat, OnnxLowering::describe(node)), flat};
  }
  Builder_ &b = lower.b;
  // The condition may be shorter than the axis; what is longer has nothing to choose.
  DimExpr count = lower.shapes.getAtoms().min(condition.dims[0], x.dims[axis]);
  if (count != condition.dims[0])
    lower.require(
        arith::CmpIOp::create(b, arith::CmpIPredicate::sle, lower.size(condition.dims[0]), lower.size(x.dims[axis])),
        OnnxLowering::describe(node) + ": the condition is longer than the axis");
  Value places = lower.empty({count}, b.getI64Type());
  auto loop =
      scf::ForOp::create(b, lower.index(0), lower.size(count), lower.index(1), ValueRange{lower.index(0), places});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value at = loop.getInductionVar(), kept = loop.getRegionIterArg(0);
    Value set = tensor::ExtractOp::create(b, condition.value, at);
    // Written whether set or not: a later entry overwrites one that does not count.
    Value place = arith::IndexCastOp::create(b, b.getI64Type(), at);
    Value list = tensor::InsertOp::create(b, place, loop.getRegionIterArg(1), ValueRange{kept});
    Value next = arith::AddIOp::create(b, kept, arith::SelectOp::create(b, set, lower.index(1), lower.index(0)));
    scf::YieldOp::create(b, ValueRange{next, list});
  }
  DimList dims = x.dims;
  dims[axis] = lower.computedSize(loop.getResult(0));
  results.push_back(lower.generate(dims, x.element(), [&](Builder_ &inner, ValueRange at) -> Value {
    SmallVector<Value> position(at);
    Value place = tensor::ExtractOp::create(inner, loop.getResult(1), at[axis]);
    position[axis] = arith::IndexCastOp::create(inner, inner.getIndexType(), place);
    return tensor::ExtractOp::create(inner, x.value, position);
  }));
  return success();
}

/// The first elements of each sequence of a batch in reverse order, as many as its length says.
static LogicalResult lowerReverseSequence(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0), lengths = lower.input(node, 1);
  auto time = normalizeAxis(node.getInt("time_axis", 0), x.rank()),
       batch = normalizeAxis(node.getInt("batch_axis", 1), x.rank());
  if (!time || !batch || *time == *batch)
    return lower.refuse(node) << "time_axis and batch_axis must be two axes of the operand, which has rank "
                              << x.rank();
  std::string what = OnnxLowering::describe(node);
  lengths = {lower.reshape(lengths, {x.dims[*batch]}, what), {x.dims[*batch]}};
  // A length may be as large as the dimension.
  lower.requireInBounds(lengths, x.dims[*time] + DimExpr(1), what + ": a length is larger than the sequences");
  Value limit = lower.size(x.dims[*time]);
  results.push_back(lower.generate(x.dims, x.element(), [&](Builder_ &b, ValueRange at) -> Value {
    Value length = tensor::ExtractOp::create(b, lengths.value, at[*batch]);
    length = arith::MinSIOp::create(b, arith::IndexCastOp::create(b, b.getIndexType(), length), limit);
    Value last = arith::SubIOp::create(b, length, Value(arith::ConstantIndexOp::create(b, 1)));
    Value inside = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at[*time], length);
    SmallVector<Value> position(at);
    position[*time] = arith::SelectOp::create(b, inside, arith::SubIOp::create(b, last, at[*time]), at[*time]);
    return tensor::ExtractOp::create(b, x.value, position);
  }));
  return success();
}

void mlir::moe::addIndexingOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"Compress", 9, lowerCompress, "", /*ownSizes=*/true},
      {"Gather", 1, lowerGather, ""},
      {"GatherElements", 11, lowerGatherElements, ""},
      {"GatherND", 11, lowerGatherND, ""},
      {"NonZero", 9, lowerNonZero, "rank 1 or more", /*ownSizes=*/true},
      {"OneHot", 9, lowerOneHot, "a depth that is no integer is a constant"},
      {"ReverseSequence", 10, lowerReverseSequence, ""},
      {"TopK", 10, lowerTopK, ""},
  });
}
