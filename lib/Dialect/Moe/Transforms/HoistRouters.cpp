//===- HoistRouters.cpp - routers that do not depend on a loop leave it ---===//
//
// Upstream's code motion does not move an op that might fail where it would not have run. linalg.softmax does not say
// that it cannot, so that it stays, and with it all that is made of the probabilities. Here its sizes are shown to
// agree; then nothing in it can fail.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Interfaces/LoopLikeInterface.h"
#include "mlir/Transforms/LoopInvariantCodeMotionUtils.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Dialect/Moe/Analysis/EqualSizes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-hoist-routers"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEHOISTROUTERSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numRouters(DEBUG_TYPE, "num-routers", "ops on routings that left a loop");
static llvm::TrackingStatistic numOps(DEBUG_TYPE, "num-ops", "ops that left a loop with them or for them");
static llvm::TrackingStatistic numKept(DEBUG_TYPE, "num-kept", "makers of routings that stay in a loop");

namespace {

/// Whether `op` has no effect and cannot fail, so that it may run where it would not have run.
bool isTotal(Operation *op) {
  if (!isMemoryEffectFree(op))
    return false;
  if (isSpeculatable(op))
    return true;
  auto softmax = dyn_cast<linalg::SoftmaxOp>(op);
  if (!softmax)
    return false;
  int64_t rank = cast<RankedTensorType>(softmax.getInput().getType()).getRank();
  return llvm::all_of(llvm::seq<int64_t>(0, rank),
                      [&](int64_t d) { return haveEqualSizes(softmax.getInput(), d, softmax.getOutput(), d); });
}

bool isOnRouting(Operation *op) {
  auto isRouting = [](Type type) { return isa<RoutingType>(type); };
  return llvm::any_of(op->getResultTypes(), isRouting);
}

SmallVector<Value> getReads(Operation *op) {
  llvm::SetVector<Value> read(op->operand_begin(), op->operand_end());
  getUsedValuesDefinedAbove(op->getRegions(), read);
  return read.takeVector();
}

struct MoeHoistRoutersPass : impl::MoeHoistRoutersPassBase<MoeHoistRoutersPass> {
  void runOnOperation() override {
    // The inner loops first: what leaves one may leave the loop around it.
    getOperation()->walk([&](LoopLikeOpInterface loop) { hoist(loop); });
  }

  void hoist(LoopLikeOpInterface loop) {
    // The ops of the loop that a routing in it is made by, or made of.
    llvm::SetVector<Operation *> wanted;
    for (Region *region : loop.getLoopRegions())
      for (Operation &op : region->getOps())
        if (isOnRouting(&op))
          wanted.insert(&op);
    for (unsigned i = 0; i < wanted.size(); ++i)
      for (Value value : getReads(wanted[i]))
        if (Operation *producer = value.getDefiningOp(); producer && producer->getParentOp() == loop.getOperation())
          wanted.insert(producer);
    if (wanted.empty())
      return;

    unsigned routers = 0;
    size_t moved = moveLoopInvariantCode(
        loop.getLoopRegions(), [&](Value value, Region *) { return loop.isDefinedOutsideOfLoop(value); },
        [&](Operation *op, Region *) { return wanted.contains(op) && isTotal(op); },
        [&](Operation *op, Region *) {
          routers += isOnRouting(op);
          loop.moveOutOfLoop(op);
        });
    numRouters += routers;
    numOps += moved;
    if (routers > 0)
      report(loop,
             (Twine(routers) + " ops on routings leave the loop, " + Twine(moved - routers) + " that they need").str(),
             /*done=*/true);
    for (Operation *op : wanted) {
      if (op->getParentOp() != loop.getOperation() || !isa<RouteOp, FromSlotsOp>(op))
        continue;
      ++numKept;
      report(op, "stays in the loop: " + whyKept(op, loop), /*done=*/false);
    }
  }

  /// What keeps `op` in the loop: the first op, from the leaves on, that does not leave.
  static std::string whyKept(Operation *op, LoopLikeOpInterface loop) {
    while (true) {
      Operation *next = nullptr;
      for (Value value : getReads(op)) {
        if (loop.isDefinedOutsideOfLoop(value))
          continue;
        Operation *producer = value.getDefiningOp();
        if (!producer)
          return "it depends on what the loop carries";
        next = producer;
        break;
      }
      if (!next)
        return ("'" + op->getName().getStringRef() + "' might fail where it would not have run").str();
      op = next;
    }
  }

  static void report(Operation *op, const Twine &text, bool done) {
    reportDecision(op, "HoistRouter", DEBUG_TYPE, done, text);
  }
};

} // namespace
} // namespace mlir::moe
