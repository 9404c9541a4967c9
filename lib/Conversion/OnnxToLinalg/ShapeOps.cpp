//===- ShapeOps.cpp - operators that move elements without reading indices ===//
#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;

static LogicalResult lowerReshape(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  // Squeeze, Unsqueeze and Flatten are reshapes to what the shape function says as well.
  results.push_back(lower.reshape(lower.input(node, 0), lower.dimsOf(node.getResult(0)), OnnxLowering::describe(node)));
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
    return lower.refuse(node) << "the sizes of the pieces must be constants or computed from shapes";
  int64_t axis = *normalizeAxis(node.getInt("axis", 0), x.rank());
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
    return lower.refuse(node) << "starts, ends, axes and steps must be constants or computed from shapes";
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
  results.push_back(lower.filled(lower.dimsOf(node.getResult(0)), value));
  return success();
}

static LogicalResult lowerRange(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getResult(0));
  DimList dims = lower.dimsOf(node.getResult(0));
  // The length of a range that nothing known tells is an atom that nothing defines.
  bool isFloat = isa<FloatType>(element);
  if (isFloat ? !getScalarConstant(node.getInputs()[1]) : !lower.shapes.getElements(node.getInputs()[1]))
    return lower.refuse(node) << "start, limit and delta must be constants, or integers computed from shapes";
  ImplicitLocOpBuilder &b = lower.b;
  auto scalar = [&](unsigned i) -> Value {
    return tensor::ExtractOp::create(b, lower.widen({lower.reshape(lower.input(node, i), {}, "Range"), {}}).value,
                                     ValueRange{});
  };
  Value start = scalar(0), delta = scalar(2);
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

/// Shape and Size fold to their elements before this is asked; what remains has no known shape.
static LogicalResult lowerShape(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  return lower.refuse(node) << "the rank of its operand is unknown";
}

void mlir::moe::addShapeOperators(SmallVectorImpl<OnnxOperator> &table) {
  const char *constants = "shapes and axes are constants or computed from shapes";
  table.append({
      {"Concat", 4, lowerConcat, ""},
      {"ConstantOfShape", 9, lowerConstantOfShape, constants},
      {"Expand", 8, lowerExpand, constants},
      {"Flatten", 1, lowerReshape, ""},
      {"Range", 11, lowerRange, "constants, or integers computed from shapes"},
      {"Reshape", 5, lowerReshape, constants},
      {"Shape", 1, lowerShape, ""},
      {"Size", 1, lowerShape, ""},
      {"Slice", 10, lowerSlice, constants},
      {"Split", 2, lowerSplit, constants},
      {"Squeeze", 1, lowerReshape, constants},
      {"Tile", 6, lowerTile, constants},
      {"Transpose", 1, lowerTranspose, ""},
      {"Trilu", 14, lowerTrilu, ""},
      {"Unsqueeze", 1, lowerReshape, constants},
  });
}
