//===- ObjectCode.cpp - from the LLVM dialect to machine code -------------===//
#include "moe/Target/ObjectCode.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "moe/Transforms/Host.h"
#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/GlobalVariable.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/PassManager.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Object/ObjectFile.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Signals.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/ModuleUtils.h"
#include <chrono>
#include <unistd.h>

namespace mlir::moe {

namespace {

/// Adds the time of a scope to `seconds`.
class ScopedTimer {
public:
  explicit ScopedTimer(double &seconds) : seconds(seconds), start(std::chrono::steady_clock::now()) {}
  ~ScopedTimer() { seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

private:
  double &seconds;
  std::chrono::steady_clock::time_point start;
};

/// What LLVM is working on in this thread, for the fatal error handler.
thread_local llvm::Module *current = nullptr;
struct CurrentModule {
  explicit CurrentModule(llvm::Module &module) { current = &module; }
  ~CurrentModule() { current = nullptr; }
};

void handleFatalError(void *, const char *reason, bool) {
  if (current)
    llvm::errs() << "error: LLVM cannot compile this program for this target: " << reason << "\n";
  else
    llvm::errs() << "error: the compiler stopped, which is a bug of it: " << reason << "\n"
                 << "note: --mlir-pass-pipeline-crash-reproducer=FILE makes a small input for a report\n";
  SmallString<128> path;
  int descriptor;
  if (current && !llvm::sys::fs::createTemporaryFile("moe-compile-failure", "ll", descriptor, path)) {
    llvm::raw_fd_ostream os(descriptor, /*shouldClose=*/true);
    current->print(os, nullptr);
    llvm::errs() << "note: the LLVM IR in question was saved as " << path
                 << "; another --mcpu or -O0 may avoid the problem\n";
  }
  llvm::sys::RunInterruptHandlers(); // removes unfinished outputs
  _exit(3);
}

/// The only library functions that LLVM may call: everything else is undefined in a module.
llvm::TargetLibraryInfoImpl getLibraryInfo(const llvm::Triple &triple) {
  llvm::TargetLibraryInfoImpl info(triple);
  info.disableAllFunctions();
  for (llvm::LibFunc function : {llvm::LibFunc_memcpy, llvm::LibFunc_memmove, llvm::LibFunc_memset})
    info.setAvailable(function);
  return info;
}

/// The passes of LLVM that find something to do here. Loops are tiled, vectorised and unrolled when they come, so that
/// the default pipeline makes the same code (docs/performance.md, "Time to compile") in twice the time.
std::string getPasses(unsigned optLevel) {
  if (optLevel == 0)
    return "default<O0>";
  // Loops of integers (counts, places of pairs) are all that is left to LLVM's vectoriser.
  StringRef vectorize = optLevel > 1 ? "loop-vectorize," : "";
  return ("function(simplifycfg,sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>),"
          // Kernels do not use all parameters of their form; tasks read their struct at the start.
          "deadargelim,cgscc(inline,function-attrs,argpromotion),"
          "function(simplifycfg<hoist-common-insts;sink-common-insts>,early-cse<memssa>,"
          "loop-simplify,lcssa,loop-mssa(loop-rotate,licm),instcombine<no-verify-fixpoint>,gvn,"
          "loop(indvars,loop-deletion),dse," +
          vectorize +
          "instcombine<no-verify-fixpoint>,loop-mssa(licm),simplifycfg),"
          "globaldce")
      .str();
}
} // namespace

/// On targets without bf16 instructions LLVM moves bf16 vectors by way of f32, and calls __truncsfbf2 to come back. The
/// module brings its own: round to nearest, ties to even, NaN stays NaN.
static void defineBFloatTruncation(llvm::Module &module) {
  bool used = false;
  for (llvm::Function &function : module)
    for (llvm::BasicBlock &block : function)
      for (llvm::Instruction &instruction : block) {
        used |= instruction.getType()->getScalarType()->isBFloatTy();
        for (llvm::Value *operand : instruction.operands())
          used |= operand->getType()->getScalarType()->isBFloatTy();
      }
  if (!used)
    return;
  llvm::IRBuilder<> b(module.getContext());
  auto *type = llvm::FunctionType::get(b.getBFloatTy(), {b.getFloatTy()}, /*isVarArg=*/false);
  // Internal: each version of the code has its own, made of instructions that it may use.
  auto *function = llvm::Function::Create(type, llvm::GlobalValue::InternalLinkage, "__truncsfbf2", module);
  function->addFnAttr(llvm::Attribute::NoInline);
  b.SetInsertPoint(llvm::BasicBlock::Create(module.getContext(), "", function));
  llvm::Value *x = function->getArg(0);
  llvm::Value *bits = b.CreateBitCast(x, b.getInt32Ty());
  llvm::Value *high = b.CreateLShr(bits, 16);
  llvm::Value *bias = b.CreateAdd(b.CreateAnd(high, 1), b.getInt32(0x7fff));
  llvm::Value *rounded = b.CreateLShr(b.CreateAdd(bits, bias), 16);
  llvm::Value *quiet = b.CreateOr(high, 0x40);
  llvm::Value *result = b.CreateSelect(b.CreateFCmpUNO(x, x), quiet, rounded);
  b.CreateRet(b.CreateBitCast(b.CreateTrunc(result, b.getInt16Ty()), b.getBFloatTy()));
  llvm::appendToUsed(module, {function});
}

void installFatalErrorHandler() { llvm::install_fatal_error_handler(handleFatalError); }

llvm::Expected<std::unique_ptr<llvm::Module>> translateToLlvm(ModuleOp module, llvm::LLVMContext &context,
                                                              const CpuTarget &target, StringRef signature,
                                                              CodegenTimes &times) {
  ScopedTimer timer(times.translate);
  std::unique_ptr<llvm::Module> result = translateModuleToLLVMIR(module, context);
  if (!result)
    return llvm::createStringError("the translation to LLVM IR failed");
  result->setTargetTriple(llvm::Triple(target.triple));
  result->setDataLayout(target.machine->createDataLayout());
  result->setPICLevel(llvm::PICLevel::BigPIC);
  // LLVM prefers 256-bit vectors by itself; these loops are long enough for 512.
  if (target.vectorLanes == 16)
    for (llvm::Function &function : *result)
      function.addFnAttr("prefer-vector-width", "512");
  if (!signature.empty()) {
    auto *bytes = llvm::ConstantDataArray::getString(context, signature, /*AddNull=*/false);
    auto *global = new llvm::GlobalVariable(*result, bytes->getType(), /*isConstant=*/true,
                                            llvm::GlobalValue::ExternalLinkage, bytes, "moe_signature");
    global->setSection(".moe.sig");
    global->setAlignment(llvm::Align(64));
  }
  std::string problems;
  llvm::raw_string_ostream os(problems);
  if (llvm::verifyModule(*result, &os))
    return llvm::createStringError("the translation made invalid LLVM IR: " + problems);
  defineBFloatTruncation(*result);
  return result;
}

llvm::Error optimise(llvm::Module &module, const CpuTarget &target, unsigned optLevel, llvm::StringRef pipeline,
                     CodegenTimes &times) {
  ScopedTimer timer(times.optimise);
  CurrentModule guard(module);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(target.machine.get());
  functions.registerPass([&] { return llvm::TargetLibraryAnalysis(getLibraryInfo(llvm::Triple(target.triple))); });
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  llvm::ModulePassManager passes;
  if (llvm::Error failed =
          builder.parsePassPipeline(passes, pipeline.empty() ? StringRef(getPasses(optLevel)) : pipeline))
    return failed;
  passes.run(module, modules);
  return llvm::Error::success();
}

llvm::Error emitMachineCode(llvm::Module &module, const CpuTarget &target, bool assembly,
                            llvm::SmallVectorImpl<char> &output, CodegenTimes &times) {
  ScopedTimer timer(times.generate);
  CurrentModule guard(module);
  llvm::raw_svector_ostream os(output);
  llvm::legacy::PassManager passes;
  passes.add(new llvm::TargetLibraryInfoWrapperPass(getLibraryInfo(llvm::Triple(target.triple))));
  if (target.machine->addPassesToEmitFile(
          passes, os, nullptr, assembly ? llvm::CodeGenFileType::AssemblyFile : llvm::CodeGenFileType::ObjectFile))
    return llvm::createStringError("LLVM cannot write this kind of file for " + target.triple);
  passes.run(module);
  return llvm::Error::success();
}

llvm::Expected<std::vector<std::string>> findForeignSymbols(ArrayRef<char> object) {
  auto file = llvm::object::ObjectFile::createObjectFile(
      llvm::MemoryBufferRef(StringRef(object.data(), object.size()), "object"));
  if (!file)
    return file.takeError();
  std::vector<std::string> names;
  for (const llvm::object::SymbolRef &symbol : (*file)->symbols()) {
    auto flags = symbol.getFlags();
    if (!flags)
      return flags.takeError();
    if (!(*flags & llvm::object::SymbolRef::SF_Undefined))
      continue;
    auto name = symbol.getName();
    if (!name)
      return name.takeError();
    // The linker makes the table of global offsets itself.
    if (name->empty() || llvm::is_contained({StringRef("memcpy"), StringRef("memmove"), StringRef("memset"),
                                             StringRef("_GLOBAL_OFFSET_TABLE_"), StringRef(kHostVariable)},
                                            *name))
      continue;
    names.push_back(name->str());
  }
  return names;
}

} // namespace mlir::moe
