//===- Select.cpp - lowering of moe.select --------------------------------===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// Ranks each row by insertion, then walks down the ranks and empties the slots that the predicate refuses.
struct LowerSelect : RoutedOpPattern<SelectOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, SelectOp op, Operands operands) const override {
    Slots in(operands.getInput());
    KeyReader reader{in, op.getKey() ? operands.getKey().front() : Value()};
    Value slots = b.index(in.getSlots());
    Values out = Slots::getEmpty(b, in.getTokensOrAttr(b), in.getSlots(), in.getWeightType()).get();
    if (in.getSlots() > 0) {
      out = b.loop(in.getTokens(b), out, [&](Value t, ValueRange rows) -> Values {
        // The keys are each row's own, so that rows have nothing to do with each other.
        Values state = llvm::to_vector_of<Value>(rows);
        state.push_back(b.empty(OpFoldResult(b.getIndexAttr(in.getSlots())), reader.getType()));
        Values ranked = insertByRank(b, reader, t, b.index(0), slots, TieBreak::Lowest, state);
        Value keys = ranked[2];
        Values kept{ranked[0], ranked[1], b.number(reader.getType(), 0.0)};
        kept = b.loop(slots, kept, [&](Value rank, ValueRange c) {
          Value expert = b.extract(c[0], {t, rank});
          return b.when(b.notLess(expert, b.i32(0)), c, [&]() -> Values {
            Value key = b.extract(keys, rank);
            Value stays = b.inlineRegion(op.getPredicate(), {key, rank, c[2], t, b.toIndex(expert)}).front();
            Value zero = b.number(in.getWeightType(), 0.0);
            return {b.insert(b.select(stays, expert, b.i32(-1)), c[0], {t, rank}),
                    b.insert(b.select(stays, b.extract(c[1], {t, rank}), zero), c[1], {t, rank}),
                    arith::AddFOp::create(b, c[2], key)};
          });
        });
        return {kept[0], kept[1]};
      });
    }
    return out;
  }
};
} // namespace

void moe::populateSelectPatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerSelect>(converter, patterns.getContext());
}
