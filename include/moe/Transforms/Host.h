//===- Host.h - the module's side of the host table --------------*- C++ -*-===//
//
// The layout of `struct moe_host_v1` (docs/module-format.md) and the names of the functions through which compiled
// code reaches it.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_TRANSFORMS_HOST_H
#define MOE_TRANSFORMS_HOST_H

#include "llvm/ADT/StringRef.h"

namespace mlir::moe {

/// The exported variable that points to the host table, and the prefix of entry symbols.
constexpr llvm::StringLiteral kHostVariable = "moe_host";
constexpr llvm::StringLiteral kEntryPrefix = "moe_call_";

/// Byte offsets in the host table.
enum HostOffset {
  kHostContext = 8,
  kHostAlloc = 16,
  kHostFree = 24,
  kHostParallelFor = 32,
  kHostFail = 40,
  kHostThreads = 56
};

/// (message pointer, length): reports the first failure of a call.
constexpr llvm::StringLiteral kHostFailFunction = "moe_host_fail";
/// (body pointer, context pointer, tasks): runs body(context, task) for each task.
constexpr llvm::StringLiteral kHostParallelForFunction = "moe_host_parallel_for";
/// (): how many threads the host has for tasks.
constexpr llvm::StringLiteral kHostThreadsFunction = "moe_host_threads";
/// The names that finalize-memref-to-llvm calls with use-generic-functions.
constexpr llvm::StringLiteral kAllocFunction = "_mlir_memref_to_llvm_alloc";
constexpr llvm::StringLiteral kFreeFunction = "_mlir_memref_to_llvm_free";

/// Buffers are aligned to a cache line, which is also the widest vector.
constexpr int64_t kBufferAlignment = 64;

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_HOST_H
