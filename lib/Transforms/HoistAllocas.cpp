//===- HoistAllocas.cpp - stack buffers are allocated once a call ---------===//
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "moe/Transforms/Passes.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-hoist-allocas"
static llvm::TrackingStatistic numHoisted(DEBUG_TYPE, "num-hoisted", "Stack buffers moved to the start of a function");

namespace mlir::moe {
#define GEN_PASS_DEF_MOEHOISTALLOCASPASS
#include "moe/Transforms/Passes.h.inc"

namespace {
struct HoistAllocas : impl::MoeHoistAllocasPassBase<HoistAllocas> {
  void runOnOperation() override {
    func::FuncOp function = getOperation();
    if (function.isExternal())
      return;
    Block &entry = function.front();
    SmallVector<memref::AllocaOp> inside;
    function.walk([&](memref::AllocaOp alloca) {
      if (alloca->getNumOperands() == 0 && alloca->getBlock() != &entry)
        inside.push_back(alloca);
    });
    for (memref::AllocaOp alloca : inside) {
      alloca->moveBefore(&entry, entry.begin());
      ++numHoisted;
    }
  }
};
} // namespace
} // namespace mlir::moe
