//===- MachineKernels.cpp - loops that measure a machine ------------------===//
#include "MachineKernels.h"
#include <cstring>
#include <fstream>
#include <string>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moe::run {

std::atomic<float> sink;

namespace {

/// Fetches what belongs to the line at `p`.
inline void fetch(const char *data, const char *p, ReadWay way) {
  constexpr size_t kPlaces = 16;
  if (way.nextBlock) {
    size_t at = static_cast<size_t>(p - data), line = at % kFetchBlock / 64;
    size_t fetched = line % kPlaces * (kFetchBlock / 64 / kPlaces) + line / kPlaces;
    __builtin_prefetch(p - at % kFetchBlock + kFetchBlock + 64 * fetched, 0, 3);
  } else if (way.ahead) {
    __builtin_prefetch(p + way.ahead, 0, 2);
  }
}

#define MOE_READ(vector)                                                                                               \
  vector sum[4] = {};                                                                                                  \
  size_t part = bytes / way.streams / 256 * 256;                                                                       \
  for (size_t i = 0; i < part; i += 256)                                                                               \
    for (int s = 0; s < way.streams; ++s) {                                                                            \
      const char *p = data + s * part + i;                                                                             \
      for (int line = 0; line < 4; ++line) {                                                                           \
        fetch(data, p + 64 * line, way);                                                                               \
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

/// Reads some lines of each stream, then multiplies for some steps, and so on.
#define MOE_BOTH(vector, chains)                                                                                       \
  vector acc[chains] = {}, x = {}, y = {}, sum[2] = {};                                                                \
  for (size_t i = 0; i < sizeof(vector) / sizeof(float); ++i) {                                                        \
    x[i] = 1.0f + 1e-7f * static_cast<float>(i);                                                                       \
    y[i] = 1e-9f;                                                                                                      \
  }                                                                                                                    \
  size_t part = bytes / way.streams, visit = 64 * static_cast<size_t>(lines);                                          \
  for (size_t i = 0; i + visit <= part; i += visit) {                                                                  \
    for (int s = 0; s < way.streams; ++s) {                                                                            \
      const char *p = data + s * part + i;                                                                             \
      for (size_t line = 0; line < visit; line += 64) {                                                                \
        fetch(data, p + line, way);                                                                                    \
        for (size_t at = 0; at < 64; at += sizeof(vector))                                                             \
          sum[at & sizeof(vector) ? 1 : 0] += *reinterpret_cast<const vector *>(p + line + at);                        \
      }                                                                                                                \
    }                                                                                                                  \
    for (int64_t step = 0; step < steps; ++step) {                                                                     \
      for (vector &a : acc)                                                                                            \
        a = a * x + y;                                                                                                 \
      asm volatile("" : "+m"(steps));                                                                                  \
    }                                                                                                                  \
  }                                                                                                                    \
  for (int i = 1; i < chains; ++i)                                                                                     \
    acc[0] += acc[i];                                                                                                  \
  return acc[0][0] + sum[0][0] + sum[1][0];

#define MOE_BOTH_ARGUMENTS const char *data, size_t bytes, ReadWay way, int lines, int64_t steps

typedef float Vec4 __attribute__((vector_size(16)));
constexpr int kChains4 = 12;
float readNarrow(const char *data, size_t bytes, ReadWay way) { MOE_READ(Vec4) }
float multiplyNarrow(int64_t steps) { MOE_MULTIPLY(Vec4, kChains4) }
float bothNarrow(MOE_BOTH_ARGUMENTS) { MOE_BOTH(Vec4, kChains4) }

#if defined(__x86_64__)
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));
constexpr int kChains8 = 12, kChains16 = 12; // more are spilled in the loop that also reads
#define MOE_AVX2 __attribute__((target("avx2,fma")))
#define MOE_AVX512 __attribute__((target("avx512f")))
// clang-format off
MOE_AVX2 float readAvx2(const char *data, size_t bytes, ReadWay way) { MOE_READ(Vec8) }
MOE_AVX2 float multiplyAvx2(int64_t steps) { MOE_MULTIPLY(Vec8, kChains8) }
MOE_AVX2 float bothAvx2(MOE_BOTH_ARGUMENTS) { MOE_BOTH(Vec8, kChains8) }
MOE_AVX512 float readAvx512(const char *data, size_t bytes, ReadWay way) { MOE_READ(Vec16) }
MOE_AVX512 float multiplyAvx512(int64_t steps) { MOE_MULTIPLY(Vec16, kChains16) }
MOE_AVX512 float bothAvx512(MOE_BOTH_ARGUMENTS) { MOE_BOTH(Vec16, kChains16) }
// clang-format on
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

} // namespace

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

MachineKernels chooseKernels() {
  MachineKernels kernels{readNarrow, multiplyNarrow, bothNarrow, 2.0 * 4 * kChains4};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f"))
    kernels = {readAvx512, multiplyAvx512, bothAvx512, 2.0 * 16 * kChains16};
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    kernels = {readAvx2, multiplyAvx2, bothAvx2, 2.0 * 8 * kChains8};
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

} // namespace moe::run
