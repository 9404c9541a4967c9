//===- ApproximateMath.cpp - elementary functions without a library -------===//
#include "MathInDouble.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEAPPROXIMATEMATHPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

bool isNarrow(Type type) {
  Type element = getElementTypeOrSelf(type);
  return isa<FloatType>(element) && element.getIntOrFloatBitWidth() < 32;
}

bool isMath(Operation *op) { return isa_and_present<math::MathDialect>(op->getDialect()) || isa<arith::RemFOp>(op); }

/// A math op on f16, bf16 or narrower: computed in f32.
struct ComputeInF32 : RewritePattern {
  explicit ComputeInF32(MLIRContext *context) : RewritePattern(MatchAnyOpTypeTag(), /*benefit=*/3, context) {}

  LogicalResult matchAndRewrite(Operation *op, PatternRewriter &rewriter) const override {
    if (!isMath(op))
      return rewriter.notifyMatchFailure(op, "not a math op");
    if (op->getNumResults() != 1 || op->getNumRegions() || !isNarrow(op->getResult(0).getType()))
      return rewriter.notifyMatchFailure(op, "not narrow");
    auto widen = [&](Type type) -> Type {
      if (!isNarrow(type))
        return type;
      if (auto vector = dyn_cast<VectorType>(type))
        return vector.clone(rewriter.getF32Type());
      return rewriter.getF32Type();
    };
    Location loc = op->getLoc();
    SmallVector<Value> operands;
    for (Value operand : op->getOperands()) {
      Type wide = widen(operand.getType());
      operands.push_back(wide == operand.getType() ? operand
                                                   : arith::ExtFOp::create(rewriter, loc, wide, operand).getResult());
    }
    Type type = op->getResult(0).getType();
    OperationState state(loc, op->getName(), operands, {widen(type)}, op->getAttrs());
    Operation *wide = rewriter.create(state);
    rewriter.replaceOpWithNewOp<arith::TruncFOp>(op, type, wide->getResult(0));
    return success();
  }
};

struct ApproximateMath : impl::MoeApproximateMathPassBase<ApproximateMath> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<ComputeInF32>(&getContext());
    populateMathInDoublePatterns(patterns);
    populateMathPolynomialApproximationPatterns(patterns, MathPolynomialApproximationOptions());
    math::populateExpansionPatterns(patterns, {"fpowi", "ipowi", "rsqrt", "clampf"});
    // Nearly all of the program is something else, which the driver would look at and fold.
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      if (isMath(op))
        ops.push_back(op);
    });
    if (failed(applyOpPatternsGreedily(ops, std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
} // namespace mlir::moe
