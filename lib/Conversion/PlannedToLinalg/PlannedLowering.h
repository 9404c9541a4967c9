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

} // namespace mlir::moe

#endif // LIB_CONVERSION_PLANNEDTOLINALG_PLANNEDLOWERING_H
