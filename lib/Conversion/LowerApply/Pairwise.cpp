//===- Pairwise.cpp - apply pair by pair ----------------------------------===//
//
// For few rows, or for very many tiny experts: no sort and nothing that grows with the number of experts. The body sees
// blocks of one row, so that it has to be independent of the other rows.
//
//===----------------------------------------------------------------------===//
#include "ApplyLowering.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult ApplyLowering::lowerPairwise(Values &results, std::string &why) {
  Value experts = getIndices();
  Value tokens = b.dim(experts, 0), slots = b.index(routing.getSlots());
  FailureOr<Values> buffers = makePairBuffers(b.mul(tokens, slots), why);
  if (failed(buffers))
    return failure();

  // Read outside of the loops that use them.
  if (needsWeights())
    getWeights();
  auto forEach = [&](LoopBuilder &b, ValueRange init, function_ref<Values(Value, Value, Value, ValueRange)> body) {
    return b.loop(tokens, init, [&](Value t, ValueRange outer) {
      return b.loop(slots, outer, [&](Value s, ValueRange inner) {
        Value number = b.extract(experts, {t, s});
        return b.when(b.notLess(number, b.i32(0)), inner,
                      [&] { return body(b.add(b.mul(t, slots), s), t, b.toIndex(number), inner); });
      });
    });
  };
  auto one = [&](Value scalar) -> Value {
    auto type = RankedTensorType::get({1}, scalar.getType());
    return tensor::FromElementsOp::create(b, type, scalar);
  };
  // The case of each expert and its number within the case.
  Value caseTable, ordinalTable;
  if (getNumCases() > 1) {
    SmallVector<int64_t> cases, ordinals, seen(getNumCases(), 0);
    for (int64_t e = 0; e < routing.getExperts(); ++e) {
      cases.push_back(op.getCaseOf(e));
      ordinals.push_back(seen[cases.back()]++);
    }
    caseTable = b.table(cases);
    ordinalTable = b.table(ordinals);
  }

  Values filled = forEach(b, *buffers, [&](Value p, Value t, Value e, ValueRange state) {
    Value s = b.sub(p, b.mul(t, slots));
    PairBlock block{b.index(1),
                    one(t),
                    e,
                    Value(),
                    needsRanks() ? one(s) : Value(),
                    needsWeights() ? one(b.extract(getWeights(), {t, s})) : Value()};
    auto run = [&](unsigned c, Value ordinal, ValueRange inner) {
      Values outputs = b.inlineRegion(op.getBodies()[c], bodyArguments(c, block, ordinal));
      Values next;
      for (auto [output, buffer] : llvm::zip(outputs, inner)) {
        int64_t rank = cast<RankedTensorType>(buffer.getType()).getRank();
        SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), sizes{b.getIndexAttr(1)},
            strides(rank, b.getIndexAttr(1));
        offsets[0] = p;
        for (int64_t d = 1; d < rank; ++d)
          sizes.push_back(b.dimOrAttr(buffer, d));
        auto type = cast<RankedTensorType>(output.getType());
        SmallVector<int64_t> shape(type.getShape());
        shape[0] = 1;
        output = b.castTo(output, RankedTensorType::get(shape, type.getElementType()));
        next.push_back(tensor::InsertSliceOp::create(b, output, buffer, offsets, sizes, strides));
      }
      return next;
    };
    if (getNumCases() == 1)
      return run(0, e, state);
    Values inner = llvm::to_vector_of<Value>(state);
    Value caseOf = b.extract(caseTable, e), ordinal = b.extract(ordinalTable, e);
    for (unsigned c = 0; c < getNumCases(); ++c) {
      Values before = inner;
      inner = b.when(b.equal(caseOf, b.index(c)), before, [&] { return run(c, ordinal, before); });
    }
    return inner;
  });

  // Pair (t, s) has the number t * S + s.
  SmallVector<OpFoldResult> shape{getTokens(), b.getIndexAttr(routing.getSlots())};
  Value init = b.empty(shape, b.getIndexType());
  SmallVector<AffineMap> maps(2, b.getMultiDimIdentityMap(2));
  Value inverse =
      linalg::GenericOp::create(b, init.getType(), experts, init, maps,
                                SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
                                [&](OpBuilder &inner, Location loc, ValueRange args) {
                                  LoopBuilder nested(loc, inner);
                                  Value number = nested.add(nested.mul(linalg::IndexOp::create(nested, 0), slots),
                                                            linalg::IndexOp::create(nested, 1));
                                  Value there = nested.notLess(args[0], nested.i32(0));
                                  linalg::YieldOp::create(nested, nested.select(there, number, nested.index(-1)));
                                })
          .getResult(0);
  FailureOr<Values> finished = finish(filled, PairList{inverse, Value(), forEach}, why);
  if (failed(finished))
    return failure();
  results = *finished;
  return success();
}
