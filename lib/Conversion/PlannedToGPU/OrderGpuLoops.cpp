//===- OrderGpuLoops.cpp - parallel loops outside of reductions -----------===//
#include "moe/Gpu/Passes.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEORDERGPULOOPSPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {
struct MoeOrderGpuLoopsPass : moe::impl::MoeOrderGpuLoopsPassBase<MoeOrderGpuLoopsPass> {
  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    SmallVector<memref::CopyOp> copies;
    SmallVector<linalg::GenericOp> generics;
    getOperation()->walk([&](memref::CopyOp op) { copies.push_back(op); });
    for (memref::CopyOp op : copies) {
      rewriter.setInsertionPoint(op);
      int64_t rank = cast<MemRefType>(op.getTarget().getType()).getRank();
      AffineMap id = rewriter.getMultiDimIdentityMap(rank);
      SmallVector<utils::IteratorType> parallel(rank, utils::IteratorType::parallel);
      rewriter.replaceOpWithNewOp<linalg::GenericOp>(
          op, ValueRange{op.getSource()}, ValueRange{op.getTarget()}, ArrayRef<AffineMap>{id, id}, parallel,
          [](OpBuilder &b, Location loc, ValueRange args) { linalg::YieldOp::create(b, loc, args.front()); });
    }
    getOperation()->walk([&](linalg::GenericOp op) { generics.push_back(op); });
    for (linalg::GenericOp op : generics) {
      SmallVector<unsigned> order;
      for (auto kind : {utils::IteratorType::parallel, utils::IteratorType::reduction})
        for (auto [i, type] : llvm::enumerate(op.getIteratorTypesArray()))
          if (type == kind)
            order.push_back(i);
      rewriter.setInsertionPoint(op);
      if (!llvm::is_sorted(order) && failed(linalg::interchangeGenericOp(rewriter, op, order)))
        return signalPassFailure();
    }
  }
};
} // namespace
