//===- CudaTarget.h - NVIDIA GPUs as targets ---------------------*- C++ -*-===//
#ifndef MOE_TARGET_CUDATARGET_H
#define MOE_TARGET_CUDATARGET_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace mlir::moe {

struct CudaChip {
  llvm::StringLiteral name;
  /// The PTX version to write: an older one than a chip needs ends LLVM, a newer one than the driver's is refused
  /// there.
  llvm::StringLiteral ptx;
  /// Shared memory of a block, in bytes.
  int64_t sharedLimit;
};

/// All chips, ascending.
llvm::ArrayRef<CudaChip> getCudaChips();

/// The chip called `name`; the error lists all.
llvm::Expected<CudaChip> findCudaChip(llvm::StringRef name);

/// The gpu.module of `module` as PTX text for `chip`. LLVM dialect and NVVM only. A module without kernels gives an
/// empty text.
llvm::Expected<std::string> emitPtx(ModuleOp module, const CudaChip &chip, unsigned optLevel);

/// Assembles PTX into a cubin with the program ptxas. `program`: its path, or empty to look for it; the error says how
/// to get it. `report`: what ptxas says about registers and memory, if wanted.
llvm::Expected<std::string> assemblePtx(llvm::StringRef ptx, const CudaChip &chip, llvm::StringRef program,
                                        std::string *report = nullptr);

/// Takes the kernels out of `module` and puts their machine code in: the exported symbols moe_device_cubin and
/// moe_device_ptx.
void embedDeviceCode(ModuleOp module, llvm::StringRef cubin, llvm::StringRef ptx);

} // namespace mlir::moe

#endif // MOE_TARGET_CUDATARGET_H
