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

struct LowerNormalize : OpConversionPattern<NormalizeOp> {
  using OpConversionPattern::OpConversionPattern;
  LogicalResult matchAndRewrite(NormalizeOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    LoopBuilder b(op.getLoc(), rewriter);
    Slots in(adaptor.getInput());
    Statistic stat{op.getAxis(), cast<RoutingType>(op.getType()).getExperts()};
    // Half-precision weights are normalised in f32 and rounded once.
    Type weightType = in.getWeightType();
    Type type = weightType.getIntOrFloatBitWidth() < 32 ? b.getF32Type() : weightType;
    auto weightAt = [&](Value t, Value s) { return b.toFloat(b.extract(in.weights, {t, s}), type); };
    Value zero = b.number(type, 0.0);
    Value lowest = arith::ConstantOp::create(
        b, b.getFloatAttr(type, APFloat::getInf(cast<FloatType>(type).getFloatSemantics(), /*Negative=*/true)));

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
    Values result{in.indices, b.castTo(weights, in.weights.getType())};
    rewriter.replaceOpWithMultiple(op, SmallVector<ValueRange>{result});
    return success();
  }
};
} // namespace

void moe::populateNormalizePatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerNormalize>(converter, patterns.getContext());
}
