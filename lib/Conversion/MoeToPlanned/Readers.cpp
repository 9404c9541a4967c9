//===- Readers.cpp - lowering of to_dense, to_slots, counts ---------------===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// Whether every row's list fills its first slots: what made the routing left no holes.
static bool isCompact(Value routing) {
  Operation *op = routing.getDefiningOp();
  if (!op)
    return false;
  if (isa<NormalizeOp, MapOp, CastOp>(op) ||
      (isa<ConvertOp>(op) && isa_and_nonnull<RouteOp>(op->getOperand(0).getDefiningOp())))
    return isCompact(op->getOperand(0));
  if (auto topK = dyn_cast<TopKOp>(op))
    return topK.getAxis() == Axis::Expert;
  if (auto route = dyn_cast<RouteOp>(op))
    return !route.getMask();
  return false;
}

namespace {

struct LowerToDense : RoutedOpPattern<ToDenseOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, ToDenseOp op, Operands operands) const override {
    Slots in(operands.getInput());
    auto type = cast<RankedTensorType>(op.getType());
    Type element = type.getElementType();
    double fill = op.getFill() ? op.getFill()->convertToDouble() : op.getOf() == DenseOf::Rank ? -1.0 : 0.0;
    Value background = op.getOf() == DenseOf::Weight ? b.number(element, fill)
                       : op.getOf() == DenseOf::Mask ? b.boolean(fill != 0.0)
                                                     : b.i32(static_cast<int64_t>(fill));
    SmallVector<OpFoldResult> shape{in.getTokensOrAttr(b), b.getIndexAttr(type.getDimSize(1))};
    Value dense = b.filled(shape, background);
    Value result;
    switch (op.getOf()) {
    case DenseOf::Mask:
      result = forEachPair(b, in, dense, [&](Value t, Value, Value e, ValueRange c) -> Values {
                 return {b.insert(b.boolean(true), c[0], {t, e})};
               }).front();
      break;
    case DenseOf::Weight: {
      // A pair that occurs again adds to its first weight; with a background of zero the sum needs no memory of it.
      Values state{dense};
      if (fill != 0.0)
        state.push_back(b.filled(shape, b.boolean(false)));
      result = forEachPair(b, in, state, [&](Value t, Value s, Value e, ValueRange c) -> Values {
                 Value weight = b.extract(in.weights, {t, s});
                 Value sum = arith::AddFOp::create(b, b.extract(c[0], {t, e}), weight);
                 if (fill == 0.0)
                   return {b.insert(sum, c[0], {t, e})};
                 Value entry = b.select(b.extract(c[1], {t, e}), sum, weight);
                 return {b.insert(entry, c[0], {t, e}), b.insert(b.boolean(true), c[1], {t, e})};
               }).front();
      break;
    }
    case DenseOf::Rank: {
      Value seen = b.filled(shape, b.boolean(false));
      result =
          b.loop(in.getTokens(b), {dense, seen}, [&](Value t, ValueRange outer) -> Values {
             Values state = llvm::to_vector_of<Value>(outer);
             state.push_back(b.i32(0));
             state = b.loop(b.index(in.getSlots()), state, [&](Value s, ValueRange c) {
               Value expert = b.extract(in.indices, {t, s});
               return b.when(b.notLess(expert, b.i32(0)), c, [&]() -> Values {
                 Value e = b.toIndex(expert);
                 Value entry = b.select(b.extract(c[1], {t, e}), b.extract(c[0], {t, e}), c[2]);
                 return {b.insert(entry, c[0], {t, e}), b.insert(b.boolean(true), c[1], {t, e}), b.add(c[2], b.i32(1))};
               });
             });
             return {state[0], state[1]};
           }).front();
      break;
    }
    }
    return {result};
  }
};

struct LowerToSlots : RoutedOpPattern<ToSlotsOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, ToSlotsOp op, Operands operands) const override {
    Slots in(operands.getInput());
    Values result = in.get();
    auto stored = cast<RoutingType>(op.getInput().getType());
    if (!isCompact(op.getInput()) || stored.getSlots() != stored.getStoredSlots())
      result = compact(b, in, stored.getSlots()).get();
    return result;
  }
};

struct LowerCounts : RoutedOpPattern<CountsOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, CountsOp op, Operands operands) const override {
    Slots in(operands.getInput());
    bool perExpert = op.getPer() == CountsPer::Expert;
    OpFoldResult size = in.getTokensOrAttr(b);
    if (perExpert)
      size = b.getIndexAttr(cast<RoutingType>(op.getInput().getType()).getExperts());
    Value result = forEachPair(b, in, b.filled(size, b.i32(0)), [&](Value t, Value, Value e, ValueRange c) -> Values {
                     Value at = perExpert ? e : t;
                     return {b.insert(b.add(b.extract(c[0], at), b.i32(1)), c[0], at)};
                   }).front();
    return {result};
  }
};
} // namespace

void moe::populateReaderPatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerToDense, LowerToSlots, LowerCounts>(converter, patterns.getContext());
}
