//===- RowIndependence.h - whether a body treats its rows one by one -*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_ROWINDEPENDENCE_H
#define MOE_DIALECT_MOE_ANALYSIS_ROWINDEPENDENCE_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"

namespace mlir::linalg {
class LinalgOp;
} // namespace mlir::linalg

namespace mlir::moe {

/// What is known of a value of an apply's body.
struct BodyFact {
  int64_t rowDim = -1;   ///< the dimension that runs over the block's rows, -1 if none does
  bool rowCount = false; ///< the number of rows of the block
  bool expert = false;   ///< depends on the expert's parameters or number, not on rows
  bool mixed = false;    ///< depends on the block as a whole, without a dimension that runs over its rows

  bool seesRows() const { return rowDim >= 0 || rowCount || mixed; }
};

/// Proves from indexing maps that row i of everything a body yields depends on row i of its blocks alone. Then blocks
/// may be cut, joined, or extended by rows that nobody asked for. A body that is not understood counts as coupled.
///
/// The analysis goes on behind an op that couples rows: what such an op writes into a tensor with a row per row of the
/// block has a row dimension again (its rows are values like others), everything else of it is `mixed`.
class RowIndependence {
public:
  RowIndependence(ApplyOp op, unsigned caseIndex);

  bool isIndependent() const { return reason.empty(); }
  /// Why the rows are taken to be coupled.
  const std::string &getReason() const { return reason; }
  BodyFact getFact(Value value) const { return facts.lookup(value); }
  /// Whether `op`, of the body itself, couples rows.
  bool isCoupled(Operation *op) const { return coupled.contains(op); }

private:
  void visit(Operation *op);
  void visitLinalg(Operation *op);
  void visitRouted(Operation *op);
  void couple(Operation *op, const Twine &why);
  bool readsOwnRow(linalg::LinalgOp op, Value block, unsigned rowLoop) const;

  ApplyOp apply;
  llvm::DenseMap<Value, BodyFact> facts;
  llvm::DenseSet<Operation *> coupled;
  std::string reason;
};

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_ROWINDEPENDENCE_H
