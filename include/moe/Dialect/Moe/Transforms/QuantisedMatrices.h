//===- QuantisedMatrices.h - matrices of matmuls become codes -----*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_TRANSFORMS_QUANTISEDMATRICES_H
#define MOE_DIALECT_MOE_TRANSFORMS_QUANTISEDMATRICES_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// A product of rows with a matrix, result[m, n] = sum over k of a[m, k] * matrix(k, n).
struct MatrixUse {
  linalg::LinalgOp matmul;
  /// Stored [n, k].
  bool transposed;
};
std::optional<MatrixUse> matchMatrixUse(OpOperand &use);

/// Whether all that reads the matrices `reads` are products with rows, all in one order; `why` says if not.
std::optional<bool> getMatrixOrder(ValueRange reads, std::string &why);

/// Makes the products that read `from` read `to`, the same matrix stored [n, k].
void readTransposed(Value from, Value to);
void readTransposed(OpOperand &use, Value to);

/// The banks of an expert operand of an apply as codes: [experts of the case, n, ...] each.
struct CodedBank {
  unsigned operand;
  /// The case whose experts they are of; -1: of all.
  int64_t caseIndex;
  Value codes, scales, zeroPoints;
  QuantAttr format;
  int64_t rows, columns; // n, k
};

/// Rebuilds `op`, which has one body, with codes in the place of the operands that `banks` names. With several cases
/// (`caseOf` has that of each expert, otherwise it is empty) the body is there once for each of `numCases`.
ApplyOp rebuildWithCodes(ApplyOp op, ArrayRef<CodedBank> banks, ArrayRef<int64_t> caseOf, unsigned numCases);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_TRANSFORMS_QUANTISEDMATRICES_H
