//===- Combine.cpp - moe.combine as an ordered reduction per row ----------===//
#include "PlannedLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// A row slice tensor[i, ...] without its first dimension, and back.
static Value getRow(LoopBuilder &b, Value tensor, Value i, Value source = {}) {
  auto type = cast<RankedTensorType>(tensor.getType());
  int64_t rank = type.getRank();
  SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), sizes{b.getIndexAttr(1)},
      strides(rank, b.getIndexAttr(1));
  offsets[0] = i;
  for (int64_t d = 1; d < rank; ++d)
    sizes.push_back(b.dimOrAttr(tensor, d));
  if (source)
    return tensor::InsertSliceOp::create(b, source, tensor, offsets, sizes, strides);
  auto row = RankedTensorType::get(type.getShape().drop_front(), type.getElementType());
  return tensor::ExtractSliceOp::create(b, row, tensor, offsets, sizes, strides);
}

/// row = body(inputs..., row), elementwise.
static Value update(LoopBuilder &b, ValueRange inputs, Value row, function_ref<Value(LoopBuilder &, ValueRange)> body) {
  unsigned rank = cast<RankedTensorType>(row.getType()).getRank();
  SmallVector<AffineMap> maps(inputs.size() + 1, b.getMultiDimIdentityMap(rank));
  return linalg::GenericOp::create(b, row.getType(), inputs, row, maps,
                                   SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
                                   [&](OpBuilder &inner, Location loc, ValueRange args) {
                                     LoopBuilder nested(loc, inner);
                                     linalg::YieldOp::create(nested, body(nested, args));
                                   })
      .getResult(0);
}

Values moe::lowerCombine(LoopBuilder &b, CombineOp op) {
  Value pairs = op.getPairs(), inverse = op.getInverse(), weights = op.getWeights();
  Type stored = cast<RankedTensorType>(pairs.getType()).getElementType();
  // Elements that are too narrow are added in 32 bits and rounded once.
  Type element = b.getSumType(stored, op.getMode() == OutMode::Mean);
  bool isNarrow = element != stored;
  Value zero = arith::ConstantOp::create(b, cast<TypedAttr>(b.getZeroAttr(element)));
  Value sums = op.getInit();
  if (isNarrow)
    sums = b.empty(tensor::getMixedSizes(b, b.getLoc(), op.getInit()), element);
  Value out = linalg::FillOp::create(b, zero, sums).getResult(0);
  Value slots = b.dim(inverse, 1), none = b.index(0);
  OutMode mode = op.getMode();
  Value result =
      b.loop(b.dim(inverse, 0), out, [&](Value t, ValueRange outer) -> Values {
         Values row = b.loop(slots, {outer[0], none}, [&](Value s, ValueRange c) {
           Value p = b.extract(inverse, {t, s});
           return b.when(b.notLess(p, none), c, [&]() -> Values {
             Value isFirst = b.equal(c[1], none);
             Value weight = weights ? b.toFloat(b.extract(weights, {t, s}), element) : Value();
             Value reduced =
                 update(b, getRow(b, pairs, p), getRow(b, c[0], t), [&](LoopBuilder &nested, ValueRange args) {
                   Value value = nested.toNumber(args[0], element);
                   if (weight)
                     value = arith::MulFOp::create(nested, value, weight);
                   if (mode == OutMode::Max) {
                     Value larger = nested.largerNumber(args[1], value);
                     return nested.select(isFirst, value, larger);
                   }
                   return nested.addNumbers(args[1], value);
                 });
             return {getRow(b, c[0], t, reduced), b.add(c[1], b.index(1))};
           });
         });
         if (mode != OutMode::Mean)
           return {row[0]};
         return b.when(b.less(none, row[1]), row[0], [&]() -> Values {
           Value count = b.toType(row[1], b.getI32Type());
           Value mean = update(b, {}, getRow(b, row[0], t), [&](LoopBuilder &nested, ValueRange args) -> Value {
             return nested.divideByCount(args[0], count);
           });
           return {getRow(b, row[0], t, mean)};
         });
       }).front();
  if (!isNarrow)
    return {result};
  return {update(b, result, op.getInit(),
                 [&](LoopBuilder &nested, ValueRange args) { return nested.toNumber(args[0], stored); })};
}
