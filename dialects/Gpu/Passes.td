//===- Passes.td - the way to a GPU -------------------------*- tablegen -*-===//
#ifndef MOE_GPU_PASSES_TD
#define MOE_GPU_PASSES_TD

include "mlir/Pass/PassBase.td"

def MoePrepareGpuPass : Pass<"moe-prepare-gpu"> {
  let summary = "gives the planned level the form that becomes GPU kernels";
  let description = [{
    - `moe.plan` becomes `moe_gpu.plan`, whose results have room for every slot;
    - row weights move into the epilogue of the second grouped matmul;
    - `moe.combine` becomes one op that is parallel over all elements of its result;
    - offsets that the host knows (of products that `moe-plan-dense-matmuls` makes grouped) are written by a kernel;
    - a `moe.grouped_matmul` without a GPU kernel becomes a loop over the experts (a remark says why).

    - Before: the planned level on tensors, in front of `convert-moe-planned-to-linalg`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::scf::SCFDialect",
                           "::mlir::affine::AffineDialect", "::mlir::tensor::TensorDialect", "::mlir::moe::MoeGpuDialect"];
}

def MoeSetGpuPrecisionPass : Pass<"moe-set-gpu-precision", "::mlir::ModuleOp"> {
  let summary = "multiplies the experts' f32 matrices in f16, bf16 or tf32";
  let description = [{
    The rows and banks of every f32 `moe.grouped_matmul` without quantised banks become `to`; sums, epilogues and results
    stay f32. A bank that is a part of a stored weight becomes a weight of its own (`moe.converted`), which the compiler
    converts when it writes the weights file; others are converted in each call (a remark says so). With `tf32` operands stay
    f32, and the matmul is marked `moe_gpu.tf32`: its kernel rounds them. Matmuls outside of experts
    stay as they are: a router in a narrower type would choose other experts.

    Tests: test/gpu/set-precision.mlir.

    - Before: the planned level on tensors, in front of `moe-plan-dense-matmuls` and `moe-prepare-gpu`.
  }];
  let options = [Option<"to", "to", "std::string", /*default=*/"\"bf16\"", "f16, bf16 or tf32">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::moe::MoeGpuDialect"];
}

def ConvertGroupedMatmulToGpuPass : Pass<"convert-grouped-matmul-to-gpu"> {
  let summary = "turns moe.grouped_matmul on buffers into GPU kernels";
  let description = [{
    Each `moe.grouped_matmul` becomes one `gpu.launch` for every tile size that the number of pairs may ask for
    (`getGpuRegimes`), chosen at run time from the upper limit of the pairs. f16 and bf16 are multiplied by tensor cores
    (`nvvm.mma.sync` with f32 sums), and f32 with operands rounded to tf32 if the op is marked `moe_gpu.tf32`; other f32 by ordinary
    instructions. The copies to shared memory gather the rows and fill
    with zeros what lies outside; the epilogue is applied to the sums in registers.

    - Before: bufferised; `moe-prepare-gpu` left only ops that have a kernel.
    - After: no `moe.grouped_matmul`.
  }];
  let options = [
    Option<"sharedLimit", "shared-limit", "int64_t", /*default=*/"101376", "bytes of shared memory that a block may have">,
    Option<"rows", "rows", "int64_t", /*default=*/"-1", "only the tile for this number of pairs (for tests)">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::gpu::GPUDialect", "::mlir::scf::SCFDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::NVVM::NVVMDialect", "::mlir::LLVM::LLVMDialect",
                           "::mlir::vector::VectorDialect", "::mlir::math::MathDialect"];
}

def ConvertPlanToGpuPass : Pass<"convert-plan-to-gpu"> {
  let summary = "turns moe_gpu.plan on buffers into GPU kernels";
  let description = [{
    A stable counting sort by one launch, one warp per expert, which counts the pairs of the experts before it and places
    its own: no atomics, no synchronisation with the host, the same result every time.

    - After: no `moe_gpu.plan`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::gpu::GPUDialect", "::mlir::scf::SCFDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::NVVM::NVVMDialect", "::mlir::LLVM::LLVMDialect",
                           "::mlir::math::MathDialect"];
}

def MoeMapToGpuPass : Pass<"moe-map-to-gpu", "::mlir::ModuleOp"> {
  let summary = "divides bufferised functions between host and device";
  let description = [{
    All buffers are the device's. What touches them becomes kernels (`gpu.launch`), what steers them stays on the host:

    - a parallel loop with parallel loops inside becomes a launch with a block of threads per iteration: the loops inside and loops over
      rows are spread over the threads, with barriers between them where one touches what another thread wrote; buffers of the iteration lie
      in shared memory. Not done, with a remark, if they take more than `shared-limit` bytes or the body has other effects;
    - any other parallel loop becomes a launch with one thread per iteration;
    - a serial loop whose iterations touch different rows only (every access to a buffer that the loop writes has the loop's
      variable as its first index) becomes such a launch as well;
    - any other serial loop without parallel loops inside becomes a launch of one thread;
    - a loop that allocates, or has parallel loops inside, is run by the host, which launches its parts;
    - a load on the host reads one element from the device, which waits for the kernels before it.

    Small buffers that live in one iteration become the thread's own memory.

    - Before: loops and accesses on buffers; no linalg, no `memref.copy`.
  }];
  let options = [
    Option<"sharedLimit", "shared-limit", "int64_t", /*default=*/"49152", "bytes of shared memory that a block may have">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::gpu::GPUDialect", "::mlir::scf::SCFDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::LLVM::LLVMDialect", "::mlir::linalg::LinalgDialect"];
}

def MoeOrderGpuLoopsPass : Pass<"moe-order-gpu-loops"> {
  let summary = "puts the parallel loops of linalg ops outside of their reductions";
  let description = [{
    So that each element of a result becomes a thread. `memref.copy` becomes a `linalg.generic`.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
}

def MoeLowerGpuLaunchesPass : Pass<"moe-lower-gpu-launches", "::mlir::ModuleOp"> {
  let summary = "makes calls to the device table of launches and transfers";
  let description = [{
    The parameters of kernels become plain numbers and pointers (a buffer is its address and its dynamic sizes and
    strides), `gpu.launch_func` a call of the device table's `launch`, and constants in the module are asked for on the
    device. The table is reached through the module's variable `moe_device` (docs/module-format.md).

    - Before: outlined kernels (`gpu-kernel-outlining`).
    - After: no `gpu.launch_func`; `gpu.module`s with kernels remain for the device's code generator.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::memref::MemRefDialect", "::mlir::LLVM::LLVMDialect"];
}

def MoeConvertKernelsToNvvmPass : Pass<"moe-convert-kernels-to-nvvm", "::mlir::gpu::GPUModuleOp"> {
  let summary = "turns kernels into the LLVM and NVVM dialects without CUDA's device library";
  let description = [{
    `convert-gpu-to-nvvm`, but that the math dialect becomes LLVM intrinsics instead of calls of libdevice.

    - Before: kernels without scf; elementary functions are approximated (`moe-approximate-math`).
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect"];
}

def MoeEmulateGpuPass : Pass<"moe-emulate-gpu", "::mlir::ModuleOp"> {
  let summary = "runs kernels on the processor, thread by thread";
  let description = [{
    The kernels that would ship (LLVM and NVVM dialects) become functions of the module itself: special registers,
    barriers, cp.async, ldmatrix, mma.sync, shuffles and votes become calls of the emulator's table, every access to shared
    memory is reported to it first, and nothing else is changed. `docs/gpu.md` says what the emulator checks.

    Barriers and waits are numbered: with MOE_EMULATOR=without=N in its environment the emulator leaves out the N-th, to see
    whether that is noticed.

    - After: no gpu.module.
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect"];
}

#endif // MOE_GPU_PASSES_TD
