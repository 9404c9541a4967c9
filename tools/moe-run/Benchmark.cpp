//===- Benchmark.cpp - how long calls take --------------------------------===//
#include "Benchmark.h"
#include "Terminal.h"
#include <algorithm>
#include <chrono>
#include <cmath>

namespace moe::run {

using Clock = std::chrono::steady_clock;

static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double Timings::percentile(double share) const {
  auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::min(std::max<size_t>(rank, 1), sorted.size()) - 1];
}

Timings benchmark(rt::Call &call, int64_t calls) {
  constexpr int warmUp = 3, least = 10;
  constexpr int64_t most = 100'000; // of a function that does next to nothing
  for (int i = 0; i < warmUp; ++i)
    call.run();
  Timings timings;
  Clock::time_point begin = Clock::now();
  for (int64_t i = 0; calls > 0 ? i < calls : i < least || (i < most && since(begin) < 1); ++i) {
    Clock::time_point start = Clock::now();
    call.run();
    timings.inOrder.push_back(since(start));
    timings.total += timings.inOrder.back();
  }
  timings.sorted = timings.inOrder;
  std::sort(timings.sorted.begin(), timings.sorted.end());
  return timings;
}

static std::string scaled(double value, const char *const *units, double step, int count) {
  int unit = 0;
  while (unit + 1 < count && value >= step * 0.9995) {
    value /= step;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), value < 10 ? "%.2f %s" : value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
  return text;
}

std::string printBytes(double bytes) {
  static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
  return bytes < 1000 ? std::to_string(static_cast<int>(bytes)) + " B" : scaled(bytes, units, 1000, 5);
}

std::string printSeconds(double seconds) {
  static const char *const units[] = {"us", "ms", "s"};
  return scaled(seconds * 1e6, units, 1000, 3);
}

} // namespace moe::run
