//===- FuseCombine.cpp - the second matmul adds to the tokens' rows -------===//
//
//   %pairs = moe.grouped_matmul %h offsets(%offsets) banks(%down) outs(%any)
//   %y = moe.combine(sum) %pairs by(%inverse) weights(%w) outs(%init)
//
// becomes one op that adds each pair's value, times its weight, to the row of the pair's token:
//
//   %each = the weight of each pair
//   %zero = linalg.fill 0 into %init
//   %y = moe.grouped_matmul %h offsets(%offsets) banks(%down) extras(%each) outs(%zero) targets(%rows)
//
// The values of the pairs, k rows for each token, never go to memory.
//
//===----------------------------------------------------------------------===//
#include "../Support/LoopBuilder.h"
#include "moe/Conversion/GroupedMatmulKernels.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"

#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-fuse-combine"
static llvm::TrackingStatistic numFused(DEBUG_TYPE, "num-fused", "Combines that their grouped matmul does");
static llvm::TrackingStatistic numApart(DEBUG_TYPE, "num-apart", "Combines of pairs that are in memory");

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFUSECOMBINEPASS
#include "moe/Conversion/Passes.h.inc"

namespace {

struct MoeFuseCombinePass : impl::MoeFuseCombinePassBase<MoeFuseCombinePass> {
  using MoeFuseCombinePassBase::MoeFuseCombinePassBase;

  void runOnOperation() override {
    SmallVector<CombineOp> combines;
    getOperation()->walk([&](CombineOp op) { combines.push_back(op); });
    for (CombineOp combine : combines) {
      std::string why = whyApart(combine);
      bool fused = why.empty();
      ++(fused ? numFused : numApart);
      reportDecision(combine, "Combine", DEBUG_TYPE, fused,
                     fused ? "the matmul adds its pairs to their rows" : "reads the pairs from memory: " + why);
      if (fused)
        fuse(combine);
    }
  }

private:
  /// Why the matmul that makes the pairs cannot add them up; empty if it can.
  std::string whyApart(CombineOp combine) const {
    auto matmul = combine.getPairs().getDefiningOp<GroupedMatmulOp>();
    if (!matmul)
      return "no grouped matmul makes them";
    if (combine.getMode() != OutMode::Sum)
      return ("their " + stringifyEnum(combine.getMode()) + " is asked for").str();
    if (!matmul->hasOneUse())
      return "something else reads them";
    auto plan = combine.getInverse().getDefiningOp<PlanOp>();
    if (!plan || matmul.getOffsets() != plan.getOffsets())
      return "they are not numbered by the plan of the routing";
    auto type = cast<RankedTensorType>(combine.getType());
    if (type.getElementTypeBitWidth() < 32)
      return "sums of narrow floats are rounded once";
    // The parallel loop is over columns alone.
    if (type.isDynamicDim(1) || type.getDimSize(1) < minColumns)
      return "there are fewer than " + std::to_string(minColumns) + " columns to share among threads";
    std::string noKernel;
    if (!getKernelForm(matmul, noKernel))
      return "the matmul has no kernel: " + noKernel;
    return "";
  }

  /// The weight of each pair, as numbers of type `element`.
  static Value getPairWeights(LoopBuilder &b, Value weights, PlanOp plan, Type element) {
    Value init = b.empty({b.dimOrAttr(plan.getRows(), 0)}, element);
    AffineMap id = b.getMultiDimIdentityMap(1);
    return linalg::GenericOp::create(b, init.getType(), ValueRange{plan.getRows(), plan.getSlots()}, init,
                                     ArrayRef<AffineMap>{id, id, id}, utils::IteratorType::parallel,
                                     [&](OpBuilder &inner, Location loc, ValueRange args) {
                                       LoopBuilder nested(loc, inner);
                                       Value weight = nested.extract(weights, {args[0], args[1]});
                                       linalg::YieldOp::create(nested, nested.toFloat(weight, element));
                                     })
        .getResult(0);
  }

  static void fuse(CombineOp combine) {
    auto matmul = combine.getPairs().getDefiningOp<GroupedMatmulOp>();
    auto plan = combine.getInverse().getDefiningOp<PlanOp>();
    OpBuilder builder(combine);
    LoopBuilder b(combine.getLoc(), builder);
    b.setInsertionPoint(combine);
    Type element = cast<RankedTensorType>(combine.getType()).getElementType();
    Value zero = arith::ConstantOp::create(b, cast<TypedAttr>(b.getZeroAttr(element)));
    Value sums = linalg::FillOp::create(b, zero, combine.getInit()).getResult(0);

    auto fused = cast<GroupedMatmulOp>(b.clone(*matmul));
    fused.getInitMutable().assign(sums);
    fused.getTargetsMutable().assign(plan.getRows());
    fused->getResult(0).setType(cast<RankedTensorType>(sums.getType()));
    if (Value weights = combine.getWeights()) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPoint(fused);
      fused.getExtrasMutable().append(getPairWeights(b, weights, plan, element));
      SmallVector<AffineMap> maps(fused.getExtraMaps().getAsValueRange<AffineMapAttr>());
      maps.push_back(AffineMap::get(3, 0, b.getAffineDimExpr(1)));
      fused.setExtraMapsAttr(b.getAffineMapArrayAttr(maps));
      BlockArgument weight = fused.getEpilogue().front().addArgument(element, combine.getLoc());
      YieldOp yield = fused.getYield();
      b.setInsertionPoint(yield);
      yield.setOperand(0, arith::MulFOp::create(b, yield.getOperand(0), weight));
    }
    combine.replaceAllUsesWith(fused.getResult());
    combine.erase();
    matmul.erase();
  }
};
} // namespace
} // namespace mlir::moe
