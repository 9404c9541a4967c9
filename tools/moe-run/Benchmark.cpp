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

static double medianOf(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

Timings benchmark(rt::Call &call, int64_t calls, MachineProbe *probe) {
  constexpr int warmUp = 3, least = 10;
  constexpr int64_t most = 100'000; // of a function that does next to nothing
  constexpr double turnSeconds = 0.1;
  for (int i = 0; i < warmUp; ++i)
    call.run();
  Timings timings;
  auto more = [&] {
    auto i = static_cast<int64_t>(timings.inOrder.size());
    return calls > 0 ? i < calls : i < least || (i < most && timings.total < 1);
  };
  Machine before = probe ? probe->measure() : Machine();
  while (more()) {
    if (probe)
      call.run();
    size_t first = timings.inOrder.size();
    for (double turn = 0; more() && (!probe || turn < turnSeconds); turn += timings.inOrder.back()) {
      Clock::time_point start = Clock::now();
      call.run();
      timings.inOrder.push_back(since(start));
      timings.total += timings.inOrder.back();
    }
    if (!probe)
      continue;
    Machine after = probe->measure(), between = after;
    between.bytesPerSecond = (before.bytesPerSecond + after.bytesPerSecond) / 2;
    between.flopPerSecond = (before.flopPerSecond + after.flopPerSecond) / 2;
    timings.turns.push_back({between, medianOf({timings.inOrder.begin() + first, timings.inOrder.end()})});
    before = after;
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
