//===- Report.h - what moe-run prints ---------------------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_REPORT_H
#define MOE_TOOLS_MOE_RUN_REPORT_H

#include "Benchmark.h"
#include "Compare.h"
#include <nlohmann/json.hpp>

namespace moe::run {

/// Keeps keys in the order in which they were written.
using Json = nlohmann::ordered_json;

void printSignature(const std::string &path, const rt::Signature &signature);
void printOutput(const std::string &name, const rt::Tensor &tensor);
void printBenchmark(const Timings &timings, int32_t threads, uint64_t peakBytes);

Json outputJson(const std::string &name, const rt::Tensor &tensor);
Json comparisonJson(const Comparison &comparison);
Json benchmarkJson(const Timings &timings, int32_t threads, uint64_t peakBytes);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_REPORT_H
