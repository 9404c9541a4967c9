//===- LowerReshapes.cpp - reshapes with several dynamic sizes ------------===//
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOELOWERRESHAPESPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// expand_shape carries all its sizes as operands. expand-strided-metadata computes the dynamic ones from the source
/// instead, one for each group, and crashes on a group that has two.
struct LowerExpandShape : OpRewritePattern<memref::ExpandShapeOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(memref::ExpandShapeOp op, PatternRewriter &rewriter) const override {
    MemRefType type = op.getResultType();
    SmallVector<ReassociationIndices> groups = op.getReassociationIndices();
    if (llvm::none_of(groups, [&](const ReassociationIndices &group) {
          return llvm::count_if(group, [&](int64_t dim) { return type.isDynamicDim(dim); }) > 1;
        }))
      return rewriter.notifyMatchFailure(op, "at most one dynamic size in each group");
    Location loc = op.getLoc();
    auto source = memref::ExtractStridedMetadataOp::create(rewriter, loc, op.getSrc());
    SmallVector<OpFoldResult> sizes = op.getMixedOutputShape(), strides(type.getRank());
    AffineExpr product = rewriter.getAffineSymbolExpr(0) * rewriter.getAffineSymbolExpr(1);
    SmallVector<OpFoldResult> sourceStrides = source.getConstifiedMixedStrides();
    for (auto [group, stride] : llvm::zip_equal(groups, sourceStrides)) {
      OpFoldResult running = stride;
      for (int64_t dim : llvm::reverse(group)) {
        strides[dim] = running;
        running = affine::makeComposedFoldedAffineApply(rewriter, loc, product, {running, sizes[dim]});
      }
    }
    rewriter.replaceOpWithNewOp<memref::ReinterpretCastOp>(op, type, source.getBaseBuffer(),
                                                           source.getConstifiedMixedOffset(), sizes, strides);
    return success();
  }
};

struct LowerReshapes : impl::MoeLowerReshapesPassBase<LowerReshapes> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<LowerExpandShape>(&getContext());
    walkAndApplyPatterns(getOperation(), std::move(patterns));
  }
};
} // namespace
} // namespace mlir::moe
