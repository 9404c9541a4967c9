//===- PlannedLowering.h - the planned ops as linalg and scf -----*- C++ -*-===//
#ifndef LIB_CONVERSION_PLANNEDTOLINALG_PLANNEDLOWERING_H
#define LIB_CONVERSION_PLANNEDTOLINALG_PLANNEDLOWERING_H

#include "../Support/LoopBuilder.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// Each emits the op's results in front of it.
Values lowerPlan(LoopBuilder &b, PlanOp op);
Values lowerCombine(LoopBuilder &b, CombineOp op);
Values lowerGroupedMatmul(LoopBuilder &b, GroupedMatmulOp op);
/// The numbers of quantised matrices, as a tensor of `type`.
Value lowerDequantize(LoopBuilder &b, Value codes, Value scales, Value zeroPoints, QuantAttr format,
                      RankedTensorType type);

} // namespace mlir::moe

#endif // LIB_CONVERSION_PLANNEDTOLINALG_PLANNEDLOWERING_H
