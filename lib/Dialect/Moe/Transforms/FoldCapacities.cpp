//===- FoldCapacities.cpp - capacities that are known while compiling -----===//
//
// A constant capacity becomes an attribute, so that the type bounds the pairs of an expert. A capacity that no expert
// can reach goes: an expert of which no row has two pairs has at most as many pairs as there are tokens. Two capacities
// of one order are the smaller one.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/ValueBoundsOpInterface.h"
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-fold-capacities"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFOLDCAPACITIESPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numConstant(DEBUG_TYPE, "num-constant", "capacities that became attributes");
static llvm::TrackingStatistic numRemoved(DEBUG_TYPE, "num-removed", "capacities that no expert can reach");
static llvm::TrackingStatistic numMerged(DEBUG_TYPE, "num-merged", "capacities that joined the one before");
static llvm::TrackingStatistic numKept(DEBUG_TYPE, "num-kept", "capacities that are computed at run time");

namespace {

/// The smallest entry of a constant tensor.
std::optional<int64_t> getLeastEntry(Value amount) {
  DenseIntElementsAttr elements;
  if (!matchPattern(amount, m_Constant(&elements)) || elements.empty())
    return std::nullopt;
  int64_t least = INT64_MAX;
  for (const APInt &entry : elements.getValues<APInt>())
    least = std::min(least, entry.getSExtValue());
  return least;
}

/// Whether `amount` is at least the number of pairs that an expert of `routing` can have.
bool isOutOfReach(Value amount, Value routing) {
  std::optional<int64_t> most = mostPairsPerExpert(routing);
  if (std::optional<int64_t> least = getLeastEntry(amount))
    return most && *most <= *least;
  Value tokens = getTokenTensor(routing);
  if (!amount.getType().isIndex() || !tokens || !hasDistinctExperts(routing))
    return false;
  return ValueBoundsConstraintSet::compare(amount, ValueBoundsConstraintSet::ComparisonOperator::GE, {tokens, 0});
}

/// What a scalar computed from constants and static sizes is, by the folders of the ops; null if it is not such a one.
Attribute evaluate(Value value, unsigned depth = 0) {
  constexpr unsigned kMostOps = 32; // in a row: longer than any formula for a capacity
  Attribute constant;
  if (matchPattern(value, m_Constant(&constant)))
    return constant;
  Operation *op = value.getDefiningOp();
  if (!op || depth == kMostOps || op->getNumResults() != 1 || !isPure(op))
    return {};
  if (auto dim = dyn_cast<tensor::DimOp>(op)) {
    auto type = dyn_cast<RankedTensorType>(dim.getSource().getType());
    std::optional<int64_t> number = dim.getConstantIndex();
    if (!type || !number || *number < 0 || *number >= type.getRank() || type.isDynamicDim(*number))
      return {};
    return IntegerAttr::get(value.getType(), type.getDimSize(*number));
  }
  SmallVector<Attribute> operands;
  for (Value operand : op->getOperands()) {
    Attribute known =
        isa<IntegerType, IndexType, FloatType>(operand.getType()) ? evaluate(operand, depth + 1) : nullptr;
    if (!known)
      return {};
    operands.push_back(known);
  }
  SmallVector<OpFoldResult> results;
  if (operands.empty() || failed(op->fold(operands, results)) || results.empty())
    return {};
  if (auto same = dyn_cast<Value>(results.front())) // one of the operands
    return evaluate(same, depth + 1);
  return cast<Attribute>(results.front());
}

/// The constant that an amount is; negative ones count as 0.
std::optional<int64_t> getAmount(Value amount) {
  if (std::optional<int64_t> constant = getConstantAmount(amount))
    return constant;
  auto number = dyn_cast_or_null<IntegerAttr>(evaluate(amount));
  return number ? std::optional<int64_t>(std::max<int64_t>(0, number.getInt())) : std::nullopt;
}

struct MoeFoldCapacitiesPass : impl::MoeFoldCapacitiesPassBase<MoeFoldCapacitiesPass> {
  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      auto topK = dyn_cast<TopKOp>(op);
      if (isa<LimitOp>(op) || (topK && topK.getAxis() == Axis::Token))
        ops.push_back(op);
    });
    for (Operation *op : ops)
      fold(op, rewriter);
  }

  void fold(Operation *op, IRRewriter &rewriter) {
    rewriter.setInsertionPoint(op);
    auto limit = dyn_cast<LimitOp>(op);
    Value input = op->getOperand(0), amount = limit ? limit.getCap() : cast<TopKOp>(op).getK();
    auto type = cast<RoutingType>(op->getResult(0).getType());
    // Removing `op` must not widen a bound that its type has.
    if (amount && isOutOfReach(amount, input) && input.getType() == type) {
      ++numRemoved;
      report(op, "the capacity is out of reach: no expert can have more pairs", /*done=*/true);
      rewriter.replaceOp(op, input);
      return;
    }
    std::optional<int64_t> constant = amount ? getAmount(amount) : std::nullopt;
    if (amount && !constant) {
      ++numKept;
      report(op, "the capacity is computed at run time", /*done=*/false);
      return;
    }
    if (amount) {
      Value tighter;
      IntegerAttr attribute = rewriter.getI64IntegerAttr(*constant);
      if (limit) {
        tighter = limit = LimitOp::create(rewriter, op->getLoc(), input, limit.getKey(), /*cap=*/Value(), attribute,
                                          limit.getOrderAttr());
      } else {
        auto topK = cast<TopKOp>(op);
        tighter =
            TopKOp::create(rewriter, op->getLoc(), input, topK.getKey(), /*k=*/Value(), attribute, topK.getAxisAttr(),
                           topK.getGroupsAttr(), topK.getKeepAttr(), topK.getScoreAttr(), topK.getTiesAttr());
      }
      ++numConstant;
      report(op, "the capacity is " + Twine(*constant), /*done=*/true);
      if (tighter.getType() == type)
        rewriter.replaceOp(op, tighter);
      else
        rewriter.replaceOpWithNewOp<CastOp>(op, type, tighter);
    }
    if (limit)
      merge(limit, rewriter);
  }

  /// limit(limit(r, a), b) -> limit(r, min(a, b)), where who claims first is the same for both.
  void merge(LimitOp op, IRRewriter &rewriter) {
    auto inner = op.getInput().getDefiningOp<LimitOp>();
    if (!inner || !op.getStaticCap() || !inner.getStaticCap() || inner.getOrder() != op.getOrder() ||
        inner.getKey() != op.getKey() || op.getOrder() == LimitOrder::RankThenRow) // ranks move up in between
      return;
    rewriter.setInsertionPoint(op);
    IntegerAttr least = rewriter.getI64IntegerAttr(std::min(*op.getStaticCap(), *inner.getStaticCap()));
    Value both = LimitOp::create(rewriter, op.getLoc(), inner.getInput(), op.getKey(), /*cap=*/Value(), least,
                                 op.getOrderAttr());
    if (both.getType() != op.getType())
      return rewriter.eraseOp(both.getDefiningOp());
    ++numMerged;
    report(op, "joins the capacity before", /*done=*/true);
    rewriter.replaceOp(op, both);
    if (inner->use_empty())
      rewriter.eraseOp(inner);
  }

  static void report(Operation *op, const Twine &text, bool done) {
    reportDecision(op, "Capacity", DEBUG_TYPE, done, text);
  }
};

} // namespace
} // namespace mlir::moe
