//===- DecomposeAggregates.cpp - softmax, concat, pack: to structured ops -===//
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Tensor/Transforms/Transforms.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEDECOMPOSEAGGREGATESPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// Softmax and whatever else upstream describes as an aggregate.
struct DecomposeAggregate : OpInterfaceRewritePattern<linalg::AggregatedOpInterface> {
  using OpInterfaceRewritePattern::OpInterfaceRewritePattern;
  LogicalResult matchAndRewrite(linalg::AggregatedOpInterface op, PatternRewriter &rewriter) const override {
    if (auto softmax = dyn_cast<linalg::SoftmaxOp>(op.getOperation()))
      if (softmax.getInputOperandType().getShape() != softmax.getOutputOperandType().getShape())
        return rewriter.notifyMatchFailure(op, "the shapes of input and result have to be aligned first");
    FailureOr<SmallVector<Value>> values = op.decomposeOperation(rewriter);
    if (failed(values))
      return rewriter.notifyMatchFailure(op, "the op does not decompose");
    rewriter.replaceOp(op, *values);
    return success();
  }
};

/// Upstream's decomposition takes the shape of the input for that of the result, and makes invalid IR where a cast was
/// folded into one of them (`ins(tensor<1x?xf32>) outs(tensor<?x?xf32>)`).
struct AlignSoftmaxInput : OpRewritePattern<linalg::SoftmaxOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(linalg::SoftmaxOp op, PatternRewriter &rewriter) const override {
    auto input = dyn_cast<RankedTensorType>(op.getInput().getType());
    auto output = dyn_cast<RankedTensorType>(op.getOutput().getType());
    if (!input || !output || input.getShape() == output.getShape())
      return rewriter.notifyMatchFailure(op, "the shapes are the same");
    RankedTensorType type = output.clone(input.getElementType());
    Value cast = tensor::CastOp::create(rewriter, op.getLoc(), type, op.getInput());
    rewriter.modifyOpInPlace(op, [&] { op.getInputMutable().assign(cast); });
    return success();
  }
};

template <typename OpTy, auto Lower> struct LowerPacking : OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;
  LogicalResult matchAndRewrite(OpTy op, PatternRewriter &rewriter) const override {
    if (failed(Lower(rewriter, op)))
      return rewriter.notifyMatchFailure(op, "not expressible as pad, expand_shape and transpose");
    return success();
  }
};

LogicalResult lowerPackOp(RewriterBase &rewriter, linalg::PackOp op) { return linalg::lowerPack(rewriter, op); }
LogicalResult lowerUnPackOp(RewriterBase &rewriter, linalg::UnPackOp op) { return linalg::lowerUnPack(rewriter, op); }

struct DecomposeAggregates : impl::MoeDecomposeAggregatesPassBase<DecomposeAggregates> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<AlignSoftmaxInput, DecomposeAggregate, LowerPacking<linalg::PackOp, lowerPackOp>,
                 LowerPacking<linalg::UnPackOp, lowerUnPackOp>>(&getContext());
    tensor::populateDecomposeTensorConcatPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
} // namespace mlir::moe
