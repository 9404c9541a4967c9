//===- LowerApply.cpp - moe.apply becomes plans, loops, grouped matmuls ---===//
#include "ApplyLowering.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Pass/Pass.h"
#include "moe/Conversion/Passes.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOELOWERAPPLYPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {
struct MoeLowerApplyPass : moe::impl::MoeLowerApplyPassBase<MoeLowerApplyPass> {
  void runOnOperation() override {
    // Inner applies first: an outer one copies its body.
    SmallVector<ApplyOp> applies;
    getOperation()->walk([&](ApplyOp op) { applies.push_back(op); });
    for (ApplyOp op : applies)
      if (failed(lower(op)))
        return signalPassFailure();
  }

  LogicalResult lower(ApplyOp op) {
    using Lowering = LogicalResult (ApplyLowering::*)(Values &, std::string &);
    auto name = op->getAttrOfType<StringAttr>("moe.lowering");
    Lowering lowering = llvm::StringSwitch<Lowering>(name ? name.getValue() : "reference")
                            .Case("reference", &ApplyLowering::lowerReference)
                            .Case("pairwise", &ApplyLowering::lowerPairwise)
                            .Case("dense", &ApplyLowering::lowerDense)
                            .Case("fused", &ApplyLowering::lowerFused)
                            .Default(nullptr);
    if (!lowering)
      return op.emitOpError() << "expected 'moe.lowering' to be reference, fused, pairwise or dense, got " << name;
    OpBuilder builder(op);
    LoopBuilder b(op.getLoc(), builder);
    b.setInsertionPoint(op);
    Values results;
    std::string why;
    if (failed((ApplyLowering(b, op).*lowering)(results, why)))
      return op.emitOpError() << "has no lowering '" << (name ? name.getValue() : "reference") << "': " << why;
    op->replaceAllUsesWith(results);
    op->erase();
    return success();
  }
};
} // namespace
