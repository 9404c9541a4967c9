//===- Host.cpp - the functions that a module is given --------------------===//
//
// Compiled code cannot unwind, so a call that cannot go on (no memory) is left by longjmp to the point where this
// thread entered the module: the call itself, or a task of parallel_for. Between the two there is compiled code only,
// which owns nothing but buffers, and those are on the call's list.
//
//===----------------------------------------------------------------------===//
#include "Host.h"
#include <csetjmp>

namespace moe::rt {

namespace {

/// Where this thread entered the module.
struct Frame {
  CallState *call;
  jmp_buf escape;
};
thread_local Frame *current = nullptr;

[[noreturn]] void leave() { longjmp(current->escape, 1); }

/// Nothing with a destructor may live in this function: it is left by longjmp.
template <typename Body> void runInFrame(CallState &call, const Body &body) {
  Frame frame;
  Frame *outer = current;
  frame.call = &call;
  current = &frame;
  if (setjmp(frame.escape) == 0)
    body();
  current = outer;
}

void *tryAllocate(uint64_t bytes, uint64_t alignment) {
  CallState &call = *current->call;
  std::string problem;
  void *memory = call.buffers->allocate(bytes, alignment, problem);
  if (!memory) {
    call.record(MOE_OUT_OF_MEMORY, std::move(problem));
    call.abandoned = true;
  }
  return memory;
}

void *hostAlloc(void *, uint64_t bytes, uint64_t alignment) {
  void *memory = tryAllocate(bytes, alignment);
  if (!memory)
    leave();
  return memory;
}

void hostFree(void *, void *pointer) {
  CallState &call = *current->call;
  std::string problem = call.buffers->release(pointer);
  if (!problem.empty())
    call.record(MOE_INTERNAL, problem);
}

struct Job {
  CallState &call;
  void (*body)(void *, int64_t);
  void *context;
};

void runTask(void *pointer, int64_t task) {
  const Job &job = *static_cast<const Job *>(pointer);
  if (!job.call.abandoned.load(std::memory_order_relaxed))
    runInFrame(job.call, [&] { job.body(job.context, task); });
}

void runTasks(Runtime &runtime, void (*body)(void *, int64_t), void *context, int64_t tasks) {
  Job job{*current->call, body, context};
  try {
    runtime.scheduler.parallelFor(runTask, &job, tasks);
  } catch (const std::exception &error) {
    job.call.record(MOE_OUT_OF_MEMORY, str("the threads could not be started: ", error.what()));
    job.call.abandoned = true;
  }
}

void hostParallelFor(void *ctx, void (*body)(void *, int64_t), void *context, int64_t tasks) {
  runTasks(*static_cast<Runtime *>(ctx), body, context, tasks);
  if (current->call->abandoned)
    leave();
}

void hostFail(void *, const char *message, uint64_t length) {
  std::string text(message, std::min<uint64_t>(length, 4096));
  for (char &c : text)
    if (static_cast<unsigned char>(c) < 0x20)
      c = ' ';
  current->call->record(MOE_CALL_FAILED, std::move(text));
}

void hostLog(void *ctx, int32_t level, const char *message, uint64_t length) {
  const auto &log = static_cast<Runtime *>(ctx)->options.log;
  if (log)
    log(level, std::string_view(message, length));
}

int64_t hostThreads(void *ctx) { return static_cast<Runtime *>(ctx)->scheduler.threads(); }

} // namespace

void reportFault(std::string message) {
  if (current)
    current->call->record(MOE_CALL_FAILED, std::move(message));
}

void CallState::record(moe_code failure, std::string text) {
  std::lock_guard<std::mutex> lock(mutex);
  // Of several failures the first is kept, since it may be the cause of the others. With several threads any may be the
  // first.
  if (code == MOE_OK) {
    code = failure;
    message = std::move(text);
  }
}

moe_host_v1 makeHost(Runtime &runtime) {
  return {1, sizeof(moe_host_v1), &runtime, hostAlloc, hostFree, hostParallelFor, hostFail, hostLog, hostThreads};
}

void enter(moe_entry_fn entry, void *const *arguments, void *results, CallState &state) {
  runInFrame(state, [&] { entry(arguments, results); });
}

} // namespace moe::rt
