//===- Report.h - what moe-run prints ---------------------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_REPORT_H
#define MOE_TOOLS_MOE_RUN_REPORT_H

#include "Benchmark.h"
#include "Compare.h"
#include "Roofline.h"
#include <nlohmann/json.hpp>

namespace moe::run {

/// Keeps keys in the order in which they were written.
using Json = nlohmann::ordered_json;

void printSignature(const std::string &path, const rt::Signature &signature);
void printOutput(const std::string &name, const rt::Tensor &tensor);
/// A finished benchmark; without `work` only times are known.
struct BenchmarkReport {
  const Timings &timings;
  std::string cpu;
  uint64_t peakBytes;
  Machine machine;
  std::optional<Work> work;
};
void printMachine(const Machine &machine);
void printOverlap(const std::vector<Overlap> &overlap);
void printBenchmark(const BenchmarkReport &report);

Json outputJson(const std::string &name, const rt::Tensor &tensor);
Json comparisonJson(const Comparison &comparison);
Json machineJson(const Machine &machine);
Json benchmarkJson(const BenchmarkReport &report);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_REPORT_H
