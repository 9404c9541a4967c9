//===- KernelsToNvvm.cpp - kernels in the LLVM and NVVM dialects ----------===//
//
// Upstream's convert-gpu-to-nvvm with one difference: the math dialect becomes LLVM intrinsics, as on the processor,
// and not calls of CUDA's device library, which would have to be installed.
//
//===----------------------------------------------------------------------===//
#include "moe/Gpu/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/FuncToLLVM/ConvertFuncToLLVM.h"
#include "mlir/Conversion/GPUToNVVM/GPUToNVVMPass.h"
#include "mlir/Conversion/IndexToLLVM/IndexToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/MemRefToLLVM/MemRefToLLVM.h"
#include "mlir/Conversion/UBToLLVM/UBToLLVM.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOECONVERTKERNELSTONVVMPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {
/// The blocks of kernels with shared memory that a multiprocessor should have at once, as the choice of tiles supposes.
constexpr int64_t kBlocksPerMultiprocessor = 2;

struct MoeConvertKernelsToNvvmPass : moe::impl::MoeConvertKernelsToNvvmPassBase<MoeConvertKernelsToNvvmPass> {
  void runOnOperation() override {
    auto module = cast<gpu::GPUModuleOp>(getOperation());
    MLIRContext *context = &getContext();
    LLVMTypeConverter converter(context);
    configureGpuToNVVMTypeConverter(converter);
    RewritePatternSet patterns(context);
    // In front of the patterns that call the device library.
    populateMathToLLVMConversionPatterns(converter, patterns, /*approximateLog1p=*/true, /*benefit=*/10);
    arith::populateArithToLLVMConversionPatterns(converter, patterns);
    cf::populateControlFlowToLLVMConversionPatterns(converter, patterns);
    populateFuncToLLVMConversionPatterns(converter, patterns);
    populateFinalizeMemRefToLLVMConversionPatterns(converter, patterns);
    index::populateIndexToLLVMConversionPatterns(converter, patterns);
    ub::populateUBToLLVMConversionPatterns(converter, patterns);
    populateGpuToNVVMConversionPatterns(converter, patterns);
    ConversionTarget target(*context);
    target.addLegalDialect<LLVM::LLVMDialect, NVVM::NVVMDialect>();
    target.addIllegalDialect<gpu::GPUDialect>();
    target.addLegalOp<gpu::GPUModuleOp>();
    if (failed(applyPartialConversion(module, target, std::move(patterns))))
      return signalPassFailure();
    for (auto global : module.getOps<LLVM::GlobalOp>())
      finishSharedMemory(global, module);
  }

  /// Memory whose size is said at the launch. Defined in the module it would be a byte of fixed memory besides, which
  /// counts against what a launch may ask for.
  static void finishSharedMemory(LLVM::GlobalOp global, gpu::GPUModuleOp module) {
    auto array = dyn_cast<LLVM::LLVMArrayType>(global.getType());
    if (global.getAddrSpace() != NVVM::NVVMMemorySpace::Shared || !array || array.getNumElements() != 0)
      return;
    global.setLinkage(LLVM::Linkage::External);
    // How many blocks a multiprocessor has depends on that size, which ptxas does not know: left to itself it spills
    // for blocks that there is no memory for.
    Builder b(module.getContext());
    for (auto kernel : module.getOps<LLVM::LLVMFuncOp>())
      if (!SymbolTable::symbolKnownUseEmpty(global, kernel))
        kernel->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(), b.getI32IntegerAttr(kBlocksPerMultiprocessor));
  }
};
} // namespace
