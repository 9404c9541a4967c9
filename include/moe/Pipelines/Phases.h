//===- Phases.h - the compiler's phases --------------------------*- C++ -*-===//
//
// A compilation is a fixed sequence of phases. Each has a name for the command line, a pipeline, and a border at which
// a legality check lists everything that should be gone by then.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_PIPELINES_PHASES_H
#define MOE_PIPELINES_PHASES_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include <optional>
#include <string>

namespace mlir {
class OpPassManager;
}

namespace mlir::moe {

enum class Phase { Import, Raise, Optimise, Choose, Plan, Tile, Bufferise, Codegen, Link };

struct PhaseInfo {
  Phase phase;
  llvm::StringLiteral name;
  /// Ends "--help"'s line for the phase: what is true of the program after it.
  llvm::StringLiteral description;
};

/// All phases, in the order in which they run.
llvm::ArrayRef<PhaseInfo> getPhases();
const PhaseInfo &getPhaseInfo(Phase phase);
std::optional<Phase> parsePhase(llvm::StringRef name);

/// What the pipelines need to know about the compilation.
struct PhaseOptions {
  /// Kernels for an NVIDIA GPU with this many bytes of shared memory per block; 0: for the processor.
  int64_t gpuSharedLimit = 0;
  /// What f32 experts are multiplied in on a GPU: empty (f32), "f16", "bf16" or "tf32".
  std::string gpuPrecision;
  /// Run these kernels on the processor, thread by thread.
  bool emulateGpu = false;
  /// 0 to 3: how hard LLVM works; 0 also leaves out fusion and kernels.
  unsigned optLevel = 3;
  /// A lowering for every moe.apply ("reference", "fused", "pairwise", "dense"), or empty: the compiler chooses.
  std::string forceLowering;
  /// The encoding of all routings that have a choice ("slots", "dense"), or empty: the compiler chooses.
  std::string forceEncoding;
  /// f32 elements of a vector register of the target.
  int64_t vectorLanes = 8;
  /// Integer products with quantised weights: "exact" (never), "fast" (wherever there are kernels), or empty: where the
  /// file asks for them.
  std::string numerics;
  /// Whether the second matmul of a layer adds its pairs to the rows of their tokens: less memory, as fast on few
  /// threads.
  bool fuseCombine = false;
  /// Whether a token's result has the same bits whatever other tokens are in the call.
  bool batchInvariant = false;
  /// Whether ordinary code takes the place of what the kernels use of AVX-512, VNNI and AMX.
  bool emulateInstructions = false;
  /// What entry symbols end with: nothing for the first version of a module's code, else the version's suffix. Only
  /// `codegen`, which runs once for each version, knows of `vectorLanes` and of this.
  std::string entrySuffix;
  /// Whether the weights of grouped matmuls are stored in the order of the kernels (with kernels only).
  bool packWeights = true;
  /// Whether loops that are worth it are split over the host's threads.
  bool threads = true;
  /// Whether decomposed MoE layers of an ONNX file are raised; otherwise they are compiled as they are written.
  bool raiseDecomposed = true;
  /// Whether a file that holds only the experts that were hit while tracing is compiled all the same.
  bool allowTracedExperts = false;
};

/// Adds the passes of `phase`, and the check at its end, to the pipeline of a module. Import and Link add nothing but
/// the check: a file reader and the code generator do their work.
void buildPhasePipeline(Phase phase, OpPassManager &pm, const PhaseOptions &options);

/// Makes `moe-pipeline{to=PHASE}` known to moe-opt: phases raise to `to`, in one go.
void registerMoePipelines();

} // namespace mlir::moe

#endif // MOE_PIPELINES_PHASES_H
