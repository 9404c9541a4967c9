//===- Reference.cpp - apply as a loop over experts -----------------------===//
//
// Any body, any operands, any result modes: the pairs are sorted by expert, each expert with pairs runs its body on its
// block, and the blocks of results are put together. Every other lowering must agree with this one.
//
//===----------------------------------------------------------------------===//
#include "ApplyLowering.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult ApplyLowering::lowerReference(Values &results, std::string &why) {
  auto plan = PlanOp::create(b, getIndices(), routing.getExperts());
  Value pairs = b.dim(plan.getRows(), 0);
  Value pairWeights = needsWeights() ? weightsOfPairs(plan.getRows(), plan.getSlots()) : Value();
  FailureOr<Values> buffers = makePairBuffers(pairs, why);
  if (failed(buffers))
    return failure();

  Values state = *buffers;
  for (unsigned c = 0; c < getNumCases(); ++c) {
    SmallVector<int64_t> experts = getExpertsOf(c);
    bool all = static_cast<int64_t>(experts.size()) == routing.getExperts();
    Value table = all ? Value() : b.table(experts);
    state = b.loop(b.index(experts.size()), state, [&](Value ordinal, ValueRange inner) {
      Value e = all ? ordinal : b.extract(table, ordinal);
      Value from = b.extract(plan.getOffsets(), e), to = b.extract(plan.getOffsets(), b.add(e, b.index(1)));
      Value count = b.sub(to, from);
      // The body of an expert without pairs does not run.
      return b.when(b.less(b.index(0), count), inner, [&]() -> Values {
        auto blockOf = [&](Value column) -> Value {
          return column ? tensor::ExtractSliceOp::create(b, column, SmallVector<OpFoldResult>{from},
                                                         SmallVector<OpFoldResult>{count},
                                                         SmallVector<OpFoldResult>{b.getIndexAttr(1)})
                              .getResult()
                        : Value();
        };
        PairBlock block{count,
                        blockOf(plan.getRows()),
                        e,
                        Value(),
                        needsRanks() ? blockOf(plan.getSlots()) : Value(),
                        blockOf(pairWeights)};
        Values outputs = b.inlineRegion(op.getBodies()[c], bodyArguments(c, block, ordinal));
        Values next;
        for (auto [output, buffer] : llvm::zip(outputs, inner)) {
          int64_t rank = cast<RankedTensorType>(buffer.getType()).getRank();
          SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), sizes{count}, strides(rank, b.getIndexAttr(1));
          offsets[0] = from;
          for (int64_t d = 1; d < rank; ++d)
            sizes.push_back(b.dimOrAttr(buffer, d));
          next.push_back(tensor::InsertSliceOp::create(b, output, buffer, offsets, sizes, strides));
        }
        return next;
      });
    });
  }

  auto forEach = [&](LoopBuilder &b, ValueRange init, function_ref<Values(Value, Value, Value, ValueRange)> body) {
    return b.loop(pairs, init, [&](Value p, ValueRange inner) {
      return body(p, b.extract(plan.getRows(), p), b.extract(plan.getPairExperts(), p), inner);
    });
  };
  FailureOr<Values> finished = finish(state, PairList{plan.getInverse(), plan.getOffsets(), forEach}, why);
  if (failed(finished))
    return failure();
  results = *finished;
  return success();
}
