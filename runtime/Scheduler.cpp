//===- Scheduler.cpp - the threads behind parallel_for --------------------===//
#include "Scheduler.h"
#include "Support.h"
#include <algorithm>
#include <atomic>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

namespace moe::rt {

struct Scheduler::Pool {
  // TBB gives out no more workers than there are processors unless it is told to.
  explicit Pool(int32_t threads)
      : limit(tbb::global_control::max_allowed_parallelism,
              std::max<size_t>(threads, tbb::info::default_concurrency())),
        arena(threads) {}
  tbb::global_control limit;
  tbb::task_arena arena;
};

Scheduler::Scheduler(int32_t threads) { setThreads(threads); }
Scheduler::~Scheduler() = default;

void Scheduler::setThreads(int32_t threads) {
  if (threads < 0 || threads > 4096)
    fail(MOE_INVALID_ARGUMENT, "the number of threads must be 1 to 4096, or 0 for all processors, not ", threads);
  count = threads ? threads : std::max(1, tbb::info::default_concurrency());
  pool = count > 1 ? std::make_unique<Pool>(count) : nullptr;
}

void Scheduler::parallelFor(void (*body)(void *, int64_t), void *context, int64_t tasks) {
  if (tasks <= 1 || !pool) {
    for (int64_t task = 0; task < tasks; ++task)
      body(context, task);
    return;
  }
  std::atomic<int64_t> next{0};
  auto claim = [&](int) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
      body(context, task);
  };
  int runners = static_cast<int>(std::min<int64_t>(count, tasks));
  pool->arena.execute([&] { tbb::parallel_for(0, runners, claim, tbb::simple_partitioner()); });
}

} // namespace moe::rt
