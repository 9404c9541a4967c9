//===- TopK.cpp - lowering of moe.top_k -----------------------------------===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// Whether each group of experts is among the `keep` best of row t, as tensor<g x i1>.
static Value chooseGroups(LoopBuilder &b, TopKOp op, const KeyReader &reader, Value t, int64_t groups,
                          int64_t groupSize) {
  Type keyType = reader.getType();
  OpFoldResult count = b.getIndexAttr(groups);
  // The two largest keys of every group and how many keys it has, up to two.
  Values top{b.empty(count, keyType), b.empty(count, keyType), b.filled(count, b.i32(0))};
  Value size = b.index(groupSize);
  top = b.loop(b.index(reader.slots.getSlots()), top, [&](Value s, ValueRange state) {
    Value expert = b.extract(reader.slots.indices, {t, s});
    return b.when(b.notLess(expert, b.i32(0)), state, [&]() -> Values {
      Value e = b.toIndex(expert);
      Value g = arith::DivUIOp::create(b, e, size);
      Value key = reader.read(b, t, s, e);
      Value seen = b.extract(state[2], g), first = b.extract(state[0], g), second = b.extract(state[1], g);
      Value isFirst = b.lor(b.less(seen, b.i32(1)), precedes(b, key, first, b.boolean(false)));
      Value isSecond = b.lor(b.less(seen, b.i32(2)), precedes(b, key, second, b.boolean(false)));
      Value newSecond = b.select(isFirst, first, b.select(isSecond, key, second));
      return {b.insert(b.select(isFirst, key, first), state[0], g), b.insert(newSecond, state[1], g),
              b.insert(b.minimum(b.add(seen, b.i32(1)), b.i32(2)), state[2], g)};
    });
  });
  Value scores = top[0], seen = top[2];
  if (op.getScore() == GroupScore::Sum2) {
    scores = b.loop(b.index(groups), b.empty(count, keyType), [&](Value g, ValueRange state) -> Values {
                Value first = b.extract(top[0], g), second = b.extract(top[1], g);
                Value both = arith::AddFOp::create(b, first, second);
                Value score = b.select(b.less(b.extract(seen, g), b.i32(2)), first, both);
                return {b.insert(score, state[0], g)};
              }).front();
  }
  // A group stays if fewer than `keep` others come before it; a group without pairs comes last.
  auto order = op.getTies() == TieBreak::Lowest ? arith::CmpIPredicate::slt : arith::CmpIPredicate::sgt;
  return b
      .loop(b.index(groups), b.empty(count, b.getI1Type()),
            [&](Value g, ValueRange state) -> Values {
              Value score = b.extract(scores, g);
              Value better = b.loop(b.index(groups), b.index(0), [&](Value other, ValueRange n) -> Values {
                                Value there = b.notLess(b.extract(seen, other), b.i32(1));
                                Value before = precedes(b, b.extract(scores, other), score, b.cmp(order, other, g));
                                return {b.add(n[0], b.select(b.land(there, before), b.index(1), b.index(0)))};
                              }).front();
              return {b.insert(b.less(better, b.index(*op.getKeep())), state[0], g)};
            })
      .front();
}

/// The k best of each row, in rank order, by insertion: O(slots) for most pairs, O(k) for one that enters.
static Values keepBestOfRows(LoopBuilder &b, TopKOp op, const KeyReader &reader, const Amount &amount) {
  auto type = cast<RoutingType>(op.getType());
  const Slots &in = reader.slots;
  int64_t slots = type.getSlots();
  Values out = Slots::getEmpty(b, in.getTokensOrAttr(b), slots, in.getWeightType()).get();
  if (slots == 0 || in.getSlots() == 0)
    return out;
  int64_t groups = op.getGroups().value_or(1), groupSize = type.getExperts() / groups;
  Value room = b.index(slots);
  Values rows = b.loop(in.getTokens(b), out, [&](Value t, ValueRange carriedRows) -> Values {
    // The keys are each row's own, so that rows have nothing to do with each other.
    Values state = llvm::to_vector_of<Value>(carriedRows);
    state.push_back(b.empty(OpFoldResult(b.getIndexAttr(slots)), reader.getType()));
    auto withoutKeys = [](Values all) {
      all.pop_back();
      return all;
    };
    Value k = b.minimum(amount.at(b, t), room);
    if (groups == 1)
      return withoutKeys(insertByRank(b, reader, t, b.index(0), k, op.getTies(), state));
    Value size = b.index(groupSize);
    auto groupOf = [&](Value e) -> Value { return arith::DivUIOp::create(b, e, size); };
    if (op.getKeep()) {
      Value chosen = chooseGroups(b, op, reader, t, groups, groupSize);
      return withoutKeys(insertByRank(b, reader, t, b.index(0), k, op.getTies(), state,
                                      [&](Value e) { return b.extract(chosen, groupOf(e)); }));
    }
    // The list of each group begins where the one before it ended.
    Values carried{b.index(0)};
    llvm::append_range(carried, state);
    Values end = b.loop(b.index(groups), carried, [&](Value g, ValueRange c) -> Values {
      Value limit = b.minimum(b.add(c[0], k), room);
      Values next = insertByRank(b, reader, t, c[0], limit, op.getTies(), c.drop_front(),
                                 [&](Value e) { return b.equal(groupOf(e), g); });
      Value base = b.loop(c[0], limit, c[0], [&](Value j, ValueRange n) -> Values {
                      Value there = b.notLess(b.extract(next[0], {t, j}), b.i32(0));
                      return {b.add(n[0], b.select(there, b.index(1), b.index(0)))};
                    }).front();
      next.insert(next.begin(), base);
      return next;
    });
    return withoutKeys(Values(llvm::drop_begin(end)));
  });
  return rows;
}

namespace {
struct LowerTopK : RoutedOpPattern<TopKOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, TopKOp op, Operands operands) const override {
    KeyReader reader{Slots(operands.getInput()), op.getKey() ? operands.getKey().front() : Value()};
    Amount amount{op.getK() ? operands.getK().front() : Value(), op.getStaticK()};
    Values result;
    if (op.getAxis() == Axis::Expert) {
      result = keepBestOfRows(b, op, reader, amount);
    } else {
      Slots kept = keepBestPairs(b, reader, amount, op.getAxis() == Axis::Token, op.getTies());
      // With k of the whole matrix a row may need fewer slots than it had.
      int64_t slots = cast<RoutingType>(op.getType()).getSlots();
      result = (slots < kept.getSlots() ? compact(b, kept, slots) : kept).get();
    }
    return result;
  }
};
} // namespace

void moe::populateTopKPatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerTopK>(converter, patterns.getContext());
}
