//===- PlannedToLinalg.cpp - the planned level becomes linalg and scf -----===//
#include "PlannedLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Pass/Pass.h"
#include "moe/Conversion/GroupedMatmulKernels.h"
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
      else if (auto dequantize = dyn_cast<DequantizeOp>(op))
        results = {lowerDequantize(b, dequantize.getCodes(), dequantize.getScales(), dequantize.getZeroPoints(),
                                   dequantize.getFormat(), dequantize.getResult().getType())};
      else if (auto matmul = dyn_cast<GroupedMatmulOp>(op); matmul && !waitsForKernel(matmul))
        results = lowerGroupedMatmul(b, matmul);
      else
        return;
      for (auto [result, type] : llvm::zip(results, op->getResultTypes()))
        result = b.castTo(result, type);
      op->replaceAllUsesWith(results);
      op->erase();
    });
  }

  bool waitsForKernel(GroupedMatmulOp op) {
    std::string why;
    if (!keepKernels)
      return false;
    if (getKernelForm(op, why))
      return true;
    auto function = op->getParentOfType<FunctionOpInterface>();
    remark::missed(op.getLoc(), remark::RemarkOpts::name("GroupedMatmulKernel")
                                    .category("convert-moe-planned-to-linalg")
                                    .function(function ? function.getName() : ""))
        << "no kernel: " + why;
    return false;
  }
};
} // namespace
