//===- Makers.cpp - lowering of route, from_slots, concat, cast, map ------===//
#include "RoutingLowering.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Every expert has the slot of its own number; a mask empties slots.
struct LowerRoute : RoutedOpPattern<RouteOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, RouteOp op, Operands operands) const override {
    Value weights = operands.getWeights().front();
    auto type = cast<RankedTensorType>(weights.getType());
    Value mask = op.getMask() ? operands.getMask().front() : Value();
    AffineExpr t, e;
    bindDims(getContext(), t, e);
    SmallVector<Value> inputs;
    SmallVector<AffineMap> maps;
    if (mask) {
      auto maskType = cast<RankedTensorType>(mask.getType());
      SmallVector<AffineExpr> at;
      if (maskType.getRank() == 1)
        at = {e};
      else
        at = {t, maskType.getDimSize(1) == 1 && type.getDimSize(1) != 1 ? getAffineConstantExpr(0, getContext()) : e};
      inputs.push_back(mask);
      maps.push_back(AffineMap::get(2, 0, at, getContext()));
      // A generic with a constant in a map has no shape for the dimension; read the [T, 1] mask by its column.
      if (maskType.getRank() == 2 && at[1] != e) {
        inputs.front() = tensor::CollapseShapeOp::create(b, mask, SmallVector<ReassociationIndices>{{0, 1}});
        maps.front() = AffineMap::get(2, 0, {t}, getContext());
      }
    }
    maps.push_back(AffineMap::getMultiDimIdentityMap(2, getContext()));
    Value init = b.empty({b.dimOrAttr(weights, 0), b.getIndexAttr(type.getDimSize(1))}, b.getI32Type());
    auto generic = linalg::GenericOp::create(b, init.getType(), inputs, ValueRange{init}, maps,
                                             SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
                                             [&](OpBuilder &inner, Location loc, ValueRange args) {
                                               LoopBuilder nested(loc, inner);
                                               Value number = nested.toType(linalg::IndexOp::create(nested, 1),
                                                                            nested.getI32Type());
                                               if (mask)
                                                 number = nested.select(args[0], number, nested.i32(-1));
                                               linalg::YieldOp::create(nested, number);
                                             });
    return {generic.getResult(0), weights};
  }
};

/// Numbers out of range become empty slots.
struct LowerFromSlots : RoutedOpPattern<FromSlotsOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, FromSlotsOp op, Operands operands) const override {
    Value indices = operands.getIndices().front(), weights = operands.getWeights().front();
    auto converted = cast<RankedTensorType>(weights.getType()).clone(b.getI32Type());
    indices = b.castTo(indices, converted.clone(cast<RankedTensorType>(indices.getType()).getElementType()));
    Value init = b.empty({b.dimOrAttr(weights, 0), b.getIndexAttr(converted.getDimSize(1))}, b.getI32Type());
    AffineMap identity = AffineMap::getMultiDimIdentityMap(2, getContext());
    auto generic = linalg::GenericOp::create(
        b, init.getType(), indices, ValueRange{init}, {identity, identity},
        SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
        [&](OpBuilder &inner, Location loc, ValueRange args) {
          LoopBuilder nested(loc, inner);
          Type type = args[0].getType();
          auto constant = [&](int64_t v) -> Value {
            return arith::ConstantOp::create(nested, nested.getIntegerAttr(type, v));
          };
          // One unsigned comparison refuses negative numbers as well.
          Value inside = nested.cmp(arith::CmpIPredicate::ult, args[0], constant(op.getExperts()));
          Value number = nested.toType(nested.select(inside, args[0], constant(-1)), nested.getI32Type());
          linalg::YieldOp::create(nested, number);
        });
    return {generic.getResult(0), weights};
  }
};

/// The slots of the operands side by side.
struct LowerConcat : RoutedOpPattern<ConcatOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, ConcatOp op, Operands operands) const override {
    auto type = cast<RoutingType>(op.getType());
    ArrayRef<ValueRange> inputs = operands.getInputs();
    Slots out = Slots::getEmpty(b, Slots(inputs.front()).getTokensOrAttr(b), type.getSlots(), type.getElementType());
    Values state = out.get();
    int64_t slot = 0, expert = 0;
    for (auto [i, input] : llvm::enumerate(inputs)) {
      Slots in(input);
      Value experts = b.i32(expert), first = b.index(slot);
      state = b.loop(in.getTokens(b), state, [&](Value t, ValueRange outer) {
        return b.loop(b.index(in.getSlots()), outer, [&](Value s, ValueRange inner) -> Values {
          Value e = b.extract(in.indices, {t, s});
          Value number = b.select(b.less(e, b.i32(0)), e, b.add(e, experts));
          Value at = b.add(first, s);
          return {b.insert(number, inner[0], {t, at}), b.insert(b.extract(in.weights, {t, s}), inner[1], {t, at})};
        });
      });
      slot += in.getSlots();
      expert += cast<RoutingType>(op.getInputs()[i].getType()).getExperts();
    }
    return state;
  }
};

/// More slots are padded with empty ones; other bounds are not in the tensors' types.
struct LowerCast : RoutedOpPattern<CastOp> {
  using RoutedOpPattern::RoutedOpPattern;
  const char *whyNot(CastOp op) const override {
    auto in = cast<RoutingType>(op.getInput().getType()), out = cast<RoutingType>(op.getType());
    return out.getStoredSlots() < in.getStoredSlots() ? "the result has fewer slots than the operand" : nullptr;
  }
  Values lower(LoopBuilder &b, CastOp op, Operands operands) const override {
    Slots in(operands.getInput());
    int64_t slots = cast<RoutingType>(op.getType()).getStoredSlots();
    Values result = in.get();
    if (slots > in.getSlots()) {
      OpFoldResult tokens = in.getTokensOrAttr(b), zero = b.getIndexAttr(0), one = b.getIndexAttr(1);
      SmallVector<OpFoldResult> offsets{zero, zero}, sizes{tokens, b.getIndexAttr(in.getSlots())}, strides{one, one};
      Values padded = Slots::getEmpty(b, tokens, slots, in.getWeightType()).get();
      for (auto [i, part] : llvm::enumerate(result))
        part = tensor::InsertSliceOp::create(b, part, padded[i], offsets, sizes, strides);
    }
    return result;
  }
};

/// New weights for the pairs; the expert numbers are passed on as they are, so that plans stay shared.
struct LowerMap : RoutedOpPattern<MapOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, MapOp op, Operands operands) const override {
    Slots in(operands.getInput());
    Value init = Slots::getEmpty(b, in.getTokensOrAttr(b), in.getSlots(), in.getWeightType()).weights;
    Values weights = forEachPair(b, in, init, [&](Value t, Value s, Value e, ValueRange state) -> Values {
      Value weight = b.inlineRegion(op.getBody(), {b.extract(in.weights, {t, s}), t, e}).front();
      return {b.insert(weight, state[0], {t, s})};
    });
    return {in.indices, weights[0]};
  }
};

} // namespace

void moe::populateMakerPatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerRoute, LowerFromSlots, LowerConcat, LowerCast, LowerMap>(converter, patterns.getContext());
}
