//===- ShapeOps.cpp - operators that move elements without reading indices ===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

static LogicalResult lowerReshape(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  // Squeeze, Unsqueeze and Flatten are reshapes to what the shape function says as well.
  DimExpr from = productOf(lower.input(node, 0).dims), to = productOf(lower.dimsOf(node.getResult(0)));
  if (from.isConstant() && to.isConstant() && from != to)
    return lower.refuse(node) << "a tensor of " << from.constant() << " elements cannot have a shape of "
                              << to.constant();
  results.push_back(lower.reshape(lower.input(node, 0), lower.dimsOf(node.getResult(0)), OnnxLowering::describe(node)));
  return success();
}

/// Reshape to sizes that data tells: -1 and 0 are looked for at run time.
static Value reshapeByData(OnnxNodeOp node, OnnxLowering &lower, ArrayRef<DimExpr> target) {
  ImplicitLocOpBuilder &b = lower.b;
  std::string what = OnnxLowering::describe(node);
  Shaped x = lower.input(node, 0);
  bool allowZero = node.getInt("allowzero", 0) != 0;
  Value zero = lower.index(0), one = lower.index(1), minusOne = lower.index(-1), known = one, inferred = zero;
  auto is = [&](Value x, Value y) -> Value { return arith::CmpIOp::create(b, arith::CmpIPredicate::eq, x, y); };
  SmallVector<Value> sizes;
  for (auto [i, wanted] : llvm::enumerate(target)) {
    Value size = lower.size(wanted);
    if (!allowZero) {
      Value kept = static_cast<int64_t>(i) < x.rank() ? lower.size(x.dims[i]) : zero;
      size = arith::SelectOp::create(b, is(size, zero), kept, size);
    }
    Value open = is(size, minusOne);
    inferred = arith::AddIOp::create(b, inferred, arith::SelectOp::create(b, open, one, zero));
    known = arith::MulIOp::create(b, known, arith::SelectOp::create(b, open, one, size));
    sizes.push_back(size);
  }
  lower.require(arith::CmpIOp::create(b, arith::CmpIPredicate::sle, inferred, one),
                what + ": more than one size is -1");
  Value rest = arith::DivSIOp::create(b, lower.size(productOf(x.dims)), arith::MaxSIOp::create(b, known, one));
  DimList dims;
  for (Value size : sizes) {
    size = arith::SelectOp::create(b, is(size, minusOne), rest, size);
    lower.require(arith::CmpIOp::create(b, arith::CmpIPredicate::sge, size, zero), what + ": a size is negative");
    dims.push_back(lower.computedSize(arith::MaxSIOp::create(b, size, zero)));
  }
  return lower.reshape(x, dims, what);
}

static LogicalResult lowerReshapeTo(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (reshapeDims(node, lower.shapes))
    return lowerReshape(node, lower, results);
  auto target = node.hasInput(1) ? lower.shapes.getSizes(node.getInputs()[1]) : std::nullopt;
  if (!target)
    return lower.refuse(node) << "the number of sizes of the new shape is unknown";
  results.push_back(reshapeByData(node, lower, *target));
  return success();
}

static LogicalResult lowerTranspose(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  SmallVector<int64_t> permutation = llvm::to_vector(llvm::reverse(llvm::seq<int64_t>(0, x.rank())));
  if (auto perm = node.getInts("perm"))
    permutation.assign(perm->begin(), perm->end());
  results.push_back(lower.transpose(x, permutation));
  return success();
}

static LogicalResult lowerConcat(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  DimList dims = lower.dimsOf(node.getResult(0));
  int64_t axis = *normalizeAxis(node.getInt("axis", 0), dims.size());
  ImplicitLocOpBuilder &b = lower.b;
  Value result = lower.empty(dims, lower.input(node, 0).element());
  SmallVector<OpFoldResult> offsets(dims.size(), b.getIndexAttr(0)), strides(dims.size(), b.getIndexAttr(1));
  DimExpr at(0);
  for (unsigned i = 0; i < node.getInputs().size(); ++i) {
    Shaped part = lower.input(node, i);
    if (part.dims[axis].is(0))
      continue;
    DimList wanted = dims;
    wanted[axis] = part.dims[axis];
    part.value = lower.broadcast(part, wanted, OnnxLowering::describe(node));
    offsets[axis] = lower.foldedSize(at);
    result = tensor::InsertSliceOp::create(b, part.value, result, offsets, lower.foldedSizes(wanted), strides);
    at = at + part.dims[axis];
  }
  results.push_back(result);
  return success();
}

static Value extract(OnnxLowering &lower, Shaped from, ArrayRef<DimExpr> starts, ArrayRef<DimExpr> lengths,
                     ArrayRef<int64_t> steps) {
  ImplicitLocOpBuilder &b = lower.b;
  // An empty piece may start behind the last element, where a slice must not.
  if (llvm::any_of(lengths, [](const DimExpr &e) { return e.is(0); }))
    return lower.empty(lengths, from.element());
  SmallVector<OpFoldResult> strides =
      llvm::map_to_vector(steps, [&](int64_t s) -> OpFoldResult { return b.getIndexAttr(s); });
  return tensor::ExtractSliceOp::create(b, lower.typeOf(lengths, from.element()), from.value, lower.foldedSizes(starts),
                                        lower.foldedSizes(lengths), strides);
}

static LogicalResult lowerSplit(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto sizes = splitSizes(node, lower.shapes);
  if (!sizes)
    return lower.refuse(node) << "the sizes of the pieces do not fit the number of results";
  int64_t axis = *normalizeAxis(node.getInt("axis", 0), x.rank());
  if (auto given = node.hasInput(1) ? lower.shapes.getSizes(node.getInputs()[1]) : std::nullopt)
    lower.requireSizes(node, *given);
  DimExpr sum;
  for (const DimExpr &size : *sizes)
    sum = sum + size;
  if (sum != x.dims[axis]) {
    if (sum.isConstant() && x.dims[axis].isConstant())
      return lower.refuse(node) << "the pieces have " << sum.constant() << " elements, the dimension "
                                << x.dims[axis].constant();
    // A reshape to the promised size is the checked way to get it.
    DimList promised = x.dims;
    promised[axis] = sum;
    x = {lower.reshape(x, promised, OnnxLowering::describe(node)), promised};
  }
  DimList starts(x.rank(), DimExpr(0));
  SmallVector<int64_t> steps(x.rank(), 1);
  for (const DimExpr &size : *sizes) {
    DimList lengths = x.dims;
    lengths[axis] = size;
    results.push_back(extract(lower, x, starts, lengths, steps));
    starts[axis] = starts[axis] + size;
  }
  return success();
}

static LogicalResult lowerSlice(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto slice = sliceDims(node, lower.shapes);
  if (!slice)
    return lower.refuse(node) << "axes and steps must be constants or computed from shapes, and as many as the starts";
  if (llvm::all_of(slice->steps, [](int64_t s) { return s > 0; })) {
    results.push_back(ArrayRef<DimExpr>(slice->lengths) == ArrayRef<DimExpr>(x.dims)
                          ? x.value
                          : extract(lower, x, slice->starts, slice->lengths, slice->steps));
    return success();
  }
  SmallVector<Value> starts = llvm::map_to_vector(slice->starts, [&](const DimExpr &e) { return lower.size(e); });
  results.push_back(
      lower.generate(slice->lengths, x.element(), [&](ImplicitLocOpBuilder &b, ValueRange indices) -> Value {
        SmallVector<Value> position;
        for (int64_t i = 0; i < x.rank(); ++i) {
          Value step = arith::ConstantIndexOp::create(b, slice->steps[i]);
          position.push_back(arith::AddIOp::create(b, starts[i], arith::MulIOp::create(b, indices[i], step)));
        }
        return tensor::ExtractOp::create(b, x.value, position);
      }));
  return success();
}

static LogicalResult lowerExpand(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto target = lower.shapes.getSizes(node.getInputs()[1]);
  for (auto [i, size] : llvm::enumerate(*target)) {
    int64_t at = x.rank() - static_cast<int64_t>(target->size()) + static_cast<int64_t>(i);
    if (lower.shapes.getAtoms().isNonNegative(size))
      continue;
    // Sizes that data tells: a dimension that is there is kept by 1, and otherwise has to agree.
    lower.requireSizes(node, size);
    if (at < 0 || x.dims[at].is(1))
      continue;
    ImplicitLocOpBuilder &b = lower.b;
    using P = arith::CmpIPredicate;
    Value wanted = lower.size(size), have = lower.size(x.dims[at]), one = lower.index(1);
    Value fits = arith::OrIOp::create(b, arith::CmpIOp::create(b, P::eq, wanted, one),
                                      arith::CmpIOp::create(b, P::eq, have, one));
    fits = arith::OrIOp::create(b, fits, arith::CmpIOp::create(b, P::eq, wanted, have));
    lower.require(fits, OnnxLowering::describe(node) + ": operands do not broadcast in dimension " + Twine(i));
  }
  results.push_back(
      lower.broadcast(lower.input(node, 0), lower.dimsOf(node.getResult(0)), OnnxLowering::describe(node)));
  return success();
}

static LogicalResult lowerTile(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  SmallVector<Value> sizes = llvm::map_to_vector(x.dims, [&](const DimExpr &e) { return lower.size(e); });
  DimList dims = lower.dimsOf(node.getResult(0));
  results.push_back(lower.generate(dims, x.element(), [&](ImplicitLocOpBuilder &b, ValueRange indices) -> Value {
    SmallVector<Value> position;
    for (auto [index, size, dim, whole] : llvm::zip(indices, sizes, x.dims, dims))
      position.push_back(dim == whole ? Value(index) : Value(arith::RemSIOp::create(b, index, size)));
    return tensor::ExtractOp::create(b, x.value, position);
  }));
  return success();
}

static LogicalResult lowerConstantOfShape(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  TypedAttr value = lower.b.getF32FloatAttr(0.0);
  if (auto given = node.getOnnxAttrs().getAs<DenseElementsAttr>("value"))
    value = cast<TypedAttr>(*given.getValues<Attribute>().begin());
  if (auto integer = dyn_cast<IntegerAttr>(value); integer && !isa<BoolAttr>(value))
    value = lower.b.getIntegerAttr(OnnxLowering::elementType(node.getResult(0)), integer.getValue());
  lower.requireSizes(node, *lower.shapes.getSizes(node.getInputs()[0]));
  results.push_back(lower.filled(lower.dimsOf(node.getResult(0)), value));
  return success();
}

/// The number of steps from `start` to `limit`, which `delta` may count down.
static Value countSteps(OnnxNodeOp node, OnnxLowering &lower, Value start, Value limit, Value delta) {
  ImplicitLocOpBuilder &b = lower.b;
  Type i64 = b.getI64Type();
  Value none = arith::ConstantOp::create(b, b.getI64IntegerAttr(0)), count, stands;
  if (isa<FloatType>(start.getType())) {
    // In f64, where integers of 32 bits and the quotients of small floats are exact.
    auto wide = [&](Value v) -> Value {
      return v.getType().isF64() ? v : Value(arith::ExtFOp::create(b, b.getF64Type(), v));
    };
    Value steps = arith::DivFOp::create(b, arith::SubFOp::create(b, wide(limit), wide(start)), wide(delta));
    count = arith::FPToSIOp::create(b, i64, math::CeilOp::create(b, steps));
    stands = arith::CmpFOp::create(b, arith::CmpFPredicate::UEQ, delta, lower.constant(lower.zero(delta.getType())));
  } else {
    auto wide = [&](Value v) -> Value { return v.getType() == i64 ? v : Value(arith::ExtSIOp::create(b, i64, v)); };
    Value step = wide(delta), one = arith::ConstantOp::create(b, b.getI64IntegerAttr(1));
    stands = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, step, none);
    step = arith::SelectOp::create(b, stands, one, step);
    // The machine's division traps for the smallest number and -1; a distance is never that far.
    count = arith::CeilDivSIOp::create(b, arith::SubIOp::create(b, wide(limit), wide(start)), step);
  }
  lower.require(arith::XOrIOp::create(b, stands, lower.constant(b.getBoolAttr(true))),
                OnnxLowering::describe(node) + ": delta is 0");
  Value index = arith::IndexCastOp::create(b, b.getIndexType(), arith::MaxSIOp::create(b, count, none));
  return arith::SelectOp::create(b, stands, lower.index(0), index);
}

static LogicalResult lowerRange(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getResult(0));
  DimList dims = lower.dimsOf(node.getResult(0));
  bool isFloat = isa<FloatType>(element);
  if (!isFloat)
    if (auto delta = lower.shapes.getConstants(node.getInputs()[2]); delta && delta->size() == 1 && delta->front() == 0)
      return lower.refuse(node) << "delta is 0";
  auto scalar = [&](unsigned i) -> Value {
    Shaped x = lower.input(node, i);
    return lower.scalar(node, {lower.widen(x).value, x.dims});
  };
  Value start = scalar(0), delta = scalar(2);
  if (auto atom = dims[0].asAtom(); atom && lower.shapes.getAtoms()[*atom].value == node.getResult(0))
    dims[0] = lower.computedSize(countSteps(node, lower, start, scalar(1), delta));
  Value range = lower.generate(dims, start.getType(), [&](ImplicitLocOpBuilder &inner, ValueRange indices) -> Value {
    Type type = start.getType();
    if (isFloat) {
      Value number = arith::IndexCastOp::create(inner, inner.getI64Type(), indices[0]);
      Value step = arith::MulFOp::create(inner, arith::SIToFPOp::create(inner, type, number), delta);
      return arith::AddFOp::create(inner, start, step);
    }
    Value index = arith::IndexCastOp::create(inner, element, indices[0]);
    return arith::AddIOp::create(inner, start, arith::MulIOp::create(inner, index, delta));
  });
  results.push_back(lower.convert({range, dims}, element));
  return success();
}

static LogicalResult lowerTrilu(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  bool upper = node.getInt("upper", 1) != 0;
  Value diagonal = lower.index(0);
  ImplicitLocOpBuilder &b = lower.b;
  if (node.hasInput(1)) {
    Value k = tensor::ExtractOp::create(b, lower.reshape(lower.input(node, 1), {}, "Trilu"), ValueRange{});
    diagonal = arith::IndexCastOp::create(b, b.getIndexType(), k);
  }
  Value zero = lower.constant(lower.zero(x.element()));
  results.push_back(lower.generate(x.dims, x.element(), [&](ImplicitLocOpBuilder &inner, ValueRange indices) -> Value {
    Value value = tensor::ExtractOp::create(inner, x.value, indices);
    Value edge = arith::AddIOp::create(inner, indices[x.rank() - 2], diagonal);
    Value keep = arith::CmpIOp::create(inner, upper ? arith::CmpIPredicate::sge : arith::CmpIPredicate::sle,
                                       indices[x.rank() - 1], edge);
    return arith::SelectOp::create(inner, keep, value, zero);
  }));
  return success();
}

/// DepthToSpace and SpaceToDepth: blocks of two dimensions from the channels, or into them.
template <bool toSpace>
static LogicalResult lowerBlocks(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  DimList dims = lower.dimsOf(node.getResult(0)), split;
  DimExpr block(node.getInt("blocksize", 0));
  std::string what = OnnxLowering::describe(node);
  SmallVector<int64_t> order;
  bool columnsFirst = node.getString("mode", "DCR") == "CRD";
  if (toSpace) {
    split = {dims[0], block, block, dims[1], x.dims[2], x.dims[3]};
    order = {0, 3, 4, 1, 5, 2};
    if (columnsFirst) {
      split = {dims[0], dims[1], block, block, x.dims[2], x.dims[3]};
      order = {0, 1, 4, 2, 5, 3};
    }
  } else {
    split = {dims[0], x.dims[1], dims[2], block, dims[3], block};
    order = {0, 3, 5, 1, 2, 4};
    if (columnsFirst)
      order = {0, 1, 3, 5, 2, 4};
  }
  Shaped parts{lower.reshape(x, split, what), split};
  DimList moved = llvm::map_to_vector<4>(order, [&](int64_t from) { return split[from]; });
  results.push_back(lower.reshape({lower.transpose(parts, order), moved}, dims, what));
  return success();
}

/// Shape and Size fold to their elements before this is asked; what remains has no known shape.
static LogicalResult lowerShape(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return lower.refuse(node) << "the rank of its operand is unknown";
}

void mlir::moe::addShapeOperators(SmallVectorImpl<OnnxOperator> &table) {
  const char *axes = "axes are constants or computed from shapes";
  table.append({
      {"Concat", 4, lowerConcat, ""},
      {"ConstantOfShape", 9, lowerConstantOfShape, ""},
      {"DepthToSpace", 11, lowerBlocks<true>, "the channels are a known multiple of the block"},
      {"Expand", 8, lowerExpand, "the number of sizes is known"},
      {"Flatten", 1, lowerReshape, ""},
      {"Range", 11, lowerRange, "", /*ownSizes=*/true},
      {"Reshape", 5, lowerReshapeTo, "the number of sizes is known", /*ownSizes=*/true},
      {"Shape", 1, lowerShape, ""},
      {"Size", 1, lowerShape, ""},
      {"Slice", 10, lowerSlice, "axes and steps are constants or computed from shapes"},
      {"SpaceToDepth", 1, lowerBlocks<false>, ""},
      {"Split", 2, lowerSplit, "the number of sizes is known"},
      {"Squeeze", 1, lowerReshape, axes},
      {"Tile", 6, lowerTile, ""},
      {"Transpose", 1, lowerTranspose, ""},
      {"Trilu", 14, lowerTrilu, ""},
      {"Unsqueeze", 1, lowerReshape, axes},
  });
}
