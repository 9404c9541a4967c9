//===- MoeRoutingFacts.h - what is known of a routing from its makers -*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_IR_MOEROUTINGFACTS_H
#define MOE_DIALECT_MOE_IR_MOEROUTINGFACTS_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include <optional>

namespace mlir::moe {

/// Whether no row's list can hold an expert twice.
bool hasDistinctExperts(Value routing);

/// A tensor whose first dimension is the number of tokens, or null.
Value getTokenTensor(Value routing);

/// The most pairs that an expert can have, or nothing.
std::optional<int64_t> mostPairsPerExpert(Value routing);

/// The constant behind an amount: a number, or a tensor of one and the same number. Negative amounts count as 0.
std::optional<int64_t> getConstantAmount(Value amount);

/// The routing that decided which experts the rows of `routing` chose: what is between the two changes weights, or how
/// they are stored, only. The lists of both have the same experts at the same positions.
Value getSupport(Value routing);

/// Whether the lists of both have the same experts at the same positions, for all that is known of the ops that made
/// them. `sameTokens` says whether two tensors have the same number of rows.
bool haveEqualSupports(Value a, Value b, function_ref<bool(Value, Value)> sameTokens);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_IR_MOEROUTINGFACTS_H
