//===- Plan.cpp - moe.plan as a stable counting sort ----------------------===//
#include "PlannedLowering.h"

using namespace mlir;
using namespace mlir::moe;

Values moe::lowerPlan(LoopBuilder &b, PlanOp op) {
  Value indices = op.getIndices();
  Value tokens = b.dim(indices, 0), slots = b.dim(indices, 1), one = b.index(1);
  auto forEach = [&](ValueRange state, function_ref<Values(Value, Value, Value, ValueRange)> body) {
    return b.loop(tokens, state, [&](Value t, ValueRange outer) {
      return b.loop(slots, outer, [&](Value s, ValueRange inner) {
        Value e = b.extract(indices, {t, s});
        return b.when(b.notLess(e, b.i32(0)), inner, [&] { return body(t, s, b.toIndex(e), inner); });
      });
    });
  };

  // Histogram, one place to the right, and its running sum: where each expert begins.
  Value offsets = b.filled(OpFoldResult(b.getIndexAttr(op.getExperts() + 1)), b.index(0));
  offsets = forEach(offsets, [&](Value, Value, Value e, ValueRange c) -> Values {
              Value next = b.add(e, one);
              return {b.insert(b.add(b.extract(c[0], next), one), c[0], next)};
            }).front();
  Value experts = b.index(op.getExperts());
  offsets = b.loop(experts, offsets, [&](Value e, ValueRange c) -> Values {
               Value next = b.add(e, one);
               return {b.insert(b.add(b.extract(c[0], next), b.extract(c[0], e)), c[0], next)};
             }).front();

  // Placement: each pair takes the next place of its expert.
  Value pairs = b.extract(offsets, experts);
  Value cursor = b.loop(experts, b.empty(OpFoldResult(b.getIndexAttr(op.getExperts())), b.getIndexType()),
                        [&](Value e, ValueRange c) -> Values { return {b.insert(b.extract(offsets, e), c[0], e)}; })
                     .front();
  auto vector = [&] { return b.empty(OpFoldResult(pairs), b.getIndexType()); };
  Value inverse = b.filled({b.dimOrAttr(indices, 0), b.dimOrAttr(indices, 1)}, b.index(-1));
  Values end =
      forEach({cursor, vector(), vector(), vector(), inverse}, [&](Value t, Value s, Value e, ValueRange c) -> Values {
        Value p = b.extract(c[0], e);
        return {b.insert(b.add(p, one), c[0], e), b.insert(t, c[1], p), b.insert(s, c[2], p), b.insert(e, c[3], p),
                b.insert(p, c[4], {t, s})};
      });
  return {offsets, end[1], end[2], end[3], end[4]};
}
