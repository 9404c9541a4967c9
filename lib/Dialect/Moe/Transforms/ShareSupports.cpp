//===- ShareSupports.cpp - one plan for applies over one choice -----------===//
//
// A plan depends on the support of a routing alone: which experts the rows chose, in which order. Two routings often
// differ in their weights only, although different ops made their choices: the key is the same, or the experts come
// from the same numbers. Then the later apply takes the expert numbers of the earlier one, and its own weights.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Dominance.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "moe/Dialect/Moe/Analysis/EqualSizes.h"
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-share-supports"

namespace mlir::moe {
#define GEN_PASS_DEF_MOESHARESUPPORTSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numShared(DEBUG_TYPE, "num-shared", "applies that take the plan of an earlier one");
static llvm::TrackingStatistic numOwn(DEBUG_TYPE, "num-own", "applies with a plan of their own");

namespace {

bool haveSameTokens(Value a, Value b) { return haveEqualSizes(a, 0, b, 0); }

/// Whether the lowering of `op` sorts its pairs.
bool makesPlan(ApplyOp op) {
  auto lowering = op->getAttrOfType<StringAttr>("moe.lowering");
  return !lowering || lowering.getValue() == "fused" || lowering.getValue() == "reference";
}

struct MoeShareSupportsPass : impl::MoeShareSupportsPassBase<MoeShareSupportsPass> {
  void runOnOperation() override {
    DominanceInfo dominance(getOperation());
    llvm::MapVector<Operation *, SmallVector<ApplyOp>> leadersOf; // by function
    getOperation()->walk([&](ApplyOp op) {
      if (!makesPlan(op))
        return;
      SmallVector<ApplyOp> &leaders = leadersOf[op->getParentOfType<FunctionOpInterface>()];
      std::string why = "it is the first";
      for (ApplyOp leader : leaders) {
        std::optional<std::string> reason = share(op, leader, dominance);
        if (!reason) {
          ++numShared;
          report(op, "takes the plan of an earlier apply", /*done=*/true);
          return;
        }
        why = *reason;
      }
      leaders.push_back(op);
      ++numOwn;
      report(op, "has a plan of its own: " + why, /*done=*/false);
    });
  }

  /// Gives `op` the support of `leader`, or says why not.
  static std::optional<std::string> share(ApplyOp op, ApplyOp leader, DominanceInfo &dominance) {
    Value theirs = getSupport(leader.getRouting()), mine = getSupport(op.getRouting());
    if (theirs == mine)
      return std::nullopt;
    if (!haveEqualSupports(theirs, mine, haveSameTokens))
      return "the rows choose by something else";
    if (!dominance.properlyDominates(theirs, op))
      return "the equal choice is made in a region that it does not see";
    RoutingType from = cast<RoutingType>(theirs.getType()), type = cast<RoutingType>(op.getRouting().getType());
    if (from.getSlots() != type.getSlots())
      return "the bounds of the two routings differ";
    if (from.getEncoding() != type.getEncoding())
      return "the two routings are stored in different ways";
    if (type.isDense())
      return "its routing is stored dense";
    if (from.getTokens() != type.getTokens())
      return "one of the two has a static number of tokens";
    OpBuilder b(op);
    Location loc = op.getLoc();
    Value indices = ToSlotsOp::create(b, loc, theirs).getIndices();
    Value weights = ToSlotsOp::create(b, loc, op.getRouting()).getWeights();
    Value routing = FromSlotsOp::create(b, loc, indices, weights, type.getExperts());
    op.getRoutingMutable().assign(routing);
    return std::nullopt;
  }

  static void report(ApplyOp op, const Twine &text, bool done) {
    reportDecision(op, "CommonSupport", DEBUG_TYPE, done, text);
  }
};

} // namespace
} // namespace mlir::moe
