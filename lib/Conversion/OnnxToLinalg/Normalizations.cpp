//===- Normalizations.cpp - layer, group, batch normalisation and relatives ===//
//
// All are (x - mean) * scale / sqrt(variance + epsilon) over some axes, with parts left out. Statistics are computed in
// f32 at least.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

namespace {
struct Statistics {
  Shaped mean, inverse; ///< with size 1 along the axes; no mean if it is not subtracted
};
} // namespace

static Value add(Builder_ &b, Value x, Value y) { return arith::AddFOp::create(b, x, y); }
static Value subtract(Builder_ &b, Value x, Value y) { return arith::SubFOp::create(b, x, y); }
static Value multiply(Builder_ &b, Value x, Value y) { return arith::MulFOp::create(b, x, y); }

static Shaped binary(OnnxLowering &lower, Shaped x, Shaped y, ArrayRef<DimExpr> dims,
                     function_ref<Value(Builder_ &, Value, Value)> op, const Twine &what) {
  return {
      lower.elementwise({x, y}, dims, x.element(), what, [&](Builder_ &b, ValueRange v) { return op(b, v[0], v[1]); }),
      DimList(dims)};
}

/// The mean of `x` over `axes`, which stay with size 1.
static Shaped meanOver(OnnxLowering &lower, Shaped x, ArrayRef<int64_t> axes) {
  DimList kept = x.dims, dropped;
  DimExpr count(1);
  for (auto [i, dim] : llvm::enumerate(x.dims)) {
    if (llvm::is_contained(axes, static_cast<int64_t>(i))) {
      count = count * dim;
      kept[i] = DimExpr(1);
    } else {
      dropped.push_back(dim);
    }
  }
  Shaped sum{lower.reduce(x, axes, lower.zero(x.element()), add), dropped};
  Builder_ &b = lower.b;
  Value total =
      arith::SIToFPOp::create(b, x.element(), arith::IndexCastOp::create(b, b.getI64Type(), lower.size(count)));
  sum.value = lower.elementwise({sum}, dropped, x.element(), "", [&](Builder_ &inner, ValueRange v) -> Value {
    return arith::DivFOp::create(inner, v[0], total);
  });
  return {lower.reshape(sum, kept, ""), kept};
}

static Shaped squared(OnnxLowering &lower, Shaped x) { return binary(lower, x, x, x.dims, multiply, ""); }

/// 1 / sqrt(x + epsilon).
static Shaped inverseRoot(OnnxLowering &lower, Shaped x, double epsilon) {
  return {lower.elementwise({x}, x.dims, x.element(), "",
                            [&](Builder_ &b, ValueRange v) -> Value {
                              Type type = x.element();
                              Value small = arith::ConstantOp::create(b, b.getFloatAttr(type, epsilon));
                              Value one = arith::ConstantOp::create(b, b.getFloatAttr(type, 1.0));
                              Value root = math::SqrtOp::create(b, arith::AddFOp::create(b, v[0], small));
                              return arith::DivFOp::create(b, one, root);
                            }),
          x.dims};
}

/// Normalises the wide tensor `x` in place over `axes`.
static Statistics normalize(OnnxLowering &lower, Shaped &x, ArrayRef<int64_t> axes, double epsilon, bool centre) {
  Statistics statistics;
  if (centre) {
    statistics.mean = meanOver(lower, x, axes);
    x = binary(lower, x, statistics.mean, x.dims, subtract, "");
  }
  statistics.inverse = inverseRoot(lower, meanOver(lower, squared(lower, x), axes), epsilon);
  x = binary(lower, x, statistics.inverse, x.dims, multiply, "");
  return statistics;
}

/// x * scale + bias, each where the node has it; operands of the inputs' own precision are widened.
static Shaped scaled(OnnxNodeOp node, OnnxLowering &lower, Shaped x, unsigned scale, unsigned bias,
                     function_ref<Shaped(Shaped)> place = nullptr) {
  std::string what = OnnxLowering::describe(node);
  auto operand = [&](unsigned i) {
    Shaped value = lower.input(node, i);
    value.value = lower.convert(value, x.element());
    return place ? place(value) : value;
  };
  if (node.hasInput(scale))
    x = binary(lower, x, operand(scale), x.dims, multiply, what);
  if (node.hasInput(bias))
    x = binary(lower, x, operand(bias), x.dims, add, what);
  return x;
}

/// LayerNormalization and RMSNormalization: over `axis` and all behind it. The Skip forms add their second operand (and
/// a bias) first.
template <bool centre, bool skip>
static LogicalResult lowerLayerNorm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  auto axis = normalizeAxis(node.getInt("axis", -1), x.rank());
  if (!axis || !isa<FloatType>(element))
    return lower.refuse(node) << "axis " << node.getInt("axis", -1) << " of a tensor of rank " << x.rank();
  std::string what = OnnxLowering::describe(node);
  unsigned scale = skip ? 2 : 1, bias = centre ? scale + 1 : ~0u;
  x = lower.widen(x);
  Shaped sum = x;
  if (skip) {
    sum = binary(lower, x, lower.widen(lower.input(node, 1)), x.dims, add, what);
    unsigned added = centre ? 4 : 3;
    if (node.hasInput(added))
      sum = binary(lower, sum, lower.widen(lower.input(node, added)), x.dims, add, what);
    x = sum;
  }
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(*axis, x.rank()));
  // The contrib operators have another default.
  double epsilon = node.getFloat("epsilon", skip ? 1e-12 : 1e-5);
  Statistics statistics = normalize(lower, x, axes, epsilon, centre);
  x = scaled(node, lower, x, scale, bias);
  results.push_back(lower.convert(x, element));
  // Further results: the mean, the inverse deviation, and the sum; without a mean the inverse comes second.
  SmallVector<Shaped> rest = {centre ? statistics.mean : statistics.inverse, statistics.inverse, sum};
  for (unsigned i = 1; i < node.getNumResults(); ++i)
    results.push_back(isa<NoneType>(node.getResult(i).getType())
                          ? Value(rest[0].value)
                          : lower.convert(rest[i - 1], OnnxLowering::elementType(node.getResult(i))));
  return success();
}

/// A vector of one number per channel of `x`, which is [N, C, ...].
static Shaped perChannel(OnnxNodeOp node, OnnxLowering &lower, Shaped vector, const Shaped &x) {
  DimList dims(x.rank(), DimExpr(1));
  dims[1] = x.dims[1];
  return {lower.reshape(vector, dims, OnnxLowering::describe(node)), dims};
}

/// Channels are the second dimension.
static LogicalResult requireChannels(OnnxNodeOp node, OnnxLowering &lower) {
  int64_t rank = lower.input(node, 0).rank();
  if (rank < 2)
    return lower.refuse(node) << "an operand of rank " << rank << " has no channels";
  return success();
}

static LogicalResult lowerInstanceNorm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (failed(requireChannels(node, lower)))
    return failure();
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  x = lower.widen(x);
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(2, x.rank()));
  normalize(lower, x, axes, node.getFloat("epsilon", 1e-5), /*centre=*/true);
  x = scaled(node, lower, x, 1, 2, [&](Shaped v) { return perChannel(node, lower, v, x); });
  results.push_back(lower.convert(x, element));
  return success();
}

static LogicalResult lowerGroupNorm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (failed(requireChannels(node, lower)))
    return failure();
  Shaped x = lower.input(node, 0), whole = x;
  Type element = x.element();
  int64_t groups = node.getInt("num_groups", 1);
  auto size = x.dims[1].dividedBy(DimExpr(groups));
  if (groups < 1 || !size)
    return lower.refuse(node) << "the channels cannot be proved to be a multiple of " << groups << " groups";
  x = lower.widen(x);
  DimList split = {x.dims[0], DimExpr(groups), *size};
  split.append(x.dims.begin() + 2, x.dims.end());
  x = {lower.reshape(x, split, ""), split};
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(2, x.rank()));
  normalize(lower, x, axes, node.getFloat("epsilon", 1e-5), /*centre=*/true);
  // Since opset 21 there is a number per channel, before one per group.
  auto place = [&](Shaped v) {
    DimList dims(split.size(), DimExpr(1));
    dims[1] = DimExpr(groups);
    if (node.getSince() >= 21)
      dims[2] = *size;
    return Shaped{lower.reshape(v, dims, OnnxLowering::describe(node)), dims};
  };
  x = scaled(node, lower, x, 1, 2, place);
  results.push_back(lower.convert({lower.reshape(x, whole.dims, ""), whole.dims}, element));
  return success();
}

/// Inference: the mean (input 3) and variance (input 4) are given.
static LogicalResult lowerBatchNorm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (failed(requireChannels(node, lower)))
    return failure();
  if (node.getInt("training_mode", 0) || node.getNumResults() > 1)
    return lower.refuse(node) << "training mode is not supported; export the model for inference";
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  x = lower.widen(x);
  auto channel = [&](Shaped v) { return perChannel(node, lower, {lower.convert(v, x.element()), v.dims}, x); };
  Shaped mean = channel(lower.input(node, 3)), variance = channel(lower.input(node, 4));
  x = binary(lower, x, mean, x.dims, subtract, OnnxLowering::describe(node));
  x = binary(lower, x, inverseRoot(lower, variance, node.getFloat("epsilon", 1e-5)), x.dims, multiply, "");
  x = scaled(node, lower, x, 1, 2, [&](Shaped v) { return perChannel(node, lower, v, x); });
  results.push_back(lower.convert(x, element));
  return success();
}

static LogicalResult lowerMeanVariance(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  SmallVector<int64_t> axes = {0, 2, 3};
  if (auto given = node.getInts("axes"))
    axes.assign(given->begin(), given->end());
  for (int64_t &axis : axes) {
    auto normal = normalizeAxis(axis, x.rank());
    if (!normal)
      return lower.refuse(node) << "axis " << axis << " of a tensor of rank " << x.rank();
    axis = *normal;
  }
  llvm::sort(axes);
  x = lower.widen(x);
  x = binary(lower, x, meanOver(lower, x, axes), x.dims, subtract, "");
  Shaped variance = meanOver(lower, squared(lower, x), axes);
  // The definition adds 1e-9 to the deviation.
  Value result = lower.elementwise({x, variance}, x.dims, x.element(), "", [&](Builder_ &b, ValueRange v) -> Value {
    Value small = arith::ConstantOp::create(b, b.getFloatAttr(x.element(), 1e-9));
    return arith::DivFOp::create(b, v[0], arith::AddFOp::create(b, math::SqrtOp::create(b, v[1]), small));
  });
  results.push_back(lower.convert({result, x.dims}, element));
  return success();
}

/// x / norm along an axis, 0 where the norm is 0.
static LogicalResult lowerLpNorm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Type element = x.element();
  auto axis = normalizeAxis(node.getInt("axis", -1), x.rank());
  int64_t p = node.getInt("p", 2);
  if (!axis || (p != 1 && p != 2))
    return lower.refuse(node) << "p = " << p << " along axis " << node.getInt("axis", -1);
  x = lower.widen(x);
  Type wide = x.element();
  Shaped powers{lower.elementwise({x}, x.dims, wide, "",
                                  [&](Builder_ &b, ValueRange v) -> Value {
                                    return p == 1 ? Value(math::AbsFOp::create(b, v[0])) : multiply(b, v[0], v[0]);
                                  }),
                x.dims};
  DimList kept = x.dims, dropped = x.dims;
  kept[*axis] = DimExpr(1);
  dropped.erase(dropped.begin() + *axis);
  Shaped sum{lower.reduce(powers, {*axis}, lower.zero(wide), add), dropped};
  Shaped norm{lower.reshape(sum, kept, ""), kept};
  Value result = lower.elementwise({x, norm}, x.dims, wide, "", [&](Builder_ &b, ValueRange v) -> Value {
    Value zero = arith::ConstantOp::create(b, lower.zero(wide));
    Value size = p == 1 ? v[1] : Value(math::SqrtOp::create(b, v[1]));
    Value none = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, size, zero);
    return arith::SelectOp::create(b, none, zero, arith::DivFOp::create(b, v[0], size));
  });
  results.push_back(lower.convert({result, x.dims}, element));
  return success();
}

void mlir::moe::addNormalizationOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"BatchNormalization", 9, lowerBatchNorm, "inference"},
      {"GroupNormalization", 18, lowerGroupNorm, "the channels are a known multiple of the groups"},
      {"InstanceNormalization", 6, lowerInstanceNorm, ""},
      {"LayerNormalization", 1, lowerLayerNorm<true, false>, ""},
      {"LpNormalization", 1, lowerLpNorm, ""},
      {"MeanVarianceNormalization", 9, lowerMeanVariance, ""},
      {"RMSNormalization", 23, lowerLayerNorm<false, false>, ""},
      {"SimplifiedLayerNormalization", 1, lowerLayerNorm<false, false>, ""},
      {"com.microsoft.SkipLayerNormalization", 1, lowerLayerNorm<true, true>, ""},
      {"com.microsoft.SkipSimplifiedLayerNormalization", 1, lowerLayerNorm<false, true>, ""},
  });
}
