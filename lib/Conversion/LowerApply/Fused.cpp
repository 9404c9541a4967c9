//===- Fused.cpp - apply as grouped matmuls over the list of pairs --------===//
//
// Each body runs once on the pairs of all its experts (FlatBody); the pairs of one body after the other fill the
// buffers of pairs that the common tail reads.
//
//===----------------------------------------------------------------------===//
#include "FlatBody.h"

using namespace mlir;
using namespace mlir::moe;

/// `column` from `from` on, `count` entries.
static Value part(LoopBuilder &b, Value column, OpFoldResult from, OpFoldResult count) {
  return tensor::ExtractSliceOp::create(b, column, from, count, OpFoldResult(b.getIndexAttr(1)));
}

/// The pairs of the experts [first, first + count).
static PairRange getRange(ApplyLowering &l, PlanOp plan, int64_t first, int64_t count, Value from) {
  LoopBuilder &b = l.b;
  Value pairs = b.sub(b.extract(plan.getOffsets(), b.index(first + count)), from);
  // Columns of numbers counted from another beginning.
  auto less = [&](Value column, OpFoldResult size, Value by) {
    Value init = b.empty(size, b.getIndexType());
    SmallVector<AffineMap> maps(2, b.getMultiDimIdentityMap(1));
    return linalg::GenericOp::create(b, init.getType(), column, init, maps,
                                     SmallVector<utils::IteratorType>{utils::IteratorType::parallel},
                                     [&](OpBuilder &inner, Location loc, ValueRange args) {
                                       LoopBuilder nested(loc, inner);
                                       linalg::YieldOp::create(nested, nested.sub(args[0], by));
                                     })
        .getResult(0);
  };
  OpFoldResult size = b.getIndexAttr(count + 1);
  Value offsets = less(part(b, plan.getOffsets(), b.getIndexAttr(first), size), size, from);
  Value experts = part(b, plan.getPairExperts(), from, pairs);
  Value ordinals = first == 0 ? experts : less(experts, OpFoldResult(pairs), b.index(first));
  return {first,   count,   pairs, offsets, part(b, plan.getRows(), from, pairs), part(b, plan.getSlots(), from, pairs),
          experts, ordinals};
}

LogicalResult ApplyLowering::lowerFused(Values &results, std::string &why) {
  why = whyNotFused(op);
  if (!why.empty())
    return failure();
  int64_t experts = routing.getExperts();
  auto plan = PlanOp::create(b, getIndices(), experts);
  Value pairs = b.dim(plan.getRows(), 0);
  // Read outside of the loops that use them.
  if (needsWeights())
    getWeights();

  Values buffers;
  if (getNumCases() == 1) {
    PairRange all{0,
                  experts,
                  pairs,
                  plan.getOffsets(),
                  plan.getRows(),
                  plan.getSlots(),
                  plan.getPairExperts(),
                  plan.getPairExperts()};
    buffers = FlatBody(*this, 0, all).run();
  } else {
    FailureOr<Values> made = makePairBuffers(pairs, why);
    if (failed(made))
      return failure();
    buffers = *made;
    for (unsigned c = 0; c < getNumCases(); ++c) {
      int64_t first = getExpertsOf(c).front(), count = getExpertsOf(c).size();
      Value from = b.extract(plan.getOffsets(), b.index(first));
      PairRange range = getRange(*this, plan, first, count, from);
      Values outputs = FlatBody(*this, c, range).run();
      for (auto [output, buffer] : llvm::zip(outputs, buffers)) {
        int64_t rank = cast<RankedTensorType>(buffer.getType()).getRank();
        SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), sizes{range.pairs},
            strides(rank, b.getIndexAttr(1));
        offsets[0] = from;
        for (int64_t d = 1; d < rank; ++d)
          sizes.push_back(b.dimOrAttr(buffer, d));
        buffer = tensor::InsertSliceOp::create(b, output, buffer, offsets, sizes, strides);
      }
    }
  }

  auto forEach = [&](LoopBuilder &builder, ValueRange init,
                     function_ref<Values(Value, Value, Value, ValueRange)> body) {
    return builder.loop(pairs, init, [&](Value p, ValueRange inner) {
      return body(p, builder.extract(plan.getRows(), p), builder.extract(plan.getPairExperts(), p), inner);
    });
  };
  FailureOr<Values> finished = finish(buffers, PairList{plan.getInverse(), plan.getOffsets(), forEach}, why);
  if (failed(finished))
    return failure();
  results = *finished;
  return success();
}
