//===- PrepareEntryPoints.cpp - mark entry points, protect their arguments -===//
//
// One-shot bufferisation may write to function arguments unless told otherwise. A module's arguments are the caller's
// tensors and mapped weights, so every argument of an entry point is read-only.
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPREPAREENTRYPOINTSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// The ranks of `types`; emits an error for each that is not a ranked tensor.
FailureOr<SmallVector<int64_t>> getRanks(func::FuncOp func, TypeRange types, StringRef what) {
  SmallVector<int64_t> ranks;
  bool ok = true;
  for (auto [i, type] : llvm::enumerate(types)) {
    if (auto tensor = dyn_cast<RankedTensorType>(type)) {
      ranks.push_back(tensor.getRank());
      continue;
    }
    ok = false;
    func.emitError() << "entry point '" << func.getName() << "': " << what << " #" << i << " has type " << type
                     << "; a module takes and returns ranked tensors only (a scalar is a tensor of rank 0)";
  }
  if (!ok)
    return failure();
  return ranks;
}

struct PrepareEntryPoints : impl::MoePrepareEntryPointsPassBase<PrepareEntryPoints> {
  void runOnOperation() override {
    bool found = false, failed = false;
    for (auto func : getOperation().getOps<func::FuncOp>()) {
      if (func.isExternal() || !func.isPublic())
        continue;
      found = true;
      auto arguments = getRanks(func, func.getArgumentTypes(), "argument");
      auto results = getRanks(func, func.getResultTypes(), "result");
      if (mlir::failed(arguments) || mlir::failed(results)) {
        failed = true;
        continue;
      }
      Builder b(&getContext());
      func->setAttr("moe.entry",
                    b.getArrayAttr({b.getDenseI64ArrayAttr(*arguments), b.getDenseI64ArrayAttr(*results)}));
      for (unsigned i = 0; i < func.getNumArguments(); ++i)
        func.setArgAttr(i, "bufferization.writable", b.getBoolAttr(false));
    }
    if (!found) {
      getOperation().emitError() << "no public function with a body: a module needs at least one entry point "
                                    "(declare it 'func.func', not 'func.func private')";
      failed = true;
    }
    if (failed)
      signalPassFailure();
  }
};
} // namespace
} // namespace mlir::moe
