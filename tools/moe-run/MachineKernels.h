//===- MachineKernels.h - loops that measure a machine ----------*- C++ -*-===//
//
// As wide as the processor's vectors, chosen when the program runs.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_TOOLS_MOE_RUN_MACHINEKERNELS_H
#define MOE_TOOLS_MOE_RUN_MACHINEKERNELS_H

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace moe::run {

using Clock = std::chrono::steady_clock;
inline double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Keeps results alive.
extern std::atomic<float> sink;

struct MachineKernels {
  /// Reads `bytes` in streams side by side, fetching `ahead` bytes of each ahead.
  float (*read)(const char *data, size_t bytes, int streams, size_t ahead);
  /// Multiplies and adds for `steps` steps.
  float (*multiply)(int64_t steps);
  /// Reads `lines` cache lines of each stream, then multiplies for `steps` steps, and so on.
  float (*both)(const char *data, size_t bytes, int streams, size_t ahead, int lines, int64_t steps);
  double flopPerStep;
  /// Products of bytes, where there are instructions for them.
  float (*dot)(int64_t steps) = nullptr;
  double integersPerStep = 0;
};
MachineKernels chooseKernels();

/// What a core can fill of the last-level cache; 0: unknown. (sysconf gives the sum over a package's parts.)
double readCacheBytes();

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_MACHINEKERNELS_H
