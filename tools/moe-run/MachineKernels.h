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

/// A way to read memory.
struct ReadWay {
  /// Streams side by side, of which each fetches what lies `ahead` bytes ahead (0: nothing).
  int streams;
  size_t ahead;
  /// Instead: while a block of kFetchBlock bytes is read, the next one is fetched, from sixteen places of it in turn.
  bool nextBlock = false;
};
constexpr size_t kFetchBlock = 64 << 10;
/// What has to be there behind the memory that is read: fetches run past its end.
constexpr size_t kFetchedBehind = 2 * kFetchBlock;

struct MachineKernels {
  /// Reads `bytes`.
  float (*read)(const char *data, size_t bytes, ReadWay way);
  /// Multiplies and adds for `steps` steps.
  float (*multiply)(int64_t steps);
  /// Reads `lines` cache lines of each stream, then multiplies for `steps` steps, and so on.
  float (*both)(const char *data, size_t bytes, ReadWay way, int lines, int64_t steps);
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
