//===- NormalizeBodies.cpp - one form for elementwise code in bodies ------===//
//
// People write activations as linalg.map, as named linalg ops, or as arith and math ops on tensors. In front of the
// choice of a lowering they all become linalg.generic, and chains of them one linalg.generic.
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOENORMALIZEBODIESPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// linalg.map, linalg.add, linalg.broadcast, ... become linalg.generic; contractions, reductions and fills stay.
struct GeneralizeParallel : OpInterfaceRewritePattern<linalg::LinalgOp> {
  using OpInterfaceRewritePattern::OpInterfaceRewritePattern;
  LogicalResult matchAndRewrite(linalg::LinalgOp op, PatternRewriter &rewriter) const override {
    if (isa<linalg::GenericOp, linalg::FillOp, linalg::TransposeOp>(op) || op.getNumReductionLoops() > 0)
      return rewriter.notifyMatchFailure(op, "not an elementwise named op");
    return linalg::generalizeNamedOp(rewriter, op);
  }
};

struct MoeNormalizeBodiesPass : moe::impl::MoeNormalizeBodiesPassBase<MoeNormalizeBodiesPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<GeneralizeParallel>(&getContext());
    linalg::populateElementwiseToLinalgConversionPatterns(patterns);
    // A value with other users would be computed once per user.
    linalg::populateElementwiseOpsFusionPatterns(patterns, [](OpOperand *operand) {
      Operation *producer = operand->get().getDefiningOp();
      return producer && producer->hasOneUse();
    });
    FrozenRewritePatternSet frozen(std::move(patterns));
    SmallVector<Operation *> ops;
    getOperation()->walk([&](ApplyOp apply) {
      for (Region &body : apply.getBodies())
        body.walk([&](Operation *op) { ops.push_back(op); });
    });
    GreedyRewriteConfig config;
    config.setStrictness(GreedyRewriteStrictness::ExistingAndNewOps);
    if (failed(applyOpPatternsGreedily(ops, frozen, config)))
      signalPassFailure();
  }
};
} // namespace
