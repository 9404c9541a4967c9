//===- RowOps.h - ops that compute row by row ---------------------*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_ROWOPS_H
#define MOE_DIALECT_MOE_ANALYSIS_ROWOPS_H

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallVector.h"
#include <optional>
#include <string>

namespace mlir::moe {

/// What is known of an op on tensors of which row i of every result is computed from row i of the operands `rows`, and
/// from operands that are the same for all rows. A row is what dimension 0 runs over; its other sizes are static.
struct RowOp {
  /// Each once, in the order of use.
  SmallVector<Value> rows;
  /// A reshape: result row i is made of, or is a part of, other rows; operands have results' rows * multiply / divide.
  int64_t multiply = 1, divide = 1;
  /// Of a linalg op: the loop that runs over the rows.
  unsigned loop = 0;
  /// Of a loop over rows: what it says the row with, in accesses to `rows` and to what stands for them in its body.
  SmallVector<OpOperand *> indices;
  /// Of a loop over rows: the values in the body that stand for the results, with the number of the result.
  llvm::MapVector<Value, unsigned> states;

  /// Nothing, with `why`, if it is not known that the rows of `op` are apart.
  static std::optional<RowOp> analyse(Operation *op, std::string &why);
};

/// Whether `op` makes new tensors out of nothing but scalars and positions, so that making them again costs nothing.
bool isFresh(Operation *op);

/// Whether `op` is a product of matrices, or has one inside.
bool hasProduct(Operation *op);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_ROWOPS_H
