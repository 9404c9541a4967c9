//===- Dense.cpp - routings with a place for every pair -------------------===//
//
// A routing that is stored dense is a routing in slots of which slot e of a row holds expert e or nothing, so that
// every lowering for slots serves it. The forms here know the expert from the place: elementwise ops and reductions
// over rows or columns instead of loops over pairs that look their experts up.
//
//===----------------------------------------------------------------------===//
#include "RoutingLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

using Body = function_ref<Value(LoopBuilder &, Value live, Value weight, ValueRange others)>;

/// An op over all places (t, e): `others` are read by `maps`, and the init by the last of them; a loop that the init's
/// map does not have is a reduction. The body's last argument is the init's element.
Value overPlaces(LoopBuilder &b, const Slots &in, ValueRange others, ArrayRef<AffineMap> maps, Value init, Body body) {
  Values inputs{in.indices, in.weights};
  llvm::append_range(inputs, others);
  AffineMap place = b.getMultiDimIdentityMap(2);
  SmallVector<AffineMap> all{place, place};
  llvm::append_range(all, maps);
  SmallVector<utils::IteratorType> kinds;
  for (unsigned d = 0; d < 2; ++d)
    kinds.push_back(maps.back().isFunctionOfDim(d) ? utils::IteratorType::parallel : utils::IteratorType::reduction);
  return linalg::GenericOp::create(b, init.getType(), inputs, init, all, kinds,
                                   [&](OpBuilder &builder, Location loc, ValueRange args) {
                                     LoopBuilder inner(loc, builder);
                                     Value live = inner.notLess(args[0], inner.i32(0));
                                     linalg::YieldOp::create(inner, body(inner, live, args[1], args.drop_front(2)));
                                   })
      .getResult(0);
}

bool isDense(Value routing) { return cast<RoutingType>(routing.getType()).isDense(); }

struct LowerConvert : RoutedOpPattern<ConvertOp> {
  using RoutedOpPattern::RoutedOpPattern;
  Values lower(LoopBuilder &b, ConvertOp op, Operands operands) const override {
    Slots in(operands.getInput());
    auto type = cast<RoutingType>(op.getType());
    Values result = in.get();
    if (!type.isDense()) {
      if (type.getStoredSlots() != in.getSlots())
        result = compact(b, in, type.getStoredSlots()).get();
    } else if (!op.getInput().getDefiningOp<RouteOp>()) { // which has every expert at its own place
      Values state = Slots::getEmpty(b, in.getTokensOrAttr(b), type.getExperts(), in.getWeightType()).get();
      result = forEachPair(b, in, state, [&](Value t, Value s, Value e, ValueRange c) -> Values {
        Value sum = arith::AddFOp::create(b, b.extract(c[1], {t, e}), b.extract(in.weights, {t, s}));
        return {b.insert(b.extract(in.indices, {t, s}), c[0], {t, e}), b.insert(sum, c[1], {t, e})};
      });
    }
    return result;
  }
};

struct LowerDenseMap : RoutedOpPattern<MapOp> {
  using RoutedOpPattern::RoutedOpPattern;
  const char *whyNot(MapOp op) const override {
    if (!isDense(op.getInput()))
      return "stored in slots";
    // The region runs for places without a pair as well.
    for (Operation &inner : op.getBody().front().without_terminator())
      if (inner.getNumRegions() > 0 || !isSpeculatable(&inner) ||
          llvm::any_of(inner.getResultTypes(), [](Type type) { return isa<ShapedType>(type); }))
        return "its region is more than scalar code that may run for every place";
    return nullptr;
  }
  Values lower(LoopBuilder &b, MapOp op, Operands operands) const override {
    Slots in(operands.getInput());
    Value init = b.empty({in.getTokensOrAttr(b), b.getIndexAttr(in.getSlots())}, in.getWeightType());
    Value weights = overPlaces(b, in, {}, b.getMultiDimIdentityMap(2), init,
                               [&](LoopBuilder &i, Value live, Value weight, ValueRange) -> Value {
                                 Value t = linalg::IndexOp::create(i, 0), e = linalg::IndexOp::create(i, 1);
                                 Value mapped = i.inlineRegion(op.getBody(), {weight, t, e}).front();
                                 return i.select(live, mapped, i.number(weight.getType(), 0.0));
                               });
    return {in.indices, weights};
  }
};

struct LowerDenseToDense : RoutedOpPattern<ToDenseOp> {
  using RoutedOpPattern::RoutedOpPattern;
  const char *whyNot(ToDenseOp op) const override {
    return isDense(op.getInput()) && op.getOf() != DenseOf::Rank ? nullptr : "stored in slots, or reads ranks";
  }
  Values lower(LoopBuilder &b, ToDenseOp op, Operands operands) const override {
    Slots in(operands.getInput());
    auto type = cast<RankedTensorType>(op.getType());
    double fill = op.getFill() ? op.getFill()->convertToDouble() : 0.0;
    Value init = b.empty({in.getTokensOrAttr(b), b.getIndexAttr(in.getSlots())}, type.getElementType());
    Value result = overPlaces(b, in, {}, b.getMultiDimIdentityMap(2), init,
                              [&](LoopBuilder &i, Value live, Value weight, ValueRange) -> Value {
                                if (op.getOf() == DenseOf::Mask)
                                  return live;
                                return i.select(live, weight, i.number(weight.getType(), fill));
                              });
    return {result};
  }
};

struct LowerDenseCounts : RoutedOpPattern<CountsOp> {
  using RoutedOpPattern::RoutedOpPattern;
  const char *whyNot(CountsOp op) const override { return isDense(op.getInput()) ? nullptr : "stored in slots"; }
  Values lower(LoopBuilder &b, CountsOp op, Operands operands) const override {
    Slots in(operands.getInput());
    bool perExpert = op.getPer() == CountsPer::Expert;
    OpFoldResult size = perExpert ? OpFoldResult(b.getIndexAttr(in.getSlots())) : in.getTokensOrAttr(b);
    AffineMap map = AffineMap::get(2, 0, b.getAffineDimExpr(perExpert ? 1 : 0));
    Value result =
        overPlaces(b, in, {}, map, b.filled(size, b.i32(0)), [&](LoopBuilder &i, Value live, Value, ValueRange others) {
          return i.add(others.back(), i.select(live, i.i32(1), i.i32(0)));
        });
    return {result};
  }
};

/// Over the tokens or the whole matrix; over the experts the form for slots is as regular.
struct LowerDenseNormalize : RoutedOpPattern<NormalizeOp> {
  using RoutedOpPattern::RoutedOpPattern;
  const char *whyNot(NormalizeOp op) const override {
    return isDense(op.getInput()) && op.getAxis() != Axis::Expert ? nullptr : "stored in slots, or over the experts";
  }
  Values lower(LoopBuilder &b, NormalizeOp op, Operands operands) const override {
    Slots in(operands.getInput());
    Type weightType = in.getWeightType();
    Type type = weightType.getIntOrFloatBitWidth() < 32 ? b.getF32Type() : weightType;
    Value zero = b.number(type, 0.0);
    Value lowest = arith::ConstantOp::create(
        b, b.getFloatAttr(type, APFloat::getInf(cast<FloatType>(type).getFloatSemantics(), /*Negative=*/true)));
    AffineMap place = b.getMultiDimIdentityMap(2);
    AffineMap list = op.getAxis() == Axis::Token ? AffineMap::get(2, 0, b.getAffineDimExpr(1))
                                                 : AffineMap::get(2, 0, {}, b.getContext());
    auto statistic = [&](Value start) {
      SmallVector<OpFoldResult> shape;
      if (op.getAxis() == Axis::Token)
        shape.push_back(b.getIndexAttr(in.getSlots()));
      return b.filled(shape, start);
    };
    auto exponential = [&](LoopBuilder &i, Value weight, Value maximum) -> Value {
      Value power = math::ExpOp::create(i, arith::SubFOp::create(i, weight, maximum));
      return i.select(i.cmp(arith::CmpFPredicate::OEQ, maximum, lowest), zero, power);
    };

    Values read;
    if (op.getBy() != Norm::Sum)
      read.push_back(overPlaces(b, in, {}, list, statistic(lowest),
                                [&](LoopBuilder &i, Value live, Value weight, ValueRange r) -> Value {
                                  Value wide = i.toFloat(weight, type);
                                  return arith::MaximumFOp::create(i, r.back(), i.select(live, wide, lowest));
                                }));
    if (op.getBy() != Norm::Max) {
      SmallVector<AffineMap> maps(read.size() + 1, list);
      read.push_back(overPlaces(b, in, read, maps, statistic(zero),
                                [&](LoopBuilder &i, Value live, Value weight, ValueRange r) -> Value {
                                  Value wide = i.toFloat(weight, type);
                                  Value term = op.getBy() == Norm::Softmax ? exponential(i, wide, r[0]) : wide;
                                  return arith::AddFOp::create(i, r.back(), i.select(live, term, zero));
                                }));
    }
    SmallVector<AffineMap> maps(read.size(), list);
    maps.push_back(place);
    Value init = b.empty({in.getTokensOrAttr(b), b.getIndexAttr(in.getSlots())}, weightType);
    Value weights =
        overPlaces(b, in, read, maps, init, [&](LoopBuilder &i, Value live, Value weight, ValueRange r) -> Value {
          Value wide = i.toFloat(weight, type), divisor = r[read.size() - 1];
          Value numerator = op.getBy() == Norm::Softmax ? exponential(i, wide, r[0]) : wide;
          if (op.getBy() != Norm::Softmax && !op.getEps().isZero())
            divisor = arith::AddFOp::create(i, divisor, i.number(type, op.getEps().convertToDouble()));
          Value quotient = arith::DivFOp::create(i, numerator, divisor);
          Value isZero = i.cmp(arith::CmpFPredicate::OEQ, divisor, zero);
          return i.toFloat(i.select(live, i.select(isZero, zero, quotient), zero), weightType);
        });
    return {in.indices, weights};
  }
};

} // namespace

void moe::populateDensePatterns(const TypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerConvert>(converter, patterns.getContext());
  patterns.add<LowerDenseMap, LowerDenseToDense, LowerDenseCounts, LowerDenseNormalize>(
      converter, patterns.getContext(), /*benefit=*/2);
}
