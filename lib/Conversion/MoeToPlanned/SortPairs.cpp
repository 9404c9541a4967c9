//===- SortPairs.cpp - keeping the best pairs of each expert or of all ----===//
//
// A stable bottom-up merge sort of the pairs' numbers t * S + s, so that ranking all pairs costs O(P log P) whatever
// the skew of the routing.
//
//===----------------------------------------------------------------------===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// The numbers of all pairs in ascending order, behind each other in tensor<?xindex>, and how many there are.
static std::pair<Value, Value> listPairs(LoopBuilder &b, const Slots &slots) {
  Value width = b.index(slots.getSlots());
  Value list = b.empty(OpFoldResult(b.mul(slots.getTokens(b), width)), b.getIndexType());
  Values end = forEachPair(b, slots, {list, b.index(0)}, [&](Value t, Value s, Value, ValueRange state) -> Values {
    Value number = b.add(b.mul(t, width), s);
    return {b.insert(number, state[0], state[1]), b.add(state[1], b.index(1))};
  });
  return {end[0], end[1]};
}

/// Sorts the first `count` entries of `list`; `before(x, y)` is a strict order on entries.
static Value mergeSort(LoopBuilder &b, Value list, Value count, function_ref<Value(Value, Value)> before) {
  Value one = b.index(1), two = b.index(2);
  auto passes = scf::WhileOp::create(
      b, TypeRange{b.getIndexType(), b.getIndexType()}, ValueRange{one, b.index(0)},
      [&](OpBuilder &inner, Location loc, ValueRange args) {
        Value more = arith::CmpIOp::create(inner, loc, arith::CmpIPredicate::slt, args[0], count);
        scf::ConditionOp::create(inner, loc, more, args);
      },
      [&](OpBuilder &inner, Location loc, ValueRange args) {
        LoopBuilder nested(loc, inner);
        scf::YieldOp::create(nested, ValueRange{nested.mul(args[0], two), nested.add(args[1], one)});
      });
  Value scratch = b.empty(OpFoldResult(b.dim(list, 0)), b.getIndexType());
  Value last = b.sub(count, one);
  Values state = b.loop(passes.getResult(1), {one, list, scratch}, [&](Value, ValueRange pass) -> Values {
    Value width = pass[0], runs = b.mul(width, two);
    Value source = pass[1];
    Value segments = arith::DivUIOp::create(b, b.sub(b.add(count, runs), one), runs);
    Value merged =
        b.loop(segments, pass[2], [&](Value segment, ValueRange target) -> Values {
           Value start = b.mul(segment, runs);
           Value middle = b.minimum(b.add(start, width), count), end = b.minimum(b.add(start, runs), count);
           Values done = b.loop(start, end, {start, middle, target[0]}, [&](Value o, ValueRange c) -> Values {
             // Reads are clamped: a cursor that has run out is read, but not used.
             Value left = b.extract(source, b.minimum(c[0], last)), right = b.extract(source, b.minimum(c[1], last));
             Value takeRight = b.lor(b.notLess(c[0], middle), b.land(b.less(c[1], end), before(right, left)));
             return {b.select(takeRight, c[0], b.add(c[0], one)), b.select(takeRight, b.add(c[1], one), c[1]),
                     b.insert(b.select(takeRight, right, left), c[2], o)};
           });
           return {done[2]};
         }).front();
    // Copied back, so that each iteration argument keeps its own buffer.
    Value back = b.loop(count, source, [&](Value i, ValueRange c) -> Values {
                    return {b.insert(b.extract(merged, i), c[0], i)};
                  }).front();
    return {runs, back, merged};
  });
  return state[1];
}

Slots moe::keepBestPairs(LoopBuilder &b, const KeyReader &reader, const Amount &amount, bool perExpert, TieBreak ties) {
  const Slots &in = reader.slots;
  if (in.getSlots() == 0)
    return in;
  auto [list, count] = listPairs(b, in);
  Value width = b.index(in.getSlots());
  auto rowOf = [&](Value pair) -> Value { return arith::DivUIOp::create(b, pair, width); };
  auto slotOf = [&](Value pair) -> Value { return arith::RemUIOp::create(b, pair, width); };
  auto order = ties == TieBreak::Lowest ? arith::CmpIPredicate::slt : arith::CmpIPredicate::sgt;

  Value sorted = mergeSort(b, list, count, [&](Value x, Value y) -> Value {
    Value tx = rowOf(x), ty = rowOf(y), sx = slotOf(x), sy = slotOf(y);
    Value ex = b.extract(in.indices, {tx, sx}), ey = b.extract(in.indices, {ty, sy});
    Value keyX = reader.read(b, tx, sx, b.toIndex(ex)), keyY = reader.read(b, ty, sy, b.toIndex(ey));
    // Equal keys: by token, and for the whole matrix by expert within the token; the earlier slot comes first.
    Value tie = b.cmp(order, tx, ty);
    if (!perExpert)
      tie = b.lor(tie, b.land(b.equal(tx, ty), b.cmp(order, ex, ey)));
    Value better = precedes(b, keyX, keyY, tie);
    if (!perExpert)
      return better;
    return b.lor(b.less(ex, ey), b.land(b.equal(ex, ey), better));
  });

  // The rank of a pair is its position, counted from the first pair of its expert.
  Slots out = Slots::getEmpty(b, in.getTokensOrAttr(b), in.getSlots(), in.getWeightType());
  Values state{out.indices, out.weights, b.i32(-1), b.index(0)};
  state = b.loop(count, state, [&](Value i, ValueRange c) -> Values {
    Value pair = b.extract(sorted, i), t = rowOf(pair), s = slotOf(pair);
    Value expert = b.extract(in.indices, {t, s});
    Value rank = i, e = b.toIndex(expert);
    if (perExpert)
      rank = b.select(b.equal(expert, c[2]), b.add(c[3], b.index(1)), b.index(0));
    Value stays = b.less(rank, amount.at(b, perExpert ? e : b.index(0)));
    Values kept = b.when(stays, {c[0], c[1]}, [&]() -> Values {
      return {b.insert(expert, c[0], {t, s}), b.insert(b.extract(in.weights, {t, s}), c[1], {t, s})};
    });
    return {kept[0], kept[1], expert, rank};
  });
  return Slots(ValueRange(state).take_front(2));
}
