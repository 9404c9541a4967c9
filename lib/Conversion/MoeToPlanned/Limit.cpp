//===- Limit.cpp - lowering of moe.limit ----------------------------------===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// Takes pair (t, s) of expert e if the expert has room: state = (indices, weights, taken [E]).
static Values claim(LoopBuilder &b, const Slots &in, const Amount &cap, Value t, Value s, Value e, ValueRange state) {
  Value taken = b.extract(state[2], e);
  return b.when(b.less(taken, cap.at(b, e)), state, [&]() -> Values {
    return {b.insert(b.extract(in.indices, {t, s}), state[0], {t, s}),
            b.insert(b.extract(in.weights, {t, s}), state[1], {t, s}), b.insert(b.add(taken, b.index(1)), state[2], e)};
  });
}

/// The slot of the p-th pair of every row, -1 behind the last.
static Value slotsByPosition(LoopBuilder &b, const Slots &in) {
  Value init = b.filled({in.getTokensOrAttr(b), b.getIndexAttr(in.getSlots())}, b.index(-1));
  return b
      .loop(in.getTokens(b), init,
            [&](Value t, ValueRange outer) -> Values {
              Values row = b.loop(b.index(in.getSlots()), {outer[0], b.index(0)}, [&](Value s, ValueRange c) {
                Value there = b.notLess(b.extract(in.indices, {t, s}), b.i32(0));
                return b.when(there, c,
                              [&]() -> Values { return {b.insert(s, c[0], {t, c[1]}), b.add(c[1], b.index(1))}; });
              });
              return {row[0]};
            })
      .front();
}

namespace {
struct LowerLimit : RoutedOpPattern<LimitOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, LimitOp op, Operands operands) const override {
    Slots in(operands.getInput());
    Amount cap{op.getCap() ? operands.getCap().front() : Value(), op.getStaticCap()};
    Values result;
    if (op.getOrder() == LimitOrder::Key) {
      KeyReader reader{in, op.getKey() ? operands.getKey().front() : Value()};
      result = keepBestPairs(b, reader, cap, /*perExpert=*/true, TieBreak::Lowest).get();
    } else {
      int64_t experts = cast<RoutingType>(op.getInput().getType()).getExperts();
      Values state = Slots::getEmpty(b, in.getTokensOrAttr(b), in.getSlots(), in.getWeightType()).get();
      state.push_back(b.filled(OpFoldResult(b.getIndexAttr(experts)), b.index(0)));
      if (op.getOrder() == LimitOrder::Row) {
        state = forEachPair(b, in, state,
                            [&](Value t, Value s, Value e, ValueRange c) { return claim(b, in, cap, t, s, e, c); });
      } else {
        Value slotAt = slotsByPosition(b, in);
        state = b.loop(b.index(in.getSlots()), state, [&](Value p, ValueRange outer) {
          return b.loop(in.getTokens(b), outer, [&](Value t, ValueRange c) {
            Value s = b.extract(slotAt, {t, p});
            return b.when(b.notLess(s, b.index(0)), c,
                          [&] { return claim(b, in, cap, t, s, b.toIndex(b.extract(in.indices, {t, s})), c); });
          });
        });
      }
      state.pop_back();
      result = state;
    }
    return result;
  }
};
} // namespace

void moe::populateLimitPatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerLimit>(converter, patterns.getContext());
}
