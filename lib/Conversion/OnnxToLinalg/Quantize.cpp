//===- Quantize.cpp - QuantizeLinear, DequantizeLinear, integer products --===//
//
// Scales and zero points are one number, one per place of an axis, or one per block of places; each becomes a tensor
// that broadcasts to the operand. The arithmetic is f32.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

/// A scale or zero point for each element of a tensor of shape `dims`.
static FailureOr<Shaped> spread(OnnxNodeOp node, OnnxLowering &lower, Shaped numbers, ArrayRef<DimExpr> dims) {
  auto reshape = [&](DimList to) { return Shaped{lower.reshape(numbers, to, OnnxLowering::describe(node)), to}; };
  int64_t rank = dims.size(), given = node.getInt("axis", 1);
  // Sizes that only run time can compare are compared then.
  auto fits = [&](ArrayRef<DimExpr> wanted) -> LogicalResult {
    for (auto [d, dim] : llvm::enumerate(wanted))
      if (dim.isConstant() && numbers.dims[d].isConstant() && dim != numbers.dims[d])
        return lower.refuse(node) << "expected " << dim.constant() << " scales (and zero points) along dimension " << d
                                  << " of theirs, got " << numbers.dims[d].constant();
    return success();
  };
  if (numbers.rank() == 0 || productOf(numbers.dims).is(1))
    return reshape({});
  auto axis = normalizeAxis(given, rank);
  if (!axis)
    return lower.refuse(node) << "axis " << given << " of a tensor of rank " << rank;
  int64_t block = node.getInt("block_size", 0);
  if (numbers.rank() == 1 && block == 0) {
    if (failed(fits(dims[*axis])))
      return failure();
    DimList to(rank, DimExpr(1));
    to[*axis] = dims[*axis];
    return reshape(to);
  }
  if (numbers.rank() != rank || block < 1)
    return lower.refuse(node) << "scales of rank " << numbers.rank() << " with blocks of " << block;
  DimList blocks(dims);
  blocks[*axis] = lower.shapes.getAtoms().ceilDiv(dims[*axis], block);
  if (failed(fits(blocks)))
    return failure();
  Shaped checked = reshape(blocks);
  return Shaped{lower.generate(dims, numbers.element(),
                               [&](Builder_ &b, ValueRange at) -> Value {
                                 SmallVector<Value> position(at);
                                 Value size = arith::ConstantIndexOp::create(b, block);
                                 position[*axis] = arith::DivUIOp::create(b, at[*axis], size);
                                 return tensor::ExtractOp::create(b, checked.value, position);
                               }),
                DimList(dims)};
}

/// A tensor of numbers as f32, whatever its element type.
static Shaped asFloat(OnnxLowering &lower, Value onnxValue) {
  Shaped x = lower.get(onnxValue);
  Type f32 = lower.b.getF32Type();
  if (OnnxLowering::isCoded(OnnxLowering::onnxType(onnxValue)))
    return {lower.decode(x, OnnxLowering::onnxType(onnxValue)), x.dims};
  return {lower.convert(x, f32, OnnxLowering::isUnsigned(onnxValue)), x.dims};
}

/// The least and the largest number of an integer type.
static std::pair<double, double> rangeOf(Type type) {
  unsigned width = type.getIntOrFloatBitWidth();
  if (type.isUnsignedInteger())
    return {0, std::ldexp(1.0, width) - 1};
  return {-std::ldexp(1.0, width - 1), std::ldexp(1.0, width - 1) - 1};
}

/// round(x / scale) + zero point within the target's range, as integers.
static Value quantize(OnnxLowering &lower, Shaped x, Shaped scale, Shaped zero, Type target, const Twine &what) {
  auto [low, high] = rangeOf(target);
  SmallVector<Shaped> operands = {x, scale};
  if (zero.value)
    operands.push_back(zero);
  Value wide = lower.elementwise(operands, x.dims, x.element(), what, [&](Builder_ &b, ValueRange v) -> Value {
    auto constant = [&](double value) { return arith::ConstantOp::create(b, b.getF32FloatAttr(value)); };
    Value q = math::RoundEvenOp::create(b, arith::DivFOp::create(b, v[0], v[1]));
    if (v.size() > 2)
      q = arith::AddFOp::create(b, q, v[2]);
    // A NaN becomes the least number.
    q = arith::MaxNumFOp::create(b, q, constant(low));
    return arith::MinNumFOp::create(b, q, constant(high));
  });
  return lower.convert({wide, x.dims}, OnnxLowering::storageType(target), false, target.isUnsignedInteger());
}

static LogicalResult lowerQuantize(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type target = OnnxLowering::onnxType(node.getResult(0));
  Shaped x = asFloat(lower, node.getInputs()[0]);
  auto scale = spread(node, lower, asFloat(lower, node.getInputs()[1]), x.dims);
  if (failed(scale))
    return failure();
  std::string what = OnnxLowering::describe(node);
  if (OnnxLowering::isCoded(target)) {
    // The zero point of small floats is 0.
    Shaped scaled{
        lower.elementwise({x, *scale}, x.dims, x.element(), what,
                          [](Builder_ &b, ValueRange v) -> Value { return arith::DivFOp::create(b, v[0], v[1]); }),
        x.dims};
    results.push_back(lower.encode(scaled, target, node.getInt("saturate", 1) != 0, "up"));
    return success();
  }
  Shaped zero;
  if (node.hasInput(2)) {
    auto points = spread(node, lower, asFloat(lower, node.getInputs()[2]), x.dims);
    if (failed(points))
      return failure();
    zero = *points;
  }
  results.push_back(quantize(lower, x, *scale, zero, target, what));
  return success();
}

static LogicalResult lowerDequantize(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Value codes = node.getInputs()[0];
  Shaped x = lower.get(codes);
  auto scale = spread(node, lower, asFloat(lower, node.getInputs()[1]), x.dims);
  if (failed(scale))
    return failure();
  SmallVector<Shaped> operands = {x, *scale};
  bool coded = OnnxLowering::isCoded(OnnxLowering::onnxType(codes)), isUnsigned = OnnxLowering::isUnsigned(codes);
  if (coded) {
    operands[0].value = lower.decode(x, OnnxLowering::onnxType(codes));
  } else if (node.hasInput(2)) {
    auto points = spread(node, lower, lower.input(node, 2), x.dims);
    if (failed(points))
      return failure();
    operands.push_back(*points);
  }
  Type f32 = lower.b.getF32Type();
  Value result =
      lower.elementwise(operands, x.dims, f32, OnnxLowering::describe(node), [&](Builder_ &b, ValueRange v) -> Value {
        Value value = v[0];
        if (!coded) {
          // Differences of codes are exact in i64.
          auto widen = [&](Value code) -> Value {
            if (isUnsigned)
              return arith::ExtUIOp::create(b, b.getI64Type(), code);
            return arith::ExtSIOp::create(b, b.getI64Type(), code);
          };
          value = widen(value);
          if (v.size() > 2)
            value = arith::SubIOp::create(b, value, widen(v[2]));
          value = arith::SIToFPOp::create(b, f32, value);
        }
        return arith::MulFOp::create(b, value, v[1]);
      });
  results.push_back(lower.convert({result, x.dims}, OnnxLowering::elementType(node.getResult(0))));
  return success();
}

static LogicalResult lowerDynamicQuantize(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  Builder_ &b = lower.b;
  Type f32 = b.getF32Type();
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
  // The range holds 0 whatever the elements are.
  auto extreme = [&](bool largest) {
    Value found = lower.reduce(x, axes, b.getF32FloatAttr(0), [&](Builder_ &inner, Value v, Value m) -> Value {
      if (largest)
        return arith::MaximumFOp::create(inner, v, m);
      return arith::MinimumFOp::create(inner, v, m);
    });
    return tensor::ExtractOp::create(b, found, ValueRange{});
  };
  Value low = extreme(false), high = extreme(true);
  auto constant = [&](double value) { return lower.constant(b.getF32FloatAttr(value)); };
  Value scale = arith::DivFOp::create(b, arith::SubFOp::create(b, high, low), constant(255));
  Value flat = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, scale, constant(0));
  scale = arith::SelectOp::create(b, flat, constant(1), scale);
  Value point = math::RoundEvenOp::create(b, arith::DivFOp::create(b, arith::NegFOp::create(b, low), scale));
  point = arith::MinNumFOp::create(b, arith::MaxNumFOp::create(b, point, constant(0)), constant(255));
  auto tensorOf = [&](Value scalar) {
    auto type = RankedTensorType::get({}, scalar.getType());
    return Shaped{tensor::FromElementsOp::create(b, type, scalar), {}};
  };
  Shaped scales = tensorOf(scale), points = tensorOf(point);
  auto byte = IntegerType::get(b.getContext(), 8, IntegerType::Unsigned);
  results.push_back(quantize(lower, x, scales, points, byte, ""));
  results.push_back(scales.value);
  results.push_back(lower.convert(points, b.getI8Type(), false, true));
  (void)f32;
  return success();
}

/// Operand `i` as i32 less its zero point (input `point`): one number, or one per row of the left or column of the
/// right side.
static Shaped centred(OnnxNodeOp node, OnnxLowering &lower, unsigned i, unsigned point, bool isLeft) {
  Type i32 = lower.b.getI32Type();
  Shaped x = lower.input(node, i);
  x.value = lower.convert(x, i32, OnnxLowering::isUnsigned(node.getInputs()[i]));
  if (!node.hasInput(point))
    return x;
  Shaped zero = lower.input(node, point);
  zero.value = lower.convert(zero, i32, OnnxLowering::isUnsigned(node.getInputs()[point]));
  if (zero.rank() == 1) {
    DimList to = zero.dims;
    if (zero.dims[0].is(1))
      to.clear();
    else if (isLeft)
      to.push_back(DimExpr(1));
    zero = {lower.reshape(zero, to, ""), to};
  }
  x.value = lower.elementwise({x, zero}, x.dims, i32, OnnxLowering::describe(node),
                              [](Builder_ &b, ValueRange v) -> Value { return arith::SubIOp::create(b, v[0], v[1]); });
  return x;
}

static LogicalResult lowerMatMulInteger(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Value product;
  if (failed(lower.product(node, centred(node, lower, 0, 2, true), centred(node, lower, 1, 3, false),
                           lower.dimsOf(node.getResult(0)), product)))
    return failure();
  results.push_back(product);
  return success();
}

/// a, its scale and zero point, b with its own, then those of the result.
static LogicalResult lowerQLinearMatMul(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Value product;
  DimList dims = lower.dimsOf(node.getResult(0));
  if (failed(lower.product(node, centred(node, lower, 0, 2, true), centred(node, lower, 3, 5, false), dims, product)))
    return failure();
  auto factor = [&](unsigned i, bool isRow) {
    Shaped scale = asFloat(lower, node.getInputs()[i]);
    DimList to = scale.dims;
    if (productOf(to).is(1))
      to.clear();
    else if (isRow && scale.rank() == 1)
      to.push_back(DimExpr(1));
    return Shaped{lower.reshape(scale, to, ""), to};
  };
  Type f32 = lower.b.getF32Type();
  std::string what = OnnxLowering::describe(node);
  Shaped exact{lower.convert({product, dims}, f32), dims};
  Shaped real{lower.elementwise({exact, factor(1, true), factor(4, false)}, dims, f32, what,
                                [](Builder_ &b, ValueRange v) -> Value {
                                  return arith::MulFOp::create(b, v[0], arith::MulFOp::create(b, v[1], v[2]));
                                }),
              dims};
  Shaped zero = asFloat(lower, node.getInputs()[7]);
  DimList none;
  if (productOf(zero.dims).is(1))
    zero = {lower.reshape(zero, none, ""), none};
  results.push_back(quantize(lower, real, factor(6, true), zero, OnnxLowering::onnxType(node.getResult(0)), what));
  return success();
}

void mlir::moe::addQuantizeOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"DequantizeLinear", 10, lowerDequantize, ""},
      {"DynamicQuantizeLinear", 11, lowerDynamicQuantize, ""},
      {"MatMulInteger", 10, lowerMatMulInteger, ""},
      {"QLinearMatMul", 10, lowerQLinearMatMul, ""},
      {"QuantizeLinear", 10, lowerQuantize, "the division is in f32"},
  });
}
