//===- moe-translate.cpp - other formats to MLIR --------------------------===//
//
// moe-translate --import-onnx model.onnx            the onnx level as text, weights left out
// moe-translate --import-onnx --lower model.onnx    raised and lowered to upstream IR and the routed level
// moe-translate --import-onnx --lower --merge *.onnx    one module, a function for each file that is not refused
// moe-translate --list-onnx-operators               the table in docs/onnx-support.md
//
//===----------------------------------------------------------------------===//
#include "mlir/IR/AsmState.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/Verifier.h"
#include "mlir/InitAllDialects.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Support/FileUtilities.h"
#include "moe/Conversion/OnnxOperators.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Dialect/Moe/Transforms/Passes.h"
#include "moe/Dialect/Onnx/IR/OnnxDialect.h"
#include "moe/Dialect/Onnx/Transforms/Passes.h"
#include "moe/Import/Onnx/Import.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/ToolOutputFile.h"

using namespace mlir;

static llvm::cl::OptionCategory category("moe-translate options");
static llvm::cl::opt<bool> importOnnx("import-onnx", llvm::cl::desc("Import ONNX files"), llvm::cl::cat(category));
static llvm::cl::opt<bool> quiet("quiet", llvm::cl::desc("Print one line per file: imported or refused"),
                                 llvm::cl::cat(category));
static llvm::cl::opt<bool> lower("lower", llvm::cl::desc("Raise MoE layers and lower the rest of what was imported"),
                                 llvm::cl::cat(category));
static llvm::cl::opt<bool> merge("merge",
                                 llvm::cl::desc("Make one module of all files that are not refused: a function each, "
                                                "named after the file, small weights as constants"),
                                 llvm::cl::cat(category));
static llvm::cl::opt<bool> listOperators("list-onnx-operators",
                                         llvm::cl::desc("Print the table of supported operators"),
                                         llvm::cl::cat(category));
static llvm::cl::opt<std::string> output("o", llvm::cl::desc("Output file"), llvm::cl::init("-"),
                                         llvm::cl::cat(category));
static llvm::cl::list<std::string> inputs(llvm::cl::Positional, llvm::cl::desc("<input files>"), llvm::cl::ZeroOrMore,
                                          llvm::cl::cat(category));

/// Weights up to this many elements are constants of a merged module, which has no weights file.
static constexpr int64_t kMergedConstant = 1 << 16;

int main(int argc, char **argv) {
  llvm::InitLLVM init(argc, argv);
  registerAsmPrinterCLOptions();
  llvm::cl::ParseCommandLineOptions(argc, argv, "moe-translate: other formats to MLIR\n");
  if (!importOnnx && !listOperators) {
    llvm::errs() << "moe-translate: nothing to do; say --import-onnx or --list-onnx-operators\n";
    return 1;
  }
  std::string message;
  auto file = openOutputFile(output, &message);
  if (!file) {
    llvm::errs() << "moe-translate: " << message << "\n";
    return 1;
  }
  if (listOperators)
    moe::printOnnxOperatorTable(file->os());
  bool failed = false;
  DialectRegistry registry;
  registerAllDialects(registry);
  registry.insert<moe::MoeDialect, moe::OnnxDialect>();
  moe::OnnxImportOptions options;
  if (merge)
    options.maxConstantElements = options.maxConstantIntegers = kMergedConstant;
  MLIRContext mergedContext(registry, MLIRContext::Threading::DISABLED);
  OwningOpRef<ModuleOp> merged = ModuleOp::create(UnknownLoc::get(&mergedContext));
  for (const std::string &input : inputs) {
    MLIRContext ownContext(MLIRContext::Threading::DISABLED);
    MLIRContext &context = merge ? mergedContext : ownContext;
    context.appendDialectRegistry(registry);
    llvm::SourceMgr sources;
    SourceMgrDiagnosticHandler handler(sources, &context);
    moe::WeightStore weights;
    OwningOpRef<ModuleOp> module = moe::importOnnxFile(input, context, weights, options);
    bool good = module && succeeded(verify(*module));
    if (good && lower) {
      PassManager passes(&context);
      passes.addNestedPass<func::FuncOp>(moe::createOnnxRefuseTracedExpertsPass());
      passes.addNestedPass<func::FuncOp>(moe::createOnnxRaiseMoePass());
      passes.addNestedPass<func::FuncOp>(moe::createConvertOnnxToLinalgPass());
      passes.addPass(moe::createMoeTakeCodesPass());
      good = succeeded(passes.run(*module));
    }
    failed |= !good;
    if (quiet)
      (merge ? llvm::errs() : file->os()) << input << ": " << (good ? "imported" : "refused") << "\n";
    else if (good && !merge)
      module->print(file->os());
    if (!good || !merge)
      continue;
    auto function = *module->getOps<func::FuncOp>().begin();
    function.setName(llvm::sys::path::stem(input));
    function->moveBefore(merged->getBody(), merged->getBody()->end());
  }
  if (merge)
    merged->print(file->os());
  if (!failed || quiet)
    file->keep();
  return failed;
}
