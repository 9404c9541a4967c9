//===- LowerCopies.cpp - copies between strided buffers become loops ------===//
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/MemRef/Utils/MemRefUtils.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOELOWERCOPIESPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

struct LowerStridedCopy : OpRewritePattern<memref::CopyOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(memref::CopyOp op, PatternRewriter &rewriter) const override {
    auto source = dyn_cast<MemRefType>(op.getSource().getType());
    auto target = dyn_cast<MemRefType>(op.getTarget().getType());
    if (!source || !target)
      return rewriter.notifyMatchFailure(op, "unranked");
    // What finalize-memref-to-llvm turns into memcpy.
    auto isContiguous = [](MemRefType type) {
      return memref::isStaticShapeAndContiguousRowMajor(type) || type.getLayout().isIdentity();
    };
    if (isContiguous(source) && isContiguous(target))
      return rewriter.notifyMatchFailure(op, "contiguous: becomes memcpy");
    AffineMap id = rewriter.getMultiDimIdentityMap(source.getRank());
    SmallVector<utils::IteratorType> parallel(source.getRank(), utils::IteratorType::parallel);
    rewriter.replaceOpWithNewOp<linalg::GenericOp>(
        op, ValueRange{op.getSource()}, ValueRange{op.getTarget()}, ArrayRef<AffineMap>{id, id}, parallel,
        [](OpBuilder &b, Location loc, ValueRange args) { linalg::YieldOp::create(b, loc, args.front()); });
    return success();
  }
};

struct LowerCopies : impl::MoeLowerCopiesPassBase<LowerCopies> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<LowerStridedCopy>(&getContext());
    walkAndApplyPatterns(getOperation(), std::move(patterns));
  }
};
} // namespace
} // namespace mlir::moe
