//===- FusedBody.h - how the fused lowering sees a body ----------*- C++ -*-===//
#ifndef LIB_CONVERSION_LOWERAPPLY_FUSEDBODY_H
#define LIB_CONVERSION_LOWERAPPLY_FUSEDBODY_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "moe/Dialect/Moe/Analysis/RowIndependence.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::moe {

/// Where an op of the body runs.
enum class BodyPart {
  Shared, ///< reads neither rows nor the expert: wherever it is needed
  Expert, ///< reads the expert alone: once per expert that has rows
  Flat,   ///< treats rows one by one: once, on the rows of all experts
  Block   ///< anything else: once per expert, on the block of its rows
};

/// The parts of one body. All Block ops, and the ops between two of them, are the *middle*: one loop over the experts.
/// What stands before runs on all pairs in front of the loop, the rest behind it.
class FusedBody {
public:
  FusedBody(ApplyOp op, unsigned caseIndex);

  BodyPart getPart(Operation *inner) const { return parts.lookup(inner); }
  bool isInMiddle(Operation *inner) const { return middle.contains(inner); }
  bool isBehindMiddle(Operation *inner) const { return behind.contains(inner); }
  bool hasMiddle() const { return !middle.empty(); }
  /// Whether `value` depends on the expert and on no row.
  bool isExpert(Value value) const;
  /// A matmul of a block of rows with a matrix of the expert, the two inputs in this order.
  bool isExpertMatmul(linalg::LinalgOp inner) const;
  /// The quantised matrix that `matmul`, an expert matmul, multiplies with, if its kernel can read the codes.
  DequantizeOp getQuantisedMatrix(linalg::LinalgOp matmul) const;
  /// A parallel op over (row, column) whose inputs may become operands of an epilogue.
  bool isEpilogueLike(linalg::LinalgOp inner) const;
  unsigned getNumMatmuls() const { return numMatmuls; }
  /// Why an op had to become a Block op; empty if none had.
  const std::string &getBlockReason() const { return blockReason; }
  /// Why there is no fused form at all; empty if there is one.
  const std::string &getReason() const { return reason; }
  const RowIndependence &getRows() const { return rows; }

private:
  BodyPart partOf(Operation *inner, std::string &why) const;
  bool readsExpertPerRow(linalg::LinalgOp inner) const;

  ApplyOp apply;
  unsigned caseIndex;
  Block &body;
  RowIndependence rows;
  DenseMap<Operation *, BodyPart> parts;
  DenseSet<Operation *> middle, behind;
  unsigned numMatmuls = 0;
  std::string blockReason, reason;
};

/// The number of the operand in 'experts' that `part`, an argument of body `caseIndex`, is cut from.
unsigned getExpertOperand(ApplyOp op, BlockArgument part, unsigned caseIndex);

/// All values that `inner` reads, its regions included.
llvm::SetVector<Value> getReadValues(Operation *inner);

/// Why the fused lowering does not apply to `op`; empty if it does.
std::string whyNotFused(ApplyOp op);

} // namespace mlir::moe

#endif // LIB_CONVERSION_LOWERAPPLY_FUSEDBODY_H
