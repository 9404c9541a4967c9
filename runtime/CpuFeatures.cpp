//===- CpuFeatures.cpp - what this processor can do -----------------------===//
//
// Both the kernel's list and the processor itself must offer a feature. The kernel's list leaves out what the kernel
// does not save on a context switch; but under an emulator (qemu-user) it is the list of the machine around it.
//
//===----------------------------------------------------------------------===//
#include "CpuFeatures.h"
#include <fstream>
#include <sstream>
#include <sys/syscall.h>
#include <unistd.h>

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

/// What cpuid says does not exist. Features that the compiler's table does not know are left to the kernel's list.
static bool isDeniedByProcessor(const std::string &feature) {
#if defined(__x86_64__)
#define MOE_FEATURE(name, builtin)                                                                                     \
  if (feature == name)                                                                                                 \
    return !__builtin_cpu_supports(builtin);
  __builtin_cpu_init();
  MOE_FEATURE("sse4_2", "sse4.2")
  MOE_FEATURE("popcnt", "popcnt")
  MOE_FEATURE("avx", "avx")
  MOE_FEATURE("avx2", "avx2")
  MOE_FEATURE("bmi1", "bmi")
  MOE_FEATURE("bmi2", "bmi2")
  MOE_FEATURE("fma", "fma")
  MOE_FEATURE("f16c", "f16c")
  MOE_FEATURE("avx512f", "avx512f")
  MOE_FEATURE("avx512bw", "avx512bw")
  MOE_FEATURE("avx512cd", "avx512cd")
  MOE_FEATURE("avx512dq", "avx512dq")
  MOE_FEATURE("avx512vl", "avx512vl")
  MOE_FEATURE("avx512ifma", "avx512ifma")
  MOE_FEATURE("avx512vbmi", "avx512vbmi")
  MOE_FEATURE("avx512_vbmi2", "avx512vbmi2")
  MOE_FEATURE("avx512_vnni", "avx512vnni")
  MOE_FEATURE("avx512_bitalg", "avx512bitalg")
  MOE_FEATURE("avx512_vpopcntdq", "avx512vpopcntdq")
  MOE_FEATURE("avx512_bf16", "avx512bf16")
  MOE_FEATURE("avx512_fp16", "avx512fp16")
  MOE_FEATURE("avx_vnni", "avxvnni")
  MOE_FEATURE("avx_vnni_int8", "avxvnniint8")
  MOE_FEATURE("avx_ne_convert", "avxneconvert")
  MOE_FEATURE("gfni", "gfni")
  MOE_FEATURE("amx_tile", "amx-tile")
  MOE_FEATURE("amx_int8", "amx-int8")
  MOE_FEATURE("amx_bf16", "amx-bf16")
#undef MOE_FEATURE
#endif
  return false;
}

/// Linux saves the registers of AMX (8 KB) for those processes only that ask for them; the first use without having
/// asked ends the process. Refused by kernels that do not know AMX, and where a signal's stack of some thread is too
/// small.
static bool requestTiles() {
#if defined(__x86_64__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023; // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;              // XFEATURE_XTILEDATA
  static const bool granted = ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

const CpuFacts &hostCpu() {
  static const CpuFacts facts{readFlags(), isDeniedByProcessor, requestTiles};
  return facts;
}

std::vector<std::string> missingCpuFeatures(const std::vector<std::string> &required, const CpuFacts &facts) {
  std::vector<std::string> missing;
  bool tiles = false;
  for (const std::string &feature : required) {
    if (!facts.flags.count(feature) || facts.isDenied(feature))
      missing.push_back(feature);
    tiles |= feature == "amx_tile";
  }
  if (missing.empty() && tiles && !facts.requestTiles())
    missing.push_back("amx_tile");
  return missing;
}

size_t lastRunnable(const std::vector<std::vector<std::string>> &versions, const CpuFacts &facts) {
  size_t last = versions.size();
  while (last > 0 && !missingCpuFeatures(versions[last - 1], facts).empty())
    --last;
  return last;
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
