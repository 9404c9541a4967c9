//===- MoeApplyParts.h - taking a moe.apply apart and building another ----===//
#ifndef MOE_DIALECT_MOE_IR_MOEAPPLYPARTS_H
#define MOE_DIALECT_MOE_IR_MOEAPPLYPARTS_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/Builders.h"

namespace mlir::moe {

/// The operands and attributes of a moe.apply in a form that can be edited.
struct ApplyParts {
  Value routing;
  SmallVector<Value> rows, experts, pairs, capacities;
  SmallVector<AffineMap> rowMaps;
  SmallVector<SliceAttr> slices;
  std::optional<SmallVector<int64_t>> cases;
  SmallVector<IndexArg> indexArgs;
  WeightMode weighted;
  SmallVector<OutMode> outModes;

  explicit ApplyParts(ApplyOp op);

  /// A new apply with these parts, `bodies` empty regions and the discardable attributes of `like`.
  ApplyOp create(OpBuilder &b, ApplyOp like, TypeRange results, unsigned bodies) const;
};

/// The position of the argument of body `caseIndex` that operand `operand` of 'experts' gives; nothing if the operand
/// belongs to another body.
std::optional<unsigned> getExpertArgument(ApplyOp op, unsigned operand, unsigned caseIndex);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_IR_MOEAPPLYPARTS_H
