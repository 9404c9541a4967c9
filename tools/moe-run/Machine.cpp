//===- Machine.cpp - what this machine can do at most ---------------------===//
//
// The limits of a roofline. They bound what others measure, so the best of several ways to do each is taken: reads
// in one or several streams, with software prefetches at several distances, and as wide as the processor's vectors.
//
//===----------------------------------------------------------------------===//
#include "Machine.h"
#include "Support.h"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sys/mman.h>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moe::run {

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::atomic<float> sink; // keeps results alive

/// Reads `bytes` in streams side by side, prefetching `ahead` bytes.
#define MOE_READ(vector)                                                                                               \
  vector sum[4] = {};                                                                                                  \
  size_t part = bytes / streams / 256 * 256;                                                                           \
  for (size_t i = 0; i < part; i += 256)                                                                               \
    for (int s = 0; s < streams; ++s) {                                                                                \
      const char *p = data + s * part + i;                                                                             \
      for (int line = 0; line < 4; ++line) {                                                                           \
        if (ahead)                                                                                                     \
          __builtin_prefetch(p + ahead + 64 * line, 0, 2);                                                             \
        for (size_t at = 0; at < 64; at += sizeof(vector))                                                             \
          sum[line] += *reinterpret_cast<const vector *>(p + 64 * line + at);                                          \
      }                                                                                                                \
    }                                                                                                                  \
  return sum[0][0] + sum[1][0] + sum[2][0] + sum[3][0];

/// Multiplies and adds in independent chains, enough of them to hide the latency, few enough for the registers.
#define MOE_MULTIPLY(vector, chains)                                                                                   \
  vector acc[chains] = {}, x = {}, y = {};                                                                             \
  for (size_t i = 0; i < sizeof(vector) / sizeof(float); ++i) {                                                        \
    x[i] = 1.0f + 1e-7f * static_cast<float>(i);                                                                       \
    y[i] = 1e-9f;                                                                                                      \
  }                                                                                                                    \
  for (int64_t s = 0; s < steps; ++s) {                                                                                \
    for (vector &a : acc)                                                                                              \
      a = a * x + y;                                                                                                   \
    asm volatile("" : "+m"(steps)); /* not a geometric series */                                                       \
  }                                                                                                                    \
  for (int i = 1; i < chains; ++i)                                                                                     \
    acc[0] += acc[i];                                                                                                  \
  return acc[0][0];

typedef float Vec4 __attribute__((vector_size(16)));
constexpr int kChains4 = 12;
float readNarrow(const char *data, size_t bytes, int streams, size_t ahead) { MOE_READ(Vec4) }
float multiplyNarrow(int64_t steps) { MOE_MULTIPLY(Vec4, kChains4) }

#if defined(__x86_64__)
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));
constexpr int kChains8 = 12, kChains16 = 24;
#define MOE_AVX2 __attribute__((target("avx2,fma")))
#define MOE_AVX512 __attribute__((target("avx512f")))
MOE_AVX2 float readAvx2(const char *data, size_t bytes, int streams, size_t ahead){MOE_READ(Vec8)} MOE_AVX2
    float multiplyAvx2(int64_t steps){MOE_MULTIPLY(Vec8, kChains8)} MOE_AVX512
    float readAvx512(const char *data, size_t bytes, int streams, size_t ahead){MOE_READ(Vec16)} MOE_AVX512
    float multiplyAvx512(int64_t steps){MOE_MULTIPLY(Vec16, kChains16)}
#endif

/// Products of bytes, summed up in 32 bits, in independent chains as well. Each instruction set has its own
/// instructions for that, so they are named.
#define MOE_DOT(vector, chains, dot)                                                                                   \
  vector acc[chains] = {}, x = {}, y = {};                                                                             \
  std::memset(&x, 3, sizeof(x));                                                                                       \
  std::memset(&y, 5, sizeof(y));                                                                                       \
  for (int64_t s = 0; s < steps; ++s) {                                                                                \
    for (vector &a : acc) {                                                                                            \
      a = dot;                                                                                                         \
      asm volatile("" : "+v"(x)); /* another one for each */                                                           \
    }                                                                                                                  \
  }                                                                                                                    \
  for (int i = 1; i < chains; ++i)                                                                                     \
    acc[0] = acc[0] ^ acc[i];                                                                                          \
  return static_cast<float>(acc[0][0]);

#if defined(__x86_64__)
MOE_AVX2 float dotAvx2(int64_t steps) {
  const __m256i ones = _mm256_set1_epi16(1);
  MOE_DOT(__m256i, 10, _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones)))
}
__attribute__((target("avx2,avxvnni"))) float dotAvxVnni(int64_t steps) {
  MOE_DOT(__m256i, 12, _mm256_dpbusd_avx_epi32(a, x, y))
}
__attribute__((target("avx512f,avx512bw"))) float dotAvx512(int64_t steps) {
  const __m512i ones = _mm512_set1_epi16(1);
  MOE_DOT(__m512i, 20, _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(x, y), ones)))
}
__attribute__((target("avx512f,avx512vnni"))) float dotAvx512Vnni(int64_t steps) {
  MOE_DOT(__m512i, 24, _mm512_dpbusd_epi32(a, x, y))
}
#endif

struct Kernels {
  float (*read)(const char *, size_t, int, size_t) = readNarrow;
  float (*multiply)(int64_t) = multiplyNarrow;
  double flopPerStep = 2.0 * 4 * kChains4;
  float (*dot)(int64_t) = nullptr;
  double integersPerStep = 0;
};

/// What a core can fill of the last-level cache. (sysconf gives the sum over a package's parts.)
double readCacheBytes() {
  for (int level = 4; level >= 0; --level) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");
    double size = 0;
    char unit = ' ';
    if (file >> size >> unit)
      return size * (unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1);
  }
  return 0;
}

Kernels chooseKernels() {
  Kernels kernels;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f"))
    kernels = {readAvx512, multiplyAvx512, 2.0 * 16 * kChains16};
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    kernels = {readAvx2, multiplyAvx2, 2.0 * 8 * kChains8};
  auto dots = [&](float (*dot)(int64_t), int bytes, int chains) {
    kernels.dot = dot;
    kernels.integersPerStep = 2.0 * bytes * chains;
  };
  if (__builtin_cpu_supports("avx512vnni"))
    dots(dotAvx512Vnni, 64, 24);
  else if (__builtin_cpu_supports("avx512bw"))
    dots(dotAvx512, 64, 20);
  else if (__builtin_cpu_supports("avxvnni"))
    dots(dotAvxVnni, 32, 12);
  else if (__builtin_cpu_supports("avx2"))
    dots(dotAvx2, 32, 10);
#endif
  return kernels;
}

/// Threads that start each piece of work together. Nobody sleeps: waking up would be part of the measurement.
class Starter {
public:
  explicit Starter(int32_t threads) : threads(threads) {}
  void wait() {
    int32_t round = arrived.fetch_add(1) / threads;
    while (arrived.load() < (round + 1) * threads)
      std::this_thread::yield();
  }

private:
  int32_t threads;
  std::atomic<int32_t> arrived{0};
};

struct Variant {
  int streams;
  size_t ahead;
};
constexpr Variant kVariants[] = {{1, 0}, {1, 2048}, {1, 8192}, {4, 1024}, {4, 4096}, {8, 1024}, {8, 2048}};
constexpr int kRepeats = 3;
constexpr int64_t kSteps = 1 << 20;

} // namespace

Machine measureMachine(int32_t threads) {
  Machine machine;
  machine.threads = threads;
  machine.cacheBytes = readCacheBytes();
  const Kernels kernels = chooseKernels();
  // Several times the cache, so that next to nothing is left of the pass before.
  auto each = static_cast<size_t>(std::max(128e6, 4 * machine.cacheBytes / threads));
  each = (each + 4095) / 4096 * 4096;
  const size_t bytes = each * static_cast<size_t>(threads);
  void *memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    rt::fail(MOE_OUT_OF_MEMORY, "no memory to measure the machine with: ", bytes, " bytes");
  ::madvise(memory, bytes, MADV_HUGEPAGE);

  // The rate of a piece of work is that of all threads in the time of the slowest.
  constexpr size_t kMultiply = std::size(kVariants), kDot = kMultiply + 1, kKinds = kDot + 1;
  constexpr int pieces = kRepeats * static_cast<int>(kKinds);
  std::vector<double> slowest(pieces);
  std::vector<std::vector<double>> seconds(static_cast<size_t>(threads), std::vector<double>(pieces));
  Starter starter(threads);
  auto work = [&](int32_t thread) {
    char *data = static_cast<char *>(memory) + each * static_cast<size_t>(thread);
    std::memset(data, 1, each);
    int piece = 0;
    for (int repeat = 0; repeat < kRepeats; ++repeat)
      for (size_t v = 0; v < kKinds; ++v) {
        starter.wait();
        Clock::time_point start = Clock::now();
        // Prefetches may run past a stream's end, but not past the buffer's.
        sink = v < kMultiply    ? kernels.read(data, each - 65536, kVariants[v].streams, kVariants[v].ahead)
               : v == kMultiply ? kernels.multiply(kSteps)
               : kernels.dot    ? kernels.dot(kSteps)
                                : 0.0f;
        seconds[static_cast<size_t>(thread)][static_cast<size_t>(piece++)] = since(start);
      }
  };
  std::vector<std::thread> others;
  for (int32_t thread = 1; thread < threads; ++thread)
    others.emplace_back(work, thread);
  work(0);
  for (std::thread &other : others)
    other.join();
  ::munmap(memory, bytes);

  for (int piece = 0; piece < pieces; ++piece) {
    double least = 0;
    for (const auto &times : seconds)
      least = std::max(least, times[static_cast<size_t>(piece)]);
    size_t v = static_cast<size_t>(piece) % kKinds;
    if (v == kDot)
      machine.integerOpsPerSecond =
          std::max(machine.integerOpsPerSecond, threads * kernels.integersPerStep * kSteps / least);
    else if (v == kMultiply)
      machine.flopPerSecond = std::max(machine.flopPerSecond, threads * kernels.flopPerStep * kSteps / least);
    else
      machine.bytesPerSecond = std::max(machine.bytesPerSecond, threads * static_cast<double>(each - 65536) / least);
  }
  return machine;
}

} // namespace moe::run
