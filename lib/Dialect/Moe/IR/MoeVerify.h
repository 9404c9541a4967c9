//===- MoeVerify.h - helpers that the verifiers share -----------*- C++ -*-===//
#ifndef LIB_DIALECT_MOE_IR_MOEVERIFY_H
#define LIB_DIALECT_MOE_IR_MOEVERIFY_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// Two sizes that may be the same at run time.
inline bool agree(int64_t a, int64_t b) { return ShapedType::isDynamic(a) || ShapedType::isDynamic(b) || a == b; }

/// `[?, 64]`, as shapes are written in diagnostics.
std::string shapeText(ArrayRef<int64_t> shape);

/// `value`, an operand called `name`, holds one number per pair: [tokens, experts].
LogicalResult verifyTokensByExperts(Operation *op, StringRef name, Value value, RoutingType routing);

/// The only block of `region` takes `types`, which mean `what`.
LogicalResult verifyRegionArguments(Operation *op, Region &region, StringRef name, TypeRange types, StringRef what);

/// Nothing in `region` reads or writes memory: an expert's body may run any number of times, in any order, on a copy.
LogicalResult verifyNoEffects(Operation *op, Region &region, StringRef name);

} // namespace mlir::moe

#endif // LIB_DIALECT_MOE_IR_MOEVERIFY_H
