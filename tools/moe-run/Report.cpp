//===- Report.cpp - what moe-run prints -----------------------------------===//
#include "Report.h"
#include "Terminal.h"
#include <cmath>

namespace moe::run {

using namespace rt;

static std::string joined(const std::vector<std::string> &words, const char *separator) {
  std::string out;
  for (const std::string &word : words)
    out += (out.empty() ? "" : separator) + word;
  return out;
}

void printSignature(const std::string &path, const Signature &signature) {
  std::printf("module    %s\ncompiler  %s %s\ntarget    %s, %s\n", path.c_str(), signature.compilerVersion.c_str(),
              joined(signature.options, " ").c_str(), signature.triple.c_str(), signature.cpu.c_str());
  if (!signature.features.empty())
    std::printf("needs     %s\n", joined(signature.features, " ").c_str());
  for (const VersionSignature &version : signature.versions)
    std::printf("also for  %s, which needs %s\n", version.cpu.c_str(), joined(version.features, " ").c_str());
  if (signature.weights)
    std::printf("weights   %s, content id %s\n", signature.weights->file.c_str(), signature.weights->contentId.c_str());
  for (const FunctionSignature &function : signature.functions) {
    std::printf("function  %s\n", colored(stdout, Color::Bold, function.name).c_str());
    size_t weights = 0;
    uint64_t bytes = 0;
    auto line = [](const char *what, const ValueSignature &value) {
      std::printf("  %-7s %-20s %s\n", what, value.name.c_str(), value.print().c_str());
    };
    for (const ValueSignature &argument : function.arguments) {
      if (!argument.isWeight) {
        line("input", argument);
        continue;
      }
      ++weights;
      bytes += checkedBytes(argument.dtype, argument.shape, argument.name);
    }
    for (const ValueSignature &result : function.results)
      line("output", result);
    if (weights)
      std::printf("  weights %zu tensors, %s\n", weights, printBytes(static_cast<double>(bytes)).c_str());
  }
}

namespace {
struct Statistics {
  double least = INFINITY, most = -INFINITY, sum = 0;
  int64_t finite = 0, nan = 0, infinite = 0;
};
} // namespace

static Statistics statisticsOf(const Tensor &tensor) {
  Statistics out;
  Kind kind = info(tensor.dtype).kind;
  int parts = kind == Kind::Complex ? 2 : 1;
  for (int64_t i = 0, n = tensor.elements() * parts; i < n; ++i) {
    double value = kind == Kind::Float || kind == Kind::Complex ? loadFloat(tensor.dtype, tensor.data, i)
                   : kind == Kind::Unsigned
                       ? static_cast<double>(static_cast<uint64_t>(loadInteger(tensor.dtype, tensor.data, i)))
                       : static_cast<double>(loadInteger(tensor.dtype, tensor.data, i));
    if (!std::isfinite(value)) {
      ++(std::isnan(value) ? out.nan : out.infinite);
      continue;
    }
    ++out.finite;
    out.sum += value;
    out.least = std::min(out.least, value);
    out.most = std::max(out.most, value);
  }
  return out;
}

void printOutput(const std::string &name, const Tensor &tensor) {
  Statistics s = statisticsOf(tensor);
  std::string line = name + ": " + printType(tensor.dtype, tensor.shape);
  if (s.finite) {
    char text[96];
    std::snprintf(text, sizeof(text), ", %.6g to %.6g, mean %.6g", s.least, s.most,
                  s.sum / static_cast<double>(s.finite));
    line += text;
  }
  if (s.nan)
    line += str(", ", s.nan, " NaN");
  if (s.infinite)
    line += str(", ", s.infinite, " Inf");
  int64_t elements = tensor.elements(), shown = std::min<int64_t>(elements, 8);
  line += " = [";
  for (int64_t i = 0; i < shown; ++i)
    line += (i ? ", " : "") + printElement(tensor.dtype, tensor.data, i);
  std::printf("%s%s]\n", line.c_str(), shown < elements ? ", ..." : "");
}

/// "33.9 GB/s", "372 GFLOP/s", "2.5 MFLOP".
static std::string scaled(double value, const char *unit) {
  static const char *const prefixes[] = {"", "k", "M", "G", "T"};
  size_t prefix = 0;
  for (; prefix < 4 && value >= 999.5; ++prefix)
    value /= 1000;
  char text[48];
  std::snprintf(text, sizeof(text), "%.3g %s%s", value, prefixes[prefix], unit);
  return text;
}

void printMachine(const Machine &machine) {
  std::string integers = machine.integerOpsPerSecond
                             ? ", " + scaled(machine.integerOpsPerSecond, "OP/s") + " in products of bytes"
                             : std::string();
  std::printf("machine  reads %s, computes %s in f32%s on %d thread%s\n", scaled(machine.bytesPerSecond, "B/s").c_str(),
              scaled(machine.flopPerSecond, "FLOP/s").c_str(), integers.c_str(), machine.threads,
              machine.threads == 1 ? "" : "s");
}

void printOverlap(const std::vector<Overlap> &overlap) {
  for (const Overlap &one : overlap)
    std::printf("overlap  arithmetic takes %4.2f of memory's time: at most %.2f of the limits\n", one.balance,
                one.share);
}

void printBenchmark(const BenchmarkReport &report) {
  const Timings &t = report.timings;
  int32_t threads = report.machine.threads;
  char rate[32];
  std::snprintf(rate, sizeof(rate), t.mean() > 0.01 ? "%.1f calls/s" : "%.0f calls/s", 1 / t.mean());
  std::printf("%zu calls on %d thread%s, code for %s: %s\n", t.sorted.size(), threads, threads == 1 ? "" : "s",
              report.cpu.c_str(), colored(stdout, Color::Bold, rate).c_str());
  std::printf("  %-8s %-8s %-8s %-8s %-8s %-8s %-8s\n", "best", "p10", "median", "p90", "p99", "worst", "mean");
  std::printf(" ");
  for (double seconds : {t.sorted.front(), t.percentile(0.1), t.percentile(0.5), t.percentile(0.9), t.percentile(0.99),
                         t.sorted.back(), t.mean()})
    std::printf(" %-8s", printSeconds(seconds).c_str());
  std::printf("\n");
  double median = t.percentile(0.5);
  if (report.work) {
    const Work &work = *report.work;
    const char *least = work.complete ? "" : "at least ";
    std::printf("  work     %s%s, %s%s of weights, inputs and outputs (rows choose uniformly): %s, %s\n", least,
                scaled(work.flop, "FLOP").c_str(), least, printBytes(work.bytes).c_str(),
                scaled(work.flop / median, "FLOP/s").c_str(), scaled(work.bytes / median, "B/s").c_str());
    std::printf("  ");
    printMachine(report.machine);
    double share = shareOfTurns(work, t.turns), ofBest = leastSeconds(work, report.machine) / median;
    bool memory = work.bytes / report.machine.bytesPerSecond >= work.flop / report.machine.flopPerSecond;
    std::printf(
        "  roofline %s%.0f %% of what the machine's %s allowed at the time, %s%.0f %% of the most in this run\n", least,
        100 * share, memory ? "memory" : "arithmetic", least, 100 * ofBest);
    if (memory && work.bytes < 4 * report.machine.cacheBytes)
      std::printf("           (the cache of %s holds part of it from call to call)\n",
                  printBytes(report.machine.cacheBytes).c_str());
  }
  std::printf("  %s of buffers at the peak\n", printBytes(static_cast<double>(report.peakBytes)).c_str());
}

Json outputJson(const std::string &name, const Tensor &tensor) {
  return {{"name", name}, {"dtype", info(tensor.dtype).name}, {"shape", tensor.shape}};
}

/// JSON has no infinity.
static Json finiteOrNull(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json comparisonJson(const Comparison &c) {
  Json out = {{"name", c.name}, {"ok", c.good()}};
  if (!c.problem.empty()) {
    out["problem"] = c.problem;
    return out;
  }
  out["elements"] = c.elements;
  out["wrong"] = c.wrong;
  out["atol"] = c.tolerance.absolute;
  out["rtol"] = c.tolerance.relative;
  out["largest_absolute_error"] = finiteOrNull(c.largestAbsolute);
  out["largest_relative_error"] = finiteOrNull(c.largestRelative);
  if (c.wrong)
    out["first_wrong"] = {{"index", c.firstAt}, {"got", c.got}, {"want", c.want}};
  return out;
}

Json machineJson(const Machine &machine) {
  return {{"threads", machine.threads},
          {"bytes_per_second", machine.bytesPerSecond},
          {"flop_per_second", machine.flopPerSecond},
          {"integer_op_per_second", machine.integerOpsPerSecond},
          {"cache_bytes", machine.cacheBytes}};
}

Json benchmarkJson(const BenchmarkReport &report) {
  const Timings &t = report.timings;
  double median = t.percentile(0.5);
  Json out = {{"calls", t.sorted.size()},  {"threads", report.machine.threads},
              {"cpu", report.cpu},         {"calls_per_second", 1 / t.mean()},
              {"best", t.sorted.front()},  {"p10", t.percentile(0.1)},
              {"median", median},          {"p90", t.percentile(0.9)},
              {"p99", t.percentile(0.99)}, {"worst", t.sorted.back()},
              {"mean", t.mean()},          {"peak_buffer_bytes", report.peakBytes},
              {"seconds", t.inOrder}};
  if (report.work) {
    out["work"] = {{"flop", report.work->flop}, {"bytes", report.work->bytes}, {"complete", report.work->complete}};
    out["flop_per_second"] = report.work->flop / median;
    out["bytes_per_second"] = report.work->bytes / median;
    out["machine"] = machineJson(report.machine);
    out["roofline_share"] = shareOfTurns(*report.work, t.turns);
    out["roofline_share_of_best"] = leastSeconds(*report.work, report.machine) / median;
  }
  return out;
}

} // namespace moe::run
