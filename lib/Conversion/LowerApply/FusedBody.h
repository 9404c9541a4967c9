//===- FusedBody.h - what the fused lowering understands ---------*- C++ -*-===//
#ifndef LIB_CONVERSION_LOWERAPPLY_FUSEDBODY_H
#define LIB_CONVERSION_LOWERAPPLY_FUSEDBODY_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "moe/Dialect/Moe/Analysis/RowIndependence.h"

namespace mlir::moe {

/// A matrix of the expert: a part of a bank, or what the parts of a quantised bank stand for.
bool isExpertMatrix(Value value, const RowIndependence &rows);
/// A matmul of a block of rows with a matrix of the expert, the two inputs in this order.
bool isExpertMatmul(linalg::LinalgOp op, const RowIndependence &rows);
/// A parallel op over (row, column) or (row) whose inputs may become operands of an epilogue.
bool isEpilogueLike(linalg::LinalgOp op, const RowIndependence &rows);
/// Why the fused lowering does not apply; empty if it does.
std::string whyNotFused(ApplyOp op, const RowIndependence &rows);

} // namespace mlir::moe

#endif // LIB_CONVERSION_LOWERAPPLY_FUSEDBODY_H
