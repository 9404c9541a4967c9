//===- Host.h - the functions that a module is given ------------*- C++ -*-===//
#ifndef MOE_RUNTIME_HOST_H
#define MOE_RUNTIME_HOST_H

#include "Module.h"
#include <atomic>

namespace moe::rt {

/// One run of a function.
struct CallState {
  /// `buffers`: of a device; null for the host's memory.
  explicit CallState(Runtime &runtime, std::unique_ptr<Buffers> buffers = nullptr)
      : runtime(runtime), buffers(buffers ? std::move(buffers) : std::make_unique<HostBuffers>(*runtime.memory)) {}

  Runtime &runtime;
  std::unique_ptr<Buffers> buffers;
  /// The first failure; MOE_OK if there is none.
  std::mutex mutex;
  moe_code code = MOE_OK;
  std::string message;
  /// The call cannot go on: tasks are not started any more.
  std::atomic<bool> abandoned{false};

  void record(moe_code failure, std::string text);
};

/// The table for a module of this runtime.
moe_host_v1 makeHost(Runtime &runtime);

/// Makes the call that runs on this thread fail with `message`.
void reportFault(std::string message);

/// Runs the entry point on this thread, on behalf of `state`.
void enter(moe_entry_fn entry, void *const *arguments, void *results, CallState &state);

} // namespace moe::rt

#endif // MOE_RUNTIME_HOST_H
