//===- Scheduler.h - the threads behind parallel_for ------------*- C++ -*-===//
#ifndef MOE_RUNTIME_SCHEDULER_H
#define MOE_RUNTIME_SCHEDULER_H

#include <cstdint>
#include <memory>

namespace moe::rt {

/// A pool of threads, oneTBB's. Tasks are claimed one by one, in order, by whichever thread is free: a thread that the
/// system has put aside holds up the one task that it runs and no other, and nobody spins at a barrier.
class Scheduler {
public:
  /// 0: as many threads as this process may use.
  explicit Scheduler(int32_t threads);
  ~Scheduler();

  int32_t threads() const { return count; }
  void setThreads(int32_t threads);

  /// Calls body(context, i) once for each i in [0, tasks), the caller's thread taking part; returns when all are done.
  void parallelFor(void (*body)(void *context, int64_t task), void *context, int64_t tasks);

private:
  struct Pool;
  int32_t count = 1;
  std::unique_ptr<Pool> pool;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_SCHEDULER_H
