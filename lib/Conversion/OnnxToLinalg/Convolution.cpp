//===- Convolution.cpp - convolution and pooling --------------------------===//
//
// All slide a window over the last dimensions of [N, C, ...]: the operand is padded first, then one linalg.generic
// reduces over the window. These stand at the edges of a transformer (patches, audio frames, short causal filters).
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

/// `x` with `fill` around it, so that every window is inside.
static Shaped padded(OnnxLowering &lower, Shaped x, const SlidingWindow &window, TypedAttr fill) {
  int64_t lead = x.rank() - static_cast<int64_t>(window.kernel.size());
  DimList dims = x.dims;
  bool same = true;
  for (auto [i, size] : llvm::enumerate(window.out)) {
    int64_t reach = (window.kernel[i] - 1) * window.dilations[i] + 1;
    // The last window may end behind the padding (ceil_mode), or before the end of the operand.
    DimExpr needed = (size - DimExpr(1)) * DimExpr(window.strides[i]) + DimExpr(reach);
    DimExpr &dim = dims[lead + i];
    if (window.begin[i].is(0) && needed == dim)
      continue;
    same = false;
    dim = lower.shapes.getAtoms().max(needed, DimExpr(0));
  }
  if (same)
    return x;
  SmallVector<Value> begins, sizes;
  for (size_t i = 0; i < window.kernel.size(); ++i) {
    begins.push_back(lower.size(window.begin[i]));
    sizes.push_back(lower.size(x.dims[lead + i]));
  }
  Value result = lower.generate(dims, x.element(), [&](Builder_ &b, ValueRange at) -> Value {
    SmallVector<Value> position(at);
    Value inside = arith::ConstantOp::create(b, b.getBoolAttr(true));
    for (size_t i = 0; i < window.kernel.size(); ++i) {
      Value &place = position[lead + i];
      place = arith::SubIOp::create(b, place, begins[i]);
      // Negative numbers are large unsigned ones.
      inside = arith::AndIOp::create(b, inside, arith::CmpIOp::create(b, arith::CmpIPredicate::ult, place, sizes[i]));
    }
    auto choice = scf::IfOp::create(b, TypeRange{x.element()}, inside, /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(choice.elseBlock());
    scf::YieldOp::create(b, ValueRange{arith::ConstantOp::create(b, fill)});
    b.setInsertionPointToStart(choice.thenBlock());
    scf::YieldOp::create(b, ValueRange{tensor::ExtractOp::create(b, x.value, position)});
    return choice.getResult(0);
  });
  return {result, dims};
}

/// Affine maps over (outer dims, out dims, window dims): where the padded operand is read.
static AffineExpr placeOf(Builder_ &b, const SlidingWindow &window, unsigned firstOut, unsigned firstWindow, size_t i) {
  return b.getAffineDimExpr(firstOut + i) * window.strides[i] +
         b.getAffineDimExpr(firstWindow + i) * window.dilations[i];
}

/// Reduces every window of a padded [N, C, ...].
static Shaped reduceWindows(OnnxLowering &lower, Shaped x, const SlidingWindow &window, TypedAttr init,
                            function_ref<Value(Builder_ &, Value, Value)> combine) {
  Builder_ &b = lower.b;
  unsigned spatial = window.kernel.size(), lead = x.rank() - spatial, total = lead + 2 * spatial;
  DimList dims(x.dims.begin(), x.dims.begin() + lead), extent;
  SmallVector<AffineExpr> from, to, over;
  for (unsigned i = 0; i < lead; ++i) {
    from.push_back(b.getAffineDimExpr(i));
    to.push_back(b.getAffineDimExpr(i));
  }
  for (unsigned i = 0; i < spatial; ++i) {
    dims.push_back(window.out[i]);
    extent.push_back(DimExpr(window.kernel[i]));
    from.push_back(placeOf(b, window, lead, lead + spatial, i));
    to.push_back(b.getAffineDimExpr(lead + i));
    over.push_back(b.getAffineDimExpr(lead + spatial + i));
  }
  SmallVector<utils::IteratorType> iterators(total, utils::IteratorType::parallel);
  std::fill(iterators.begin() + lead + spatial, iterators.end(), utils::IteratorType::reduction);
  auto map = [&](ArrayRef<AffineExpr> exprs) { return AffineMap::get(total, 0, exprs, b.getContext()); };
  // The window's extent has no operand of its own: an empty tensor gives it.
  Value start = lower.filled(dims, init), shape = lower.empty(extent, x.element());
  auto generic = linalg::GenericOp::create(b, TypeRange{start.getType()}, ValueRange{x.value, shape}, ValueRange{start},
                                           ArrayRef<AffineMap>{map(from), map(over), map(to)}, iterators,
                                           [&](OpBuilder &nested, Location loc, ValueRange v) {
                                             Builder_ inner(loc, nested);
                                             linalg::YieldOp::create(inner, combine(inner, v[0], v[2]));
                                           });
  return {generic.getResult(0), dims};
}

/// [N, C, ...] by [M, C / group, ...]: per group a sum over the channels and the window.
static LogicalResult lowerConv(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0), w = lower.input(node, 1);
  int64_t group = node.getInt("group", 1);
  auto window = slidingWindow(node, lower.shapes);
  if (!window)
    return lower.refuse(node) << "the window's size must be static, and strides, pads and dilations must fit it";
  auto outPerGroup = group > 0 ? w.dims[0].dividedBy(DimExpr(group)) : std::nullopt;
  if (!outPerGroup)
    return lower.refuse(node) << "the number of filters is no known multiple of group = " << group;
  std::string what = OnnxLowering::describe(node);
  Type element = x.element();
  if (!isa<FloatType>(element))
    return lower.refuse(node) << "element type " << element << " is not supported";
  // The channels as the filters have them; checked where that is known at run time only.
  DimList split = {x.dims[0], DimExpr(group), w.dims[1]}, channels = x.dims;
  channels[1] = DimExpr(group) * w.dims[1];
  if (x.dims[1].isConstant() && channels[1].isConstant() && x.dims[1] != channels[1])
    return lower.refuse(node) << x.dims[1].constant() << " channels for filters of " << channels[1].constant();
  x = {lower.reshape(x, channels, what), channels};
  x = padded(lower, x, *window, lower.zero(element));
  split.append(x.dims.begin() + 2, x.dims.end());
  x = {lower.reshape(x, split, what), split};
  DimList filters = {DimExpr(group), *outPerGroup};
  filters.append(w.dims.begin() + 1, w.dims.end());
  w = {lower.reshape(w, filters, what), filters};

  Builder_ &b = lower.b;
  unsigned spatial = window->kernel.size(), total = 4 + 2 * spatial;
  // n, g, m, out..., c, window...
  DimList dims = {x.dims[0], DimExpr(group), *outPerGroup};
  SmallVector<AffineExpr> fromX = {b.getAffineDimExpr(0), b.getAffineDimExpr(1), b.getAffineDimExpr(3 + spatial)},
                          fromW = {b.getAffineDimExpr(1), b.getAffineDimExpr(2), b.getAffineDimExpr(3 + spatial)},
                          to = {b.getAffineDimExpr(0), b.getAffineDimExpr(1), b.getAffineDimExpr(2)};
  for (unsigned i = 0; i < spatial; ++i) {
    dims.push_back(window->out[i]);
    fromX.push_back(placeOf(b, *window, 3, 4 + spatial, i));
    fromW.push_back(b.getAffineDimExpr(4 + spatial + i));
    to.push_back(b.getAffineDimExpr(3 + i));
  }
  SmallVector<utils::IteratorType> iterators(total, utils::IteratorType::parallel);
  std::fill(iterators.begin() + 3 + spatial, iterators.end(), utils::IteratorType::reduction);
  auto map = [&](ArrayRef<AffineExpr> exprs) { return AffineMap::get(total, 0, exprs, b.getContext()); };
  bool narrow = element.getIntOrFloatBitWidth() < 32;
  Type sumType = narrow ? Type(b.getF32Type()) : element;
  Value start = lower.filled(dims, lower.zero(sumType));
  auto generic = linalg::GenericOp::create(b, TypeRange{start.getType()}, ValueRange{x.value, w.value},
                                           ValueRange{start}, ArrayRef<AffineMap>{map(fromX), map(fromW), map(to)},
                                           iterators, [&](OpBuilder &nested, Location loc, ValueRange v) {
                                             Builder_ inner(loc, nested);
                                             Value left = v[0], right = v[1];
                                             if (narrow) {
                                               left = arith::ExtFOp::create(inner, sumType, left);
                                               right = arith::ExtFOp::create(inner, sumType, right);
                                             }
                                             Value product = arith::MulFOp::create(inner, left, right);
                                             linalg::YieldOp::create(
                                                 inner, ValueRange{arith::AddFOp::create(inner, v[2], product)});
                                           });
  DimList joined = lower.dimsOf(node.getResult(0));
  Shaped sum{lower.reshape({generic.getResult(0), dims}, joined, what), joined};
  if (node.hasInput(2)) {
    DimList perFilter(joined.size(), DimExpr(1));
    perFilter[1] = joined[1];
    Shaped bias = lower.widen(lower.input(node, 2));
    bias = {lower.reshape(bias, perFilter, what), perFilter};
    sum.value = lower.elementwise({sum, bias}, joined, sumType, what, [](Builder_ &inner, ValueRange v) -> Value {
      return arith::AddFOp::create(inner, v[0], v[1]);
    });
  }
  results.push_back(lower.convert(sum, element));
  return success();
}

static LogicalResult lowerMaxPool(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  auto window = slidingWindow(node, lower.shapes);
  if (!window)
    return lower.refuse(node) << "kernel_shape, strides, pads and dilations must fit the operand";
  if (node.getNumResults() > 1)
    return lower.refuse(node) << "the second result (Indices) is not supported";
  Shaped x = lower.input(node, 0);
  Type type = x.element();
  bool isUnsigned = OnnxLowering::isUnsigned(node.getInputs()[0]);
  Builder_ &b = lower.b;
  TypedAttr lowest;
  if (auto real = dyn_cast<FloatType>(type))
    lowest = b.getFloatAttr(type, APFloat::getInf(real.getFloatSemantics(), /*Negative=*/true));
  else
    lowest = b.getIntegerAttr(type, isUnsigned ? APInt::getMinValue(type.getIntOrFloatBitWidth())
                                               : APInt::getSignedMinValue(type.getIntOrFloatBitWidth()));
  x = padded(lower, x, *window, lowest);
  Shaped best = reduceWindows(lower, x, *window, lowest, [&](Builder_ &inner, Value v, Value top) -> Value {
    if (isa<FloatType>(type))
      return arith::MaximumFOp::create(inner, v, top);
    if (isUnsigned)
      return arith::MaxUIOp::create(inner, v, top);
    return arith::MaxSIOp::create(inner, v, top);
  });
  results.push_back(best.value);
  return success();
}

static LogicalResult lowerAveragePool(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  auto window = slidingWindow(node, lower.shapes);
  if (!window)
    return lower.refuse(node) << "kernel_shape, strides, pads and dilations must fit the operand";
  Shaped x = lower.input(node, 0), wide = lower.widen(x);
  Type type = wide.element();
  Builder_ &b = lower.b;
  auto add = [](Builder_ &inner, Value v, Value sum) -> Value { return arith::AddFOp::create(inner, v, sum); };
  Shaped sum = reduceWindows(lower, padded(lower, wide, *window, lower.zero(type)), *window, lower.zero(type), add);
  // How many elements each window covers is a sum of ones over the same windows. Padding counts if the node says so;
  // what ceil_mode adds behind it never does.
  DimList ones = {DimExpr(1), DimExpr(1)};
  ones.append(x.dims.begin() + 2, x.dims.end());
  SlidingWindow counted = *window;
  if (node.getInt("count_include_pad", 0))
    for (size_t i = 0; i < counted.kernel.size(); ++i) {
      ones[2 + i] = ones[2 + i] + counted.begin[i] + counted.end[i];
      counted.begin[i] = DimExpr(0);
    }
  Shaped one{lower.filled(ones, b.getFloatAttr(type, 1.0)), ones};
  Shaped count = reduceWindows(lower, padded(lower, one, counted, lower.zero(type)), counted, lower.zero(type), add);
  sum.value = lower.elementwise({sum, count}, sum.dims, type, "", [](Builder_ &inner, ValueRange v) -> Value {
    return arith::DivFOp::create(inner, v[0], v[1]);
  });
  results.push_back(lower.convert(sum, x.element()));
  return success();
}

/// GlobalAveragePool and GlobalMaxPool: over all dimensions behind the channels.
template <bool largest>
static LogicalResult lowerGlobalPool(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  auto real = dyn_cast<FloatType>(element);
  if (x.rank() < 2 || !real)
    return lower.refuse(node) << "an operand of rank " << x.rank() << " and element type " << element;
  Builder_ &b = lower.b;
  x = lower.widen(x);
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(2, x.rank()));
  DimList kept(x.dims.begin(), x.dims.begin() + 2);
  TypedAttr init = lower.zero(x.element());
  if (largest)
    init = b.getFloatAttr(x.element(), -std::numeric_limits<double>::infinity());
  Shaped result{lower.reduce(x, axes, init,
                             [](Builder_ &inner, Value v, Value all) -> Value {
                               if (largest)
                                 return arith::MaximumFOp::create(inner, v, all);
                               return arith::AddFOp::create(inner, v, all);
                             }),
                kept};
  if (!largest) {
    DimExpr count = productOf(ArrayRef<DimExpr>(x.dims).drop_front(2));
    Value total =
        arith::SIToFPOp::create(b, x.element(), arith::IndexCastOp::create(b, b.getI64Type(), lower.size(count)));
    result.value = lower.elementwise({result}, kept, x.element(), "", [&](Builder_ &inner, ValueRange v) -> Value {
      return arith::DivFOp::create(inner, v[0], total);
    });
  }
  result.value = lower.convert(result, element);
  results.push_back(lower.reshape(result, lower.dimsOf(node.getResult(0)), ""));
  return success();
}

void mlir::moe::addConvolutionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"AveragePool", 10, lowerAveragePool, ""},
      {"Conv", 1, lowerConv, "floats; the size of the filters is static"},
      {"GlobalAveragePool", 1, lowerGlobalPool<false>, ""},
      {"GlobalMaxPool", 1, lowerGlobalPool<true>, ""},
      {"MaxPool", 10, lowerMaxPool, "no Indices"},
  });
}
