//===- Machine.cpp - what this machine can do at most ---------------------===//
//
// The limits of a roofline. They bound what others measure, so the best of several ways to do each is taken: reads
// in one or several streams, with software prefetches at several distances, and as wide as the processor's vectors.
//
//===----------------------------------------------------------------------===//
#include "Machine.h"
#include "Support.h"
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
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

struct Variant {
  int streams;
  size_t ahead;
};
constexpr Variant kVariants[] = {{1, 0},    {2, 0},    {4, 0},    {8, 0},    {1, 2048},
                                 {1, 8192}, {4, 1024}, {4, 4096}, {8, 1024}, {8, 2048}};
constexpr int kRepeats = 3;
constexpr int64_t kSteps = 1 << 20;
/// The numbers of the pieces of work that multiply floats and bytes; the others are those of the variants.
constexpr int kMultiply = std::size(kVariants), kDot = kMultiply + 1;

} // namespace

/// Threads that do pieces of work together, each starting when all of them have come so far. Between two calls they
/// sleep; in one nobody does: waking up would be part of the measurement.
class MachineProbe::Team {
public:
  explicit Team(int32_t threads) : threads(threads), kernels(chooseKernels()) {
    // Several times the cache, so that next to nothing is left of the pass before.
    each = static_cast<size_t>(std::max(128e6, 4 * readCacheBytes() / threads));
    each = (each + 4095) / 4096 * 4096;
    void *mapped = ::mmap(nullptr, each * static_cast<size_t>(threads), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
      rt::fail(MOE_OUT_OF_MEMORY, "no memory to measure the machine with: ", each * static_cast<size_t>(threads),
               " bytes");
    memory = static_cast<char *>(mapped);
    ::madvise(mapped, each * static_cast<size_t>(threads), MADV_HUGEPAGE);
    for (int32_t thread = 1; thread < threads; ++thread)
      others.emplace_back([this, thread] { serve(thread); });
    std::memset(memory, 1, each);
  }

  ~Team() {
    {
      std::lock_guard guard(lock);
      done = true;
    }
    called.notify_all();
    for (std::thread &other : others)
      other.join();
    ::munmap(memory, each * static_cast<size_t>(threads));
  }

  /// Rates of a piece. `together` is that of all threads in the time of the slowest: nothing did more at any time.
  /// `apart` is the sum of each one's: the work that is compared with it is claimed by whoever is free, so a thread
  /// that the system puts aside for a moment does not halve it.
  struct Rates {
    double together, apart;
  };
  std::vector<Rates> run(std::vector<int> work) {
    {
      std::lock_guard guard(lock);
      pieces = std::move(work);
      seconds.assign(static_cast<size_t>(threads), std::vector<double>(pieces.size()));
      arrived = 0;
      ++round;
    }
    called.notify_all();
    doPieces(0);
    waitForAll();
    std::vector<Rates> rates;
    for (size_t i = 0; i < pieces.size(); ++i) {
      double slowest = 0, sum = 0;
      for (const auto &times : seconds) {
        slowest = std::max(slowest, times[i]);
        sum += 1 / times[i];
      }
      rates.push_back({threads * workOf(pieces[i]) / slowest, workOf(pieces[i]) * sum});
    }
    return rates;
  }

private:
  double workOf(int piece) const {
    return piece == kMultiply ? kernels.flopPerStep * kSteps
           : piece == kDot    ? kernels.integersPerStep * kSteps
                              : static_cast<double>(each - kBehind);
  }

  void serve(int32_t thread) {
    std::memset(memory + each * static_cast<size_t>(thread), 1, each);
    for (int64_t seen = 0;;) {
      {
        std::unique_lock guard(lock);
        called.wait(guard, [&] { return done || round > seen; });
        if (done)
          return;
        seen = round;
      }
      doPieces(thread);
      arrived.fetch_add(1);
    }
  }

  void doPieces(int32_t thread) {
    const char *data = memory + each * static_cast<size_t>(thread);
    for (size_t i = 0; i < pieces.size(); ++i) {
      arrived.fetch_add(1);
      while (arrived.load() < static_cast<int64_t>(i + 1) * threads)
        std::this_thread::yield();
      Clock::time_point start = Clock::now();
      const int piece = pieces[i];
      sink = piece == kMultiply ? kernels.multiply(kSteps)
             : piece == kDot    ? (kernels.dot ? kernels.dot(kSteps) : 0.0f)
                                : kernels.read(data, each - kBehind, kVariants[piece].streams, kVariants[piece].ahead);
      seconds[static_cast<size_t>(thread)][i] = since(start);
    }
  }

  void waitForAll() const {
    while (arrived.load() < static_cast<int64_t>(pieces.size()) * threads + threads - 1)
      std::this_thread::yield();
  }

  /// Prefetches may run past a stream's end, but not past the buffer's.
  static constexpr size_t kBehind = 65536;

  const int32_t threads;
  const Kernels kernels;
  size_t each;
  char *memory;
  std::vector<int> pieces;
  std::vector<std::vector<double>> seconds;
  std::atomic<int64_t> arrived{0};
  std::mutex lock;
  std::condition_variable called;
  int64_t round = 0;
  bool done = false;
  std::vector<std::thread> others;
};

MachineProbe::MachineProbe(int32_t threads) : team(std::make_unique<Team>(threads)) {
  most.threads = threads;
  most.cacheBytes = readCacheBytes();
  std::vector<int> pieces;
  for (int repeat = 0; repeat < kRepeats; ++repeat)
    for (int piece = 0; piece < kMultiply; ++piece) {
      pieces.push_back(piece);
      // These are short, and so is a moment without another process.
      pieces.push_back(kMultiply);
      pieces.push_back(kDot);
    }
  std::vector<Team::Rates> rates = team->run(pieces);
  for (size_t i = 0; i < pieces.size(); ++i) {
    double &rate = pieces[i] == kMultiply ? most.flopPerSecond
                   : pieces[i] == kDot    ? most.integerOpsPerSecond
                                          : most.bytesPerSecond;
    if (rates[i].together <= rate)
      continue;
    rate = rates[i].together;
    if (pieces[i] < kMultiply)
      variant = pieces[i];
  }
}

MachineProbe::~MachineProbe() = default;

Machine MachineProbe::measure() {
  std::vector<Team::Rates> rates =
      team->run({variant, kMultiply, kDot, variant, kMultiply, kDot, variant, kMultiply, kDot});
  // The median of three; `best` takes part in the most of this run.
  auto middle = [&](size_t first, double &best) {
    std::array<double, 3> three;
    for (size_t i = 0; i < three.size(); ++i) {
      three[i] = rates[first + 3 * i].apart;
      best = std::max(best, rates[first + 3 * i].together);
    }
    std::sort(three.begin(), three.end());
    return std::min(three[1], best);
  };
  Machine now = most;
  now.bytesPerSecond = middle(0, most.bytesPerSecond);
  now.flopPerSecond = middle(1, most.flopPerSecond);
  now.integerOpsPerSecond = middle(2, most.integerOpsPerSecond);
  return now;
}

Machine measureMachine(int32_t threads) { return MachineProbe(threads).best(); }

} // namespace moe::run
