//===- SpecialiseRagged.cpp - experts of different sizes get bodies -------===//
//
// Sizes that differ from expert to expert are dynamic in a common body, and nothing can be allocated for the rows of
// all experts. A run of neighbours of the same sizes is an ordinary stack again.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-specialise-ragged"

namespace mlir::moe {
#define GEN_PASS_DEF_MOESPECIALISERAGGEDPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numApplies(DEBUG_TYPE, "num-specialised",
                                          "applies whose experts of different sizes got cases");
static llvm::TrackingStatistic numCases(DEBUG_TYPE, "num-cases", "bodies made for experts of different sizes");

namespace {

/// Experts [first, first + count) with the same size of every ragged operand.
struct Run {
  int64_t first, count;
};

int64_t sizeOf(SliceAttr slice, int64_t expert) { return slice.getOffsets()[expert + 1] - slice.getOffsets()[expert]; }

SmallVector<Run> getRuns(ApplyOp op, ArrayRef<SliceAttr> ragged) {
  SmallVector<Run> runs;
  for (int64_t e = 0, experts = cast<RoutingType>(op.getRouting().getType()).getExperts(); e < experts; ++e) {
    bool differs = e == 0 || llvm::any_of(ragged, [&](SliceAttr s) { return sizeOf(s, e) != sizeOf(s, e - 1); });
    if (differs)
      runs.push_back({e, 0});
    ++runs.back().count;
  }
  return runs;
}

struct MoeSpecialiseRaggedPass : impl::MoeSpecialiseRaggedPassBase<MoeSpecialiseRaggedPass> {
  using MoeSpecialiseRaggedPassBase::MoeSpecialiseRaggedPassBase;

  void runOnOperation() override {
    SmallVector<ApplyOp> applies;
    getOperation()->walk([&](ApplyOp op) { applies.push_back(op); });
    for (ApplyOp op : applies)
      specialise(op);
  }

  void specialise(ApplyOp op) {
    SmallVector<SliceAttr> ragged;
    for (unsigned i = 0; i < op.getExperts().size(); ++i)
      if (op.getSlice(i).isRagged())
        ragged.push_back(op.getSlice(i));
    if (ragged.empty())
      return;
    SmallVector<Run> runs = getRuns(op, ragged);
    std::string why;
    if (op.getCases())
      why = "its experts have cases already";
    else if (llvm::any_of(ragged, [&](SliceAttr s) {
               return llvm::any_of(runs, [&](const Run &run) { return sizeOf(s, run.first) == 0; });
             }))
      why = "an expert has no size at all";
    else if (static_cast<int64_t>(runs.size()) > maxCases)
      why = (Twine(runs.size()) + " bodies are more than max-cases = " + Twine(maxCases.getValue())).str();
    if (!why.empty()) {
      remark::missed(op.getLoc(), options(op)) << "not specialised: " + why;
      return;
    }
    rebuild(op, runs);
    ++numApplies;
    numCases += runs.size();
    remark::passed(op.getLoc(), options(op)) << (Twine(runs.size()) + " bodies, one per size of expert").str();
    op.erase();
  }

  static remark::RemarkOpts options(ApplyOp op) { return getRemarkOptions(op, "SpecialiseRagged", DEBUG_TYPE); }

  void rebuild(ApplyOp op, ArrayRef<Run> runs) {
    IRRewriter b(op);
    MLIRContext *context = op.getContext();
    ApplyParts parts(op);
    parts.experts.clear();
    parts.slices.clear();
    parts.cases.emplace();
    for (auto [c, run] : llvm::enumerate(runs))
      parts.cases->append(run.count, c);
    for (unsigned i = 0; i < op.getExperts().size(); ++i) {
      Value bank = op.getExperts()[i];
      SliceAttr slice = op.getSlice(i);
      if (!slice.isRagged()) {
        parts.experts.push_back(bank);
        parts.slices.push_back(slice);
        continue;
      }
      int64_t along = slice.getAlong(), rank = cast<RankedTensorType>(bank.getType()).getRank();
      for (auto [c, run] : llvm::enumerate(runs)) {
        SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), strides(rank, b.getIndexAttr(1)),
            sizes = tensor::getMixedSizes(b, op.getLoc(), bank);
        int64_t from = slice.getOffsets()[run.first];
        offsets[along] = b.getIndexAttr(from);
        sizes[along] = b.getIndexAttr(slice.getOffsets()[run.first + run.count] - from);
        parts.experts.push_back(tensor::ExtractSliceOp::create(b, op.getLoc(), bank, offsets, sizes, strides));
        parts.slices.push_back(
            SliceAttr::get(context, AffineMap::get(context), along, sizeOf(slice, run.first), {}, c));
      }
    }
    ApplyOp with = parts.create(b, op, op.getResultTypes(), runs.size());
    for (unsigned c = 0; c < runs.size(); ++c) {
      IRMapping mapping;
      Region &region = with.getBodies()[c];
      op.getBodies()[0].cloneInto(&region, mapping);
      // The copy's arguments have the sizes of the case; its ops see the old types until the casts are folded.
      Block &block = region.front();
      b.setInsertionPointToStart(&block);
      for (auto [argument, type] : llvm::zip(block.getArguments(), with.getBodyArgumentTypes(c))) {
        Type old = argument.getType();
        if (old == type)
          continue;
        argument.setType(type);
        auto cast = tensor::CastOp::create(b, op.getLoc(), old, argument);
        b.replaceAllUsesExcept(argument, cast, cast);
      }
    }
    b.replaceAllUsesWith(op.getResults(), with.getResults());
  }
};

} // namespace
} // namespace mlir::moe
