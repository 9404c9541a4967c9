//===- Overlap.cpp - reading and multiplying at once ----------------------===//
//
// A roofline supposes that memory and arithmetic overlap without loss. How far they do is a property of the machine:
// here one loop reads a few lines, multiplies in registers, and so on, which nothing that also has to load operands
// can beat. The best of several ways to read counts, as for the limits themselves.
//
//===----------------------------------------------------------------------===//
#include "Machine.h"
#include "MachineKernels.h"
#include "Support.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sys/mman.h>

namespace moe::run {

namespace {

constexpr double kBalances[] = {0.25, 0.5, 1, 2, 4};
/// How to read, and lines of a visit, of all streams together.
struct Way {
  ReadWay read;
  int lines;
};
constexpr Way kWays[] = {{{1, 0}, 8},     {{4, 0}, 8},       {{4, 0}, 16},      {{4, 0}, 32},   {{8, 0}, 16},
                         {{1, 16384}, 2}, {{1, 16384}, 4},   {{1, 16384}, 8},   {{4, 4096}, 8}, {{4, 16384}, 16},
                         {{8, 512}, 16},  {{1, 0, true}, 4}, {{1, 0, true}, 16}};
constexpr size_t kBytes = 8 << 20;
constexpr int kRepeats = 9;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

/// Memory that is read from one end to the other, so that what is read has not been for several times the cache.
class Memory {
public:
  Memory() : size(static_cast<size_t>(std::max(256e6, 6 * readCacheBytes())) / kBytes * kBytes) {
    void *mapped = ::mmap(nullptr, size + kFetchedBehind, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
      rt::fail(MOE_OUT_OF_MEMORY, "no memory to measure the machine with: ", size, " bytes");
    data = static_cast<char *>(mapped);
    ::madvise(mapped, size + kFetchedBehind, MADV_HUGEPAGE);
    std::memset(data, 1, size + kFetchedBehind);
  }
  ~Memory() { ::munmap(data, size + kFetchedBehind); }
  const char *next() {
    at = at + kBytes < size ? at + kBytes : 0;
    return data + at;
  }

private:
  size_t size, at = 0;
  char *data;
};

} // namespace

std::vector<Overlap> measureOverlap() {
  Memory memory;
  const MachineKernels kernels = chooseKernels();
  auto readAs = [&](const ReadWay &way) {
    Clock::time_point start = Clock::now();
    sink = kernels.read(memory.next(), kBytes, way);
    return since(start) / kBytes;
  };
  // Without arithmetic, memory is read in the best of these ways.
  ReadWay readsBest = kWays[0].read;
  double least = std::numeric_limits<double>::infinity();
  for (const Way &way : kWays) {
    std::vector<double> times;
    for (int repeat = 0; repeat < kRepeats; ++repeat)
      times.push_back(readAs(way.read));
    if (double time = median(times); time < least) {
      least = time;
      readsBest = way.read;
    }
  }
  auto read = [&] { return readAs(readsBest); };
  auto multiply = [&] {
    constexpr int64_t steps = 40000;
    Clock::time_point start = Clock::now();
    sink = kernels.multiply(steps);
    return since(start) / steps;
  };
  std::vector<Overlap> all;
  for (double balance : kBalances) {
    Overlap best{balance, 0};
    for (const Way &way : kWays) {
      std::vector<double> shares;
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        double byte = read(), step = multiply();
        auto steps = std::max<int64_t>(1, std::llround(balance * way.lines * 64 * byte / step));
        const char *data = memory.next();
        Clock::time_point start = Clock::now();
        sink = kernels.both(data, kBytes, way.read, way.lines / way.read.streams, steps);
        double seconds = since(start);
        byte = (byte + read()) / 2;
        step = (step + multiply()) / 2;
        double visits = kBytes / (64.0 * way.lines);
        shares.push_back(std::max(kBytes * byte, visits * static_cast<double>(steps) * step) / seconds);
      }
      best.share = std::max(best.share, median(shares));
    }
    // Limits are those of other moments.
    best.share = std::min(best.share, 1.0);
    all.push_back(best);
  }
  return all;
}

} // namespace moe::run
