//===- Machine.h - what this machine can do at most -------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_MACHINE_H
#define MOE_TOOLS_MOE_RUN_MACHINE_H

#include <cstdint>
#include <memory>
#include <vector>

namespace moe::run {

struct Machine {
  int32_t threads = 1;
  double bytesPerSecond = 0; ///< read from memory, all threads together
  double flopPerSecond = 0;  ///< f32 multiply-adds, counted as two
  /// Products of bytes, summed up in 32 bits: multiplications and additions; 0: unknown.
  double integerOpsPerSecond = 0;
  double cacheBytes = 0; ///< of the last-level cache; 0: unknown
};

/// Measures the limits again and again, for machines that are shared: what they can do changes while something is
/// timed.
class MachineProbe {
public:
  /// Measures for about a second: the best of several ways to read, and of several runs. The way stays the one that
  /// `measure` reads in.
  explicit MachineProbe(int32_t threads);
  ~MachineProbe();

  /// The most of all that was measured.
  const Machine &best() const { return most; }
  /// What the machine does at this moment: the medians of three short pieces of work each (about 40 ms).
  Machine measure();

private:
  class Team;
  std::unique_ptr<Team> team;
  Machine most;
  int variant = 0;
};

/// The best of one probe.
Machine measureMachine(int32_t threads);

/// How far memory and arithmetic overlap on one thread: the share of the slower one's limit that a loop reaches which
/// reads and multiplies in turn, in registers only.
struct Overlap {
  double balance; ///< time of the arithmetic as a multiple of that of memory
  double share;
};
/// For several balances; takes about five seconds.
std::vector<Overlap> measureOverlap();

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_MACHINE_H
