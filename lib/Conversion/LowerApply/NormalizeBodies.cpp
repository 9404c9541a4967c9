//===- NormalizeBodies.cpp - one form for elementwise code in bodies ------===//
//
// People write activations as linalg.map, as named linalg ops, or as arith and math ops on tensors. In front of the
// choice of a lowering they all become linalg.generic, and chains of them one linalg.generic.
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
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

/// tensor.splat becomes linalg.fill, which joins the elementwise op that reads it.
struct SplatToFill : OpRewritePattern<tensor::SplatOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(tensor::SplatOp op, PatternRewriter &rewriter) const override {
    Value init = tensor::EmptyOp::create(rewriter, op.getLoc(), op.getType(), op.getDynamicSizes());
    rewriter.replaceOpWithNewOp<linalg::FillOp>(op, op.getInput(), init);
    return success();
  }
};

/// A tensor that the payload of an elementwise op reads at its loops' indices and at constants becomes an operand.
struct ExtractToOperand : OpRewritePattern<linalg::GenericOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(linalg::GenericOp op, PatternRewriter &rewriter) const override {
    if (op.getNumParallelLoops() != op.getNumLoops() || op.getNumDpsInits() != 1)
      return rewriter.notifyMatchFailure(op, "not elementwise");
    for (auto extract : op.getBody()->getOps<tensor::ExtractOp>())
      if (succeeded(rewrite(op, extract, rewriter)))
        return success();
    return rewriter.notifyMatchFailure(op, "reads no tensor at plain indices");
  }

  static LogicalResult rewrite(linalg::GenericOp op, tensor::ExtractOp extract, PatternRewriter &rewriter) {
    Value tensor = extract.getTensor();
    RankedTensorType type = extract.getTensor().getType();
    if (op->isAncestor(tensor.getParentBlock()->getParentOp()))
      return rewriter.notifyMatchFailure(extract, "reads a tensor of the payload");
    SmallVector<AffineExpr> exprs;
    SmallVector<int64_t> shape;
    SmallVector<OpFoldResult> offsets(type.getRank(), rewriter.getIndexAttr(0)),
        strides(type.getRank(), rewriter.getIndexAttr(1)), sizes;
    for (auto [d, index] : llvm::enumerate(extract.getIndices())) {
      if (auto loop = index.getDefiningOp<linalg::IndexOp>()) {
        AffineExpr expr = rewriter.getAffineDimExpr(loop.getDim());
        if (llvm::is_contained(exprs, expr) || type.isDynamicDim(d) ||
            op.getStaticLoopRanges()[loop.getDim()] != type.getDimSize(d))
          return rewriter.notifyMatchFailure(extract, "reads a part whose extent is not the loop's");
        exprs.push_back(expr);
        shape.push_back(type.getDimSize(d));
        sizes.push_back(rewriter.getIndexAttr(type.getDimSize(d)));
        continue;
      }
      std::optional<int64_t> constant = getConstantIntValue(index);
      if (!constant || type.isDynamicDim(d) || *constant < 0 || *constant >= type.getDimSize(d))
        return rewriter.notifyMatchFailure(extract, "reads at a computed index");
      offsets[d] = rewriter.getIndexAttr(*constant);
      sizes.push_back(rewriter.getIndexAttr(1));
    }
    if (exprs.empty())
      return rewriter.notifyMatchFailure(extract, "reads a scalar");
    rewriter.setInsertionPoint(op);
    Value part = tensor;
    if (shape != type.getShape())
      part = tensor::ExtractSliceOp::create(rewriter, op.getLoc(), RankedTensorType::get(shape, type.getElementType()),
                                            tensor, offsets, sizes, strides);
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    maps.insert(maps.begin() + op.getNumDpsInputs(), AffineMap::get(op.getNumLoops(), 0, exprs, rewriter.getContext()));
    SmallVector<Value> inputs = op.getInputs();
    inputs.push_back(part);
    auto with = linalg::GenericOp::create(rewriter, op.getLoc(), op.getResultTypes(), inputs, op.getOutputs(), maps,
                                          op.getIteratorTypesArray());
    rewriter.inlineRegionBefore(op.getRegion(), with.getRegion(), with.getRegion().begin());
    BlockArgument element = with.getBody()->insertArgument(inputs.size() - 1, type.getElementType(), op.getLoc());
    rewriter.replaceOp(extract, element);
    rewriter.replaceOp(op, with);
    return success();
  }
};

struct MoeNormalizeBodiesPass : moe::impl::MoeNormalizeBodiesPassBase<MoeNormalizeBodiesPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<GeneralizeParallel, SplatToFill, ExtractToOperand>(&getContext());
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
