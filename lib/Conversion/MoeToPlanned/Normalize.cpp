//===- Normalize.cpp - lowering of moe.normalize --------------------------===//
#include "RoutingLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// One statistic per row, per expert, or one for all: a tensor<?xf> with the entry of a pair.
struct Statistic {
  Axis axis;
  int64_t experts;

  Value init(LoopBuilder &b, const Slots &in, Value scalar) const {
    OpFoldResult size = axis == Axis::Expert  ? in.getTokensOrAttr(b)
                        : axis == Axis::Token ? OpFoldResult(b.getIndexAttr(experts))
                                              : OpFoldResult(b.getIndexAttr(1));
    return b.filled(size, scalar);
  }
  Value at(LoopBuilder &b, Value t, Value e) const {
    return axis == Axis::Expert ? t : axis == Axis::Token ? e : b.index(0);
  }
};

/// Rows are regular: reductions and elementwise ops over [T, S], in which an empty slot counts for nothing, so that
/// they become vector code. The steps are those of the general form below.
Value normalizeRows(LoopBuilder &b, NormalizeOp op, const Slots &in, Type type, Value lowest) {
  MLIRContext *context = b.getContext();
  Location loc = b.getLoc();
  AffineMap pair = b.getMultiDimIdentityMap(2), row = AffineMap::get(2, 0, {b.getAffineDimExpr(0)}, context);
  Value zero = b.number(type, 0.0), none = b.i32(0);
  using Body = llvm::function_ref<Value(LoopBuilder &, Value live, Value weight, ValueRange)>;
  // `rows` are statistics to read; the result is a statistic too if `reduce`.
  auto emit = [&](ValueRange rows, Value init, bool reduce, Body body) -> Value {
    SmallVector<Value> inputs{in.indices, in.weights};
    llvm::append_range(inputs, rows);
    SmallVector<AffineMap> maps{pair, pair};
    maps.append(rows.size(), row);
    maps.push_back(reduce ? row : pair);
    SmallVector<utils::IteratorType> kinds{utils::IteratorType::parallel,
                                           reduce ? utils::IteratorType::reduction : utils::IteratorType::parallel};
    auto generic = linalg::GenericOp::create(
        b, init.getType(), inputs, init, maps, kinds, [&](OpBuilder &builder, Location, ValueRange arguments) {
          LoopBuilder inner(loc, builder);
          Value live = inner.cmp(arith::CmpIPredicate::sge, arguments[0], none);
          Value weight = inner.toFloat(arguments[1], type);
          linalg::YieldOp::create(inner, body(inner, live, weight, arguments.drop_front(2)));
        });
    return generic.getResult(0);
  };
  auto statistic = [&](Value start) { return b.filled(in.getTokensOrAttr(b), start); };
  auto exponential = [&](LoopBuilder &i, Value weight, Value maximum) -> Value {
    Value power = math::ExpOp::create(i, arith::SubFOp::create(i, weight, maximum));
    return i.select(i.cmp(arith::CmpFPredicate::OEQ, maximum, lowest), zero, power);
  };

  Value maxima, divisors;
  if (op.getBy() != Norm::Sum)
    maxima = emit({}, statistic(lowest), true, [&](LoopBuilder &i, Value live, Value weight, ValueRange r) -> Value {
      return arith::MaximumFOp::create(i, r.back(), i.select(live, weight, lowest));
    });
  Values read = maxima ? Values{maxima} : Values{};
  if (op.getBy() != Norm::Max) {
    divisors = emit(read, statistic(zero), true, [&](LoopBuilder &i, Value live, Value weight, ValueRange r) -> Value {
      Value term = maxima ? exponential(i, weight, r[0]) : weight;
      return arith::AddFOp::create(i, r.back(), i.select(live, term, zero));
    });
    read.push_back(divisors);
  }
  Value init = Slots::getEmpty(b, in.getTokensOrAttr(b), in.getSlots(), in.getWeightType()).weights;
  return emit(read, init, false, [&](LoopBuilder &i, Value live, Value weight, ValueRange r) -> Value {
    Value divisor = r[read.size() - 1];
    Value numerator = op.getBy() == Norm::Softmax ? exponential(i, weight, r[0]) : weight;
    if (op.getBy() != Norm::Softmax && !op.getEps().isZero())
      divisor = arith::AddFOp::create(i, divisor, i.number(type, op.getEps().convertToDouble()));
    Value quotient = arith::DivFOp::create(i, numerator, divisor);
    Value isZero = i.cmp(arith::CmpFPredicate::OEQ, divisor, zero);
    return i.toFloat(i.select(live, i.select(isZero, zero, quotient), zero), in.getWeightType());
  });
}

struct LowerNormalize : RoutedOpPattern<NormalizeOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, NormalizeOp op, Operands operands) const override {
    Slots in(operands.getInput());
    Statistic stat{op.getAxis(), cast<RoutingType>(op.getType()).getExperts()};
    // Half-precision weights are normalised in f32 and rounded once.
    Type weightType = in.getWeightType();
    Type type = weightType.getIntOrFloatBitWidth() < 32 ? b.getF32Type() : weightType;
    auto weightAt = [&](Value t, Value s) { return b.toFloat(b.extract(in.weights, {t, s}), type); };
    Value zero = b.number(type, 0.0);
    Value lowest = arith::ConstantOp::create(
        b, b.getFloatAttr(type, APFloat::getInf(cast<FloatType>(type).getFloatSemantics(), /*Negative=*/true)));

    if (op.getAxis() == Axis::Expert) {
      return {in.indices, normalizeRows(b, op, in, type, lowest)};
    }
    Value maxima, divisors;
    if (op.getBy() != Norm::Sum)
      maxima = forEachPair(b, in, stat.init(b, in, lowest), [&](Value t, Value s, Value e, ValueRange c) -> Values {
                 Value at = stat.at(b, t, e);
                 Value larger = arith::MaximumFOp::create(b, b.extract(c[0], at), weightAt(t, s));
                 return {b.insert(larger, c[0], at)};
               }).front();
    // softmax: exp(w - max); a list of nothing but -inf has no finite point to measure from, and gives zeros.
    auto exponential = [&](Value t, Value s, Value e) -> Value {
      Value maximum = b.extract(maxima, stat.at(b, t, e));
      Value power = math::ExpOp::create(b, arith::SubFOp::create(b, weightAt(t, s), maximum));
      return b.select(b.cmp(arith::CmpFPredicate::OEQ, maximum, lowest), zero, power);
    };
    if (op.getBy() != Norm::Max)
      divisors = forEachPair(b, in, stat.init(b, in, zero), [&](Value t, Value s, Value e, ValueRange c) -> Values {
                   Value at = stat.at(b, t, e);
                   Value term = op.getBy() == Norm::Sum ? weightAt(t, s) : exponential(t, s, e);
                   return {b.insert(arith::AddFOp::create(b, b.extract(c[0], at), term), c[0], at)};
                 }).front();

    Value init = Slots::getEmpty(b, in.getTokensOrAttr(b), in.getSlots(), weightType).weights;
    Value weights = forEachPair(b, in, init, [&](Value t, Value s, Value e, ValueRange c) -> Values {
                      Value divisor = b.extract(op.getBy() == Norm::Max ? maxima : divisors, stat.at(b, t, e));
                      Value numerator = op.getBy() == Norm::Softmax ? exponential(t, s, e) : weightAt(t, s);
                      if (op.getBy() != Norm::Softmax && !op.getEps().isZero())
                        divisor = arith::AddFOp::create(b, divisor, b.number(type, op.getEps().convertToDouble()));
                      Value quotient = arith::DivFOp::create(b, numerator, divisor);
                      Value isZero = b.cmp(arith::CmpFPredicate::OEQ, divisor, zero);
                      Value weight = b.toFloat(b.select(isZero, zero, quotient), weightType);
                      return {b.insert(weight, c[0], {t, s})};
                    }).front();
    return {in.indices, weights};
  }
};
} // namespace

void moe::populateNormalizePatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerNormalize>(converter, patterns.getContext());
}
