//===- Passes.td - passes that belong to the pipeline itself -*- tablegen -*-===//
#ifndef MOE_PIPELINES_PASSES_TD
#define MOE_PIPELINES_PASSES_TD

include "mlir/Pass/PassBase.td"

def MoeCheckPhasePass : Pass<"moe-check-phase", "ModuleOp"> {
  let summary = "Check that what a phase removes is gone";
  let description = [{
    Stands at the border of each phase. Lists every op and type that may not occur behind it, each kind once with its
    number and its first place, and what to do about it. Changes nothing.
  }];
  let options = [
    Option<"phase", "phase", "std::string", /*default=*/"\"import\"", "The phase that has just run">
  ];
}

#endif // MOE_PIPELINES_PASSES_TD
