//===- moe-compile.cpp - ONNX or MLIR to a module that runs ---------------===//
#include "Compilation.h"
#include "mlir/IR/AsmState.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Pass/PassManager.h"
#include "moe/InitAll.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/PrettyStackTrace.h"
#include "llvm/Support/raw_ostream.h"
#include <csignal>

using namespace mlir;
using namespace mlir::moe;
namespace cl = llvm::cl;

static cl::OptionCategory category("moe-compile options");

static cl::opt<std::string> input(cl::Positional, cl::desc("<model.onnx or program.mlir>"), cl::init(""),
                                  cl::cat(category));
static cl::opt<std::string> output("o", cl::desc("The module to write (default: the input's name with .moe)"),
                                   cl::value_desc("NAME.moe"), cl::cat(category));
static cl::opt<std::string> weights("weights", cl::desc("Where the weights go (default: NAME.safetensors)"),
                                    cl::value_desc("file"), cl::cat(category));
static cl::opt<std::string>
    cpu("mcpu",
        cl::desc("The processors to compile for: LLVM names with commas between, or 'native'; a "
                 "module has code for each, the first for every machine that runs it (default: "
                 "x86-64-v3,x86-64-v4: machines with and without AVX-512)"),
        cl::value_desc("names"), cl::init(kDefaultCpus.str()), cl::cat(category));
enum class Device { Cpu, Cuda };
static cl::opt<Device> device("target", cl::desc("What runs the work:"), cl::init(Device::Cpu),
                              cl::values(clEnumValN(Device::Cpu, "cpu", "the processor (default)"),
                                         clEnumValN(Device::Cuda, "cuda", "an NVIDIA GPU")),
                              cl::cat(category));
static cl::opt<std::string> chip("chip", cl::desc("The GPU: sm_80, sm_86, sm_89, sm_90, sm_100 or sm_120"),
                                 cl::value_desc("name"), cl::init("sm_80"), cl::cat(category));
static cl::opt<std::string> ptxas("ptxas", cl::desc("The program ptxas (default: from PATH or CUDA_HOME)"),
                                  cl::value_desc("path"), cl::cat(category));
static cl::opt<std::string>
    precision("precision",
              cl::desc("With --target=cuda: f32 experts are multiplied in f16, bf16 or tf32, with f32 "
                       "sums (default: f32, without tensor cores); routers never"),
              cl::value_desc("type"), cl::cat(category));
static cl::opt<bool> emulate("emulate",
                             cl::desc("Run the GPU's kernels on the processor, thread by thread (for tests)"),
                             cl::cat(category));
static cl::opt<char> optLevel("O", cl::desc("How hard to optimise, 0 to 3 (default: 3)"), cl::Prefix, cl::init('3'),
                              cl::cat(category));
static cl::opt<std::string> compileTo("compile-to", cl::desc("Stop after a phase and write MLIR"),
                                      cl::value_desc("phase"), cl::init("link"), cl::cat(category));
static cl::opt<std::string> dumpPhasesTo("dump-phases-to",
                                         cl::desc("Write the program after each phase to this folder"),
                                         cl::value_desc("folder"), cl::cat(category));
static cl::opt<Emit> emitKind("emit", cl::desc("What to write:"), cl::init(Emit::Module),
                              cl::values(clEnumValN(Emit::Module, "module", "a module (default)"),
                                         clEnumValN(Emit::Object, "obj", "its object file"),
                                         clEnumValN(Emit::Assembly, "asm", "its assembly"),
                                         clEnumValN(Emit::Ptx, "ptx", "the PTX text of its kernels (--target=cuda)"),
                                         clEnumValN(Emit::LlvmIr, "llvm", "its optimised LLVM IR")),
                              cl::cat(category));
static cl::opt<std::string>
    forceLowering("force-lowering", cl::desc("One lowering for every moe.apply: reference, fused, pairwise or dense"),
                  cl::value_desc("name"), cl::cat(category));
static cl::opt<std::string>
    quantizeFormat("quantize",
                   cl::desc("Quantise the experts' weights: int8, int4, int3, int2 or mxfp4, with "
                            ":N for another number of weights per scale (0: one scale per row)"),
                   cl::value_desc("format[:block]"), cl::cat(category));
static cl::opt<bool> quantizeLinears("quantize-linears",
                                     cl::desc("With --quantize: linear layers outside of experts too; routers never"),
                                     cl::cat(category));
static cl::opt<double>
    quantizeBits("bits", cl::desc("With --quantize: 2, 3, 4 or 8 bits for each expert, this many in the mean"),
                 cl::value_desc("number"), cl::cat(category));
static cl::opt<std::string>
    calibrateWith("calibrate",
                  cl::desc("With --quantize: inputs of the program; errors count by what they do to its activations"),
                  cl::value_desc("inputs.safetensors"), cl::cat(category));
static cl::opt<std::string> numerics(
    "numerics",
    cl::desc(
        "Products with quantised weights: exact (f32 activations), or fast (activations rounded to 8 bits, "
        "integer arithmetic; default: exact, but for layers whose file asks for it by accuracy_level). fast also lets "
        "processors with AMX round f32 activations to the bf16 of their weights"),
    cl::value_desc("exact|fast"), cl::cat(category));
static cl::opt<bool> fuseCombine(
    "fuse-combine",
    cl::desc(
        "The second product of an MoE layer adds its pairs to the rows of their tokens: less than half of the memory "
        "for activations, as fast on few threads (measured on one and two)"),
    cl::cat(category));
static cl::opt<bool> batchInvariant(
    "batch-invariant",
    cl::desc(
        "A token's result has the same bits whatever other tokens are in the call: one order of sums for any number "
        "of rows, no tile instructions (slower by about a sixth with few rows on AVX2)"),
    cl::cat(category));
static cl::opt<std::string> emulatedCpu(
    "emulate-cpu",
    cl::desc("The kernels for this processor, with ordinary code in the place of its instructions, for those of "
             "--mcpu (default: x86-64-v3; for tests)"),
    cl::value_desc("name"), cl::Hidden, cl::cat(category));
static cl::opt<std::string>
    llvmPasses("llvm-passes", cl::desc("LLVM's passes, as opt -passes has them, in place of the compiler's own choice"),
               cl::value_desc("text"), cl::Hidden, cl::cat(category));
static cl::opt<std::string> forceEncoding("force-encoding",
                                          cl::desc("One encoding for all routings that have a choice: slots or dense"),
                                          cl::value_desc("name"), cl::cat(category));
static cl::opt<bool> singleThread("single-thread", cl::desc("Never split a loop over the host's threads"),
                                  cl::cat(category));
static cl::opt<bool> noRaising("no-raising",
                               cl::desc("Compile the decomposed MoE layers of an ONNX file as they are written"),
                               cl::cat(category));
static cl::opt<bool>
    allowTracedExperts("allow-traced-experts",
                       cl::desc("Compile an ONNX file that holds only the experts that were hit while tracing"),
                       cl::cat(category));
static cl::opt<bool> remarks("remarks", cl::desc("Say what was optimised, what was not, and why"), cl::cat(category));
static cl::opt<std::string>
    report("report", cl::ValueOptional, cl::value_desc("json"),
           cl::desc("Print every MoE layer that was found, and what was not raised and why, instead of the summary"),
           cl::cat(category));
static cl::opt<bool> json("json", cl::desc("Print the summary as JSON"), cl::cat(category));
static cl::opt<bool> quiet("quiet", cl::desc("No progress and no summary"), cl::cat(category));
static cl::alias quietShort("q", cl::aliasopt(quiet), cl::desc("--quiet"), cl::cat(category));

/// Bad usage, as opposed to a program that does not compile.
static constexpr int kUsageError = 2;

static int usageError(const llvm::Twine &message) {
  llvm::errs() << "moe-compile: error: " << message << " (see --help)\n";
  return kUsageError;
}

static void printVersion(llvm::raw_ostream &os) {
  os << "moe-compile " MOE_VERSION " (LLVM " LLVM_VERSION_STRING ")\n";
}

static const char *const kOverview =
    "moe-compile: compiles ONNX models and MLIR with MoE layers to modules that moe-run and the C API run\n\n"
    "  moe-compile model.onnx -o model.moe              model.moe and model.safetensors\n"
    "  moe-compile model.onnx --compile-to=raise        what the import made of it, as MLIR, on the standard output\n"
    "  moe-compile layer.mlir --mcpu=native --remarks   for this machine, with reasons\n"
    "  moe-compile layer.mlir --dump-phases-to=phases   the program after every phase, in files\n\n"
    "Exit status: 0 done, 1 the input does not compile, 2 wrong usage, 3 LLVM gave up. MLIR's own options\n"
    "(--mlir-timing, --mlir-print-ir-after-all, ...) work too: --help-hidden lists them.\n";

static std::string listPhases() {
  std::string text = "\nPHASES, and what the program is after each:\n\n";
  for (const PhaseInfo &info : getPhases())
    text += ("  " + info.name + std::string(12 - info.name.size(), ' ') + info.description + "\n").str();
  return text;
}

/// Prints remarks as plain notes, not as the optimiser's records.
namespace {
struct PlainRemarks : remark::detail::MLIRRemarkStreamerBase {
  void streamOptimizationRemark(const remark::detail::Remark &remark) override {
    std::string text;
    llvm::raw_string_ostream os(text);
    remark.print(os, /*printLocation=*/false);
    emitRemark(remark.getLocation()) << text;
  }
};
} // namespace

static void removeOwnOptions() {
  std::vector<cl::Option *> own;
  for (auto &entry : cl::getRegisteredOptions())
    if (llvm::is_contained(entry.second->Categories, &category))
      own.push_back(entry.second);
  for (cl::Option *option : own)
    option->removeArgument();
}

int main(int argc, char **argv) {
  llvm::setBugReportMsg(
      "moe-compile crashed, which is a bug of the compiler, whatever the input. Please report it with "
      "the command line and the input; --mlir-pass-pipeline-crash-reproducer=FILE makes a small one.\n");
  llvm::InitLLVM init(argc, argv);
  std::signal(SIGXFSZ, SIG_IGN); // a file that may not grow further is an error of the write
  installFatalErrorHandler();
  registerAsmPrinterCLOptions();
  registerMLIRContextCLOptions();
  registerPassManagerCLOptions();
  registerDefaultTimingManagerCLOptions();
  cl::HideUnrelatedOptions(category);
  cl::SetVersionPrinter(printVersion);
  std::string phaseHelp = listPhases();
  cl::extrahelp phaseList(phaseHelp);
  if (!cl::ParseCommandLineOptions(argc, argv, kOverview, &llvm::errs()))
    return kUsageError;

  if (input.empty())
    return usageError("no input file");
  CompilationOptions options;
  options.input = input;
  std::optional<Phase> phase = parsePhase(compileTo);
  if (!phase)
    return usageError("no phase is called '" + compileTo + "'");
  options.compileTo = *phase;
  if (optLevel < '0' || optLevel > '3')
    return usageError("-O takes 0, 1, 2 or 3, not '" + llvm::Twine(optLevel.getValue()) + "'");
  options.phases.optLevel = optLevel - '0';
  if (!forceLowering.empty() &&
      !llvm::is_contained({"reference", "fused", "pairwise", "dense"}, StringRef(forceLowering)))
    return usageError("--force-lowering takes reference, fused, pairwise or dense, not '" + forceLowering + "'");
  options.phases.forceLowering = forceLowering;
  if (!forceEncoding.empty() && !llvm::is_contained({"slots", "dense"}, StringRef(forceEncoding)))
    return usageError("--force-encoding takes slots or dense, not '" + forceEncoding + "'");
  options.phases.forceEncoding = forceEncoding;
  if (!numerics.empty() && numerics != "exact" && numerics != "fast")
    return usageError("--numerics takes exact or fast, not '" + numerics + "'");
  if (numerics == "fast" && device == Device::Cuda)
    return usageError("--numerics=fast goes with --target=cpu");
  options.phases.numerics = numerics;
  if (fuseCombine && (device == Device::Cuda || options.phases.optLevel == 0))
    return usageError("--fuse-combine goes with --target=cpu and -O1 or more");
  options.phases.fuseCombine = fuseCombine;
  if (batchInvariant && device == Device::Cuda)
    return usageError("--batch-invariant goes with --target=cpu");
  options.phases.batchInvariant = batchInvariant;
  if (!emulatedCpu.empty() && device == Device::Cuda)
    return usageError("--emulate-cpu goes with --target=cpu");
  options.emulatedCpu = emulatedCpu;
  options.llvmPasses = llvmPasses;
  options.phases.threads = !singleThread;
  options.phases.raiseDecomposed = !noRaising;
  if (quantizeFormat.getNumOccurrences()) {
    options.quantize.emplace();
    if (!parseQuantizeFormat(quantizeFormat, *options.quantize))
      return usageError("--quantize takes int8, int4, int3, int2 or mxfp4, with ':' and a block size if wanted, not '" +
                        quantizeFormat + "'");
    options.quantize->linears = quantizeLinears;
    options.calibrate = calibrateWith;
    if (!calibrateWith.empty() && options.compileTo < Phase::Optimise)
      return usageError("--calibrate goes with a phase behind the import");
    if (quantizeBits.getNumOccurrences()) {
      if (options.quantize->kind == QuantKind::E2M1)
        return usageError("--bits goes with integers, not with mxfp4");
      if (!(quantizeBits >= 2 && quantizeBits <= 8))
        return usageError("--bits takes a number from 2 to 8");
      options.quantize->meanBits = quantizeBits;
    }
  } else if (quantizeLinears || quantizeBits.getNumOccurrences() || !calibrateWith.empty()) {
    return usageError("--quantize-linears, --bits and --calibrate go with --quantize");
  }
  options.phases.allowTracedExperts = allowTracedExperts;
  options.emit = options.compileTo == Phase::Link ? emitKind.getValue() : Emit::Mlir;
  if (options.emit == Emit::Mlir && emitKind.getNumOccurrences())
    return usageError("--emit and --compile-to exclude each other");
  if (device == Device::Cuda) {
    llvm::Expected<CudaChip> found = findCudaChip(chip);
    if (!found)
      return usageError(toString(found.takeError()));
    options.chip = *found;
    options.ptxas = ptxas;
    options.phases.gpuSharedLimit = found->sharedLimit;
    options.phases.emulateGpu = emulate;
    // The packed order is that of the processor's kernels.
    options.phases.packWeights = false;
    if (precision.getNumOccurrences() && !llvm::is_contained({"f32", "f16", "bf16", "tf32"}, StringRef(precision)))
      return usageError("--precision takes f32, f16, bf16 or tf32, not '" + precision + "'");
    if (precision != "f32")
      options.phases.gpuPrecision = precision;
    if (options.emit == Emit::Ptx && emulate)
      return usageError("--emit=ptx and --emulate exclude each other");
    if (options.phases.optLevel == 0)
      return usageError("--target=cuda needs -O1 or more: without optimisation there are no kernels");
  } else if (chip.getNumOccurrences() || emulate || ptxas.getNumOccurrences() || precision.getNumOccurrences() ||
             options.emit == Emit::Ptx) {
    return usageError("--chip, --precision, --ptxas, --emulate and --emit=ptx need --target=cuda");
  }
  options.output = output;
  if (output.empty() && options.emit != Emit::Module && options.emit != Emit::Object) {
    options.output = "-";
  } else if (output.empty()) {
    if (input == "-")
      return usageError("a program from the standard input needs -o");
    llvm::SmallString<128> path(input.getValue());
    llvm::sys::path::replace_extension(path, options.emit == Emit::Module ? ".moe" : ".o");
    options.output = std::string(path);
  }
  if (options.output == options.input && options.input != "-")
    return usageError("the output '" + options.output + "' would replace the input");
  bool withReport = report.getNumOccurrences(), jsonReport = report == "json";
  if (withReport && !jsonReport && !report.empty())
    return usageError("--report takes json or nothing, not '" + report + "'");
  if (withReport && options.output == "-")
    return usageError("--report and the output would both be written to the standard output; give -o");
  options.weights = weights;
  options.dumpPhasesTo = dumpPhasesTo;
  if (!emulatedCpu.empty() && !cpu.getNumOccurrences())
    cpu.setValue(kBaselineCpu.str());
  options.cpus = cpu;
  options.cpusAreDefault = !cpu.getNumOccurrences() && emulatedCpu.empty();
  options.progress = !quiet;
  options.recorded = {std::string("-O") + optLevel.getValue(), "--mcpu=" + cpu};
  if (!emulatedCpu.empty())
    options.recorded.push_back("--emulate-cpu=" + emulatedCpu);
  if (!forceLowering.empty())
    options.recorded.push_back("--force-lowering=" + forceLowering);
  if (!forceEncoding.empty())
    options.recorded.push_back("--force-encoding=" + forceEncoding);
  if (!numerics.empty())
    options.recorded.push_back("--numerics=" + numerics);
  if (fuseCombine)
    options.recorded.push_back("--fuse-combine");
  if (batchInvariant)
    options.recorded.push_back("--batch-invariant");
  if (singleThread)
    options.recorded.push_back("--single-thread");
  if (options.quantize) {
    options.recorded.push_back("--quantize=" + quantizeFormat);
    if (quantizeLinears)
      options.recorded.push_back("--quantize-linears");
    if (!calibrateWith.empty())
      options.recorded.push_back("--calibrate");
    if (options.quantize->meanBits)
      options.recorded.push_back(llvm::formatv("--bits={0}", quantizeBits.getValue()).str());
  }
  if (!options.phases.gpuPrecision.empty())
    options.recorded.push_back("--precision=" + options.phases.gpuPrecision);
  if (noRaising)
    options.recorded.push_back("--no-raising");
  if (allowTracedExperts)
    options.recorded.push_back("--allow-traced-experts");

  // The linker is a library in this process that registers its own -mcpu, and forgets the values of all options.
  bool asJson = json, silent = quiet, withRemarks = remarks;
  const cl::Option *printing = cl::getRegisteredOptions().lookup("mlir-print-op-on-diagnostic");
  bool printsOps = printing && printing->getNumOccurrences();
  removeOwnOptions();

  DialectRegistry registry;
  mlir::moe::registerAllDialects(registry);
  mlir::moe::registerAllPasses();
  MLIRContext context(registry);
  // An error says where it is and why; the IR around it (all of the program, for an error of the module) only helps who
  // works on the compiler.
  if (!printsOps)
    context.printOpOnDiagnostic(false);
  llvm::SourceMgr sources;
  SourceMgrDiagnosticHandler handler(sources, &context);
  if (withRemarks) {
    remark::RemarkCategories categories;
    categories.passed = categories.missed = categories.analysis = categories.failed = ".*";
    if (failed(remark::enableOptimizationRemarks(context, std::make_unique<PlainRemarks>(),
                                                 std::make_unique<remark::RemarkEmittingPolicyAll>(), categories)))
      return usageError("remarks cannot be enabled");
  }
  DefaultTimingManager timingManager;
  applyDefaultTimingManagerCLOptions(timingManager);
  TimingScope timing = timingManager.getRootScope();

  Compilation compilation(context, sources, options, timing);
  if (failed(compilation.run()))
    return 1;
  if (withReport) {
    printReport(compilation.getSummary(), jsonReport, llvm::outs());
    return 0;
  }
  if (options.emit != Emit::Module || options.output == "-")
    return 0;
  if (asJson)
    llvm::outs() << llvm::formatv("{0:2}", llvm::json::Value(toJson(compilation.getSummary()))) << "\n";
  else if (!silent)
    printSummary(compilation.getSummary(), llvm::outs());
  return 0;
}
