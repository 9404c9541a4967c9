//===- ChooseEncodings.cpp - how routings are stored ----------------------===//
//
// A web is a moe.route and what follows from it through ops that neither reorder lists nor bound them: its lists are in
// ascending order of the experts, none twice, and a row has as many slots as there are experts. So both encodings hold
// it, in the same space; the dense one lets readers know the expert from the place. The whole web is stored in one way,
// with conversions at its edges.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-choose-encodings"

namespace mlir::moe {
#define GEN_PASS_DEF_MOECHOOSEENCODINGSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numDense(DEBUG_TYPE, "num-dense", "webs of routings that are stored dense");
static llvm::TrackingStatistic numSlots(DEBUG_TYPE, "num-slots", "webs of routings that stay in slots");
static llvm::TrackingStatistic numConverts(DEBUG_TYPE, "num-converts", "conversions at the edges of dense webs");

namespace {

RoutingType typeOf(Value value) { return cast<RoutingType>(value.getType()); }

/// Whether the result of `op`, which reads `value`, is stored as `value` is.
bool continuesWeb(Operation *op) {
  if (auto topK = dyn_cast<TopKOp>(op); topK && topK.getAxis() != Axis::Token)
    return false;
  return isa<NormalizeOp, MapOp, LimitOp, TopKOp>(op) &&
         typeOf(op->getResult(0)).getSlots() == typeOf(op->getResult(0)).getExperts();
}

/// Whether `op` can read either encoding.
bool readsBoth(Operation *op) { return continuesWeb(op) || isa<ToDenseOp, ToSlotsOp, CountsOp, ApplyOp>(op); }

/// Whether `op` does with elementwise ops and reductions what it does pair by pair in slots.
bool gains(Operation *op) {
  if (auto normalize = dyn_cast<NormalizeOp>(op))
    return normalize.getAxis() != Axis::Expert;
  if (auto dense = dyn_cast<ToDenseOp>(op))
    return dense.getOf() != DenseOf::Rank;
  if (auto apply = dyn_cast<ApplyOp>(op)) {
    auto lowering = apply->getAttrOfType<StringAttr>("moe.lowering");
    return lowering && lowering.getValue() == "dense"; // reads the mask and the weights as matrices
  }
  return isa<MapOp, CountsOp>(op);
}

struct MoeChooseEncodingsPass : impl::MoeChooseEncodingsPassBase<MoeChooseEncodingsPass> {
  using MoeChooseEncodingsPassBase::MoeChooseEncodingsPassBase;

  LogicalResult initialize(MLIRContext *context) override {
    if (!llvm::is_contained({"", "slots", "dense"}, force))
      return emitError(UnknownLoc::get(context))
             << "moe-choose-encodings: expected 'force' to be slots or dense, got '" << force << "'";
    return success();
  }

  void runOnOperation() override {
    SmallVector<RouteOp> roots;
    getOperation()->walk([&](RouteOp op) { roots.push_back(op); });
    for (RouteOp root : roots)
      choose(root);
  }

  void choose(RouteOp root) {
    llvm::SetVector<Value> web;
    web.insert(root.getResult());
    unsigned gaining = 0;
    for (unsigned i = 0; i < web.size(); ++i)
      for (Operation *user : web[i].getUsers()) {
        gaining += gains(user);
        if (continuesWeb(user))
          web.insert(user->getResult(0));
      }
    bool dense = force == "dense" || (force != "slots" && gaining > 0);
    report(root, dense, gaining);
    if (!dense) {
      ++numSlots;
      return;
    }
    ++numDense;
    OpBuilder b(root->getContext());
    b.setInsertionPointAfter(root);
    RoutingType made = typeOf(root);
    auto toDense = ConvertOp::create(b, root.getLoc(), made.withEncoding(Encoding::Dense), root.getResult());
    root.getResult().replaceAllUsesExcept(toDense.getResult(), toDense);
    ++numConverts;
    web.remove(root.getResult());
    web.insert(toDense.getResult());
    for (Value value : web) {
      RoutingType slots = typeOf(value).withEncoding(made.getEncoding());
      value.setType(slots.withEncoding(Encoding::Dense));
      Value back;
      for (OpOperand &use : llvm::make_early_inc_range(value.getUses())) {
        if (readsBoth(use.getOwner()))
          continue;
        if (!back) {
          b.setInsertionPointAfter(value.getDefiningOp());
          back = ConvertOp::create(b, value.getLoc(), slots, value);
          ++numConverts;
        }
        use.set(back);
      }
    }
  }

  static void report(RouteOp root, bool dense, unsigned gaining) {
    std::string readers = (Twine(gaining) + (gaining == 1 ? " op knows" : " ops know") + " experts from places").str();
    reportDecision(root, "RoutingEncoding", DEBUG_TYPE, dense, (dense ? "dense: " : "slots: ") + readers);
  }
};

} // namespace
} // namespace mlir::moe
