//===- Benchmark.h - how long calls take ------------------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_BENCHMARK_H
#define MOE_TOOLS_MOE_RUN_BENCHMARK_H

#include "Module.h"

namespace moe::run {

struct Timings {
  std::vector<double> inOrder, sorted; ///< seconds
  double total = 0;
  double mean() const { return total / static_cast<double>(sorted.size()); }
  /// The smallest time that is not less than `share` of all times (nearest rank).
  double percentile(double share) const;
};

/// Warms up, then times `calls` calls; 0: as many as fit into a second, but at least ten.
Timings benchmark(rt::Call &call, int64_t calls);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_BENCHMARK_H
