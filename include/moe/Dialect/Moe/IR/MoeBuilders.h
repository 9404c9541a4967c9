//===- MoeBuilders.h - ops of the moe dialect with a body --------*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_IR_MOEBUILDERS_H
#define MOE_DIALECT_MOE_IR_MOEBUILDERS_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::moe {

/// The pairs of `routing` for which `predicate` makes a true i1 of the arguments of moe.select's region: the pair's key
/// (here its weight), its rank, the sum of the better keys of the row, the row, and the expert.
template <typename Fn> Value selectPairs(ImplicitLocOpBuilder &b, Value routing, const Fn &predicate) {
  auto select = SelectOp::create(b, routing, /*key=*/Value());
  Block *block = new Block;
  select.getPredicate().push_back(block);
  Type key = cast<RoutingType>(routing.getType()).getElementType();
  block->addArguments({key, b.getIndexType(), key, b.getIndexType(), b.getIndexType()},
                      SmallVector<Location>(5, b.getLoc()));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(block);
  YieldOp::create(b, Value(predicate(block->getArguments())));
  return select;
}

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_IR_MOEBUILDERS_H
