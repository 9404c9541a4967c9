//===- Passes.td - conversions between the levels -----------*- tablegen -*-===//
#ifndef MOE_CONVERSION_PASSES_TD
#define MOE_CONVERSION_PASSES_TD

include "mlir/Pass/PassBase.td"

def ConvertContractionToVectorPass : Pass<"convert-contraction-to-vector"> {
  let summary = "turns matmul-like linalg ops on buffers into register-blocked vector kernels";
  let description = [{
    Every linalg op on buffers that multiplies two operands and adds over a reduction (matmul, batched and transposed
    forms, generics of that shape) becomes an scf.parallel over blocks of rows and panels of columns around a kernel that
    keeps a tile of the result in vector registers. An operand that is contiguous along the result's columns is read
    as vectors of columns; one that is contiguous along the reduction as vectors of partial sums. f16 and bf16 operands
    are widened in registers; the accumulator is the result's type.

    The order of each sum does not depend on the tile that an element falls into. What is not of this shape is left as it
    is, with a remark that says why.
  }];
  let options = [
    Option<"lanes", "lanes", "int64_t", /*default=*/"8", "f32 elements of a vector register: 8 for AVX2, 16 for AVX-512">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect",
                           "::mlir::memref::MemRefDialect"];
}

def ConvertGroupedMatmulToVectorPass : Pass<"convert-grouped-matmul-to-vector"> {
  let summary = "turns moe.grouped_matmul on buffers into the expert kernels";
  let description = [{
    Each `moe.grouped_matmul` becomes one scf.parallel over (expert, panel of columns). A task gathers the expert's rows in
    register tiles, multiplies them with all banks in one pass and applies the epilogue in registers. Banks may be contiguous
    along the columns ([E, K, N]) or along the reduction ([E, N, K]); an expert without rows costs a comparison. The sums of
    an element run in the same order whatever tile it falls into.

    - Before: bufferised; what has no kernel (a reason is given) was lowered by `convert-moe-planned-to-linalg`.
    - After: no `moe.grouped_matmul`.
  }];
  let options = [
    Option<"lanes", "lanes", "int64_t", /*default=*/"8", "f32 elements of a vector register: 8 for AVX2, 16 for AVX-512">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect",
                           "::mlir::memref::MemRefDialect"];
}

def ConvertMoeToPlannedPass : Pass<"convert-moe-to-planned", "::mlir::ModuleOp"> {
  let summary = "turns routings into plain tensors and routed ops into loops";
  let description = [{
    Every `!moe.routing<TxE>` becomes two tensors [T, S]: expert numbers (i32, -1 for an empty slot) and weights, S being
    the bound of the type per row or the number of experts. Ops that make, change and read routings become linalg and
    scf on tensors; scf.for, scf.if, scf.while, private functions and calls carry the two tensors.

    - Before: no `moe.apply` (see `moe-lower-apply`).
    - After: no routed op and no routing type; `moe.plan`, `moe.grouped_matmul` and `moe.combine` may remain.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect"];
}

def ConvertOnnxToLinalgPass : Pass<"convert-onnx-to-linalg", "::mlir::func::FuncOp"> {
  let summary = "lowers ONNX nodes to linalg, tensor, arith, math and scf";
  let description = [{
    Every `onnx.node` is lowered by its line of the operator table (`docs/onnx-support.md` is printed from it). Shapes are
    known beforehand as polynomials of the inputs' sizes; shape subgraphs become index arithmetic or constants. Checks
    that only run time can make are `cf.assert`s, and what stands behind them stays in bounds when they fail.

    - After: no op of the onnx dialect. Integers have no sign.
    - Refused: operators without a line, all named in one diagnostic, and shapes that depend on data.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect",
                           "::mlir::cf::ControlFlowDialect", "::mlir::moe::MoeDialect"];
}

def MoeLowerApplyPass : Pass<"moe-lower-apply"> {
  let summary = "turns moe.apply into plans, loops, grouped matmuls and combines";
  let description = [{
    The attribute `moe.lowering` of each apply names the form; without it, it is `reference`.

    - `reference`: the pairs are sorted by expert (`moe.plan`); a loop over the experts gathers the rows of each expert
      that has any, runs a copy of the body on them and writes the results to a buffer with one row per pair;
      `moe.combine` reduces each row's pairs. Any body, operand and result mode.
    - `fused`: the body runs once on the list of all pairs; its matmuls with expert parameters are `moe.grouped_matmul`.
    - `pairwise`: a loop over the pairs; nothing grows with the number of experts.
    - `dense`: every expert on every row, then a selection.

    - Before: calls in bodies are inlined.
    - After: no `moe.apply`.
  }];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect"];
}

def ConvertMoePlannedToLinalgPass : Pass<"convert-moe-planned-to-linalg"> {
  let summary = "turns moe.plan, moe.grouped_matmul and moe.combine into linalg and scf";
  let description = [{
    `moe.plan` becomes a histogram, a scan and a stable placement; `moe.grouped_matmul` a loop over the experts with a
    linalg.matmul per bank and the epilogue as a linalg.generic; `moe.combine` an ordered reduction per row.

    - After: no op of the planned level, but grouped matmuls if they are left for a kernel.
  }];
  let options = [
    Option<"groupedMatmul", "grouped-matmul", "bool", /*default=*/"true",
           "lower moe.grouped_matmul; false leaves it to a later pass">
  ];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect"];
}

#endif // MOE_CONVERSION_PASSES_TD
