//===- ChooseLowering.cpp - which lowering each moe.apply gets ------------===//
#include "FusedBody.h"

#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Pass/Pass.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-choose-lowering"

namespace mlir::moe {
#define GEN_PASS_DEF_MOECHOOSELOWERINGPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

static llvm::TrackingStatistic numReference{DEBUG_TYPE, "num-reference", "applies lowered as a loop over experts"};
static llvm::TrackingStatistic numFused{DEBUG_TYPE, "num-fused", "applies lowered as grouped matmuls"};
static llvm::TrackingStatistic numPairwise{DEBUG_TYPE, "num-pairwise", "applies lowered pair by pair"};
static llvm::TrackingStatistic numDense{DEBUG_TYPE, "num-dense", "applies lowered as all experts on all rows"};

namespace {

/// What is legal for an apply, with the reasons for what is not.
struct Legality {
  std::string fused, pairwise, dense;

  explicit Legality(ApplyOp op) : fused(whyNotFused(op)) {
    for (unsigned c = 0; c < op.getBodies().size(); ++c) {
      RowIndependence rows(op, c);
      if (!rows.isIndependent())
        pairwise = dense = "its rows are coupled: " + rows.getReason();
      op.getBodies()[c].walk([&](Operation *inner) {
        if (dense.empty() && !isa<YieldOp>(inner) && !isSpeculatable(inner))
          dense = ("'" + inner->getName().getStringRef() + "' may not run for an expert without rows").str();
      });
    }
    for (unsigned r = 0; r < op.getNumResults(); ++r)
      if (op.getOutMode(r) == OutMode::Buckets)
        pairwise = dense = "buckets need the pairs sorted by expert";
    if (dense.empty() && !hasDistinctExperts(op.getRouting()))
      dense = "a row may have chosen an expert twice";
  }
};

/// Whether every part of an expert is as `accept` says.
bool allParts(ApplyOp op, function_ref<bool(RankedTensorType)> accept) {
  return !op.getExperts().empty() && llvm::all_of(llvm::seq<unsigned>(0, op.getExperts().size()), [&](unsigned i) {
    RankedTensorType part = op.getSlice(i).getPartType(cast<RankedTensorType>(op.getExperts()[i].getType()));
    return part && accept(part);
  });
}

/// Why pair by pair is the better choice where it is legal; empty if it is not.
std::string whyPairwise(ApplyOp op) {
  if (allParts(op, [](RankedTensorType part) { return part.getRank() <= 1; }))
    return "the parameters of an expert are vectors"; // a grouped matmul has nothing to group
  // Of tiny experts that seldom have two rows, sorting the pairs costs more than it saves. The bounds are where the two
  // were equally fast, with matrices of 16 x 4.
  constexpr int64_t kTiny = 256, kMany = 512, kSparse = 8;
  auto routing = cast<RoutingType>(op.getRouting().getType());
  bool few = ShapedType::isDynamic(routing.getTokens())
                 ? routing.getExperts() >= kMany
                 : routing.getTokens() * routing.getSlots() * kSparse <= routing.getExperts();
  bool tiny = allParts(op, [](RankedTensorType p) { return p.hasStaticShape() && p.getNumElements() <= kTiny; });
  return few && tiny ? "an expert has few parameters, and few pairs share one" : "";
}

struct MoeChooseLoweringPass : moe::impl::MoeChooseLoweringPassBase<MoeChooseLoweringPass> {
  using MoeChooseLoweringPassBase::MoeChooseLoweringPassBase;

  void runOnOperation() override {
    WalkResult walk = getOperation()->walk([&](ApplyOp op) -> WalkResult { return choose(op); });
    if (walk.wasInterrupted())
      signalPassFailure();
  }

  LogicalResult choose(ApplyOp op) {
    Legality legality(op);
    auto asked = op->getAttrOfType<StringAttr>("moe.lowering");
    StringRef wanted = asked ? asked.getValue() : StringRef(force);
    std::string choice = wanted.str();
    if (choice.empty()) {
      if (legality.pairwise.empty() && !whyPairwise(op).empty())
        choice = "pairwise";
      else
        choice = legality.fused.empty() ? "fused" : "reference";
    } else {
      const std::string *why = choice == "fused"      ? &legality.fused
                               : choice == "pairwise" ? &legality.pairwise
                               : choice == "dense"    ? &legality.dense
                                                      : nullptr;
      if (!why && choice != "reference")
        return op.emitOpError() << "expected 'moe.lowering' to be reference, fused, pairwise or dense, got '" << choice
                                << "'";
      if (why && !why->empty()) {
        // What the program itself asks for is an error; what an option asks for everything gives way.
        if (asked)
          return op.emitOpError() << "cannot have the lowering '" << choice << "': " << *why;
        report(op, choice, *why, /*chosen=*/false);
        choice = "reference";
      }
    }
    if (choice == "reference" && wanted.empty())
      report(op, "fused", legality.fused, /*chosen=*/false);
    report(op, choice, reasonFor(op, choice, !wanted.empty()), /*chosen=*/true);
    if (choice == "fused")
      for (unsigned c = 0; c < op.getBodies().size(); ++c)
        if (FusedBody body(op, c); !body.getBlockReason().empty())
          report(op, "fused as a whole", "some of it runs in a loop over the experts: " + body.getBlockReason(),
                 /*chosen=*/false);
    ++(choice == "fused" ? numFused : choice == "pairwise" ? numPairwise : choice == "dense" ? numDense : numReference);
    op->setAttr("moe.lowering", StringAttr::get(&getContext(), choice));
    return success();
  }

  static std::string reasonFor(ApplyOp op, StringRef choice, bool wanted) {
    if (wanted && choice != "reference")
      return "asked for";
    if (choice == "fused")
      return "rows are treated one by one, or multiplied with matrices of their experts";
    if (choice == "pairwise")
      return whyPairwise(op);
    return "it serves every body";
  }

  static void report(ApplyOp op, StringRef lowering, StringRef why, bool chosen) {
    reportDecision(op, "ApplyLowering", "moe-choose-lowering", chosen, (chosen ? "" : "not ") + lowering + ": " + why);
  }
};
} // namespace
