//===- ReportScalarLoops.cpp - where float arithmetic is still scalar -----===//
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/LoopLikeInterface.h"
#include "moe/Transforms/Passes.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringExtras.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEREPORTSCALARLOOPSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// Arithmetic that a vector unit would do on many values: comparisons, selections and conversions alone (a search,
/// say) do not count.
bool isFloatArithmetic(Operation *op) {
  if (op->getNumResults() != 1 || op->getNumOperands() == 0)
    return false;
  if (isa<arith::SelectOp, arith::ExtFOp, arith::TruncFOp, arith::SIToFPOp, arith::UIToFPOp, arith::BitcastOp>(op))
    return false;
  return isa<arith::ArithDialect, math::MathDialect>(op->getDialect()) &&
         isa<FloatType>(getElementTypeOrSelf(op->getResult(0).getType()));
}

/// A loop, or a linalg op, which is going to be one.
bool isLoop(Operation *op) { return isa<LoopLikeOpInterface, linalg::LinalgOp>(op); }

struct ReportScalarLoops : impl::MoeReportScalarLoopsPassBase<ReportScalarLoops> {
  using Base::Base;

  void runOnOperation() override {
    bool found = false;
    getOperation()->walk([&](Operation *loop) {
      if (!isLoop(loop))
        return;
      bool innermost = true, vectors = false;
      llvm::SetVector<StringRef> names;
      loop->walk([&](Operation *op) {
        innermost &= op == loop || !isLoop(op);
        vectors |= isa<vector::FMAOp, vector::ReductionOp>(op);
        if (!isFloatArithmetic(op))
          return;
        if (isa<VectorType>(op->getResult(0).getType()))
          vectors = true;
        else
          names.insert(op->getName().getStringRef());
      });
      // Scalars beside vectors are what is computed once per vector or row.
      if (!innermost || vectors || names.empty())
        return;
      found = true;
      std::string text = "innermost loop with scalar float arithmetic: " + llvm::join(names, ", ");
      if (optional)
        remark::missed(loop->getLoc(), remark::RemarkOpts::name("ScalarLoop").category("moe-kernels")) << text;
      else
        (fail ? loop->emitError() : loop->emitRemark()) << text;
    });
    if (found && fail)
      signalPassFailure();
    markAllAnalysesPreserved();
  }
};
} // namespace
} // namespace mlir::moe
