//===- CpuFeatures.h - what this processor can do ---------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CPUFEATURES_H
#define MOE_RUNTIME_CPUFEATURES_H

#include <set>
#include <string>
#include <vector>

namespace moe::rt {

/// Where the answers come from.
struct CpuFacts {
  /// The flags of /proc/cpuinfo.
  std::set<std::string> flags;
  /// Whether the processor itself denies a feature.
  bool (*isDenied)(const std::string &feature);
  /// Asks the kernel for the registers of AMX, which a process does not get unasked.
  bool (*requestTiles)();
};

/// This machine.
const CpuFacts &hostCpu();

/// Those of `required` (named as in the flags of /proc/cpuinfo) that a processor, or its kernel, does not offer. The
/// kernel is asked for the registers of AMX if nothing else is missing, and once.
std::vector<std::string> missingCpuFeatures(const std::vector<std::string> &required,
                                            const CpuFacts &facts = hostCpu());

/// How many of `versions`, by the features that each requires, are there up to the last one of which nothing is
/// missing; 0: there is none.
size_t lastRunnable(const std::vector<std::vector<std::string>> &versions, const CpuFacts &facts = hostCpu());

/// "x86_64", "aarch64", ...: the first part of a target triple.
const char *hostArchitecture();

} // namespace moe::rt

#endif // MOE_RUNTIME_CPUFEATURES_H
