//===- MoeCanonicalize.cpp - folders and patterns of the routing ops ------===//
//
// Tightening a constant changes the bounds of a routing's type. The op is then built anew with the narrower type and
// cast back, and the cast moves down (SinkCast) through whatever infers its own type, until it meets an op that does
// not care.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"

#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::moe;

static RoutingType routingOf(Value value) { return cast<RoutingType>(value.getType()); }

/// `value`, as a routing of type `type`, which is no narrower.
static Value castTo(PatternRewriter &rewriter, Location loc, Value value, RoutingType type) {
  if (value.getType() == type)
    return value;
  return CastOp::create(rewriter, loc, type, value);
}

namespace {

//===----------------------------------------------------------------------===//
// Casts
//===----------------------------------------------------------------------===//

/// op(cast(x)) -> cast(op(x)), or op(x) where the op's result says nothing of the bounds.
template <typename OpTy> struct SinkCast : OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;
  LogicalResult matchAndRewrite(OpTy op, PatternRewriter &rewriter) const override {
    bool changes = false;
    SmallVector<Value> operands;
    for (Value operand : op->getOperands()) {
      auto source = operand.getDefiningOp<CastOp>();
      // A static number of tokens would have to be taken back in the types of tensors.
      bool strip = source && routingOf(source.getInput()).getTokens() == routingOf(source).getTokens();
      operands.push_back(strip ? source.getInput() : operand);
      changes |= strip;
    }
    if (!changes)
      return rewriter.notifyMatchFailure(op, "no cast that only widens bounds");
    SmallVector<Type> types;
    if (failed(OpTy::inferReturnTypes(op.getContext(), op.getLoc(), operands, op->getAttrDictionary(),
                                      op->getPropertiesStorage(), op->getRegions(), types)))
      return failure();
    OperationState state(op.getLoc(), OpTy::getOperationName(), operands, types, op->getAttrs());
    for (unsigned i = 0; i < op->getNumRegions(); ++i)
      state.addRegion();
    Operation *tighter = rewriter.create(state);
    for (auto [from, to] : llvm::zip(op->getRegions(), tighter->getRegions()))
      rewriter.inlineRegionBefore(from, to, to.end());
    SmallVector<Value> results;
    for (auto [result, type] : llvm::zip(tighter->getResults(), op->getResultTypes()))
      results.push_back(isa<RoutingType>(type) ? castTo(rewriter, op.getLoc(), result, cast<RoutingType>(type))
                                               : Value(result));
    rewriter.replaceOp(op, results);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Makers and concat
//===----------------------------------------------------------------------===//

/// from_slots(to_slots(r)) -> r
struct FromSlotsOfToSlots : OpRewritePattern<FromSlotsOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(FromSlotsOp op, PatternRewriter &rewriter) const override {
    auto slots = op.getIndices().getDefiningOp<ToSlotsOp>();
    if (!slots || op.getIndices() != slots.getIndices() || op.getWeights() != slots.getWeights())
      return rewriter.notifyMatchFailure(op, "not the two results of one moe.to_slots");
    RoutingType source = routingOf(slots.getInput()), target = routingOf(op);
    if (source.getExperts() != target.getExperts() || source.getEncoding() != target.getEncoding())
      return rewriter.notifyMatchFailure(op, "another number of experts or encoding");
    rewriter.replaceOp(op, castTo(rewriter, op.getLoc(), slots.getInput(), target));
    return success();
  }
};

/// concat(r) -> r; concat(a, concat(b, c)) -> concat(a, b, c)
struct FlattenConcat : OpRewritePattern<ConcatOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ConcatOp op, PatternRewriter &rewriter) const override {
    if (op.getInputs().size() == 1) {
      rewriter.replaceOp(op, castTo(rewriter, op.getLoc(), op.getInputs().front(), routingOf(op)));
      return success();
    }
    SmallVector<Value> inputs;
    for (Value input : op.getInputs()) {
      if (auto inner = input.getDefiningOp<ConcatOp>())
        llvm::append_range(inputs, inner.getInputs());
      else
        inputs.push_back(input);
    }
    if (inputs.size() == op.getInputs().size())
      return rewriter.notifyMatchFailure(op, "no operand is a concat");
    rewriter.replaceOpWithNewOp<ConcatOp>(op, op.getType(), inputs);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// top_k and limit
//===----------------------------------------------------------------------===//

/// An operand that is a constant becomes the attribute, and tightens the bounds.
struct ConstantK : OpRewritePattern<TopKOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(TopKOp op, PatternRewriter &rewriter) const override {
    std::optional<int64_t> k = getConstantAmount(op.getK());
    if (!k)
      return rewriter.notifyMatchFailure(op, "k is not a constant");
    Value tighter =
        TopKOp::create(rewriter, op.getLoc(), op.getInput(), op.getKey(), /*k=*/Value(), rewriter.getI64IntegerAttr(*k),
                       op.getAxisAttr(), op.getGroupsAttr(), op.getKeepAttr(), op.getScoreAttr(), op.getTiesAttr());
    rewriter.replaceOp(op, castTo(rewriter, op.getLoc(), tighter, routingOf(op)));
    return success();
  }
};

struct ConstantCap : OpRewritePattern<LimitOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(LimitOp op, PatternRewriter &rewriter) const override {
    std::optional<int64_t> cap = getConstantAmount(op.getCap());
    if (!cap)
      return rewriter.notifyMatchFailure(op, "the capacity is not a constant");
    Value tighter = LimitOp::create(rewriter, op.getLoc(), op.getInput(), op.getKey(), /*cap=*/Value(),
                                    rewriter.getI64IntegerAttr(*cap), op.getOrderAttr());
    rewriter.replaceOp(op, castTo(rewriter, op.getLoc(), tighter, routingOf(op)));
    return success();
  }
};

/// k beyond the slots of a row is the number of slots.
struct ClampK : OpRewritePattern<TopKOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(TopKOp op, PatternRewriter &rewriter) const override {
    int64_t slots = routingOf(op.getInput()).getSlots();
    if (op.getAxis() != Axis::Expert || op.getStaticK().value_or(0) <= slots)
      return rewriter.notifyMatchFailure(op, "k is within the slots of a row");
    rewriter.modifyOpInPlace(op, [&] { op.setStaticK(slots); });
    return success();
  }
};

/// The k best of the m best are the min(k, m) best, in the same order.
struct TopKOfTopK : OpRewritePattern<TopKOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(TopKOp op, PatternRewriter &rewriter) const override {
    auto inner = op.getInput().getDefiningOp<TopKOp>();
    if (!inner || op.getAxis() != Axis::Expert || inner.getAxis() != Axis::Expert || op.getGroups() ||
        (inner.getGroups() && !inner.getKeep()) || op.getKey() != inner.getKey() || op.getTies() != inner.getTies() ||
        !op.getStaticK() || !inner.getStaticK())
      return rewriter.notifyMatchFailure(op, "not two plain choices by the same key");
    int64_t k = std::min(*op.getStaticK(), *inner.getStaticK());
    Value both = TopKOp::create(rewriter, op.getLoc(), inner.getInput(), inner.getKey(), /*k=*/Value(),
                                rewriter.getI64IntegerAttr(k), inner.getAxisAttr(), inner.getGroupsAttr(),
                                inner.getKeepAttr(), inner.getScoreAttr(), inner.getTiesAttr());
    rewriter.replaceOp(op, castTo(rewriter, op.getLoc(), both, routingOf(op)));
    return success();
  }
};

/// A choice that keeps every pair disappears in front of users that do not see what it does beside: the order of a row
/// for axis(expert), a bound in the type for the others.
template <typename OpTy> struct KeepsEverything : OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;

  static bool keepsEverything(LimitOp op) {
    std::optional<int64_t> most = mostPairsPerExpert(op.getInput());
    return op.getStaticCap() && most && *most <= *op.getStaticCap();
  }
  static bool keepsEverything(TopKOp op) {
    if (!op.getStaticK() || op.getGroups())
      return false;
    RoutingType in = routingOf(op.getInput());
    if (op.getAxis() == Axis::Expert)
      return *op.getStaticK() >= in.getSlots();
    std::optional<int64_t> most = op.getAxis() == Axis::Token ? mostPairsPerExpert(op.getInput()) : std::nullopt;
    if (op.getAxis() == Axis::All && !ShapedType::isDynamic(in.getTokens()))
      most = in.getTokens() * in.getSlots();
    return most && *most <= *op.getStaticK();
  }
  static bool reorders(LimitOp) { return false; }
  static bool reorders(TopKOp op) { return op.getAxis() == Axis::Expert; }

  LogicalResult matchAndRewrite(OpTy op, PatternRewriter &rewriter) const override {
    if (!keepsEverything(op))
      return rewriter.notifyMatchFailure(op, "it may drop pairs");
    if (!reorders(op) && op.getType() == op.getInput().getType()) {
      rewriter.replaceOp(op, op.getInput());
      return success();
    }
    bool distinct = hasDistinctExperts(op.getInput());
    auto isBlind = [&](OpOperand &use) {
      Operation *user = use.getOwner();
      if (isa<CountsOp>(user))
        return true;
      if (auto dense = dyn_cast<ToDenseOp>(user))
        return dense.getOf() == DenseOf::Mask || (dense.getOf() == DenseOf::Weight && distinct) || !reorders(op);
      return isa<ApplyOp>(user) && !reorders(op);
    };
    bool changed = false;
    rewriter.replaceUsesWithIf(op.getResult(), op.getInput(), [&](OpOperand &use) {
      bool blind = isBlind(use);
      changed |= blind;
      return blind;
    });
    return success(changed);
  }
};

//===----------------------------------------------------------------------===//
// normalize and map
//===----------------------------------------------------------------------===//

/// The sum of weights that are normalised already is one, up to rounding.
struct NormalizeOfNormalize : OpRewritePattern<NormalizeOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(NormalizeOp op, PatternRewriter &rewriter) const override {
    auto inner = op.getInput().getDefiningOp<NormalizeOp>();
    if (!inner || op.getBy() != Norm::Sum || inner.getBy() == Norm::Max || op.getAxis() != inner.getAxis() ||
        !op.getEps().isZero() || !inner.getEps().isZero())
      return rewriter.notifyMatchFailure(op, "the weights are not normalised to a sum of one");
    rewriter.replaceOp(op, inner.getResult());
    return success();
  }
};

/// A map that yields the weight it gets.
struct IdentityMap : OpRewritePattern<MapOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(MapOp op, PatternRewriter &rewriter) const override {
    Block &body = op.getBody().front();
    if (body.getTerminator()->getOperand(0) != body.getArgument(0))
      return rewriter.notifyMatchFailure(op, "the weights change");
    rewriter.replaceOp(op, op.getInput());
    return success();
  }
};

/// Two maps in a row become one.
struct MapOfMap : OpRewritePattern<MapOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(MapOp op, PatternRewriter &rewriter) const override {
    auto inner = op.getInput().getDefiningOp<MapOp>();
    if (!inner || !inner->hasOneUse())
      return rewriter.notifyMatchFailure(op, "no map before it, or one with other uses");
    // Into the outer one, where all that both read from outside is defined.
    Block &first = inner.getBody().front(), &second = op.getBody().front();
    Operation *yield = first.getTerminator();
    Value weight = yield->getOperand(0);
    rewriter.replaceAllUsesWith(second.getArgument(0), weight);
    rewriter.eraseOp(yield);
    rewriter.inlineBlockBefore(&first, &second, second.begin(), second.getArguments());
    rewriter.modifyOpInPlace(op, [&] { op.getInputMutable().assign(inner.getInput()); });
    rewriter.eraseOp(inner);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Readers
//===----------------------------------------------------------------------===//

/// What reads the support alone reads it in front of the ops that change weights alone.
template <typename OpTy> struct ReadSupportEarlier : OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;
  static bool readsWeights(ToDenseOp op) { return op.getOf() == DenseOf::Weight; }
  static bool readsWeights(CountsOp) { return false; }
  LogicalResult matchAndRewrite(OpTy op, PatternRewriter &rewriter) const override {
    Operation *source = op.getInput().getDefiningOp();
    if (!source || !isa<NormalizeOp, MapOp>(source) || readsWeights(op))
      return rewriter.notifyMatchFailure(op, "no change of weights before it, or weights are read");
    rewriter.modifyOpInPlace(op, [&] { op.getInputMutable().assign(source->getOperand(0)); });
    return success();
  }
};
} // namespace

//===----------------------------------------------------------------------===//
// Folders
//===----------------------------------------------------------------------===//

OpFoldResult CastOp::fold(FoldAdaptor) {
  if (getInput().getType() == getType())
    return getInput();
  if (auto inner = getInput().getDefiningOp<CastOp>()) {
    getInputMutable().assign(inner.getInput());
    return getResult();
  }
  return {};
}

/// Back to how it was stored; a list that was sorted on the way has no order to go back to.
OpFoldResult ConvertOp::fold(FoldAdaptor) {
  auto inner = getInput().getDefiningOp<ConvertOp>();
  if (inner && inner.getInput().getType() == getType() && routingOf(inner.getInput()).isDense())
    return inner.getInput();
  return {};
}

/// The dense weights of a routing of everything are what it was made of.
OpFoldResult ToDenseOp::fold(FoldAdaptor) {
  auto route = getInput().getDefiningOp<RouteOp>();
  if (route && !route.getMask() && getOf() == DenseOf::Weight && route.getWeights().getType() == getType())
    return route.getWeights();
  return {};
}

//===----------------------------------------------------------------------===//
// Registration
//===----------------------------------------------------------------------===//

void FromSlotsOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<FromSlotsOfToSlots>(context);
}
void ConcatOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<FlattenConcat, SinkCast<ConcatOp>>(context);
}
void TopKOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ConstantK, ClampK, TopKOfTopK, KeepsEverything<TopKOp>, SinkCast<TopKOp>>(context);
}
void SelectOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<SinkCast<SelectOp>>(context);
}
void LimitOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ConstantCap, KeepsEverything<LimitOp>, SinkCast<LimitOp>>(context);
}
void NormalizeOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<NormalizeOfNormalize, SinkCast<NormalizeOp>>(context);
}
void MapOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<IdentityMap, MapOfMap, SinkCast<MapOp>>(context);
}
void ToDenseOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ReadSupportEarlier<ToDenseOp>, SinkCast<ToDenseOp>>(context);
}
void CountsOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ReadSupportEarlier<CountsOp>, SinkCast<CountsOp>>(context);
}
