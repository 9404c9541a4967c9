//===- PlaceSharedExperts.cpp - shared experts in the routing or beside it ===//
//
// A shared expert is one that every token chooses. Where the routing ends with such experts, the sum over a row's list
// ends with them as well, so that adding their results one after the other is the same sum, to the last bit.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-place-shared-experts"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPLACESHAREDEXPERTSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numOut(DEBUG_TYPE, "num-taken-out", "shared experts that became dense code");
static llvm::TrackingStatistic numKept(DEBUG_TYPE, "num-kept", "applies whose shared experts stay in the routing");

namespace {

int64_t expertsOf(Value routing) { return cast<RoutingType>(routing.getType()).getExperts(); }

/// An expert that every token chooses.
bool isShared(Value routing) {
  auto route = routing.getDefiningOp<RouteOp>();
  return route && !route.getMask() && expertsOf(routing) == 1;
}

/// Why the results would differ; empty if they would not.
std::string whyIllegal(ApplyOp op) {
  if (op.getNumResults() != 1 || op.getOutMode(0) != OutMode::Sum)
    return "it is not one sum";
  auto element = dyn_cast<FloatType>(cast<RankedTensorType>(op.getResult(0).getType()).getElementType());
  if (!element || element.getWidth() < 32)
    return "the sum would be rounded in between";
  if (op.getCases() || !op.getPairs().empty() || op.hasIndexArg(IndexArg::Expert) || op.hasIndexArg(IndexArg::Rank))
    return "it has cases, values of pairs, or asks for numbers of experts or positions";
  for (unsigned i = 0; i < op.getRows().size(); ++i)
    if (op.getRowMap(i).isFunctionOfDim(1))
      return "its rows depend on the expert";
  for (unsigned i = 0; i < op.getExperts().size(); ++i)
    if (op.getSlice(i) != SliceAttr::getStacked(op.getContext()))
      return "its banks are not stacks";
  return "";
}

struct MoePlaceSharedExpertsPass : impl::MoePlaceSharedExpertsPassBase<MoePlaceSharedExpertsPass> {
  using MoePlaceSharedExpertsPassBase::MoePlaceSharedExpertsPassBase;

  void runOnOperation() override {
    SmallVector<ApplyOp> applies;
    getOperation()->walk([&](ApplyOp op) { applies.push_back(op); });
    for (ApplyOp op : applies)
      place(op);
  }

  void place(ApplyOp op) {
    auto concat = op.getRouting().getDefiningOp<ConcatOp>();
    if (!concat || llvm::none_of(concat.getInputs(), isShared))
      return;
    ValueRange routed = concat.getInputs();
    while (routed.size() > 1 && isShared(routed.back()))
      routed = routed.drop_back();
    std::string why = whyIllegal(op);
    int64_t tokens = cast<RoutingType>(op.getRouting().getType()).getTokens();
    if (why.empty() && routed.size() == concat.getInputs().size())
      why = "they do not come last in the list";
    if (why.empty() && ShapedType::isDynamic(tokens))
      why = "the number of tokens is dynamic";
    if (why.empty() && (tokens < minTokens || tokens > maxTokens))
      why = (Twine(tokens) + " tokens are outside of [" + Twine(minTokens.getValue()) + ", " +
             Twine(maxTokens.getValue()) + "]")
                .str();
    auto function = op->getParentOfType<FunctionOpInterface>();
    auto options =
        remark::RemarkOpts::name("SharedExperts").category(DEBUG_TYPE).function(function ? function.getName() : "");
    if (!why.empty()) {
      ++numKept;
      remark::missed(op.getLoc(), options) << "kept in the routing: " + why;
      return;
    }
    unsigned shared = concat.getInputs().size() - routed.size();
    numOut += shared;
    remark::passed(op.getLoc(), options)
        << (Twine(shared) + (shared == 1 ? " shared expert" : " shared experts") + " as dense code").str();
    takeOut(op, concat, routed);
  }

  void takeOut(ApplyOp op, ConcatOp concat, ValueRange routed) {
    IRRewriter b(op);
    int64_t experts = 0;
    for (Value input : routed)
      experts += expertsOf(input);
    Value rest = routed.size() == 1 ? routed.front() : ConcatOp::create(b, concat.getLoc(), routed).getResult();
    Value sum = part(b, op, rest, 0, experts);
    for (Value input : concat.getInputs().drop_front(routed.size())) {
      Value own = part(b, op, input, experts++, 1);
      sum = arith::AddFOp::create(b, op.getLoc(), sum, own);
    }
    b.replaceOp(op, sum);
    if (concat->use_empty())
      b.eraseOp(concat);
  }

  /// The apply over `routing`, whose experts are [first, first + count) of the banks.
  Value part(RewriterBase &b, ApplyOp op, Value routing, int64_t first, int64_t count) {
    ApplyParts parts(op);
    parts.routing = routing;
    for (Value &bank : parts.experts) {
      int64_t rank = cast<RankedTensorType>(bank.getType()).getRank();
      SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), strides(rank, b.getIndexAttr(1)),
          sizes = tensor::getMixedSizes(b, op.getLoc(), bank);
      offsets[0] = b.getIndexAttr(first);
      sizes[0] = b.getIndexAttr(count);
      bank = tensor::ExtractSliceOp::create(b, op.getLoc(), bank, offsets, sizes, strides);
    }
    ApplyOp with = parts.create(b, op, op.getResultTypes(), 1);
    IRMapping mapping;
    op.getBodies()[0].cloneInto(&with.getBodies()[0], mapping);
    return with.getResult(0);
  }
};

} // namespace
} // namespace mlir::moe
