//===- EliminateDeadExperts.cpp - experts that a constant mask excludes ---===//
//
// The routings that follow from one moe.route form a web. If every op that touches the web can do with fewer experts,
// all of them are built anew over the experts [first, first + count) that the mask leaves.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/Remarks.h"
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-eliminate-dead-experts"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEELIMINATEDEADEXPERTSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numExperts(DEBUG_TYPE, "num-experts-eliminated", "experts removed from routings");
static llvm::TrackingStatistic numKept(DEBUG_TYPE, "num-routings-kept",
                                       "routings with excluded experts that could not shrink");

namespace {

/// Why `op`, a user of the web, cannot do with fewer experts; empty if it can.
StringRef whyNot(Operation *op) {
  if (auto topK = dyn_cast<TopKOp>(op))
    return topK.getGroups() ? "its groups are cut from all experts" : "";
  if (auto apply = dyn_cast<ApplyOp>(op)) {
    for (unsigned i = 0; i < apply.getNumResults(); ++i)
      if (apply.getOutMode(i) == OutMode::Dense || apply.getOutMode(i) == OutMode::Buckets)
        return "one of its results has a part for every expert";
    return "";
  }
  if (auto counts = dyn_cast<CountsOp>(op))
    return counts.getPer() == CountsPer::Expert ? "it counts for every expert" : "";
  if (isa<SelectOp, LimitOp, NormalizeOp, MapOp, CastOp>(op))
    return "";
  return "the number of experts shows in it";
}

/// Rebuilds a web over the experts [first, first + count).
class Shrinker {
public:
  Shrinker(RewriterBase &rewriter, int64_t first, int64_t count) : b(rewriter), first(first), count(count) {}

  void run(RouteOp route, ArrayRef<bool> live, ArrayRef<Operation *> web) {
    b.setInsertionPoint(route);
    Value mask;
    if (llvm::is_contained(live, false)) {
      auto type = RankedTensorType::get({count}, b.getI1Type());
      mask = arith::ConstantOp::create(b, route.getLoc(), DenseElementsAttr::get(type, live));
    }
    Value weights = columns(route.getLoc(), route.getWeights(), 1, first, count);
    mapping.map(route.getResult(), RouteOp::create(b, route.getLoc(), weights, mask).getResult());
    for (Operation *op : web)
      rebuild(op);
    for (Operation *op : llvm::reverse(web))
      b.eraseOp(op);
    b.eraseOp(route);
  }

private:
  RewriterBase &b;
  int64_t first, count;
  IRMapping mapping;

  /// `size` indices of dimension `dim` from `offset` on.
  Value columns(Location loc, Value tensor, int64_t dim, int64_t offset, int64_t size) {
    auto type = cast<RankedTensorType>(tensor.getType());
    SmallVector<OpFoldResult> offsets(type.getRank(), b.getIndexAttr(0)), strides(type.getRank(), b.getIndexAttr(1)),
        sizes = tensor::getMixedSizes(b, loc, tensor);
    offsets[dim] = b.getIndexAttr(offset);
    sizes[dim] = b.getIndexAttr(size);
    return tensor::ExtractSliceOp::create(b, loc, tensor, offsets, sizes, strides);
  }

  /// Region argument `argument` counts experts from 0 again: the body sees the old number.
  void shiftExpert(Block &block, unsigned argument) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&block);
    Value expert = block.getArgument(argument);
    Value offset = arith::ConstantIndexOp::create(b, expert.getLoc(), first);
    auto shifted = arith::AddIOp::create(b, expert.getLoc(), expert, offset);
    b.replaceAllUsesExcept(expert, shifted, shifted);
  }

  void rebuild(Operation *op) {
    b.setInsertionPoint(op);
    if (auto apply = dyn_cast<ApplyOp>(op))
      return rebuild(apply);
    Location loc = op->getLoc();
    Operation *copy = b.clone(*op, mapping);
    b.setInsertionPoint(copy);
    auto shrink = [&](MutableOperandRange operand, int64_t dim) {
      for (OpOperand &value : operand)
        if (isa<RankedTensorType>(value.get().getType()))
          value.set(columns(loc, value.get(), dim, first, count));
    };
    if (auto topK = dyn_cast<TopKOp>(copy)) {
      shrink(topK.getKeyMutable(), 1);
      if (topK.getAxis() == Axis::Token)
        shrink(topK.getKMutable(), 0);
    } else if (auto limit = dyn_cast<LimitOp>(copy)) {
      shrink(limit.getKeyMutable(), 1);
      shrink(limit.getCapMutable(), 0);
    } else if (auto select = dyn_cast<SelectOp>(copy)) {
      shrink(select.getKeyMutable(), 1);
      shiftExpert(select.getPredicate().front(), 4);
    } else if (auto map = dyn_cast<MapOp>(copy)) {
      shiftExpert(map.getBody().front(), 2);
    }
    if (isa<CountsOp>(copy)) {
      b.replaceAllUsesWith(op->getResults(), copy->getResults());
      return;
    }
    // The type that the op would infer; a cast keeps the bounds that it asks for, as far as they fit.
    SmallVector<Type> types;
    if (auto infer = dyn_cast<InferTypeOpInterface>(copy)) {
      if (succeeded(infer.inferReturnTypes(op->getContext(), loc, copy->getOperands(), copy->getAttrDictionary(),
                                           copy->getPropertiesStorage(), copy->getRegions(), types)))
        copy->getResult(0).setType(types.front());
    } else {
      auto in = cast<RoutingType>(copy->getOperand(0).getType()), out = cast<RoutingType>(op->getResult(0).getType());
      int64_t perRow = out.hasPerRow() ? std::max(out.getPerRow(), in.getSlots()) : in.getPerRow();
      copy->getResult(0).setType(RoutingType::get(out.getTokens(), count, out.getElementType(), perRow,
                                                  out.hasPerExpert() ? out.getPerExpert() : ShapedType::kDynamic,
                                                  out.getEncoding()));
    }
  }

  void rebuild(ApplyOp op) {
    Location loc = op.getLoc();
    MLIRContext *context = op.getContext();
    ApplyParts parts(op);
    parts.routing = mapping.lookup(op.getRouting());
    unsigned bodies = op.getBodies().size();
    AffineExpr token = getAffineDimExpr(0, context), expert = getAffineDimExpr(1, context);
    AffineMap shift = AffineMap::get(2, 0, {token, expert + first}, context);
    for (AffineMap &map : parts.rowMaps)
      map = map.compose(shift);

    // Bodies that lose all their experts leave, the others are numbered anew.
    SmallVector<int64_t> before(bodies, first), inside(bodies, count), number(bodies, 0);
    SmallVector<unsigned> kept{0};
    if (parts.cases) {
      kept.clear();
      ArrayRef<int64_t> all = *parts.cases, live = all.slice(first, count);
      for (unsigned c = 0; c < bodies; ++c) {
        before[c] = llvm::count(all.take_front(first), c);
        inside[c] = llvm::count(live, c);
        number[c] = kept.size();
        if (inside[c] > 0)
          kept.push_back(c);
      }
      SmallVector<int64_t> cases;
      for (int64_t c : live)
        cases.push_back(number[c]);
      parts.cases = cases;
    }

    for (int i = parts.experts.size() - 1; i >= 0; --i) {
      SliceAttr slice = parts.slices[i];
      int64_t body = slice.getCaseIndex();
      int64_t skip = body < 0 ? first : before[body], size = body < 0 ? count : inside[body];
      if (size == 0) {
        parts.experts.erase(parts.experts.begin() + i);
        parts.slices.erase(parts.slices.begin() + i);
        continue;
      }
      Value &bank = parts.experts[i];
      AffineMap map = slice.getMap();
      SmallVector<int64_t> offsets;
      if (slice.isRagged())
        offsets.assign(slice.getOffsets().begin() + skip, slice.getOffsets().begin() + skip + size + 1);
      else if (slice.isAlong())
        bank = columns(loc, bank, slice.getAlong(), skip * slice.getSize(), size * slice.getSize());
      else if (map.isIdentity())
        bank = columns(loc, bank, 0, skip, size);
      else
        map = map.compose(AffineMap::get(1, 0, {getAffineDimExpr(0, context) + skip}, context));
      parts.slices[i] =
          SliceAttr::get(context, map, slice.getAlong(), slice.getSize(), offsets, body < 0 ? body : number[body]);
    }
    for (Value &pair : parts.pairs)
      pair = columns(loc, pair, 1, first, count);

    ApplyOp smaller = parts.create(b, op, op.getResultTypes(), kept.size());
    std::optional<unsigned> fromEnd;
    for (auto [i, which] : llvm::enumerate(parts.indexArgs))
      if (which == IndexArg::Expert)
        fromEnd = parts.indexArgs.size() - i;
    for (auto [c, region] : llvm::zip(kept, smaller.getBodies())) {
      b.inlineRegionBefore(op.getBodies()[c], region, region.end());
      if (fromEnd)
        shiftExpert(region.front(), region.getNumArguments() - *fromEnd);
    }
    b.replaceAllUsesWith(op.getResults(), smaller.getResults());
  }
};

struct EliminateDeadExperts : impl::MoeEliminateDeadExpertsPassBase<EliminateDeadExperts> {
  /// The users of the web of `route` in an order in which they can be rebuilt, or nothing, with a remark.
  std::optional<SmallVector<Operation *>> collectWeb(RouteOp route) {
    llvm::SetVector<Operation *> web;
    SmallVector<Value> values{route.getResult()};
    while (!values.empty())
      for (Operation *user : values.pop_back_val().getUsers()) {
        if (StringRef why = whyNot(user); !why.empty()) {
          ++numKept;
          remark::missed(user->getLoc(), remark::RemarkOpts::name("DeadExpertsKept").category(DEBUG_TYPE))
              << ("experts that the mask excludes stay because of '" + user->getName().getStringRef() + "': " + why)
                     .str();
          return std::nullopt;
        }
        if (web.insert(user))
          for (Value result : user->getResults())
            if (isa<RoutingType>(result.getType()))
              values.push_back(result);
      }
    // Every op of the web has one routing operand: a user comes after what it uses.
    SmallVector<Operation *> ordered;
    llvm::SmallPtrSet<Operation *, 8> placed{route};
    while (ordered.size() < web.size())
      for (Operation *op : web)
        if (!placed.contains(op) && placed.contains(op->getOperand(0).getDefiningOp())) {
          placed.insert(op);
          ordered.push_back(op);
        }
    return ordered;
  }

  void eliminate(RouteOp route) {
    DenseIntElementsAttr mask;
    if (!route.getMask() || !matchPattern(route.getMask(), m_Constant(&mask)) || mask.getType().getRank() != 1)
      return;
    SmallVector<bool> live(mask.getValues<bool>());
    int64_t first = llvm::find(live, true) - live.begin();
    if (first == static_cast<int64_t>(live.size()))
      return; // Nothing can be chosen at all: there is no routing over no experts.
    int64_t last = live.size() - 1;
    while (!live[last])
      --last;
    int64_t count = last - first + 1, dead = static_cast<int64_t>(live.size()) - count;
    if (dead == 0)
      return;
    std::optional<SmallVector<Operation *>> web = collectWeb(route);
    if (!web)
      return;
    numExperts += dead;
    remark::passed(route.getLoc(), remark::RemarkOpts::name("DeadExpertsEliminated").category(DEBUG_TYPE))
        << (Twine(dead) + " of " + Twine(live.size()) + " experts eliminated").str();
    IRRewriter rewriter(route.getContext());
    Shrinker(rewriter, first, count).run(route, ArrayRef(live).slice(first, count), *web);
  }

  void runOnOperation() override {
    SmallVector<RouteOp> routes;
    getOperation()->walk([&](RouteOp route) { routes.push_back(route); });
    for (RouteOp route : routes)
      eliminate(route);
  }
};
} // namespace
} // namespace mlir::moe
