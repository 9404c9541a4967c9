//===- Signature.h - what a module tells about itself ------------*- C++ -*-===//
#ifndef MOE_TARGET_SIGNATURE_H
#define MOE_TARGET_SIGNATURE_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Target/CpuTarget.h"
#include "llvm/Support/JSON.h"

namespace mlir::moe {

/// "f32" and its like for an element type, or empty if a module cannot take or return it.
StringRef getDtypeName(Type elementType);

/// The "functions" entry of the signature: one object per public function of `module`, which is still on tensors. Emits
/// an error for each argument or result that has no place in a signature.
FailureOr<llvm::json::Array> buildFunctionSignatures(ModuleOp module);

/// The keys of the weights that the entry points take, each once, in order.
std::vector<std::string> collectWeightKeys(const llvm::json::Array &functions);

} // namespace mlir::moe

#endif // MOE_TARGET_SIGNATURE_H
