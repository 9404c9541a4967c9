//===- RoutingLowering.cpp - building blocks of the routed ops' lowerings -===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

Slots Slots::getEmpty(LoopBuilder &b, OpFoldResult tokens, int64_t slots, Type weightType) {
  SmallVector<OpFoldResult> shape{tokens, b.getIndexAttr(slots)};
  return Slots(ValueRange(Values{b.filled(shape, b.i32(-1)), b.filled(shape, b.number(weightType, 0.0))}));
}

Slots moe::compact(LoopBuilder &b, const Slots &in, int64_t slots) {
  // Two loops, not one, so that routings that differ in their weights only share the first.
  Slots empty = Slots::getEmpty(b, in.getTokensOrAttr(b), slots, in.getWeightType());
  auto move = [&](Value source, Value init) {
    return b
        .loop(in.getTokens(b), init,
              [&](Value t, ValueRange outer) -> Values {
                Values row = b.loop(b.index(in.getSlots()), {outer[0], b.index(0)}, [&](Value s, ValueRange c) {
                  Value there = b.notLess(b.extract(in.indices, {t, s}), b.i32(0));
                  return b.when(there, c, [&]() -> Values {
                    return {b.insert(b.extract(source, {t, s}), c[0], {t, c[1]}), b.add(c[1], b.index(1))};
                  });
                });
                return {row[0]};
              })
        .front();
  };
  if (slots == 0)
    return empty;
  return Slots(ValueRange(Values{move(in.indices, empty.indices), move(in.weights, empty.weights)}));
}

Value Amount::at(LoopBuilder &b, Value i) const {
  if (constant)
    return b.index(std::max<int64_t>(0, *constant));
  Value amount = isa<RankedTensorType>(value.getType()) ? b.extract(value, i) : value;
  return b.maximum(b.toIndex(amount), b.index(0));
}

Value moe::precedes(LoopBuilder &b, Value keyA, Value keyB, Value tie) {
  Value aNan = b.cmp(arith::CmpFPredicate::UNO, keyA, keyA);
  Value bNan = b.cmp(arith::CmpFPredicate::UNO, keyB, keyB);
  Value larger = b.cmp(arith::CmpFPredicate::OGT, keyA, keyB);
  Value aNumber = b.cmp(arith::CmpFPredicate::ORD, keyA, keyA);
  Value same = b.lor(b.cmp(arith::CmpFPredicate::OEQ, keyA, keyB), b.land(aNan, bNan));
  return b.lor(b.lor(larger, b.land(aNumber, bNan)), b.land(same, tie));
}

Values moe::insertByRank(LoopBuilder &b, const KeyReader &reader, Value t, Value base, Value limit, TieBreak ties,
                         ValueRange state, function_ref<Value(Value)> accept) {
  Value one = b.index(1), zero = b.index(0), none = b.i32(0);
  Value hasRoom = b.less(base, limit);
  Value last = b.maximum(b.sub(limit, one), zero);
  // An empty place loses against everything; among equal keys the expert decides, and the earlier slot of the same one.
  auto wins = [&](Value key, Value expert, Value otherKey, Value otherExpert) {
    auto order = ties == TieBreak::Lowest ? arith::CmpIPredicate::slt : arith::CmpIPredicate::sgt;
    return b.lor(b.less(otherExpert, none), precedes(b, key, otherKey, b.cmp(order, expert, otherExpert)));
  };
  return b.loop(b.index(reader.slots.getSlots()), state, [&](Value s, ValueRange row) {
    Value expert = b.extract(reader.slots.indices, {t, s});
    auto insertPair = [&]() -> Values {
      Value key = reader.read(b, t, s, b.toIndex(expert));
      Value enters = b.land(hasRoom, wins(key, expert, b.extract(row[2], last), b.extract(row[0], {t, last})));
      return b.when(enters, row, [&] {
        Values carried{expert, b.extract(reader.slots.weights, {t, s}), key};
        llvm::append_range(carried, row);
        // Walk down the ranks: the better of the carried pair and the one in place stays, the other goes on.
        Values end = b.loop(base, limit, carried, [&](Value j, ValueRange c) -> Values {
          Value e = b.extract(c[3], {t, j}), w = b.extract(c[4], {t, j}), k = b.extract(c[5], j);
          Value win = wins(c[2], c[0], k, e);
          return {b.select(win, e, c[0]),
                  b.select(win, w, c[1]),
                  b.select(win, k, c[2]),
                  b.insert(b.select(win, c[0], e), c[3], {t, j}),
                  b.insert(b.select(win, c[1], w), c[4], {t, j}),
                  b.insert(b.select(win, c[2], k), c[5], j)};
        });
        return Values(llvm::drop_begin(end, 3));
      });
    };
    return b.when(b.notLess(expert, none), row, [&]() -> Values {
      if (!accept)
        return insertPair();
      return b.when(accept(b.toIndex(expert)), row, insertPair);
    });
  });
}

Values moe::forEachPair(LoopBuilder &b, const Slots &slots, ValueRange state,
                        function_ref<Values(Value, Value, Value, ValueRange)> body) {
  return b.loop(slots.getTokens(b), state, [&](Value t, ValueRange outer) {
    return b.loop(b.index(slots.getSlots()), outer, [&](Value s, ValueRange inner) {
      Value e = b.extract(slots.indices, {t, s});
      return b.when(b.notLess(e, b.i32(0)), inner, [&] { return body(t, s, b.toIndex(e), inner); });
    });
  });
}
