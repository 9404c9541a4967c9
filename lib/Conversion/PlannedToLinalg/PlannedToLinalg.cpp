//===- PlannedToLinalg.cpp - the planned level becomes linalg and scf -----===//
#include "PlannedLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Pass/Pass.h"
#include "moe/Conversion/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTMOEPLANNEDTOLINALGPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {
struct ConvertMoePlannedToLinalgPass : moe::impl::ConvertMoePlannedToLinalgPassBase<ConvertMoePlannedToLinalgPass> {
  using ConvertMoePlannedToLinalgPassBase::ConvertMoePlannedToLinalgPassBase;

  void runOnOperation() override {
    getOperation()->walk([&](Operation *op) {
      OpBuilder builder(op);
      LoopBuilder b(op->getLoc(), builder);
      b.setInsertionPoint(op);
      Values results;
      if (auto plan = dyn_cast<PlanOp>(op))
        results = lowerPlan(b, plan);
      else if (auto combine = dyn_cast<CombineOp>(op))
        results = lowerCombine(b, combine);
      else if (auto matmul = dyn_cast<GroupedMatmulOp>(op); matmul && groupedMatmul)
        results = lowerGroupedMatmul(b, matmul);
      else
        return;
      for (auto [result, type] : llvm::zip(results, op->getResultTypes()))
        result = b.castTo(result, type);
      op->replaceAllUsesWith(results);
      op->erase();
    });
  }
};
} // namespace
