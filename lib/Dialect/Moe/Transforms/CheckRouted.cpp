//===- CheckRouted.cpp - legality of the routed level ---------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/CallInterfaces.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/SmallPtrSet.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOECHECKROUTEDPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

namespace {

bool isRouting(Type type) { return isa<RoutingType>(type); }

bool touchesRouting(Operation *op) {
  for (Region &region : op->getRegions())
    for (Block &block : region)
      if (llvm::any_of(block.getArgumentTypes(), isRouting))
        return true;
  return llvm::any_of(op->getOperandTypes(), isRouting) || llvm::any_of(op->getResultTypes(), isRouting);
}

/// Ops that a routing may pass through: the dialect's own, and those whose types can be converted one to several.
bool carriesRoutings(Operation *op) {
  return isa_and_nonnull<MoeDialect>(op->getDialect()) ||
         isa<scf::ForOp, scf::IfOp, scf::WhileOp, scf::IndexSwitchOp, scf::YieldOp, scf::ConditionOp, func::FuncOp,
             func::ReturnOp, func::CallOp>(op);
}

class Checker {
public:
  /// Whether all is well.
  bool check(ModuleOp module) {
    module->walk([&](Operation *op) { check(op); });
    return !failed;
  }

private:
  bool failed = false;
  SymbolTableCollection symbols;

  InFlightDiagnostic report(Operation *op) {
    failed = true;
    return op->emitError();
  }

  void checkSignature(func::FuncOp function) {
    if (!function.isPublic())
      return;
    auto check = [&](ArrayRef<Type> types, StringRef what, StringRef advice) {
      for (auto [i, type] : llvm::enumerate(types))
        if (isRouting(type))
          report(function) << "public function '" << function.getName() << "' has " << type << " as " << what << " "
                           << i << ": " << advice << ", or make the function private";
    };
    check(function.getArgumentTypes(), "argument", "take the tensors and make the routing with moe.from_slots");
    check(function.getResultTypes(), "result", "return the tensors of moe.to_slots or moe.to_dense");
  }

  /// The first op behind `region` that has memory effects or cannot be seen; follows calls.
  Operation *findEffect(Region &region, SmallPtrSetImpl<Operation *> &visited) {
    Operation *culprit = nullptr;
    region.walk([&](Operation *op) {
      if (auto call = dyn_cast<CallOpInterface>(op)) {
        auto callee = dyn_cast_or_null<FunctionOpInterface>(call.resolveCallableInTable(&symbols));
        if (!callee || callee.isExternal())
          culprit = op;
        else if (visited.insert(callee).second && findEffect(callee.getFunctionBody(), visited))
          culprit = op;
      } else if (auto effects = dyn_cast<MemoryEffectOpInterface>(op)) {
        culprit = effects.hasNoEffect() ? nullptr : op;
      } else if (!op->hasTrait<OpTrait::HasRecursiveMemoryEffects>() && !op->hasTrait<OpTrait::ReturnLike>()) {
        culprit = op;
      }
      return culprit ? WalkResult::interrupt() : WalkResult::advance();
    });
    return culprit;
  }

  void check(Operation *op) {
    if (auto function = dyn_cast<func::FuncOp>(op))
      checkSignature(function);
    if (touchesRouting(op) && !carriesRoutings(op))
      report(op) << "a routing cannot pass through '" << op->getName()
                 << "': carry the tensors of moe.to_slots, or use scf.for, scf.if, scf.while or scf.index_switch";
    if (!isa<ApplyOp, SelectOp, MapOp>(op))
      return;
    for (Region &region : op->getRegions()) {
      SmallPtrSet<Operation *, 4> visited;
      if (Operation *culprit = findEffect(region, visited)) {
        InFlightDiagnostic diagnostic = report(op);
        diagnostic << "the body of '" << op->getName() << "' has memory effects, or effects that cannot be seen, in '"
                   << culprit->getName() << "': compute on tensors, and define the functions that it calls";
        diagnostic.attachNote(culprit->getLoc()) << "here";
      }
    }
  }
};

struct CheckRouted : impl::MoeCheckRoutedPassBase<CheckRouted> {
  void runOnOperation() override {
    if (!Checker().check(getOperation()))
      signalPassFailure();
    markAllAnalysesPreserved();
  }
};
} // namespace
} // namespace mlir::moe
