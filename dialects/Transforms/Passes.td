//===- Passes.td - passes on upstream dialects --------------*- tablegen -*-===//
//
// These passes know nothing of routing: they take upstream IR (linalg, scf, memref, llvm) to the form in which LLVM
// makes good code of it and in which the compiled module needs nothing but its host table.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_UPSTREAM_TRANSFORMS_PASSES_TD
#define MOE_UPSTREAM_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def MoePrepareEntryPointsPass : Pass<"moe-prepare-entry-points", "ModuleOp"> {
  let summary = "Mark entry points and make their arguments read-only";
  let description = [{
    Public functions are the module's entry points. Their arguments belong to the caller, so each tensor argument gets
    `bufferization.writable = false`; the ranks of arguments and results are recorded in `moe.entry` for
    `moe-build-entry-points`, which sees nothing but pointers.

    Fails on a public function whose arguments or results are not ranked tensors, and on a module without a public
    function.
  }];
}

def MoeDecomposeAggregatesPass : Pass<"moe-decompose-aggregates"> {
  let summary = "Decompose linalg.softmax and its like into structured ops";
  let description = [{
    Upstream has no pass that lowers the ops with `AggregatedOpInterface`: neither generalisation nor the loop
    lowering touches them. Each is replaced by its decomposition. `tensor.concat` and `linalg.pack` / `linalg.unpack`
    are decomposed as well.
  }];
  let dependentDialects = ["linalg::LinalgDialect", "tensor::TensorDialect", "arith::ArithDialect", "math::MathDialect",
                           "scf::SCFDialect", "affine::AffineDialect"];
}

def MoeInterchangeLoopsPass : Pass<"moe-interchange-loops"> {
  let summary = "Choose a loop order whose innermost loop vectorises";
  let description = [{
    For each `linalg.generic` with a reduction: if a parallel dimension is the last (contiguous) dimension of the
    result and of every operand that depends on it, it becomes the innermost loop, and reductions go around it. So
    `C[m, n] += A[m, k] * B[k, n]` runs as m, k, n, where n vectorises; a product with a transposed B keeps k
    innermost. In bodies `mul` followed by `add` on the accumulator becomes `math.fma`.

    A reduction whose innermost loop it stays gets `reassoc` on its accumulating op, so that it vectorises; the order
    of the sum is then fixed by the generated code and never by the number of threads.
  }];
  let dependentDialects = ["linalg::LinalgDialect", "math::MathDialect", "arith::ArithDialect"];
}

def MoeApproximateMathPass : Pass<"moe-approximate-math"> {
  let summary = "Replace the math dialect by arithmetic that vectorises and calls no library";
  let description = [{
    Elementary functions become polynomial approximations, so the module imports no libm. f16 and bf16 are computed in
    f32. What has one instruction (sqrt, floor, fma, ...) stays and becomes an LLVM intrinsic.
  }];
  let dependentDialects = ["arith::ArithDialect", "math::MathDialect", "vector::VectorDialect", "scf::SCFDialect"];
}

def MoeReportScalarLoopsPass : Pass<"moe-report-scalar-loops"> {
  let summary = "List the innermost loops whose float arithmetic is scalar";
  let description = [{
    A check for code generation: each loop (or linalg op, which becomes one) without a loop inside, in which arith or
    math computes on floats one at a time and nothing computes on vectors of them, is reported at its location, with the
    ops. Loops that only compare, select, convert or move are not listed.

    Runs before scf becomes branches.
  }];
  let options = [
    Option<"fail", "fail", "bool", /*default=*/"false", "report errors in place of remarks, and fail if there are any">,
    Option<"optional", "optional", "bool", /*default=*/"false",
           "report optimisation remarks, which are shown on demand (moe-compile --remarks)">
  ];
}

def MoeOwnResultsPass : Pass<"moe-own-results", "func::FuncOp"> {
  let summary = "Give every returned buffer its own allocation";
  let description = [{
    After bufferisation a function may return an argument, a view, or one buffer twice. The caller of a module owns the
    results, so each returned memref that is not an allocation of this function, or is returned before, is copied.
  }];
  let dependentDialects = ["memref::MemRefDialect"];
}

def MoeLowerCopiesPass : Pass<"moe-lower-copies"> {
  let summary = "Turn copies between strided buffers into loops";
  let description = [{
    `memref.copy` of contiguous buffers becomes memcpy in LLVM; any other would call a function of MLIR's runner
    library. Those become `linalg.generic` copies here.
  }];
  let dependentDialects = ["linalg::LinalgDialect", "memref::MemRefDialect"];
}

def MoeLowerReshapesPass : Pass<"moe-lower-reshapes"> {
  let summary = "Lower expand_shape with several dynamic sizes in one group";
  let description = [{
    `memref.expand_shape` of a dimension into two or more dynamic ones becomes `memref.reinterpret_cast` with the sizes
    that the op carries: upstream's `expand-strided-metadata` computes sizes from the source and cannot.
  }];
  let dependentDialects = ["affine::AffineDialect", "arith::ArithDialect", "memref::MemRefDialect"];
}

def MoeLowerAssertsPass : Pass<"moe-lower-asserts", "ModuleOp"> {
  let summary = "Report failed assertions to the host and go on";
  let description = [{
    `cf.assert %c, "message"` becomes a branch that hands the message to the host's `fail` function. Execution goes on
    (a library must not end its process), the host discards the outputs of the call.
  }];
  let dependentDialects = ["LLVM::LLVMDialect", "scf::SCFDialect", "arith::ArithDialect"];
}

def MoeBuildEntryPointsPass : Pass<"moe-build-entry-points", "ModuleOp"> {
  let summary = "Define the functions that the host calls and those that call the host";
  let description = [{
    On the LLVM dialect. For each entry point F: `moe_call_F(arguments, results)`, which unpacks the descriptors and
    stores the results' (the module format is in docs/module-format.md). Defines the variable `moe_host` and, through
    its table, the allocation functions that memref lowering calls. Everything else becomes internal.

    A module may carry several versions of its code, each compiled by itself and for its own processor. Of all but the
    first the entry symbols end with `suffix`, and `moe_host` is only declared: the first version defines it for all.
  }];
  let options = [
    Option<"suffix", "suffix", "std::string", /*default=*/"\"\"", "What the names of entry symbols end with">
  ];
  let dependentDialects = ["LLVM::LLVMDialect"];
}

def MoeConvertToLlvmPass : Pass<"moe-convert-to-llvm", "ModuleOp"> {
  let summary = "Convert amx, arith, cf, func, index, math, memref and ub to the LLVM dialect";
  let description = [{
    What upstream's passes for these dialects do, in one conversion: each of them walks over the whole program.
    `memref.alloc` and `memref.dealloc` become calls of `_mlir_memref_to_llvm_alloc` and `_mlir_memref_to_llvm_free`,
    which `moe-build-entry-points` defines.

    - Before: `convert-vector-to-llvm`; what is left of functions has blocks instead of structured control flow.
  }];
  let dependentDialects = ["LLVM::LLVMDialect"];
}

def MoeHoistAllocasPass : Pass<"moe-hoist-allocas", "func::FuncOp"> {
  let summary = "Move stack buffers to the start of their function";
  let description = [{
    `memref.alloca` in a loop takes new stack in every iteration until the function returns. Those of static size move to the
    entry block, where they are part of the function's frame.

    - Before: parallel loops whose iterations run at the same time are functions of their own (`moe-outline-parallel`), so
      that what is left runs one iteration after the other.
  }];
}

def MoeParallelizeLoopsPass : Pass<"moe-parallelize-loops", "::mlir::func::FuncOp"> {
  let summary = "Make loops over rows parallel";
  let description = [{
    An `scf.for` on buffers becomes `scf.parallel` if its iterations provably have nothing to do with each other: each
    buffer from outside that it writes is an allocation of which it touches the row of its iteration alone. Selections,
    renormalisations and combines of a routing are such loops over tokens. A loop with a reduction inside is left to
    the pass that makes a kernel of that.

    Remarks say why a loop stays serial. The outermost parallel loop of a nest is taken.

    - Before: the program is on buffers; `moe-outline-parallel` hands the loops to threads.
  }];
  let dependentDialects = ["scf::SCFDialect"];
}

def MoeStackBuffersPass : Pass<"moe-stack-buffers", "::mlir::func::FuncOp"> {
  let summary = "Put small buffers of loop iterations on the stack";
  let description = [{
    A buffer of static size that a loop's iteration allocates and frees becomes a `memref.alloca` in its place.

    - Before: `moe-outline-parallel`: iterations that still run side by side would share it, once it is hoisted.
    - After: `moe-hoist-allocas` makes it one place that all iterations share.
  }];
  let options = [
    Option<"maxBytes", "max-bytes", "int64_t", /*default=*/"4096", "The size of a buffer that is moved, at most">
  ];
  let dependentDialects = ["memref::MemRefDialect"];
}

def MoeOutlineParallelPass : Pass<"moe-outline-parallel", "ModuleOp"> {
  let summary = "Hand large parallel loops to the host's threads";
  let description = [{
    An outermost `scf.parallel` whose estimated work may be worth it becomes a function of (context, task), called by the
    host's `parallel_for`, each task a run of consecutive iterations. The number of tasks is computed when the loop is
    reached: below `min-work` the one task is called directly.

    Iterations are never split and loops with a reduction stay as they are, so results are the same bits for every
    number of threads. Loops inside an outlined one stay serial.

    A light body (no loop, no vector) keeps the last dimension as a loop of its own, so that it vectorises.
  }];
  let options = [
    Option<"minWork", "min-work", "int64_t", /*default=*/"32768",
           "Estimated scalar operations below which a loop stays on the calling thread">,
    Option<"taskWork", "task-work", "int64_t", /*default=*/"16384", "Estimated scalar operations of a task, at least">
  ];
  let dependentDialects = ["LLVM::LLVMDialect", "scf::SCFDialect", "arith::ArithDialect", "func::FuncDialect"];
}

#endif // MOE_UPSTREAM_TRANSFORMS_PASSES_TD
