//===- Roofline.h - how far a call is from the machine's limits -*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_ROOFLINE_H
#define MOE_TOOLS_MOE_RUN_ROOFLINE_H

#include "Benchmark.h"
#include "Machine.h"
#include "Module.h"
#include <optional>

namespace moe::run {

/// What one call computes and has to read and write at least.
struct Work {
  double flop = 0, bytes = 0;
  bool complete = true; ///< or there is more than was counted
};

/// Nothing if the module does not say. Which experts a call's rows choose is not known here: bytes are the mean over
/// uniform choices.
std::optional<Work> countWork(const rt::Call &call);

/// The least time in which the machine could do it.
double leastSeconds(const Work &work, const Machine &machine);

/// The median, over the turns of a benchmark, of the least time by the limits of this moment, as a share of the time
/// that it took.
double shareOfTurns(const Work &work, const std::vector<Timings::Turn> &turns);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_ROOFLINE_H
