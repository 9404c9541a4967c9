//===- LaneBody.h - the body of a structured op on vectors -------*- C++ -*-===//
#ifndef LIB_CONVERSION_LINALGTOVECTOR_LANEBODY_H
#define LIB_CONVERSION_LINALGTOVECTOR_LANEBODY_H

#include "VectorLoop.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/DenseSet.h"

namespace mlir::moe {

/// Emits the body of `op` for `lanes` neighbouring iterations of one loop at a time. Values are computed on demand, so
/// only what a caller asks for is emitted.
class LaneBody {
public:
  /// One position of the loops. `ivs` holds the first lane's value for the vector loop. With a mask only the first
  /// `active` lanes count; the others are computed on harmless operands.
  struct Step {
    ArrayRef<Value> ivs;
    Value mask, active;
  };

  /// `varying` are the loops inside the point where `hoist` is called.
  LaneBody(OpBuilder &b, linalg::GenericOp op, unsigned loop, int64_t lanes, const llvm::BitVector &varying);

  /// Fails, with the reason in `why`, on a body with an op that has no vector form.
  static LogicalResult check(linalg::GenericOp op, std::string &why);

  /// Computes, at the insertion point, what does not depend on the varying loops.
  void hoist(ArrayRef<Value> ivs);

  /// Moves to `step`. The output arguments of the body are `outputs`, or are read from memory if that is empty.
  void moveTo(const Step &step, ValueRange outputs);

  /// The body's value `scalar` (of the region) as a vector.
  Value get(Value scalar);

  Value readOutput(unsigned number);
  void writeOutput(unsigned number, Value vector);

private:
  struct Lanes {
    enum Kind { Uniform, Consecutive, Vector } kind;
    Value value; // a scalar unless Vector; lane 0's for Consecutive
  };
  using LaneIndices = SmallVector<Lanes>;

  Lanes lanesOf(Value scalar);
  Lanes evaluate(OpResult result);
  Lanes read(OpOperand &operand);
  Lanes readAt(Value buffer, const LaneIndices &indices);
  LaneIndices indicesOf(OpOperand &operand);
  Value laneOf(const Lanes &lanes, int64_t lane);
  Value asVector(const Lanes &lanes);
  Value isActive(int64_t lane);
  VectorType vectorOf(Type element) const { return VectorType::get({lanes}, element); }
  /// Whether `indices` address neighbouring elements that can move as one vector.
  bool movesAsVector(Value buffer, const LaneIndices &indices) const;

  OpBuilder &b;
  Location loc;
  linalg::GenericOp op;
  unsigned loop;
  int64_t lanes;
  Step step;
  SmallVector<Value> outputs;
  llvm::DenseSet<Value> invariant;
  llvm::DenseMap<Value, Lanes> hoisted, known;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_LINALGTOVECTOR_LANEBODY_H
