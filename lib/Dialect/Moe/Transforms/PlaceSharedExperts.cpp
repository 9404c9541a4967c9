//===- PlaceSharedExperts.cpp - shared experts in the routing or beside it ===//
//
// A shared expert is one that every token chooses. Where the routing ends with such experts, the sum over a row's list
// ends with them as well, so that adding their results one after the other is the same sum, to the last bit. So it is
// the other way round: dense code that is the body of an apply, on all rows, and is added to its sum.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/OperationSupport.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-place-shared-experts"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPLACESHAREDEXPERTSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numOut(DEBUG_TYPE, "num-taken-out", "shared experts that became dense code");
static llvm::TrackingStatistic numIn(DEBUG_TYPE, "num-moved-in", "shared experts that joined the routing");
static llvm::TrackingStatistic numBeside(DEBUG_TYPE, "num-beside", "shared experts that stay dense code");
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

/// Dense code that does to all rows what a body does to those of its expert, with one more part of every bank.
struct DenseTwin {
  ApplyOp op;
  SmallVector<Value> parts; // of each operand of 'experts'

  explicit DenseTwin(ApplyOp op) : op(op), parts(op.getExperts().size()) {}

  /// Whether `outside` is made as `inside`, a value of the body, is.
  bool matches(Value inside, Value outside) {
    if (auto argument = dyn_cast<BlockArgument>(inside); argument && argument.getOwner() == &body()) {
      unsigned i = argument.getArgNumber(), rows = op.getRows().size();
      if (i < rows)
        return op.getRowMap(i) == AffineMap::get(2, 0, getAffineDimExpr(0, op.getContext())) && // row t of token t
               op.getRows()[i] == outside && outside.getType() == inside.getType();
      if (i >= rows + parts.size() || outside.getType() != inside.getType())
        return false;
      Value &part = parts[i - rows];
      if (!part)
        part = outside;
      return part == outside;
    }
    Operation *mine = inside.getDefiningOp(), *other = outside.getDefiningOp();
    if (!mine || mine->getBlock() != &body())
      return inside == outside;
    if (!other || mine->getName() != other->getName() || mine->getAttrDictionary() != other->getAttrDictionary() ||
        mine->getResultTypes() != other->getResultTypes() || mine->getNumOperands() != other->getNumOperands() ||
        cast<OpResult>(inside).getResultNumber() != cast<OpResult>(outside).getResultNumber())
      return false;
    for (auto [a, b] : llvm::zip(mine->getOperands(), other->getOperands()))
      if (!matches(a, b))
        return false;
    // What the regions read from outside has to be the same value.
    return llvm::all_of(llvm::zip(mine->getRegions(), other->getRegions()), [](auto regions) {
      auto [a, b] = regions;
      return OperationEquivalence::isRegionEquivalentTo(&a, &b, OperationEquivalence::IgnoreLocations);
    });
  }

  /// The tensors that hold the banks and, behind each, the part of the dense code; empty if they are not so.
  SmallVector<Value> getStacks() {
    SmallVector<Value> stacks;
    for (auto [bank, part] : llvm::zip(op.getExperts(), parts)) {
      auto first = bank.getDefiningOp<tensor::ExtractSliceOp>();
      auto last = part ? part.getDefiningOp<tensor::ExtractSliceOp>() : tensor::ExtractSliceOp();
      if (!first || !last || first.getSource() != last.getSource())
        return {};
      auto whole = cast<RankedTensorType>(first.getSource().getType());
      int64_t experts = cast<RankedTensorType>(bank.getType()).getDimSize(0);
      auto covers = [&](tensor::ExtractSliceOp slice, int64_t from, int64_t count) {
        for (int64_t d = 0; d < whole.getRank(); ++d)
          if (slice.isDynamicOffset(d) || slice.isDynamicSize(d) || slice.isDynamicStride(d) ||
              slice.getStaticStrides()[d] != 1 || slice.getStaticOffsets()[d] != (d == 0 ? from : 0) ||
              slice.getStaticSizes()[d] != (d == 0 ? count : whole.getDimSize(d)))
            return false;
        return true;
      };
      if (whole.getDimSize(0) != experts + 1 || !covers(first, 0, experts) || !covers(last, experts, 1))
        return {};
      stacks.push_back(first.getSource());
    }
    return stacks;
  }

private:
  Block &body() { return op.getBodies()[0].front(); }
};

struct MoePlaceSharedExpertsPass : impl::MoePlaceSharedExpertsPassBase<MoePlaceSharedExpertsPass> {
  using MoePlaceSharedExpertsPassBase::MoePlaceSharedExpertsPassBase;

  void runOnOperation() override {
    SmallVector<ApplyOp> applies;
    getOperation()->walk([&](ApplyOp op) { applies.push_back(op); });
    for (ApplyOp op : applies)
      place(op);
    SmallVector<arith::AddFOp> sums;
    getOperation()->walk([&](arith::AddFOp sum) {
      if (isa<RankedTensorType>(sum.getType()))
        sums.push_back(sum);
    });
    for (arith::AddFOp sum : sums)
      moveIn(sum);
  }

  static remark::RemarkOpts optionsFor(Operation *op) { return getRemarkOptions(op, "SharedExperts", DEBUG_TYPE); }

  /// apply(r) + dense, where dense is the body of the apply on all rows.
  void moveIn(arith::AddFOp sum) {
    for (auto [routed, dense] : {std::pair(sum.getLhs(), sum.getRhs()), std::pair(sum.getRhs(), sum.getLhs())}) {
      auto op = routed.getDefiningOp<ApplyOp>();
      if (!op || op.getBodies().size() != 1 || op.getExperts().empty() || op.getNumResults() != 1)
        continue;
      DenseTwin twin(op);
      if (!twin.matches(op.getYield(0)->getOperand(0), dense))
        continue;
      std::string why = whyIllegal(op);
      int64_t tokens = cast<RoutingType>(op.getRouting().getType()).getTokens();
      SmallVector<Value> stacks = twin.getStacks();
      if (why.empty() && !op->hasOneUse())
        why = "the sum over the routed experts has other uses";
      if (why.empty() && op.getWeighted() == WeightMode::Before)
        why = "the routing's weights are multiplied before the body"; // a product with one that is computed
      if (why.empty() && stacks.empty())
        why = "its matrices do not stand behind the experts' in one tensor, and stacking would copy them";
      if (why.empty() && tokens >= minTokens && tokens <= maxTokens)
        why = (Twine(tokens) + " tokens are in [" + Twine(minTokens.getValue()) + ", " + Twine(maxTokens.getValue()) +
               "]")
                  .str();
      if (!why.empty()) {
        ++numBeside;
        remark::missed(sum.getLoc(), optionsFor(sum)) << "kept dense: " + why;
        return;
      }
      ++numIn;
      remark::passed(sum.getLoc(), optionsFor(sum)) << "1 shared expert joins the routing";
      IRRewriter b(sum);
      Location loc = op.getLoc();
      auto type = cast<RoutingType>(op.getRouting().getType());
      Value row = op.getRows().front();
      auto ones = RankedTensorType::get({tokens, 1}, type.getElementType());
      Value one = arith::ConstantOp::create(b, loc, b.getFloatAttr(type.getElementType(), 1.0));
      SmallVector<Value> sizes;
      if (ones.isDynamicDim(0))
        sizes.push_back(tensor::DimOp::create(b, loc, row, 0));
      Value shared = RouteOp::create(b, loc, tensor::SplatOp::create(b, loc, one, ones, sizes), /*mask=*/Value());
      ApplyParts parts(op);
      parts.routing = ConcatOp::create(b, loc, ValueRange{op.getRouting(), shared});
      parts.experts = stacks;
      ApplyOp with = parts.create(b, op, op.getResultTypes(), 1);
      with.getBodies()[0].takeBody(op.getBodies()[0]);
      b.replaceOp(sum, with.getResult(0));
      b.eraseOp(op);
      return;
    }
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
    remark::RemarkOpts options = optionsFor(op);
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
