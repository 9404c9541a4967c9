//===- CudaTarget.cpp - the chips, and PTX for them -----------------------===//
#include "moe/Target/CudaTarget.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

namespace mlir::moe {

static constexpr CudaChip kChips[] = {
    {"sm_80", "ptx78", 163 << 10}, {"sm_86", "ptx78", 99 << 10},   {"sm_89", "ptx78", 99 << 10},
    {"sm_90", "ptx78", 227 << 10}, {"sm_100", "ptx86", 227 << 10}, {"sm_120", "ptx87", 99 << 10},
};

ArrayRef<CudaChip> getCudaChips() { return kChips; }

llvm::Expected<CudaChip> findCudaChip(StringRef name) {
  std::string names;
  for (const CudaChip &chip : kChips) {
    if (chip.name == name)
      return chip;
    names += (names.empty() ? "" : ", ") + chip.name.str();
  }
  return llvm::createStringError("no chip is called '" + name + "'; these are known: " + names);
}

llvm::Expected<std::string> emitPtx(ModuleOp module, const CudaChip &chip, unsigned optLevel) {
  auto kernels = module.getOps<gpu::GPUModuleOp>();
  if (kernels.empty())
    return std::string();
  llvm::InitializeAllTargetInfos();
  llvm::InitializeAllTargets();
  llvm::InitializeAllTargetMCs();
  llvm::InitializeAllAsmPrinters();
  llvm::Triple triple("nvptx64-nvidia-cuda");
  std::string problem;
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, problem);
  if (!target)
    return llvm::createStringError("this LLVM has no code generator for NVIDIA GPUs: " + problem);
  std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(triple, chip.name, ("+" + chip.ptx).str(), {}, {}));
  if (!machine)
    return llvm::createStringError("LLVM cannot compile for " + chip.name);
  machine->setOptLevel(optLevel == 0 ? llvm::CodeGenOptLevel::None : llvm::CodeGenOptLevel::Aggressive);

  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> code = translateModuleToLLVMIR(*kernels.begin(), context);
  if (!code)
    return llvm::createStringError("the translation of the kernels to LLVM IR failed");
  code->setTargetTriple(triple);
  code->setDataLayout(machine->createDataLayout());

  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(machine.get());
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  llvm::ModulePassManager passes = optLevel == 0 ? builder.buildO0DefaultPipeline(llvm::OptimizationLevel::O0)
                                                 : builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3);
  passes.run(*code, modules);

  SmallVector<char, 0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager emission;
  if (machine->addPassesToEmitFile(emission, os, nullptr, llvm::CodeGenFileType::AssemblyFile))
    return llvm::createStringError("LLVM cannot write PTX");
  emission.run(*code);
  return std::string(text.begin(), text.end());
}

void embedDeviceCode(ModuleOp module, StringRef cubin, StringRef ptx) {
  OpBuilder b(module.getBodyRegion());
  for (auto [name, data] : {std::pair<StringRef, StringRef>{"moe_device_cubin", cubin}, {"moe_device_ptx", ptx}}) {
    // The driver wants text to end in a zero; the symbol's length in the signature does not count it.
    std::string bytes = data.str();
    bytes.push_back('\0');
    auto type = LLVM::LLVMArrayType::get(b.getI8Type(), bytes.size());
    auto global = LLVM::GlobalOp::create(b, module.getLoc(), type, /*isConstant=*/true, LLVM::Linkage::External, name,
                                         b.getStringAttr(bytes), /*alignment=*/64);
    global.setDsoLocal(true);
  }
  for (auto kernels : llvm::make_early_inc_range(module.getOps<gpu::GPUModuleOp>()))
    kernels.erase();
}

} // namespace mlir::moe
