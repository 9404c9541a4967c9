//===- Report.h - what moe-compile tells its user ----------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_COMPILE_REPORT_H
#define MOE_TOOLS_MOE_COMPILE_REPORT_H

#include "moe/Pipelines/Phases.h"
#include "moe/Quantize/QuantizeWeights.h"
#include "moe/Target/CpuTarget.h"
#include "moe/Target/ObjectCode.h"
#include "llvm/Support/JSON.h"
#include <chrono>
#include <string>
#include <vector>

namespace mlir::moe {

/// One line of the progress display, while the standard error output is a terminal; silent otherwise.
class Progress {
public:
  explicit Progress(bool wanted);
  ~Progress() { clear(); }
  /// Replaces the line.
  void show(const std::string &text);
  /// Replaces the line, but at most ten times a second.
  void showBytes(const std::string &text, uint64_t done, uint64_t total);
  void clear();

private:
  bool enabled;
  bool dirty = false;
  std::chrono::steady_clock::time_point last;
};

struct PhaseTime {
  std::string name;
  double seconds;
};

/// What a finished compilation is summed up by.
struct Summary {
  std::string input, output, weightsPath;
  uint64_t moduleBytes = 0, weightsBytes = 0, parameters = 0;
  /// What the module has code for, one line each.
  llvm::ArrayRef<CpuTarget> targets;
  unsigned optLevel = 3;
  /// As in the module's signature.
  llvm::json::Array functions;
  /// The MoE layers: {"experts", "per_token", "pattern", "lowering", ...}; see DescribeLayers.h.
  llvm::json::Array layers;
  /// What was quantised, by layer and expert.
  std::vector<QuantizedPart> quantized;
  /// What looked like an MoE layer and was compiled as it is written: {"node", "operator", "reason"}.
  llvm::json::Array notRaised;
  std::vector<PhaseTime> times;
  /// LLVM's part of the last phase, all versions of the code added up.
  CodegenTimes llvmTimes;
};

/// json::Array cannot be copied otherwise.
llvm::json::Value copyJson(const llvm::json::Array &array);

/// The entry "target" of a module's signature.
llvm::json::Object describeTargets(llvm::ArrayRef<CpuTarget> targets);
llvm::json::Object toJson(const Summary &summary);
/// The layers one by one, as text or as JSON of version 1.
void printReport(const Summary &summary, bool asJson, llvm::raw_ostream &os);
void printSummary(const Summary &summary, llvm::raw_ostream &os);

/// "1.25 MB".
std::string formatBytes(uint64_t bytes);

} // namespace mlir::moe

#endif // MOE_TOOLS_MOE_COMPILE_REPORT_H
