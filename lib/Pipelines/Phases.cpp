//===- Phases.cpp - names and order of the phases -------------------------===//
#include "moe/Pipelines/Phases.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir::moe;

static constexpr PhaseInfo kPhases[] = {
    {Phase::Import, "import", "the input file, as MLIR"},
    {Phase::Raise, "raise", "MoE layers are moe ops, everything else is linalg on tensors"},
    {Phase::Optimise, "optimise", "functions inlined, the routed level simplified"},
    {Phase::Choose, "choose", "each moe.apply knows its lowering"},
    {Phase::Plan, "plan", "no routing values: plans, grouped products and combines on tensors"},
    {Phase::Tile, "tile", "upstream dialects only: linalg, tensor, scf, arith"},
    {Phase::Bufferise, "bufferise", "buffers instead of tensors, every one of them freed"},
    {Phase::Codegen, "codegen", "vector kernels, threads, the LLVM dialect"},
    {Phase::Link, "link", "machine code in a module file"},
};

llvm::ArrayRef<PhaseInfo> mlir::moe::getPhases() { return kPhases; }

const PhaseInfo &mlir::moe::getPhaseInfo(Phase phase) { return kPhases[size_t(phase)]; }

std::optional<Phase> mlir::moe::parsePhase(llvm::StringRef name) {
  for (const PhaseInfo &info : kPhases)
    if (info.name == name)
      return info.phase;
  return std::nullopt;
}
