//===- CpuFeatures.h - what this processor can do ---------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CPUFEATURES_H
#define MOE_RUNTIME_CPUFEATURES_H

#include <string>
#include <vector>

namespace moe::rt {

/// Those of `required` (named as in the flags of /proc/cpuinfo) that this processor, or its kernel, does not offer.
std::vector<std::string> missingCpuFeatures(const std::vector<std::string> &required);

/// "x86_64", "aarch64", ...: the first part of a target triple.
const char *hostArchitecture();

} // namespace moe::rt

#endif // MOE_RUNTIME_CPUFEATURES_H
