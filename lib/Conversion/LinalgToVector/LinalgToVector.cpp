//===- LinalgToVector.cpp - structured ops on buffers to loops over vectors ===//
//
// Every linalg op on buffers, whatever its name, is brought to one form: a linalg.generic without affine.apply in its
// body and with as few loops as its buffers' layouts allow. Then one loop becomes lanes (VectorLoop), the body is
// emitted on vectors (LaneBody), and the other loops go around it (LoopEmitter).
//
//===----------------------------------------------------------------------===//
#include "LoopEmitter.h"
#include "moe/Conversion/Passes.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/Statistic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTLINALGTOVECTORPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "convert-linalg-to-vector"
static llvm::TrackingStatistic numColumns(DEBUG_TYPE, "num-columns", "Ops whose lanes are results of their own");
static llvm::TrackingStatistic numRows(DEBUG_TYPE, "num-rows", "Reductions whose lanes are partial results");
static llvm::TrackingStatistic numLeft(DEBUG_TYPE, "num-left", "Ops left to scalar loops");

namespace {

/// The op as a linalg.generic whose body computes indices by arith alone.
FailureOr<linalg::GenericOp> toPlainGeneric(RewriterBase &b, linalg::LinalgOp op) {
  linalg::GenericOp generic = dyn_cast<linalg::GenericOp>(op.getOperation());
  if (!generic) {
    b.setInsertionPoint(op);
    FailureOr<linalg::GenericOp> converted = linalg::generalizeNamedOp(b, op);
    if (failed(converted))
      return failure();
    generic = *converted;
  }
  SmallVector<affine::AffineApplyOp> applies(generic.getBody()->getOps<affine::AffineApplyOp>());
  for (affine::AffineApplyOp apply : applies) {
    b.setInsertionPoint(apply);
    auto values = affine::expandAffineMap(b, apply.getLoc(), apply.getAffineMap(), apply.getOperands());
    if (!values)
      return failure();
    b.replaceOp(apply, *values);
  }
  return generic;
}

/// Whether the loops `first` and `first + 1` can run as one over every operand.
bool canMerge(linalg::GenericOp op, unsigned first) {
  SmallVector<utils::IteratorType> kinds = op.getIteratorTypesArray();
  if (kinds[first] != kinds[first + 1])
    return false;
  bool indexed = op.getBody()
                     ->walk([&](linalg::IndexOp index) {
                       return index.getDim() == first || index.getDim() == first + 1 ? WalkResult::interrupt()
                                                                                     : WalkResult::advance();
                     })
                     .wasInterrupted();
  if (indexed)
    return false;
  for (OpOperand &operand : op->getOpOperands()) {
    AffineMap map = op.getMatchingIndexingMap(&operand);
    if (!map.isProjectedPermutation() || !linalg::isDimSequencePreserved(map, {first, first + 1}))
      return false;
    if (!map.isFunctionOfDim(first))
      continue;
    auto type = dyn_cast<MemRefType>(operand.get().getType());
    if (!type)
      return false;
    SmallVector<ReassociationIndices> groups;
    for (auto [i, expr] : llvm::enumerate(map.getResults())) {
      if (expr == getAffineDimExpr(first + 1, op.getContext()))
        groups.back().push_back(i);
      else
        groups.push_back({static_cast<int64_t>(i)});
    }
    if (!memref::CollapseShapeOp::isGuaranteedCollapsible(type, groups))
      return false;
  }
  return true;
}

linalg::GenericOp mergeLoops(RewriterBase &b, linalg::GenericOp op) {
  SmallVector<ReassociationIndices> groups;
  bool merged = false;
  for (unsigned loop = 0; loop < op.getNumLoops(); ++loop) {
    if (loop > 0 && canMerge(op, loop - 1)) {
      groups.back().push_back(loop);
      merged = true;
    } else {
      groups.push_back({loop});
    }
  }
  if (!merged)
    return op;
  b.setInsertionPoint(op);
  FailureOr<linalg::CollapseResult> result = linalg::collapseOpIterationDims(op, groups, b);
  if (failed(result))
    return op;
  b.eraseOp(op);
  return cast<linalg::GenericOp>(result->collapsedOp.getOperation());
}

struct ConvertLinalgToVectorPass : public moe::impl::ConvertLinalgToVectorPassBase<ConvertLinalgToVectorPass> {
  using Base::Base;

  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    SmallVector<linalg::LinalgOp> ops;
    getOperation()->walk([&](linalg::LinalgOp op) {
      if (op.hasPureBufferSemantics() && op.getNumLoops() > 0)
        ops.push_back(op);
    });
    for (linalg::LinalgOp op : ops)
      convert(rewriter, op);
  }

  void convert(IRRewriter &rewriter, linalg::LinalgOp op) {
    Location loc = op.getLoc();
    auto leave = [&](StringRef why) {
      ++numLeft;
      remark::missed(loc, remark::RemarkOpts::name("StructuredOpLeft").category("moe-kernels"))
          << ("left to scalar loops: " + why).str();
    };
    FailureOr<linalg::GenericOp> generic = toPlainGeneric(rewriter, op);
    if (failed(generic))
      return leave("it has no generic form");
    linalg::GenericOp plain = mergeLoops(rewriter, *generic);
    std::string why;
    std::optional<VectorLoop> choice = chooseVectorLoop(plain, lanes, why);
    if (!choice)
      return leave(why);
    ++(choice->isRows() ? numRows : numColumns);
    remark::passed(loc, remark::RemarkOpts::name("StructuredOpVectorised").category("moe-kernels"))
        << (Twine(choice->lanes) + " lanes along loop " + Twine(choice->loop) + " of " + Twine(plain.getNumLoops()) +
            (choice->isRows() ? ", partial results" : ", one result each"))
               .str();
    LoopEmitter(rewriter, plain, *choice, grain).run();
  }
};

} // namespace
