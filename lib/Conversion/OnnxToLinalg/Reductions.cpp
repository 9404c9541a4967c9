//===- Reductions.cpp - reductions, softmax, scans ------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;
using Combine = Value (*)(Builder_ &, Value, Value);

static Value add(Builder_ &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::AddFOp::create(b, x, y);
  return arith::AddIOp::create(b, x, y);
}
static Value multiply(Builder_ &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::MulFOp::create(b, x, y);
  return arith::MulIOp::create(b, x, y);
}
static Value maximum(Builder_ &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::MaximumFOp::create(b, x, y);
  return arith::MaxSIOp::create(b, x, y);
}
static Value minimum(Builder_ &b, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::MinimumFOp::create(b, x, y);
  return arith::MinSIOp::create(b, x, y);
}
static Value maximumUnsigned(Builder_ &b, Value x, Value y) { return arith::MaxUIOp::create(b, x, y); }
static Value minimumUnsigned(Builder_ &b, Value x, Value y) { return arith::MinUIOp::create(b, x, y); }

/// The smallest (or largest) value of a type.
static TypedAttr extreme(Builder_ &b, Type type, bool largest, bool isUnsigned = false) {
  if (auto floatType = dyn_cast<FloatType>(type))
    return b.getFloatAttr(type, APFloat::getInf(floatType.getFloatSemantics(), !largest));
  unsigned width = type.getIntOrFloatBitWidth();
  if (isUnsigned || width == 1)
    return b.getIntegerAttr(type, largest ? APInt::getMaxValue(width) : APInt::getMinValue(width));
  return b.getIntegerAttr(type, largest ? APInt::getSignedMaxValue(width) : APInt::getSignedMinValue(width));
}

enum class Reduction { Sum, Mean, Max, Min, Prod, SumSquare, L2, L1, LogSum, LogSumExp };

template <Reduction kind>
static LogicalResult lowerReduce(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto axes = getAxes(node, lower.shapes, x.rank());
  if (!axes)
    return lower.refuse(node) << "the axes must be constants within the rank " << x.rank();
  if (axes->empty()) {
    if (node.getInt("noop_with_empty_axes", 0)) {
      results.push_back(x.value);
      return success();
    }
    axes = llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  }
  Type element = x.element();
  bool isFloat = isa<FloatType>(element), isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  if (!isFloat &&
      (kind == Reduction::Mean || kind == Reduction::L2 || kind == Reduction::LogSum || kind == Reduction::LogSumExp))
    return lower.refuse(node) << "element type " << element << " is not supported; cast to float";
  x = lower.widen(x);
  Type wide = x.element();
  Builder_ &b = lower.b;
  if (kind == Reduction::SumSquare || kind == Reduction::L2 || kind == Reduction::L1)
    x.value = lower.elementwise({x}, x.dims, wide, "", [&](Builder_ &inner, ValueRange v) -> Value {
      if (kind != Reduction::L1)
        return multiply(inner, v[0], v[0]);
      if (isFloat)
        return math::AbsFOp::create(inner, v[0]);
      return math::AbsIOp::create(inner, v[0]);
    });
  TypedAttr init = lower.zero(wide);
  Combine combine = add;
  if (kind == Reduction::Max) {
    init = extreme(b, wide, /*largest=*/false, isUnsigned);
    combine = isUnsigned || wide.isInteger(1) ? maximumUnsigned : maximum;
  } else if (kind == Reduction::Min) {
    init = extreme(b, wide, /*largest=*/true, isUnsigned);
    combine = isUnsigned || wide.isInteger(1) ? minimumUnsigned : minimum;
  } else if (kind == Reduction::Prod) {
    init = isFloat ? TypedAttr(b.getFloatAttr(wide, 1.0)) : TypedAttr(b.getIntegerAttr(wide, 1));
    combine = multiply;
  }
  // e^(x - m) with the largest element m does not overflow; m comes back in the end.
  Shaped top;
  if (kind == Reduction::LogSumExp) {
    DimList kept = x.dims, dropped;
    for (auto [i, dim] : llvm::enumerate(x.dims)) {
      if (llvm::is_contained(*axes, static_cast<int64_t>(i)))
        kept[i] = DimExpr(1);
      else
        dropped.push_back(dim);
    }
    Shaped largest{lower.reduce(x, *axes, extreme(b, wide, /*largest=*/false), maximum), dropped};
    // An infinite m would give NaN.
    top = {lower.elementwise({largest}, dropped, wide, "",
                             [&](Builder_ &inner, ValueRange v) -> Value {
                               Value limit = arith::ConstantOp::create(inner, extreme(inner, wide, true));
                               Value infinite = arith::CmpFOp::create(inner, arith::CmpFPredicate::OEQ,
                                                                      math::AbsFOp::create(inner, v[0]), limit);
                               Value zero = arith::ConstantOp::create(inner, lower.zero(wide));
                               return arith::SelectOp::create(inner, infinite, zero, v[0]);
                             }),
           dropped};
    Shaped spread{lower.reshape(top, kept, ""), kept};
    x.value = lower.elementwise({x, spread}, x.dims, wide, "", [](Builder_ &inner, ValueRange v) -> Value {
      return math::ExpOp::create(inner, arith::SubFOp::create(inner, v[0], v[1]));
    });
  }
  DimList dims;
  DimExpr count(1);
  for (auto [i, dim] : llvm::enumerate(x.dims)) {
    if (llvm::is_contained(*axes, static_cast<int64_t>(i)))
      count = count * dim;
    else
      dims.push_back(dim);
  }
  Shaped sum{lower.reduce(x, *axes, init, combine), dims};
  if (kind == Reduction::Mean) {
    Value total = arith::SIToFPOp::create(b, wide, arith::IndexCastOp::create(b, b.getI64Type(), lower.size(count)));
    sum.value = lower.elementwise({sum}, dims, wide, "", [&](Builder_ &inner, ValueRange v) -> Value {
      return arith::DivFOp::create(inner, v[0], total);
    });
  }
  if (kind == Reduction::L2)
    sum.value = lower.elementwise({sum}, dims, wide, "", [&](Builder_ &inner, ValueRange v) -> Value {
      return math::SqrtOp::create(inner, v[0]);
    });
  if (kind == Reduction::LogSum || kind == Reduction::LogSumExp) {
    SmallVector<Shaped> operands = {sum};
    if (top.value)
      operands.push_back(top);
    sum.value = lower.elementwise(operands, dims, wide, "", [](Builder_ &inner, ValueRange v) -> Value {
      Value logarithm = math::LogOp::create(inner, v[0]);
      return v.size() > 1 ? add(inner, logarithm, v[1]) : logarithm;
    });
  }
  sum.value = lower.convert(sum, element);
  results.push_back(lower.reshape(sum, lower.dimsOf(node.getResult(0)), OnnxLowering::describe(node)));
  return success();
}

/// Softmax and LogSoftmax. A row of -inf alone gives NaN, as the formula does.
template <bool logarithm>
static LogicalResult lowerSoftmax(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  auto axis = normalizeAxis(node.getInt("axis", -1), x.rank());
  if (!axis || !isa<FloatType>(element))
    return lower.refuse(node) << "axis " << node.getInt("axis", -1) << " of a tensor of rank " << x.rank();
  x = lower.widen(x);
  Type wide = x.element();
  DimList kept = x.dims, dropped = x.dims;
  kept[*axis] = DimExpr(1);
  dropped.erase(dropped.begin() + *axis);
  auto reduceRow = [&](Shaped from, TypedAttr init, Combine combine) {
    Shaped row{lower.reduce(from, {*axis}, init, combine), dropped};
    return Shaped{lower.reshape(row, kept, ""), kept};
  };
  Shaped top = reduceRow(x, extreme(lower.b, wide, /*largest=*/false), maximum);
  Shaped shifted{
      lower.elementwise({x, top}, x.dims, wide, "",
                        [](Builder_ &b, ValueRange v) -> Value { return arith::SubFOp::create(b, v[0], v[1]); }),
      x.dims};
  Shaped powers{lower.elementwise({shifted}, x.dims, wide, "",
                                  [](Builder_ &b, ValueRange v) -> Value { return math::ExpOp::create(b, v[0]); }),
                x.dims};
  Shaped sum = reduceRow(powers, lower.zero(wide), add);
  Value result =
      lower.elementwise({logarithm ? shifted : powers, sum}, x.dims, wide, "", [](Builder_ &b, ValueRange v) -> Value {
        if (logarithm)
          return arith::SubFOp::create(b, v[0], math::LogOp::create(b, v[1]));
        return arith::DivFOp::create(b, v[0], v[1]);
      });
  results.push_back(lower.convert({result, x.dims}, element));
  return success();
}

/// Where the largest (or smallest) element of each row along `axis` is: the first such place, or the last.
static Shaped placeOfExtreme(OnnxLowering &lower, Shaped x, int64_t axis, bool largest, bool last, bool isUnsigned) {
  bool isFloat = isa<FloatType>(x.element());
  Builder_ &b = lower.b;
  DimList dims = x.dims;
  dims.erase(dims.begin() + axis);
  SmallVector<AffineExpr> exprs;
  SmallVector<utils::IteratorType> iterators(x.rank(), utils::IteratorType::parallel);
  iterators[axis] = utils::IteratorType::reduction;
  for (int64_t i = 0; i < x.rank(); ++i)
    if (i != axis)
      exprs.push_back(b.getAffineDimExpr(i));
  AffineMap outMap = AffineMap::get(x.rank(), 0, exprs, b.getContext());
  // The first element is taken whatever it is: an index of -1 marks "none yet".
  Value best = lower.filled(dims, lower.zero(x.element())), at = lower.filled(dims, b.getI64IntegerAttr(-1));
  auto generic = linalg::GenericOp::create(
      b, TypeRange{best.getType(), at.getType()}, ValueRange{x.value}, ValueRange{best, at},
      ArrayRef<AffineMap>{b.getMultiDimIdentityMap(x.rank()), outMap, outMap}, iterators,
      [&](OpBuilder &nested, Location loc, ValueRange v) {
        Builder_ inner(loc, nested);
        Value index = arith::IndexCastOp::create(inner, inner.getI64Type(), linalg::IndexOp::create(inner, axis));
        Value better;
        if (isFloat) {
          using P = arith::CmpFPredicate;
          better =
              arith::CmpFOp::create(inner, largest ? (last ? P::OGE : P::OGT) : (last ? P::OLE : P::OLT), v[0], v[1]);
        } else {
          using P = arith::CmpIPredicate;
          P predicate = largest ? (isUnsigned ? (last ? P::uge : P::ugt) : (last ? P::sge : P::sgt))
                                : (isUnsigned ? (last ? P::ule : P::ult) : (last ? P::sle : P::slt));
          better = arith::CmpIOp::create(inner, predicate, v[0], v[1]);
        }
        Value none = arith::CmpIOp::create(inner, arith::CmpIPredicate::slt, v[2],
                                           arith::ConstantOp::create(inner, inner.getI64IntegerAttr(0)));
        better = arith::OrIOp::create(inner, better, none);
        linalg::YieldOp::create(inner, ValueRange{arith::SelectOp::create(inner, better, v[0], v[1]),
                                                  arith::SelectOp::create(inner, better, index, v[2])});
      });
  return {generic.getResult(1), dims};
}

template <bool largest>
static LogicalResult lowerArg(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto axis = normalizeAxis(node.getInt("axis", 0), x.rank());
  if (!axis)
    return lower.refuse(node) << "axis " << node.getInt("axis", 0) << " of a tensor of rank " << x.rank();
  Shaped place = placeOfExtreme(lower, x, *axis, largest, node.getInt("select_last_index", 0) != 0,
                                OnnxLowering::isUnsigned(node.getInputs()[0]));
  results.push_back(lower.reshape(place, lower.dimsOf(node.getResult(0)), ""));
  return success();
}

/// 1 at the first largest element of each row, 0 elsewhere.
static LogicalResult lowerHardmax(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto axis = normalizeAxis(node.getInt("axis", -1), x.rank());
  auto type = dyn_cast<FloatType>(x.element());
  if (!axis || !type)
    return lower.refuse(node) << "axis " << node.getInt("axis", -1) << " of a tensor of rank " << x.rank();
  Shaped place = placeOfExtreme(lower, x, *axis, /*largest=*/true, /*last=*/false, /*isUnsigned=*/false);
  results.push_back(lower.generate(x.dims, type, [&](Builder_ &b, ValueRange at) -> Value {
    SmallVector<Value> row(at);
    row.erase(row.begin() + *axis);
    Value chosen = tensor::ExtractOp::create(b, place.value, row);
    Value here = arith::IndexCastOp::create(b, b.getI64Type(), at[*axis]);
    Value hit = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, chosen, here);
    return arith::SelectOp::create(b, hit, arith::ConstantOp::create(b, b.getFloatAttr(type, 1.0)),
                                   arith::ConstantOp::create(b, b.getFloatAttr(type, 0.0)));
  }));
  return success();
}

/// CumSum and CumProd: what is combined so far goes along the axis.
template <bool product>
static LogicalResult lowerCumulative(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  auto constants = lower.shapes.getConstants(node.getInputs()[1]);
  auto axis = constants && constants->size() == 1 ? normalizeAxis(constants->front(), x.rank()) : std::nullopt;
  if (!axis)
    return lower.refuse(node) << "the axis must be a constant within the rank " << x.rank();
  bool exclusive = node.getInt("exclusive", 0) != 0, reverse = node.getInt("reverse", 0) != 0;
  Builder_ &b = lower.b;
  DimList row = x.dims, flat = x.dims;
  row[*axis] = DimExpr(1);
  flat.erase(flat.begin() + *axis);
  Value init = lower.empty(x.dims, x.element()), zero;
  if (!product)
    zero = lower.filled(row, lower.zero(x.element()));
  else if (isa<FloatType>(x.element()))
    zero = lower.filled(row, b.getFloatAttr(x.element(), 1.0));
  else
    zero = lower.filled(row, b.getIntegerAttr(x.element(), 1));
  Value length = lower.size(x.dims[*axis]), one = lower.index(1);
  SmallVector<OpFoldResult> offsets(x.rank(), b.getIndexAttr(0)), strides(x.rank(), b.getIndexAttr(1));
  SmallVector<OpFoldResult> sizes = lower.foldedSizes(row);
  auto loop = scf::ForOp::create(b, lower.index(0), length, one, ValueRange{init, zero});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value at = loop.getInductionVar();
    if (reverse)
      at = arith::SubIOp::create(b, arith::SubIOp::create(b, length, one), at);
    offsets[*axis] = at;
    Value slice = tensor::ExtractSliceOp::create(b, lower.typeOf(row, x.element()), x.value, offsets, sizes, strides);
    Value before = loop.getRegionIterArg(1);
    Value sum =
        lower.elementwise({{slice, row}, {before, row}}, row, x.element(), "", [](Builder_ &inner, ValueRange v) {
          return product ? multiply(inner, v[0], v[1]) : add(inner, v[0], v[1]);
        });
    Value next =
        tensor::InsertSliceOp::create(b, exclusive ? before : sum, loop.getRegionIterArg(0), offsets, sizes, strides);
    scf::YieldOp::create(b, ValueRange{next, sum});
  }
  results.push_back(loop.getResult(0));
  return success();
}

void mlir::moe::addReductionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"ArgMax", 1, lowerArg<true>, ""},
      {"ArgMin", 1, lowerArg<false>, ""},
      {"CumProd", 26, lowerCumulative<true>, "the axis is a constant"},
      {"CumSum", 11, lowerCumulative<false>, "the axis is a constant"},
      {"Hardmax", 13, lowerHardmax, ""},
      {"LogSoftmax", 13, lowerSoftmax<true>, ""},
      {"ReduceL1", 1, lowerReduce<Reduction::L1>, "the axes are constants"},
      {"ReduceL2", 1, lowerReduce<Reduction::L2>, "the axes are constants; floats"},
      {"ReduceLogSum", 1, lowerReduce<Reduction::LogSum>, "the axes are constants; floats"},
      {"ReduceLogSumExp", 1, lowerReduce<Reduction::LogSumExp>, "the axes are constants; floats"},
      {"ReduceMax", 1, lowerReduce<Reduction::Max>, "the axes are constants"},
      {"ReduceMean", 1, lowerReduce<Reduction::Mean>, "the axes are constants; floats"},
      {"ReduceMin", 1, lowerReduce<Reduction::Min>, "the axes are constants"},
      {"ReduceProd", 1, lowerReduce<Reduction::Prod>, "the axes are constants"},
      {"ReduceSum", 1, lowerReduce<Reduction::Sum>, "the axes are constants"},
      {"ReduceSumSquare", 1, lowerReduce<Reduction::SumSquare>, "the axes are constants"},
      {"Softmax", 13, lowerSoftmax<false>, ""},
  });
}
