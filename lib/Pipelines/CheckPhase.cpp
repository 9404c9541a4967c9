//===- CheckPhase.cpp - the border control between phases -----------------===//
//
// A pass that leaves something behind would otherwise show much later, as a strange error of another pass. The check
// names all offenders at once.
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Pipelines/Passes.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOECHECKPHASEPASS
#include "moe/Pipelines/Passes.h.inc"

namespace {

/// What may not occur behind a phase, and the advice to go with it. An empty answer: all is well.
struct Rule {
  Phase since;
  bool (*offends)(Operation *);
  StringLiteral advice;
};

/// The planned level's ops; the dialect's other ops are the routed level.
bool isPlanned(Operation *op) {
  if (isa<YieldOp>(op)) // ends the epilogue of a planned op as well
    op = op->getParentOp();
  return llvm::is_contained({"moe.plan", "moe.grouped_matmul", "moe.combine", "moe.dequantize"},
                            op->getName().getStringRef());
}

bool isDialect(Operation *op, StringRef dialect) { return op->getName().getDialectNamespace() == dialect; }

template <typename T> bool touchesType(Operation *op) {
  auto is = [](Type type) { return isa<T>(type); };
  bool blocks = false;
  for (Region &region : op->getRegions())
    for (Block &block : region)
      blocks |= llvm::any_of(block.getArgumentTypes(), is);
  return blocks || llvm::any_of(op->getOperandTypes(), is) || llvm::any_of(op->getResultTypes(), is);
}

bool isOnnx(Operation *op) { return isDialect(op, "onnx"); }
bool isRouted(Operation *op) { return (isDialect(op, "moe") && !isPlanned(op)) || touchesType<RoutingType>(op); }
/// grouped_matmul has a form on buffers, and stays until the kernels are made.
bool isMoe(Operation *op) {
  Operation *owner = isa<YieldOp>(op) ? op->getParentOp() : op;
  return isDialect(op, "moe") && owner->getName().getStringRef() != "moe.grouped_matmul";
}
bool isTensor(Operation *op) { return touchesType<TensorType>(op) || isDialect(op, "bufferization"); }
/// A GPU's kernels stand in a module of their own, with NVVM's ops.
bool isNotLLVM(Operation *op) {
  return !isDialect(op, "llvm") && !isDialect(op, "nvvm") && !isa<ModuleOp>(op) &&
         op->getName().getStringRef() != "gpu.module";
}

const Rule kRules[] = {
    {Phase::Raise, isOnnx, "the import has no translation of this node yet"},
    {Phase::Plan, isRouted, "no lowering of this op applies here; '--compile-to=choose' shows the program before it"},
    {Phase::Tile, isMoe,
     "the planned level has no lowering of this op; '--compile-to=plan' shows the program before it"},
    {Phase::Bufferise, isTensor,
     "one-shot bufferisation does not know this op; write it with linalg, tensor and scf ops"},
    {Phase::Codegen, isNotLLVM,
     "there is no translation of this op to LLVM; '--compile-to=bufferise' shows the program before it"},
};

struct CheckPhase : impl::MoeCheckPhasePassBase<CheckPhase> {
  using MoeCheckPhasePassBase::MoeCheckPhasePassBase;

  void runOnOperation() override {
    std::optional<Phase> current = parsePhase(phase);
    if (!current) {
      getOperation().emitError() << "moe-check-phase: no phase is called '" << phase << "'";
      return signalPassFailure();
    }
    struct Offence {
      Operation *first;
      unsigned count;
      StringRef advice;
    };
    llvm::MapVector<OperationName, Offence> offences;
    getOperation()->walk([&](Operation *op) {
      for (const Rule &rule : kRules)
        if (rule.since <= *current && rule.offends(op)) {
          auto [it, isNew] = offences.try_emplace(op->getName(), Offence{op, 0, rule.advice});
          ++it->second.count;
          break;
        }
    });
    for (auto &[name, offence] : offences) {
      InFlightDiagnostic diag = emitError(offence.first->getLoc())
                                << "'" << name << "' remains after phase '" << phase << "' (" << offence.count
                                << (offence.count == 1 ? " place" : " places, this is the first") << ")";
      diag.attachNote() << offence.advice;
    }
    if (!offences.empty())
      signalPassFailure();
    markAllAnalysesPreserved();
  }
};
} // namespace
} // namespace mlir::moe
