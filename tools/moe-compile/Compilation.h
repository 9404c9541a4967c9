//===- Compilation.h - one run of the compiler -------------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_COMPILE_COMPILATION_H
#define MOE_TOOLS_MOE_COMPILE_COMPILATION_H

#include "Report.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Support/Timing.h"
#include "moe/Support/WeightStore.h"
#include "moe/Target/ObjectCode.h"
#include "llvm/Support/SourceMgr.h"
#include <optional>

namespace mlir::moe {

/// What is written in the end.
enum class Emit { Mlir, LlvmIr, Assembly, Object, Module };

struct CompilationOptions {
  std::string input, output;
  /// Where the weights go; empty: beside the module, with its name.
  std::string weights;
  Phase compileTo = Phase::Link;
  Emit emit = Emit::Module;
  std::string dumpPhasesTo;
  std::string cpu;
  PhaseOptions phases;
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
  LogicalResult runPhase(Phase phase);
  LogicalResult dump(Phase phase);
  LogicalResult link();
  LogicalResult writeMlir();
  std::string buildSignature(llvm::json::Value weights);
  void describeLayers();
  LogicalResult error(const llvm::Twine &message);
  LogicalResult error(llvm::Error error) { return this->error(toString(std::move(error))); }

  MLIRContext &context;
  llvm::SourceMgr &sources;
  CompilationOptions options;
  TimingScope &timing;
  Progress progress;
  CpuTarget target;
  WeightStore weights;
  OwningOpRef<ModuleOp> module;
  Summary summary;
};

} // namespace mlir::moe

#endif // MOE_TOOLS_MOE_COMPILE_COMPILATION_H
