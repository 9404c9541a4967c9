//===- PhasePipelines.cpp - the passes of each phase ----------------------===//
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Bufferization/Pipelines/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/GPU/Transforms/Passes.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Dialect/SCF/Transforms/Passes.h"
#include "mlir/Dialect/Vector/Transforms/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassOptions.h"
#include "mlir/Transforms/Passes.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/Transforms/Passes.h"
#include "moe/Dialect/Onnx/Transforms/Passes.h"
#include "moe/Gpu/Passes.h"
#include "moe/Pipelines/Passes.h"
#include "moe/Pipelines/Phases.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {

static void addCleanup(OpPassManager &pm) {
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildOptimise(OpPassManager &pm, const PhaseOptions &options) {
  pm.addPass(createMoeCheckRoutedPass());
  pm.addPass(createInlinerPass());
  pm.addPass(createSymbolDCEPass());
  addCleanup(pm);
  if (options.optLevel > 0) {
    pm.addPass(createMoeEliminateDeadExpertsPass());
    pm.addPass(createMoePlaceSharedExpertsPass());
    pm.addPass(createMoeSpecialiseRaggedPass());
    pm.addPass(createMoeFoldCapacitiesPass());
    // A router that does not depend on the loop around it leaves the loop, and then all that upstream can move.
    pm.addPass(createMoeHoistRoutersPass());
    pm.addPass(createLoopInvariantCodeMotionPass());
    addCleanup(pm);
  }
  pm.addPass(createMoeInsertChecksPass());
  pm.addPass(createMoeFlattenContractionsPass());
  pm.addPass(createMoeNormalizeBodiesPass());
  addCleanup(pm);
}

/// Tensor programs of any upstream kind become linalg on tensors that bufferises well.
static void buildTile(OpPassManager &pm, const PhaseOptions &options) {
  if (options.optLevel > 0)
    pm.addPass(createMoePackQuantisedPass({options.gpuSharedLimit ? "exact" : options.numerics}));
  // Grouped matmuls that have a kernel keep their form until there are buffers.
  if (options.gpuPrecision == "f16" || options.gpuPrecision == "bf16" || options.gpuPrecision == "tf32")
    pm.addPass(createMoeSetGpuPrecisionPass({options.gpuPrecision}));
  auto fuseGating = [&](int64_t rows, bool products) {
    if (options.optLevel == 0)
      return;
    pm.addPass(createMoeDecomposeAggregatesPass());
    pm.addNestedPass<func::FuncOp>(createConvertElementwiseToLinalgPass());
    pm.addPass(createLinalgElementwiseOpFusionPass());
    addCleanup(pm);
    MoeFuseGatingPassOptions gating;
    gating.rows = rows;
    gating.products = products;
    pm.addPass(createMoeFuseGatingPass(gating));
    addCleanup(pm);
  };
  if (options.gpuSharedLimit) {
    // In front of the other products, as a router's belongs into its loop.
    fuseGating(/*rows=*/4, /*products=*/true);
    // Tiles of narrow products would be mostly padding: these are better off with a thread per element.
    pm.addPass(
        createMoePlanDenseMatmulsPass({/*minColumns=*/16, /*minDepth=*/16, /*weightsOnly=*/false, /*topLevel=*/true}));
    pm.addPass(createMoePrepareGpuPass());
  } else if (options.optLevel > 0) {
    pm.addPass(createMoePlanDenseMatmulsPass());
    if (options.fuseCombine)
      pm.addPass(createMoeFuseCombinePass());
    fuseGating(/*rows=*/1, /*products=*/false);
  }
  pm.addPass(createConvertMoePlannedToLinalgPass({/*keepKernels=*/options.optLevel > 0}));
  if (options.optLevel > 0 && options.packWeights) {
    pm.addPass(createMoePackWeightsPass());
    pm.addPass(createMoeFoldWeightPacksPass());
  }
  pm.addPass(createMoeDecomposeAggregatesPass());
  pm.addNestedPass<func::FuncOp>(createConvertElementwiseToLinalgPass());
  if (options.optLevel > 0) {
    pm.addPass(createLinalgElementwiseOpFusionPass());
    addCleanup(pm);
  }
}

static void buildBufferise(OpPassManager &pm, const PhaseOptions &options) {
  pm.addPass(createMoePrepareEntryPointsPass());
  pm.addPass(bufferization::createEmptyTensorEliminationPass());
  bufferization::OneShotBufferizePassOptions bufferise;
  bufferise.bufferizeFunctionBoundaries = true;
  bufferise.functionBoundaryTypeConversion = bufferization::LayoutMapOption::IdentityLayoutMap;
  bufferise.allowReturnAllocsFromLoops = true;
  // The host's allocator aligns every buffer; an alignment here would make each allocation larger and re-align it.
  bufferise.bufferAlignment = 0;
  pm.addPass(bufferization::createOneShotBufferizePass(bufferise));
  addCleanup(pm);
  pm.addNestedPass<func::FuncOp>(createMoeOwnResultsPass());
  bufferization::buildBufferDeallocationPipeline(pm);
  pm.addPass(createConvertBufferizationToMemRefPass());
  addCleanup(pm);
  // Buffers are freed behind their last use and not at the end of their block: layers share memory. (Those of a GPU
  // would be given back while kernels that were launched before still run.)
  if (!options.gpuSharedLimit)
    pm.addNestedPass<func::FuncOp>(bufferization::createOptimizeAllocationLivenessPass());
}

/// The work becomes kernels in one gpu.module, in the NVVM dialect; what is left of the functions steers them.
static void buildGpuCodegen(OpPassManager &pm, const PhaseOptions &options) {
  pm.addPass(createConvertGroupedMatmulToGpuPass({options.gpuSharedLimit, /*rows=*/-1}));
  pm.addPass(createConvertPlanToGpuPass());
  pm.addNestedPass<func::FuncOp>(createLinalgGeneralizeNamedOpsPass());
  pm.addPass(createMoeOrderGpuLoopsPass());
  pm.addNestedPass<func::FuncOp>(createConvertLinalgToParallelLoopsPass());
  pm.addNestedPass<func::FuncOp>(createForallToParallelLoopPass());
  addCleanup(pm);
  pm.addPass(createMoeMapToGpuPass({options.gpuSharedLimit}));
  pm.addPass(createGpuKernelOutliningPass());
  pm.addPass(createMoeLowerGpuLaunchesPass());

  OpPassManager &kernels = pm.nest<gpu::GPUModuleOp>();
  kernels.addPass(createLowerAffinePass());
  kernels.addPass(createConvertComplexToStandardPass());
  kernels.addPass(createMoeApproximateMathPass());
  arith::ArithEmulateUnsupportedFloatsOptions emulate;
  emulate.sourceTypeStrs = {"bf16"};
  emulate.targetTypeStr = "f32";
  kernels.addPass(arith::createArithEmulateUnsupportedFloats(emulate));
  kernels.addPass(arith::createArithExpandOpsPass());
  kernels.addPass(createLoopInvariantCodeMotionPass());
  addCleanup(kernels);
  kernels.addPass(createSCFToControlFlowPass());
  kernels.addPass(createMoeLowerReshapesPass());
  kernels.addPass(memref::createExpandStridedMetadataPass());
  kernels.addPass(createLowerAffinePass());
  kernels.addPass(createMoeConvertKernelsToNvvmPass());
  kernels.addPass(createReconcileUnrealizedCastsPass());
  addCleanup(kernels);
  if (options.emulateGpu)
    pm.addPass(createMoeEmulateGpuPass());
}

static void buildCodegen(OpPassManager &pm, const PhaseOptions &options) {
  pm.addPass(createMoeLowerAssertsPass());
  if (options.gpuSharedLimit)
    buildGpuCodegen(pm, options);
  else if (options.optLevel > 0) {
    pm.addNestedPass<func::FuncOp>(createMoeParallelizeLoopsPass());
    pm.addPass(createConvertGroupedMatmulToVectorPass(
        {options.vectorLanes, options.numerics == "fast", options.batchInvariant}));
    if (options.emulateInstructions) {
      pm.addPass(createMoeEmulateIntrinsicsPass());
      pm.addPass(createMoeEmulateTilesPass());
      pm.addPass(createMoeLowerAssertsPass());
    }
    pm.addNestedPass<func::FuncOp>(createConvertContractionToVectorPass({options.vectorLanes}));
  }
  pm.addPass(createMoeLowerCopiesPass());
  if (options.optLevel > 0)
    pm.addNestedPass<func::FuncOp>(createConvertLinalgToVectorPass({options.vectorLanes}));
  pm.addNestedPass<func::FuncOp>(createLinalgGeneralizeNamedOpsPass());
  pm.addPass(createMoeInterchangeLoopsPass());
  pm.addNestedPass<func::FuncOp>(createConvertLinalgToParallelLoopsPass());
  pm.addNestedPass<func::FuncOp>(createForallToParallelLoopPass());
  addCleanup(pm);
  if (options.threads)
    pm.addPass(createMoeOutlineParallelPass());
  // What the host allocates for a GPU is the GPU's.
  if (!options.gpuSharedLimit)
    pm.addNestedPass<func::FuncOp>(createMoeStackBuffersPass());
  pm.addNestedPass<func::FuncOp>(createMoeHoistAllocasPass());
  if (options.optLevel > 0)
    pm.addPass(createMoeReportScalarLoopsPass({/*fail=*/false, /*optional=*/true}));
  pm.addPass(createLowerAffinePass());
  pm.addPass(createConvertComplexToStandardPass());
  pm.addPass(createMoeApproximateMathPass());
  arith::ArithEmulateUnsupportedFloatsOptions emulate;
  emulate.sourceTypeStrs = {"bf16"};
  emulate.targetTypeStr = "f32";
  pm.addPass(arith::createArithEmulateUnsupportedFloats(emulate));
  arith::ArithExpandOpsPassOptions expand;
  expand.includeBf16 = true;
  expand.includeF8E8M0 = true;
  pm.addPass(arith::createArithExpandOpsPass(expand));
  pm.addPass(createLoopInvariantCodeMotionPass());
  addCleanup(pm);

  pm.addNestedPass<func::FuncOp>(createConvertVectorToSCFPass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(createMoeLowerReshapesPass());
  pm.addPass(memref::createExpandStridedMetadataPass());
  pm.addPass(createLowerAffinePass());
  pm.addNestedPass<func::FuncOp>(vector::createLowerVectorMaskPass());
  pm.addPass(createConvertVectorToLLVMPass());
  pm.addPass(createMoeConvertToLlvmPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  // LLVM folds what is left, faster.
  pm.addPass(createMoeBuildEntryPointsPass({options.entrySuffix}));
}

void buildPhasePipeline(Phase phase, OpPassManager &pm, const PhaseOptions &options) {
  switch (phase) {
  case Phase::Import:
    break;
  case Phase::Choose:
    pm.addPass(createMoeChooseLoweringPass({options.forceLowering}));
    if (options.optLevel > 0 || !options.forceEncoding.empty())
      pm.addPass(createMoeChooseEncodingsPass({options.forceEncoding}));
    if (options.optLevel > 0)
      pm.addPass(createMoeShareSupportsPass());
    break;
  case Phase::Raise:
    if (!options.allowTracedExperts)
      pm.addNestedPass<func::FuncOp>(createOnnxRefuseTracedExpertsPass());
    pm.addNestedPass<func::FuncOp>(createOnnxRaiseMoePass({options.raiseDecomposed, options.allowTracedExperts}));
    pm.addNestedPass<func::FuncOp>(createConvertOnnxToLinalgPass());
    addCleanup(pm);
    pm.addPass(createMoeTakeCodesPass());
    break;
  case Phase::Plan:
    pm.addPass(createMoeLowerApplyPass());
    addCleanup(pm);
    pm.addPass(createMoeMergeMatmulsPass());
    pm.addPass(createMoeFuseDequantizePass());
    pm.addPass(createConvertMoeToPlannedPass());
    addCleanup(pm);
    break;
  case Phase::Optimise:
    buildOptimise(pm, options);
    break;
  case Phase::Tile:
    buildTile(pm, options);
    break;
  case Phase::Bufferise:
    buildBufferise(pm, options);
    break;
  case Phase::Codegen:
    buildCodegen(pm, options);
    break;
  case Phase::Link:
    return;
  }
  pm.addPass(createMoeCheckPhasePass({getPhaseInfo(phase).name.str()}));
}

namespace {
struct PipelineOptions : PassPipelineOptions<PipelineOptions> {
  Option<std::string> to{*this, "to", llvm::cl::desc("The last phase to run"), llvm::cl::init("codegen")};
  Option<unsigned> optLevel{*this, "opt-level", llvm::cl::desc("0 to 3"), llvm::cl::init(3)};
  Option<std::string> forceLowering{*this, "force-lowering", llvm::cl::desc("A lowering for every moe.apply")};
  Option<int64_t> gpuSharedLimit{*this, "gpu-shared-limit",
                                 llvm::cl::desc("For a GPU with this much shared memory per block"), llvm::cl::init(0)};
  Option<bool> fuseCombine{*this, "fuse-combine", llvm::cl::desc("The second matmul adds its pairs to their rows"),
                           llvm::cl::init(false)};
  Option<std::string> forceEncoding{*this, "force-encoding",
                                    llvm::cl::desc("An encoding for the routings that have a choice")};
};
} // namespace

void registerMoePipelines() {
  PassPipelineRegistration<PipelineOptions>("moe-pipeline", "Run the compiler's phases, from raise to the given one",
                                            [](OpPassManager &pm, const PipelineOptions &pipelineOptions) {
                                              PhaseOptions options;
                                              options.optLevel = pipelineOptions.optLevel;
                                              options.forceLowering = pipelineOptions.forceLowering;
                                              options.gpuSharedLimit = pipelineOptions.gpuSharedLimit;
                                              options.fuseCombine = pipelineOptions.fuseCombine;
                                              options.forceEncoding = pipelineOptions.forceEncoding;
                                              Phase last = parsePhase(pipelineOptions.to).value_or(Phase::Codegen);
                                              for (const PhaseInfo &info : getPhases())
                                                if (info.phase > Phase::Import && info.phase <= last)
                                                  buildPhasePipeline(info.phase, pm, options);
                                            });
}

} // namespace mlir::moe
