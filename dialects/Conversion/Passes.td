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

def ConvertGroupedMatmulToVectorPass : Pass<"convert-grouped-matmul-to-vector", "::mlir::ModuleOp"> {
  let summary = "turns moe.grouped_matmul on buffers into the expert kernels";
  let description = [{
    Each `moe.grouped_matmul` becomes one scf.parallel over (expert, panel of columns). A task gathers the expert's rows in
    register tiles, multiplies them with all banks in one pass and applies the epilogue in registers. Banks may be contiguous
    along the columns ([E, K, N]) or along the reduction ([E, N, K]); an expert without rows costs a comparison. The sums of
    an element run in the same order for any number of threads. With AVX2, experts of few rows read packed weights in several
    streams, so that their order differs from that of experts with many rows; `batch-invariant` gives all the same order.

    Where the module's `moe.tile_types` has bf16, experts of more than four rows multiply packed bf16 weights by tile
    instructions (ops of the amx dialect), if the rows are bf16 as well.

    - Before: bufferised; what has no kernel (a reason is given) was lowered by `convert-moe-planned-to-linalg`.
    - After: no `moe.grouped_matmul`.
  }];
  let options = [
    Option<"lanes", "lanes", "int64_t", /*default=*/"8", "f32 elements of a vector register: 8 for AVX2, 16 for AVX-512">,
    Option<"roundRows", "round-rows", "bool", /*default=*/"false", "Tile instructions may round f32 rows to bf16">,
    Option<"batchInvariant", "batch-invariant", "bool", /*default=*/"false",
           "A row's result has the same bits whatever rows are beside it: one order of sums, no tile instructions">
  ];
  let dependentDialects = ["::mlir::amx::AMXDialect", "::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::LLVM::LLVMDialect"];
}

def MoeEmulateTilesPass : Pass<"moe-emulate-tiles", "::mlir::ModuleOp"> {
  let summary = "replaces ops of the amx dialect by functions that do the same on any processor";
  let description = [{
    For tests: a tile becomes a vector with the 1024 bytes of its register, a product a call of a private function that
    follows the pseudo code of Intel's manual (pairs of bf16 summed up apart and added at the end, denormal numbers as
    zeros, ties to even; bytes with and without sign, sums modulo 2^32). A tile larger than a register does not compile; one
    that is loaded or stored beyond its buffer is an assertion that fails.

    - After: no op and no type of the amx dialect.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::cf::ControlFlowDialect", "::mlir::func::FuncDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect"];
}

def MoeEmulateIntrinsicsPass : Pass<"moe-emulate-intrinsics", "::mlir::ModuleOp"> {
  let summary = "replaces calls of x86 intrinsics behind AVX2 by ordinary vector code";
  let description = [{
    For tests: kernels for AVX-512 and VNNI run on any machine with AVX2. Instructions on 512 bits that AVX2 has on 256
    become two of these; permutations and byte products are written out after Intel's manual:

        %r = llvm.call_intrinsic "llvm.x86.avx512.pmaddw.d.512"(%x, %y)
          : (vector<32xi16>, vector<32xi16>) -> vector<16xi32>

    becomes

        %x0 = vector.shuffle %x, %x [0, 1, ...]    // 16 elements
        %y0 = vector.shuffle %y, %y [0, 1, ...]
        %r0 = llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"(%x0, %y0)
          : (vector<16xi16>, vector<16xi16>) -> vector<8xi32>
        ...
        %r = vector.shuffle %r0, %r1 [0, 1, ...]

    - After: no call of an intrinsic of x86 but those of AVX2. One that has no rule here is an error.
    - Not meant to be fast, nor for the ordinary vector ops, which LLVM takes apart by itself.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::vector::VectorDialect", "::mlir::LLVM::LLVMDialect"];
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

def MoeFlattenContractionsPass : Pass<"moe-flatten-contractions"> {
  let summary = "makes matmuls of the contractions in bodies whose dimensions can be joined";
  let description = [{
    A projection to heads has several dimensions of columns, a contraction over (head, feature) several dimensions of k, and a row that is a
    block has positions. Where these lie side by side in the rows, in the expert's parameter and in the result, they are joined
    (`tensor.collapse_shape` moves nothing), and the contraction is `[rows, k] x [k, n]`, or `[rows, positions, k] x [k, n]`, as
    `linalg.contract`: the forms of which the fused lowering makes grouped matmuls.

    Not done, with a remark that says why, if the dimensions lie in another order, or have unknown sizes.

    - Before: calls in bodies are inlined.

    Example (test/Conversion/LowerApply/flatten-contractions.mlir): a projection of `tensor<?x8xf32>` to 2 heads of 4
    ```mlir
    %h = linalg.generic ... ins(%rows, %w : tensor<?x8xf32>, tensor<8x2x4xf32>) outs(%z : tensor<?x2x4xf32>) { ... }
    ```
    becomes
    ```mlir
    %m = tensor.collapse_shape %w [[0], [1, 2]] : tensor<8x2x4xf32> into tensor<8x8xf32>
    %c = linalg.contract ... ins(%rows, %m : tensor<?x8xf32>, tensor<8x8xf32>) outs(%y : tensor<?x8xf32>) -> tensor<?x8xf32>
    %h = tensor.expand_shape %c [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
    ```
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"];
}

def MoeNormalizeBodiesPass : Pass<"moe-normalize-bodies"> {
  let summary = "gives elementwise code in the bodies of moe.apply one form";
  let description = [{
    linalg.map, elementwise named linalg ops, and arith and math ops on tensors become linalg.generic; chains of them
    become one linalg.generic. tensor.splat becomes linalg.fill, and a tensor that an elementwise op reads at its own indices and at constants
    becomes one of its operands. Code outside of bodies is left alone.

    - Before: calls in bodies are inlined.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"];
}

def MoeChooseLoweringPass : Pass<"moe-choose-lowering"> {
  let summary = "chooses a lowering for each moe.apply";
  let description = [{
    Sets the attribute `moe.lowering` of every `moe.apply` to `fused`, `pairwise`, `dense` or `reference`, the first of the
    following that is legal and sensible:

    - `pairwise` where rows are independent and the parameters of an expert are vectors (a million tiny experts), or where each of them has
      at most 256 elements and few pairs share an expert: T S <= E / 8, or E >= 512 if T is dynamic;
    - `fused` where rows are multiplied with matrices of the expert, or nothing needs the rows of an expert together
      (`docs/spec-planned.md` says what is done with the other ops of a body);
    - `reference` else. `dense` is chosen on request only.

    A lowering that a program names itself is an error where it is illegal; one that the option names is not taken there.
    Remarks say what was chosen and why.
  }];
  let options = [
    Option<"force", "force", "std::string", /*default=*/"\"\"",
           "the lowering to take wherever it is legal: fused, pairwise, dense or reference">
  ];
}

def MoeLowerApplyPass : Pass<"moe-lower-apply"> {
  let summary = "turns moe.apply into plans, loops, grouped matmuls and combines";
  let description = [{
    The attribute `moe.lowering` of each apply names the form; without it, it is `reference`.

    - `reference`: the pairs are sorted by expert (`moe.plan`); a loop over the experts gathers the rows of each expert
      that has any, runs a copy of the body on them and writes the results to a buffer with one row per pair;
      `moe.combine` reduces each row's pairs. Any body, operand and result mode.
    - `fused`: each body runs once on the list of the pairs of its experts; its matmuls with expert parameters are
      `moe.grouped_matmul`. What is computed from the expert alone is computed once per expert with rows, in front; ops that need the
      rows of an expert together run in a loop over the experts.
    - `pairwise`: a loop over the pairs; nothing grows with the number of experts.
    - `dense`: every expert on every row, then a selection.

    - Before: calls in bodies are inlined.
    - After: no `moe.apply`.
  }];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect"];
}

def MoeFuseCombinePass : Pass<"moe-fuse-combine"> {
  let summary = "Let the second matmul add its pairs to the rows of their tokens";
  let description = [{
    A `moe.combine` of mode sum, of pairs that a `moe.grouped_matmul` makes and nothing else reads, becomes part of the
    matmul: its epilogue multiplies by the pair's weight, and its `targets` are the plan's rows. The k rows per token
    between the two are never in memory. A sum is in the order of the experts, not of the slots.

    All experts of a range of columns are one task then, so that the order is the same for any number of threads; there
    are at least eight tasks, unless there are fewer panels. Matrices with fewer than `min-columns` columns are left,
    since there would be too few tasks. A task reads the rows of all experts, so that rows are read from memory more
    often than where a task is one expert: the pass is for memory, not for speed (`moe-compile --fuse-combine`;
    docs/performance.md, "The combine").

    - Before: `convert-moe-planned-to-linalg`; products with experts are grouped matmuls.
  }];
  let options = [
    Option<"minColumns", "min-columns", "int64_t", /*default=*/"512", "The least number of columns that are shared">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::tensor::TensorDialect"];
}

def ConvertMoePlannedToLinalgPass : Pass<"convert-moe-planned-to-linalg"> {
  let summary = "turns moe.plan, moe.grouped_matmul and moe.combine into linalg and scf";
  let description = [{
    `moe.plan` becomes a histogram, a scan and a stable placement; `moe.grouped_matmul` a loop over the experts with a
    linalg.matmul per bank and the epilogue as a linalg.generic; `moe.combine` an ordered reduction per row. Grouped
    matmuls that become kernels behind bufferisation stay; a remark says why another one does not.

    - After: no op of the planned level, but grouped matmuls that wait for their kernel.
  }];
  let options = [
    Option<"keepKernels", "keep-kernels", "bool", /*default=*/"true",
           "leave the grouped matmuls that convert-grouped-matmul-to-vector makes kernels of">
  ];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect"];
}

def ConvertLinalgToVectorPass : Pass<"convert-linalg-to-vector"> {
  let summary = "turns elementwise ops and reductions on buffers into loops over vectors";
  let description = [{
    Every linalg op on buffers whose body is arithmetic becomes vector code, whatever its rank, its broadcasts and its
    types. One loop is taken for the lanes:

    - a parallel loop along which the result is contiguous ("columns": every lane has its own result; reductions run
      inside, with the results in registers), or
    - a reduction along which the operands are contiguous ("rows": every lane has a partial result, four vectors of
      them where the row is long, added up in a fixed tree at the end).

    Neighbouring loops over contiguous buffers are merged first. The rest of a loop that is no multiple of the lanes is
    done under a mask, never by a scalar loop. Operands that are not contiguous along the loop, and buffers of i1, are
    moved lane by lane. What is the same for a whole row is computed once in front of it.

    The loops outside become one scf.parallel, whose tasks have about `grain` iterations of the body; a smaller op, and
    one within a parallel loop, runs serially. The order of every sum depends on the extent of its reduction alone.

    NaN, infinities and signed zeros follow the body's ops: the partial results begin with the exact neutral element
    (-0 for addf, -inf for maximumf, NaN for maxnumf).

    Runs after `convert-contraction-to-vector`. What it cannot do it leaves as it is, with a remark that says why.
  }];
  let options = [
    Option<"lanes", "lanes", "int64_t", /*default=*/"8", "f32 elements of a vector register: 8 for AVX2, 16 for AVX-512">,
    Option<"grain", "grain", "int64_t", /*default=*/"16384", "iterations of a body that are worth a task of their own">
  ];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::scf::SCFDialect",
                           "::mlir::vector::VectorDialect"];
}

#endif // MOE_CONVERSION_PASSES_TD
