//===- ObjectCode.h - from the LLVM dialect to machine code ------*- C++ -*-===//
#ifndef MOE_TARGET_OBJECTCODE_H
#define MOE_TARGET_OBJECTCODE_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Target/CpuTarget.h"

namespace llvm {
class LLVMContext;
class Module;
} // namespace llvm

namespace mlir::moe {

/// Seconds spent, for the summary.
struct CodegenTimes {
  double translate = 0, optimise = 0, generate = 0;
};

/// Translates `module` (LLVM dialect only). The code of one version carries the module's signature; it is empty for the
/// others.
llvm::Expected<std::unique_ptr<llvm::Module>> translateToLlvm(ModuleOp module, llvm::LLVMContext &context,
                                                              const CpuTarget &target, llvm::StringRef signature,
                                                              CodegenTimes &times);

/// Runs LLVM's passes of `optLevel`, or those that `pipeline` names as `opt -passes` does. Versions with contexts of
/// their own may be worked on at the same time.
llvm::Error optimise(llvm::Module &module, const CpuTarget &target, unsigned optLevel, llvm::StringRef pipeline,
                     CodegenTimes &times);

/// Generates an object file, or assembly text, from `module`.
llvm::Error emitMachineCode(llvm::Module &module, const CpuTarget &target, bool assembly,
                            llvm::SmallVectorImpl<char> &output, CodegenTimes &times);

/// The names that `object` (bytes of an object file) uses and does not define, except memcpy, memmove, memset, and the
/// host variable that the versions of a module share.
llvm::Expected<std::vector<std::string>> findForeignSymbols(llvm::ArrayRef<char> object);

/// LLVM ends the process where it cannot go on. From now on it does so with a message that says what was being compiled
/// and where the LLVM IR that it stumbled over was saved.
void installFatalErrorHandler();

} // namespace mlir::moe

#endif // MOE_TARGET_OBJECTCODE_H
