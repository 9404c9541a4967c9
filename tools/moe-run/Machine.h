//===- Machine.h - what this machine can do at most -------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_MACHINE_H
#define MOE_TOOLS_MOE_RUN_MACHINE_H

#include <cstdint>

namespace moe::run {

struct Machine {
  int32_t threads = 1;
  double bytesPerSecond = 0; ///< read from memory, all threads together
  double flopPerSecond = 0;  ///< f32 multiply-adds, counted as two
  /// Products of bytes, summed up in 32 bits: multiplications and additions; 0: unknown.
  double integerOpsPerSecond = 0;
  double cacheBytes = 0; ///< of the last-level cache; 0: unknown
};

/// Measures for about a second: the best of several ways to read, and of several runs.
Machine measureMachine(int32_t threads);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_MACHINE_H
