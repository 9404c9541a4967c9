//===- CpuFeatures.cpp - what this processor can do -----------------------===//
//
// The kernel's list is used and not cpuid: it leaves out what the kernel does not save on a context switch.
//
//===----------------------------------------------------------------------===//
#include "CpuFeatures.h"
#include <fstream>
#include <set>
#include <sstream>

namespace moe::rt {

static std::set<std::string> readFlags() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0)
      continue;
    std::istringstream words(line.substr(std::min(line.find(':') + 1, line.size())));
    std::set<std::string> flags;
    for (std::string word; words >> word;)
      flags.insert(word);
    return flags; // all processors of a machine are taken to be alike
  }
  return {};
}

std::vector<std::string> missingCpuFeatures(const std::vector<std::string> &required) {
  static const std::set<std::string> flags = readFlags();
  std::vector<std::string> missing;
  for (const std::string &feature : required)
    if (!flags.count(feature))
      missing.push_back(feature);
  return missing;
}

const char *hostArchitecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

} // namespace moe::rt
