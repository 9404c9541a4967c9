//===- FlatBody.h - one body on the rows of all its experts ------*- C++ -*-===//
//
// The pairs are sorted by expert, so the rows of the experts of a body lie side by side. An op that treats rows one by
// one runs once on all of them; a matmul with the expert's matrix becomes moe.grouped_matmul; an elementwise op behind
// grouped matmuls moves into their epilogue, and matmuls of the same rows become one op. What is computed from the
// expert alone (decoded weights) is computed once per expert with rows, in front. What needs the rows of an expert
// together runs in a loop over the experts, in the middle.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_LOWERAPPLY_FLATBODY_H
#define LIB_CONVERSION_LOWERAPPLY_FLATBODY_H

#include "ApplyLowering.h"
#include "FusedBody.h"
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"

namespace mlir::moe {

/// The pairs of a run of experts, numbered from 0.
struct PairRange {
  int64_t first, count;    ///< the experts [first, first + count)
  Value pairs;             ///< their number, index
  Value offsets;           ///< [count + 1]: the pairs of each of these experts
  Value rows, slots;       ///< the token and slot of each pair
  Value experts, ordinals; ///< the expert of each pair, counted from 0 and from `first`
};

class FlatBody {
public:
  FlatBody(ApplyLowering &l, unsigned caseIndex, const PairRange &range)
      : l(l), b(l.b), op(l.op), caseIndex(caseIndex), body(l.op.getBodies()[caseIndex].front()), parts(l.op, caseIndex),
        range(range) {}

  /// What the body yields, with one row per pair of the range.
  Values run();

private:
  /// A value of every expert: `map` takes (ordinal, the value's own indices) to the indices of `tensor`.
  struct Bank {
    Value tensor;
    AffineMap map;
  };

  void runFlat(Operation &inner);
  void runMiddle();
  /// Computes what `inner` and later ops need of the experts alone.
  void decodeExperts();
  /// Copies what `wanted` needs of the body, in the body's order, in terms of `inner`.
  void cloneFor(ArrayRef<Value> wanted, IRMapping &inner);

  void lowerMatmul(linalg::LinalgOp matmul);
  /// A column of numbers of rows as numbers of positions, of which every row has so many.
  Value timesPositions(Value column, int64_t positions);
  bool fuseEpilogue(linalg::LinalgOp generic);
  void lowerWithExperts(linalg::LinalgOp linalgOp);

  /// The value of the body on all pairs; blocks of rows are gathered when they are first asked for.
  Value flat(Value value);
  /// The rows of `value` by number, if it can be read in place: (x, row numbers).
  std::optional<std::pair<Value, Value>> readInPlace(Value value);
  const Bank &bankOf(Value value) { return banks.find(value)->second; }
  /// The values of all experts without a copy, if there is such a view.
  std::optional<Bank> viewOf(Value value);
  Bank viewOfOperand(BlockArgument part);
  bool isZero(Value value);
  Value emptyLike(Value bodyValue);
  Value weights() { return pairWeights ? pairWeights : pairWeights = l.weightsOfPairs(range.rows, range.slots); }
  /// The pairs [from, from + count) of a column or block.
  Value rowsOf(Value block, Value from, Value count);

  ApplyLowering &l;
  LoopBuilder &b;
  ApplyOp op;
  unsigned caseIndex;
  Block &body;
  FusedBody parts;
  PairRange range;
  Value pairWeights;
  IRMapping mapping;
  llvm::DenseMap<Value, Bank> banks;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_LOWERAPPLY_FLATBODY_H
