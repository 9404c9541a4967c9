//===- WeightsFile.h - write NAME.safetensors --------------------*- C++ -*-===//
#ifndef MOE_TARGET_WEIGHTSFILE_H
#define MOE_TARGET_WEIGHTSFILE_H

#include "moe/Support/WeightStore.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/Error.h"

namespace mlir::moe {

/// What was written.
struct WeightsFile {
  /// 32 hex digits that stand for the data: in the module and in the file, so that a mix-up is noticed.
  std::string contentId;
  uint64_t size = 0;
  uint64_t parameters = 0;
};

/// Writes the tensors named by `keys` to `path` (an existing, writable file), 64-byte aligned, in this order.
/// `progress` is told how many bytes of how many are done.
llvm::Expected<WeightsFile> writeWeights(const WeightStore &store, llvm::ArrayRef<std::string> keys,
                                         llvm::StringRef path, llvm::function_ref<void(uint64_t, uint64_t)> progress);

} // namespace mlir::moe

#endif // MOE_TARGET_WEIGHTSFILE_H
