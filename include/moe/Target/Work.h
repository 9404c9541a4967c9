//===- Work.h - how much a call computes and reads ---------------*- C++ -*-===//
#ifndef MOE_TARGET_WORK_H
#define MOE_TARGET_WORK_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/Support/JSON.h"

namespace mlir::moe {

/// The entry "work" of a function's signature (docs/module-format.md): floating-point operations of its products and
/// bytes of the weights that they read, as formulas of the arguments' sizes. `function` is on tensors, with moe.apply.
llvm::json::Object describeWork(func::FuncOp function);

/// Moves the entry "work" from the signature of a function to a later one, whose weights may have other places among
/// the arguments: numbers of inputs are translated by name.
void moveWork(llvm::json::Object &from, llvm::json::Object &to);

} // namespace mlir::moe

#endif // MOE_TARGET_WORK_H
