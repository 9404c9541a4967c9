//===- StackBuffers.cpp - small buffers of an iteration live on the stack --===//
//
//   scf.for ... { %b = memref.alloc() : memref<8xf32>  ...  memref.dealloc %b }
//
// asks the host for memory in each iteration, and has threads meet in its allocator. Such a buffer becomes a
// memref.alloca, which moe-hoist-allocas makes one place on the stack for all iterations.
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Interfaces/LoopLikeInterface.h"
#include "moe/Transforms/Passes.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-stack-buffers"
static llvm::TrackingStatistic numMoved(DEBUG_TYPE, "num-moved", "Buffers of iterations that moved to the stack");

namespace mlir::moe {
#define GEN_PASS_DEF_MOESTACKBUFFERSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// The dealloc in the same block, if nothing but it ends the buffer's life.
memref::DeallocOp findDealloc(memref::AllocOp alloc) {
  memref::DeallocOp found;
  for (Operation *user : alloc->getUsers())
    if (auto dealloc = dyn_cast<memref::DeallocOp>(user)) {
      if (found || dealloc->getBlock() != alloc->getBlock())
        return {};
      found = dealloc;
    }
  return found;
}

struct StackBuffers : impl::MoeStackBuffersPassBase<StackBuffers> {
  using Base::Base;
  void runOnOperation() override {
    SmallVector<std::pair<memref::AllocOp, memref::DeallocOp>> moved;
    getOperation()->walk([&](memref::AllocOp alloc) {
      MemRefType type = alloc.getType();
      if (!alloc->getParentOfType<LoopLikeOpInterface>() || !type.hasStaticShape() ||
          !type.getElementType().isIntOrIndexOrFloat() || !type.getLayout().isIdentity())
        return;
      int64_t width = type.getElementType().isIndex() ? 64 : type.getElementTypeBitWidth();
      if (type.getNumElements() * int64_t(llvm::divideCeil(width, 8)) > maxBytes)
        return;
      if (memref::DeallocOp dealloc = findDealloc(alloc))
        moved.push_back({alloc, dealloc});
    });
    for (auto [alloc, dealloc] : moved) {
      OpBuilder b(alloc);
      auto place = memref::AllocaOp::create(b, alloc.getLoc(), alloc.getType(), b.getI64IntegerAttr(64));
      dealloc.erase();
      alloc.replaceAllUsesWith(place.getResult());
      alloc.erase();
      ++numMoved;
    }
  }
};
} // namespace
} // namespace mlir::moe
