//===- MoeDialect.td - the moe dialect ----------------------*- tablegen -*-===//
#ifndef MOE_DIALECT_TD
#define MOE_DIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Moe_Dialect : Dialect {
  let name = "moe";
  let cppNamespace = "::mlir::moe";
  let summary = "Mixture-of-Experts routing and expert computation";
  let description = [{
    Routing is a value, experts are a region, everything else is a compiler decision.

    A routing decision is a sparse token-by-expert matrix of weights, the type `!moe.routing`. One op makes a routing of
    tensors (`moe.route`, or `moe.from_slots` when the chosen experts are already known), a family of ops turns one
    routing into another (`moe.top_k`, `moe.select`, `moe.limit`, `moe.normalize`, ...), readers turn it back into
    tensors (`moe.to_dense`, `moe.to_slots`, `moe.counts`), and `moe.apply` runs a region once per expert over the
    rows that chose it. `docs/spec.md` numbers every constraint and every step of the semantics.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"];
}

#endif // MOE_DIALECT_TD
