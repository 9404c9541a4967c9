//===- ApplyLowering.h - shared by the lowerings of moe.apply ----*- C++ -*-===//
//
// Every lowering makes, for each result of the apply, a buffer with one row per pair (or the result itself), and a
// common tail turns the buffers into the results.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_LOWERAPPLY_APPLYLOWERING_H
#define LIB_CONVERSION_LOWERAPPLY_APPLYLOWERING_H

#include "../Support/LoopBuilder.h"
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"

namespace mlir::moe {

/// One pair, or a block of pairs of one expert, and what its body needs to know of it.
struct PairBlock {
  Value count;   // number of pairs, index
  Value rows;    // their tokens, tensor<?xindex>
  Value expert;  // their expert, index; null if they differ
  Value experts; // the expert of each, tensor<?xindex>, where `expert` is null
  Value ranks;   // their positions in the rows' lists, tensor<?xindex>, or null
  Value weights; // their weights, tensor<?xf>, or null
};

/// The pairs as the tail sees them: a numbering, and where each pair belongs.
struct PairList {
  Value inverse;                                 // [T, S]: the pair in each slot, or -1
  Value offsets;                                 // [E + 1] if the pairs are sorted by expert, or null
  function_ref<Values(LoopBuilder &, ValueRange, // for each pair: state = body(p, t, e, state)
                      function_ref<Values(Value, Value, Value, ValueRange)>)>
      forEach;
};

class ApplyLowering {
public:
  ApplyLowering(LoopBuilder &b, ApplyOp op) : b(b), op(op), routing(cast<RoutingType>(op.getRouting().getType())) {}

  /// `what` is a reason on failure.
  LogicalResult lowerReference(Values &results, std::string &why);
  LogicalResult lowerPairwise(Values &results, std::string &why);
  LogicalResult lowerDense(Values &results, std::string &why);
  LogicalResult lowerFused(Values &results, std::string &why);

  // Building blocks.

  /// The expert numbers and weights per slot, compacted; the numbers are read from the routing that decided the
  /// support, so that routings that differ in weights only share a plan.
  Value getIndices();
  Value getWeights();
  /// The block of a rows operand: rows of `x` at the map's leading indices, multiplied by the weights where the apply
  /// says so; or the block of a pairs operand, which is never weighted.
  Value gatherRows(Value x, AffineMap map, const PairBlock &block, bool isRows = true);
  /// The part of a bank that belongs to expert e; `ordinal` counts the experts of the operand's case.
  Value partOf(unsigned operand, Value e, Value ordinal);
  /// All arguments of a body.
  Values bodyArguments(unsigned caseIndex, const PairBlock &block, Value ordinal);
  /// The dimensions of a result behind those that its mode gives it.
  FailureOr<SmallVector<OpFoldResult>> getTrailingDims(unsigned result, std::string &why);
  /// Buffers with one row per pair for every result.
  FailureOr<Values> makePairBuffers(OpFoldResult pairs, std::string &why);
  /// Results of buffers.
  FailureOr<Values> finish(ValueRange buffers, const PairList &pairs, std::string &why);
  /// The experts of a case in ascending order.
  SmallVector<int64_t> getExpertsOf(unsigned caseIndex);
  unsigned getNumCases() { return op.getBodies().size(); }
  bool needsRanks() { return op.hasIndexArg(IndexArg::Rank); }
  bool needsWeights() { return op.hasIndexArg(IndexArg::Weight) || op.getWeighted() == WeightMode::Before; }
  /// A column tensor<nxT> computed from the indices 0..n-1 of the pairs.
  Value column(Value count, Type type, ValueRange inputs, function_ref<Value(LoopBuilder &, ValueRange)> body);
  /// The weights of the pairs at (rows[p], slots[p]).
  Value weightsOfPairs(Value rows, Value slots);
  OpFoldResult getTokens();

  LoopBuilder &b;
  ApplyOp op;
  RoutingType routing;

private:
  Value indices, weights;
};

/// `op` in the form `slice` = a[at, 0, 0, ...][1, sizes...] with the first dimension dropped.
Value rowOf(LoopBuilder &b, Value tensor, ValueRange at);
Value setRow(LoopBuilder &b, Value row, Value tensor, ValueRange at);

} // namespace mlir::moe

#endif // LIB_CONVERSION_LOWERAPPLY_APPLYLOWERING_H
