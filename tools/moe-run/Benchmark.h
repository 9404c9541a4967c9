//===- Benchmark.h - how long calls take ------------------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_BENCHMARK_H
#define MOE_TOOLS_MOE_RUN_BENCHMARK_H

#include "Machine.h"
#include "Module.h"

namespace moe::run {

struct Timings {
  std::vector<double> inOrder, sorted; ///< seconds
  double total = 0;
  /// Of each turn: the machine's limits around it, and the median of its calls.
  struct Turn {
    Machine machine;
    double median;
  };
  std::vector<Turn> turns;
  double mean() const { return total / static_cast<double>(sorted.size()); }
  /// The smallest time that is not less than `share` of all times (nearest rank).
  double percentile(double share) const;
};

/// Warms up, then times `calls` calls; 0: as many as fit into a second, but at least ten. With a probe, in turn with
/// measurements of the machine; each turn begins with a call that does not count, since the probe has emptied the
/// caches.
Timings benchmark(rt::Call &call, int64_t calls, MachineProbe *probe = nullptr);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_BENCHMARK_H
