//===- Compilation.h - one run of the compiler -------------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_COMPILE_COMPILATION_H
#define MOE_TOOLS_MOE_COMPILE_COMPILATION_H

#include "Report.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Support/Timing.h"
#include "moe/Quantize/QuantizeWeights.h"
#include "moe/Support/WeightStore.h"
#include "moe/Target/CudaTarget.h"
#include "moe/Target/ObjectCode.h"
#include "llvm/Support/SourceMgr.h"
#include <optional>

namespace mlir::moe {

/// What is written in the end.
enum class Emit { Mlir, LlvmIr, Assembly, Ptx, Object, Module };

struct CompilationOptions {
  std::string input, output;
  /// Where the weights go; empty: beside the module, with its name.
  std::string weights;
  Phase compileTo = Phase::Link;
  Emit emit = Emit::Module;
  std::string dumpPhasesTo;
  /// One processor, or several with commas between: a version of the code for each.
  std::string cpus;
  /// Nobody named them: a program that multiplies integers gets a version more.
  bool cpusAreDefault = false;
  /// For tests: the processor whose kernels all versions get, with ordinary code in the place of its instructions.
  std::string emulatedCpu;
  /// For tests and measurements: LLVM's passes, in place of those that this compiler has chosen.
  std::string llvmPasses;
  PhaseOptions phases;
  /// Weights that the input has as floats are quantised.
  std::optional<QuantizeOptions> quantize;
  /// The GPU for which kernels are made, if any, and where ptxas is, if it is not to be looked for.
  std::optional<CudaChip> chip;
  std::string ptxas;
  /// Inputs of the program, in a safetensors file: errors of weights then count by what they do to these activations.
  std::string calibrate;
  bool progress = true;
  /// The options as the module's signature records them.
  std::vector<std::string> recorded;
};

/// Reads, compiles and writes. Errors are diagnostics and lines on the standard error output; on failure nothing is
/// written, and what stood under the output names before is as it was.
class Compilation {
public:
  Compilation(MLIRContext &context, llvm::SourceMgr &sources, const CompilationOptions &options, TimingScope &timing);
  LogicalResult run();
  const Summary &getSummary() const { return summary; }

private:
  LogicalResult import();
  LogicalResult runPhases(Phase from);
  LogicalResult quantize();
  LogicalResult calibrate(Calibration &calibration);
  /// A version of the code, for one processor. The phases in front of codegen are common to all.
  struct Version {
    CpuTarget *target;
    OwningOpRef<ModuleOp> module;
    SmallVector<char, 0> code;
  };

  /// A program that a phase's passes run on, and how.
  struct PhaseRun {
    ModuleOp program;
    PhaseOptions options;
  };

  /// Several runs are on as many threads as there are.
  LogicalResult runPhase(Phase phase, ArrayRef<PhaseRun> runs);
  LogicalResult createTargets(StringRef cpus);
  /// The weights file: as asked for, or beside the module. Empty if there is no file to put it beside.
  std::string weightsPath() const;
  /// An error if what is written would replace a file that is read, by whatever name.
  LogicalResult checkOutputs();
  LogicalResult generateVersions();
  LogicalResult dump(Phase phase, ModuleOp program, StringRef suffix = "");
  LogicalResult link();
  llvm::Error makeDeviceCode();
  llvm::Error makeMachineCode(llvm::json::Value weights);
  LogicalResult writeMlir();
  LogicalResult stackWeights();
  std::string buildSignature(llvm::json::Value weights);
  LogicalResult error(const llvm::Twine &message);
  LogicalResult error(llvm::Error error) { return this->error(toString(std::move(error))); }

  MLIRContext &context;
  llvm::SourceMgr &sources;
  CompilationOptions options;
  TimingScope &timing;
  Progress progress;
  SmallVector<CpuTarget> targets;
  std::optional<CpuTarget> emulated;
  WeightStore weights;
  /// The program, up to bufferise; `versions` from then on.
  OwningOpRef<ModuleOp> module;
  std::vector<Version> versions;
  Summary summary;
  /// The entry "device" of the signature.
  llvm::json::Value device = nullptr;
};

} // namespace mlir::moe

#endif // MOE_TOOLS_MOE_COMPILE_COMPILATION_H
