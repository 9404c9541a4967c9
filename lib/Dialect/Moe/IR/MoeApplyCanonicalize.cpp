//===- MoeApplyCanonicalize.cpp - patterns of moe.apply -------------------===//
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::moe;

static bool readsWeights(ApplyOp op) {
  return op.getWeighted() != WeightMode::None || op.hasIndexArg(IndexArg::Weight);
}

namespace {

//===----------------------------------------------------------------------===//
// The routing
//===----------------------------------------------------------------------===//

/// An apply does not care for the bounds of its routing, nor for the weights if it does not read them: it takes the
/// routing in front of what changes these. Applies over the same support then share a plan.
struct ReadRoutingEarlier : OpRewritePattern<ApplyOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ApplyOp op, PatternRewriter &rewriter) const override {
    Value routing = op.getRouting();
    while (Operation *source = routing.getDefiningOp()) {
      bool boundsOnly = isa<CastOp>(source) && cast<RoutingType>(source->getOperand(0).getType()).getTokens() ==
                                                   cast<RoutingType>(routing.getType()).getTokens();
      bool weightsOnly = isa<NormalizeOp, MapOp>(source) && !readsWeights(op);
      if (!boundsOnly && !weightsOnly)
        break;
      routing = source->getOperand(0);
    }
    if (routing == op.getRouting())
      return rewriter.notifyMatchFailure(op, "no change of weights before it");
    rewriter.modifyOpInPlace(op, [&] { op.getRoutingMutable().assign(routing); });
    return success();
  }
};

//===----------------------------------------------------------------------===//
// What nobody uses
//===----------------------------------------------------------------------===//

/// Drops operands and index arguments that no body reads, and results that nobody reads.
struct DropUnused : OpRewritePattern<ApplyOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ApplyOp op, PatternRewriter &rewriter) const override {
    ApplyParts parts(op);
    unsigned bodies = op.getBodies().size();
    SmallVector<BitVector> deadArguments;
    for (Region &body : op.getBodies())
      deadArguments.emplace_back(body.getNumArguments());
    bool changed = false;
    // Argument `position(c)` of each body c that has one; marks them for removal if all are unused.
    auto isDead = [&](function_ref<std::optional<unsigned>(unsigned)> position) {
      for (unsigned c = 0; c < bodies; ++c)
        if (auto at = position(c); at && !op.getBodies()[c].getArgument(*at).use_empty())
          return false;
      for (unsigned c = 0; c < bodies; ++c)
        if (auto at = position(c))
          deadArguments[c].set(*at);
      return changed = true;
    };
    auto fromEnd = [&](unsigned distance) {
      return [&op, distance](unsigned c) { return std::optional(op.getBodies()[c].getNumArguments() - distance); };
    };
    auto drop = [](auto &list, unsigned i) { list.erase(list.begin() + i); };
    unsigned indexCount = parts.indexArgs.size(), pairCount = parts.pairs.size();
    for (int i = indexCount - 1; i >= 0; --i)
      if (isDead(fromEnd(indexCount - i)))
        drop(parts.indexArgs, i);
    for (int i = pairCount - 1; i >= 0; --i)
      if (isDead(fromEnd(indexCount + pairCount - i)))
        drop(parts.pairs, i);
    for (int i = parts.experts.size() - 1; i >= 0; --i)
      if (isDead([&](unsigned c) { return getExpertArgument(op, i, c); })) {
        drop(parts.experts, i);
        drop(parts.slices, i);
      }
    for (int i = parts.rows.size() - 1; i >= 0; --i)
      if (isDead([&](unsigned) { return std::optional<unsigned>(i); })) {
        drop(parts.rows, i);
        drop(parts.rowMaps, i);
      }
    if (parts.rows.empty() && parts.weighted == WeightMode::Before)
      parts.weighted = WeightMode::None;

    SmallVector<Type> types;
    SmallVector<unsigned> kept;
    SmallVector<OutMode> modes;
    SmallVector<Value> capacities;
    unsigned bucket = 0;
    for (auto [i, result] : llvm::enumerate(op.getResults())) {
      Value capacity = op.getOutMode(i) == OutMode::Buckets ? parts.capacities[bucket++] : Value();
      if (result.use_empty())
        continue;
      kept.push_back(i);
      types.push_back(result.getType());
      modes.push_back(op.getOutMode(i));
      if (capacity)
        capacities.push_back(capacity);
    }
    // An apply without any use is dead code, and leaves as a whole.
    if (kept.empty() || (!changed && kept.size() == op.getNumResults()))
      return rewriter.notifyMatchFailure(op, "every result is used, or none");
    parts.outModes = modes;
    parts.capacities = capacities;

    ApplyOp smaller = parts.create(rewriter, op, types, bodies);
    for (unsigned c = 0; c < bodies; ++c) {
      Region &body = smaller.getBodies()[c];
      rewriter.inlineRegionBefore(op.getBodies()[c], body, body.end());
      rewriter.modifyOpInPlace(smaller, [&] { body.front().eraseArguments(deadArguments[c]); });
      Operation *yield = body.front().getTerminator();
      SmallVector<Value> values;
      for (unsigned i : kept)
        values.push_back(yield->getOperand(i));
      rewriter.modifyOpInPlace(yield, [&] { yield->setOperands(values); });
    }
    SmallVector<Value> results(op.getNumResults());
    for (auto [i, result] : llvm::zip(kept, smaller.getResults()))
      results[i] = result;
    for (auto [result, replacement] : llvm::zip(op.getResults(), results))
      if (replacement)
        rewriter.replaceAllUsesWith(result, replacement);
    rewriter.eraseOp(op);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// One expert that every token chooses
//===----------------------------------------------------------------------===//

/// The part of `bank` at the given leading index: a slice without the leading dimensions.
Value takeLeading(PatternRewriter &rewriter, Location loc, Value bank, ArrayRef<int64_t> index) {
  auto type = cast<RankedTensorType>(bank.getType());
  SmallVector<OpFoldResult> offsets, sizes, strides(type.getRank(), rewriter.getIndexAttr(1));
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    bool leading = dim < static_cast<int64_t>(index.size());
    offsets.push_back(rewriter.getIndexAttr(leading ? index[dim] : 0));
    sizes.push_back(leading ? OpFoldResult(rewriter.getIndexAttr(1)) : tensor::getMixedSize(rewriter, loc, bank, dim));
  }
  auto part = RankedTensorType::get(type.getShape().drop_front(index.size()), type.getElementType());
  return tensor::ExtractSliceOp::create(rewriter, loc, part, bank, offsets, sizes, strides);
}

/// rows[t, ...] * weights[t, 0]; elements narrower than f32 are multiplied in f32 (apply, S6).
Value multiplyRows(PatternRewriter &rewriter, Location loc, Value rows, Value weights) {
  auto type = cast<RankedTensorType>(rows.getType());
  Type element = type.getElementType();
  MLIRContext *context = rewriter.getContext();
  SmallVector<AffineMap> maps{
      rewriter.getMultiDimIdentityMap(type.getRank()),
      AffineMap::get(type.getRank(), 0, {getAffineDimExpr(0, context), getAffineConstantExpr(0, context)}, context),
      rewriter.getMultiDimIdentityMap(type.getRank())};
  Value init = tensor::EmptyOp::create(rewriter, loc, tensor::getMixedSizes(rewriter, loc, rows), element);
  SmallVector<utils::IteratorType> iterators(type.getRank(), utils::IteratorType::parallel);
  auto scaled =
      linalg::GenericOp::create(rewriter, loc, init.getType(), ValueRange{rows, weights}, init, maps, iterators,
                                [&](OpBuilder &b, Location loc, ValueRange args) {
                                  Type wide = element.getIntOrFloatBitWidth() < 32 ? Type(b.getF32Type()) : element;
                                  auto convert = [&](Value value, Type to) -> Value {
                                    if (value.getType() == to)
                                      return value;
                                    if (value.getType().getIntOrFloatBitWidth() < to.getIntOrFloatBitWidth())
                                      return arith::ExtFOp::create(b, loc, to, value);
                                    return arith::TruncFOp::create(b, loc, to, value);
                                  };
                                  Value product =
                                      arith::MulFOp::create(b, loc, convert(args[0], wide), convert(args[1], wide));
                                  linalg::YieldOp::create(b, loc, convert(product, element));
                                });
  return scaled.getResult(0);
}

/// apply over a routing of everything with one expert is its body.
struct InlineOnlyExpert : OpRewritePattern<ApplyOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ApplyOp op, PatternRewriter &rewriter) const override {
    auto route = op.getRouting().getDefiningOp<RouteOp>();
    if (!route || route.getMask() || cast<RoutingType>(route.getType()).getExperts() != 1)
      return rewriter.notifyMatchFailure(op, "not one expert that every token chooses");
    if (op.hasIndexArg(IndexArg::Row) || op.hasIndexArg(IndexArg::Rank) || op.hasIndexArg(IndexArg::Weight))
      return rewriter.notifyMatchFailure(op, "the body asks for the pairs' numbers or weights");
    AffineMap plain = AffineMap::get(2, 0, getAffineDimExpr(0, op.getContext()));
    for (unsigned i = 0; i < op.getRows().size(); ++i)
      if (op.getRowMap(i) != plain)
        return rewriter.notifyMatchFailure(op, "rows by a map");
    for (unsigned i = 0; i < op.getExperts().size(); ++i)
      if (op.getSlice(i).isAlong())
        return rewriter.notifyMatchFailure(op, "an expert that is a part of a dimension");
    for (unsigned i = 0; i < op.getNumResults(); ++i)
      if (op.getOutMode(i) == OutMode::Buckets || op.getOutMode(i) == OutMode::Dense)
        return rewriter.notifyMatchFailure(op, "a result per expert");
    // Without tokens the apply does not run its body; inlined, it would.
    if (!isSpeculatable(op))
      return rewriter.notifyMatchFailure(op, "the body may fail");

    Location loc = op.getLoc();
    bool weighted = op.getWeighted() != WeightMode::None && !matchPattern(route.getWeights(), m_OneFloat());
    auto weigh = [&](Value rows, WeightMode mode) {
      return weighted && op.getWeighted() == mode ? multiplyRows(rewriter, loc, rows, route.getWeights()) : rows;
    };
    Block &body = op.getBodies().front().front();
    SmallVector<Value> arguments;
    auto add = [&](Value value) {
      Type type = body.getArgument(arguments.size()).getType();
      if (value.getType() != type)
        value = tensor::CastOp::create(rewriter, loc, type, value);
      arguments.push_back(value);
    };
    for (Value rows : op.getRows())
      add(weigh(rows, WeightMode::Before));
    for (auto [i, bank] : llvm::enumerate(op.getExperts()))
      add(takeLeading(rewriter, loc, bank, op.getSlice(i).getMap().compose({0})));
    for (Value pair : op.getPairs()) {
      auto type = cast<RankedTensorType>(pair.getType());
      SmallVector<OpFoldResult> offsets(type.getRank(), rewriter.getIndexAttr(0)),
          sizes = tensor::getMixedSizes(rewriter, loc, pair), strides(type.getRank(), rewriter.getIndexAttr(1));
      sizes[1] = rewriter.getIndexAttr(1);
      SmallVector<int64_t> shape(type.getShape());
      shape.erase(shape.begin() + 1);
      add(tensor::ExtractSliceOp::create(rewriter, loc, RankedTensorType::get(shape, type.getElementType()), pair,
                                         offsets, sizes, strides));
    }
    if (op.hasIndexArg(IndexArg::Expert))
      arguments.push_back(arith::ConstantIndexOp::create(rewriter, loc, 0));

    Operation *yield = body.getTerminator();
    SmallVector<Value> yielded(yield->getOperands());
    for (Value &value : yielded)
      if (auto argument = dyn_cast<BlockArgument>(value); argument && argument.getOwner() == &body)
        value = arguments[argument.getArgNumber()];
    rewriter.eraseOp(yield);
    rewriter.inlineBlockBefore(&body, op, arguments);
    rewriter.setInsertionPoint(op);
    SmallVector<Value> results;
    for (auto [value, result] : llvm::zip(yielded, op.getResults())) {
      Value scaled = weigh(value, WeightMode::After);
      results.push_back(scaled.getType() == result.getType()
                            ? scaled
                            : Value(tensor::CastOp::create(rewriter, loc, result.getType(), scaled)));
    }
    rewriter.replaceOp(op, results);
    return success();
  }
};
} // namespace

void ApplyOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ReadRoutingEarlier, DropUnused, InlineOnlyExpert>(context);
}
