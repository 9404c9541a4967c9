//===- Compilation.cpp - one run of the compiler --------------------------===//
#include "Compilation.h"
#include "DescribeLayers.h"
#include "OutputFile.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Threading.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "moe-c/Module.h"
#include "moe/Conversion/GroupedMatmulKernels.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Import/Onnx/Import.h"
#include "moe/Quantize/Calibrate.h"
#include "moe/Quantize/PackPanels.h"
#include "moe/Quantize/RecodedWeights.h"
#include "moe/Target/ConvertedWeights.h"
#include "moe/Target/ModuleFile.h"
#include "moe/Target/PackedWeights.h"
#include "moe/Target/Signature.h"
#include "moe/Target/WeightsFile.h"
#include "moe/Target/Work.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"
#include <thread>

namespace mlir::moe {

namespace sys = llvm::sys;
using llvm::Twine;

Compilation::Compilation(MLIRContext &context, llvm::SourceMgr &sources, const CompilationOptions &options,
                         TimingScope &timing)
    : context(context), sources(sources), options(options), timing(timing), progress(options.progress) {}

LogicalResult Compilation::error(const Twine &message) {
  progress.clear();
  llvm::errs() << "moe-compile: error: " << message << "\n";
  return failure();
}

//===----------------------------------------------------------------------===//
// Input
//===----------------------------------------------------------------------===//

/// What kind of file this is, by what it holds as much as by its name.
static std::string describeInput(StringRef path, StringRef start) {
  if (start.starts_with("ML\xEFR"))
    return "mlir"; // bytecode
  if (start.starts_with("MOEMODUL") || start.starts_with("\x7f"
                                                         "ELF"))
    return "a compiled module";
  StringRef extension = sys::path::extension(path);
  bool binary = start.contains('\0');
  if (extension == ".onnx")
    return "onnx";
  if (extension == ".mlir" || path == "-")
    return binary ? "binary data" : "mlir";
  if (extension == ".mlirbc")
    return "mlir";
  if (extension == ".safetensors" || extension == ".npy" || extension == ".pt" || extension == ".gguf")
    return "a file of tensors (" + extension.str() + ")";
  return "a file whose name ends neither in .onnx nor in .mlir";
}

LogicalResult Compilation::import() {
  auto start = std::chrono::steady_clock::now();
  progress.show("reading " + options.input);
  sys::fs::file_status status;
  if (options.input != "-") {
    if (std::error_code code = sys::fs::status(options.input, status))
      return error("cannot read '" + Twine(options.input) + "': " + code.message());
    if (sys::fs::is_directory(status))
      return error("cannot read '" + Twine(options.input) + "': it is a directory");
  }
  // The first bytes decide; an ONNX file may be too large to be read here.
  auto head = options.input == "-"
                  ? llvm::MemoryBuffer::getSTDIN()
                  : llvm::MemoryBuffer::getFileSlice(options.input, std::min<uint64_t>(4096, status.getSize()), 0);
  if (!head)
    return error("cannot read '" + Twine(options.input) + "': " + head.getError().message());
  std::string kind = describeInput(options.input, (*head)->getBuffer());

  if (kind == "onnx") {
    module = importOnnxFile(options.input, context, weights);
  } else if (kind == "mlir") {
    if (options.input == "-") {
      sources.AddNewSourceBuffer(std::move(*head), SMLoc());
    } else {
      auto file = llvm::MemoryBuffer::getFile(options.input);
      if (!file)
        return error("cannot read '" + Twine(options.input) + "': " + file.getError().message());
      sources.AddNewSourceBuffer(std::move(*file), SMLoc());
    }
    module = parseSourceFile<ModuleOp>(sources, &context);
  } else {
    return error("'" + Twine(options.input) + "' is " + kind + "; moe-compile reads ONNX models and MLIR");
  }
  if (!module)
    return error("'" + Twine(options.input) + "' was not read; nothing was written");
  summary.times.push_back({"import", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
  return success();
}

//===----------------------------------------------------------------------===//
// Phases
//===----------------------------------------------------------------------===//

LogicalResult Compilation::runPhase(Phase phase, ArrayRef<PhaseRun> runs) {
  const PhaseInfo &info = getPhaseInfo(phase);
  progress.show(llvm::formatv("[{0}/{1}] {2}: {3}", int(phase) + 1, getPhases().size(), info.name, info.description));
  auto start = std::chrono::steady_clock::now();
  TimingScope scope = timing.nest(info.name);
  std::vector<std::unique_ptr<PassManager>> managers;
  DialectRegistry dialects;
  for (const PhaseRun &run : runs) {
    PassManager &pm = *managers.emplace_back(std::make_unique<PassManager>(&context, ModuleOp::getOperationName()));
    if (failed(applyPassManagerCLOptions(pm)))
      return failure();
    // Once a phase: behind each of fifty passes, the verifier takes a third of the time. moe-opt verifies behind each.
    pm.enableVerifier(false);
    pm.enableTiming(scope);
    buildPhasePipeline(phase, pm, run.options);
    pm.getDependentDialects(dialects);
  }
  auto runOne = [&](size_t i) {
    return success(succeeded(managers[i]->run(runs[i].program)) && succeeded(verify(runs[i].program)));
  };
  LogicalResult result = success();
  // Remarks come in the order of the passes.
  if (runs.size() > 1 && !context.getRemarkEngine()) {
    // No dialect is loaded while several threads run passes.
    for (StringRef name : dialects.getDialectNames())
      context.getOrLoadDialect(name);
    result = failableParallelForEach(&context, llvm::seq(runs.size()), runOne);
  } else {
    for (size_t i = 0; i < runs.size() && succeeded(result); ++i)
      result = runOne(i);
  }
  if (failed(result))
    return error("phase '" + Twine(info.name) + "' failed; nothing was written");
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (phase != Phase::Import)
    summary.times.push_back({info.name.str(), seconds});
  return success();
}

/// The processors that the module gets code for.
LogicalResult Compilation::createTargets(StringRef cpus) {
  auto created = createCpuTargets(cpus, options.phases.optLevel);
  if (!created)
    return error(created.takeError());
  targets = std::move(*created);
  if (!options.emulatedCpu.empty()) {
    auto target = createCpuTarget(options.emulatedCpu, options.phases.optLevel);
    if (!target)
      return error(target.takeError());
    emulated = std::move(*target);
  }
  // Only a module has several versions; one file of assembly or IR shows the first. With kernels on a GPU the processor
  // does next to nothing.
  if (options.compileTo != Phase::Link || options.emit != Emit::Module || options.chip)
    targets.truncate(1);
  summary.targets = targets;
  return success();
}

LogicalResult Compilation::generateVersions() {
  // The kernels of the program decide on the versions that it gets by default.
  bool integers = false;
  SmallVector<StringRef> tileTypes;
  module->walk([&](GroupedMatmulOp op) {
    integers |= hasIntegerRows(op);
    if (options.phases.batchInvariant && !hasIntegerRows(op))
      return;
    std::string why;
    std::optional<StringRef> tiles = getTileType(op, why);
    if (tiles && !llvm::is_contained(tileTypes, *tiles))
      tileTypes.push_back(*tiles);
  });
  if (options.cpusAreDefault && !options.chip && (integers || !tileTypes.empty()) &&
      failed(createTargets(getDefaultCpus(integers, tileTypes))))
    return failure();
  for (CpuTarget &target : targets)
    versions.push_back({&target, {}, {}});
  // The last version takes the program itself.
  for (Version &version : versions)
    version.module = &version == &versions.back() ? std::move(module) : OwningOpRef<ModuleOp>(module->clone());
  std::vector<PhaseRun> runs;
  for (Version &version : versions) {
    PhaseRun &run = runs.emplace_back(PhaseRun{*version.module, options.phases});
    const CpuTarget &kernels = emulated ? *emulated : *version.target;
    run.options.vectorLanes = kernels.vectorLanes;
    run.options.entrySuffix = version.target->suffix;
    run.options.emulateInstructions = emulated.has_value();
    run.program->setAttr(kIntegerDot, StringAttr::get(&context, kernels.integerDot));
    if (!kernels.tileTypes.empty())
      run.program->setAttr(kTileTypes, Builder(&context).getStrArrayAttr(kernels.tileTypes));
  }
  if (failed(runPhase(Phase::Codegen, runs)))
    return failure();
  for (Version &version : versions)
    if (failed(dump(Phase::Codegen, *version.module, version.target->suffix)))
      return failure();
  if (options.compileTo == Phase::Codegen)
    module = std::move(versions.front().module);
  return success();
}

LogicalResult Compilation::dump(Phase phase, ModuleOp program, StringRef suffix) {
  if (options.dumpPhasesTo.empty())
    return success();
  if (std::error_code code = sys::fs::create_directories(options.dumpPhasesTo))
    return error("cannot make the folder '" + Twine(options.dumpPhasesTo) + "': " + code.message());
  SmallString<128> path(options.dumpPhasesTo);
  sys::path::append(path, Twine(int(phase) + 1) + "-" + getPhaseInfo(phase).name + suffix + ".mlir");
  std::error_code code;
  llvm::raw_fd_ostream os(path, code);
  if (code)
    return error("cannot write '" + Twine(path) + "': " + code.message());
  program->print(os);
  os << "\n";
  return success();
}

std::string Compilation::weightsPath() const {
  if (!options.weights.empty() || !OutputFile::isRegular(options.output))
    return options.weights;
  SmallString<128> path(options.output);
  sys::path::replace_extension(path, ".safetensors");
  return std::string(path);
}

LogicalResult Compilation::checkOutputs() {
  SmallVector<StringRef> read(weights.getSources().begin(), weights.getSources().end());
  if (options.input != "-")
    read.push_back(options.input);
  if (!options.calibrate.empty())
    read.push_back(options.calibrate);
  SmallVector<std::string> written{options.output};
  if (options.emit == Emit::Module && options.compileTo == Phase::Link)
    written.push_back(weightsPath());
  for (StringRef path : written) {
    if (!OutputFile::isRegular(path))
      continue;
    for (StringRef other : read)
      if (sys::fs::equivalent(path, other))
        return error("the output '" + path + "' would replace '" + other + "', which is read; nothing was written");
  }
  SmallString<128> paths[2];
  for (auto [path, absolute] : llvm::zip(written, paths)) {
    absolute = path;
    (void)sys::fs::make_absolute(absolute);
    sys::path::remove_dots(absolute, /*remove_dot_dot=*/true);
  }
  if (written.size() == 2 && (paths[0] == paths[1] || sys::fs::equivalent(written[0], written[1])))
    return error("the module and its weights would be one file, '" + written[0] + "'; nothing was written");
  return success();
}

LogicalResult Compilation::run() {
  if (failed(createTargets(options.cpus)))
    return failure();
  summary.input = options.input;
  summary.optLevel = options.phases.optLevel;

  if (failed(import()) || failed(checkOutputs()))
    return failure();
  return runPhases(Phase::Import);
}

LogicalResult Compilation::runPhases(Phase from) {
  for (const PhaseInfo &info : getPhases()) {
    if (info.phase < from)
      continue;
    if (info.phase == Phase::Link)
      break;
    if (info.phase == Phase::Optimise && options.quantize && failed(quantize()))
      return failure();
    if (info.phase == Phase::Codegen) {
      if (failed(generateVersions()))
        return failure();
    } else if (failed(runPhase(info.phase, PhaseRun{*module, options.phases})) || failed(dump(info.phase, *module))) {
      return failure();
    }
    // After raise, to refuse early; again where weights have their final layout.
    if ((info.phase == Phase::Raise || info.phase == Phase::Tile) && options.compileTo > info.phase) {
      FailureOr<llvm::json::Array> functions = buildFunctionSignatures(*module);
      if (failed(functions))
        return error("the entry points cannot be called from outside; nothing was written");
      for (auto [before, after] : llvm::zip(summary.functions, *functions))
        moveWork(*before.getAsObject(), *after.getAsObject());
      summary.functions = std::move(*functions);
    }
    if (info.phase == Phase::Tile &&
        (failed(addPackedWeights(*module, weights)) || failed(addConvertedWeights(*module, weights)) ||
         failed(packQuantisedPanels(*module, weights))))
      return error("the weights could not be packed; nothing was written");
    if (info.phase == Phase::Raise && failed(stackWeights()))
      return failure();
    if (info.phase == Phase::Raise && options.compileTo > Phase::Raise && failed(addRecodedWeights(*module, weights)))
      return error("the codes of the file could not be read; nothing was written");
    if (info.phase == Phase::Raise)
      summary.notRaised = takeNotRaised(*module);
    // The lowering is known behind the choice; a compilation that ends earlier tells what it knows.
    if (info.phase == Phase::Choose || (info.phase == options.compileTo && info.phase < Phase::Choose)) {
      summary.layers = describeLayers(*module);
      for (llvm::json::Value &entry : summary.functions) {
        llvm::json::Object &function = *entry.getAsObject();
        if (auto func = module->lookupSymbol<func::FuncOp>(*function.getString("name")))
          function["work"] = describeWork(func);
      }
    }
    if (info.phase == options.compileTo)
      return writeMlir();
  }
  return link();
}

/// Compiles a copy of the program that also returns statistics of its activations, and runs it beside this process.
LogicalResult Compilation::calibrate(Calibration &calibration) {
  progress.show("running the program on the calibration inputs");
  SmallString<128> stem(options.output);
  stem += ".calibration";
  CompilationOptions nestedOptions = options;
  nestedOptions.quantize.reset();
  nestedOptions.chip.reset();
  nestedOptions.output = (stem + ".moe").str();
  nestedOptions.weights.clear();
  nestedOptions.compileTo = Phase::Link;
  nestedOptions.emit = Emit::Module;
  nestedOptions.dumpPhasesTo.clear();
  nestedOptions.progress = false;
  Compilation nested(context, sources, nestedOptions, timing);
  nested.module = module->clone();
  nested.weights = weights;
  if (instrumentForCalibration(*nested.module) == 0)
    return error("--calibrate: no expert's activations can be measured in this program");
  auto created = createCpuTargets(options.cpus, options.phases.optLevel);
  if (!created)
    return error(created.takeError());
  nested.targets = std::move(*created);
  nested.emulated = emulated;
  nested.summary.targets = nested.targets;
  SmallString<128> statistics(stem);
  statistics += ".safetensors.out";
  auto clean = llvm::make_scope_exit([&] {
    for (StringRef suffix : {".moe", ".safetensors", ".safetensors.out"})
      (void)sys::fs::remove(stem + suffix);
  });
  if (failed(nested.runPhases(Phase::Optimise)))
    return error("the program with statistics was not compiled; nothing was written");
  SmallString<128> runner(sys::path::parent_path(sys::fs::getMainExecutable(nullptr, (void *)&formatBytes)));
  sys::path::append(runner, "moe-run");
  std::string inputs = "--inputs=" + options.calibrate, outputs = ("--outputs=" + statistics).str(), message;
  StringRef arguments[] = {runner, nestedOptions.output, inputs, outputs};
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(), std::nullopt};
  if (int code = sys::ExecuteAndWait(runner, arguments, std::nullopt, redirects, 0, 0, &message))
    return error("the calibration inputs '" + options.calibrate + "' did not run (exit status " + Twine(code) + ")" +
                 (message.empty() ? "" : ": " + message));
  if (llvm::Error found = checkCalibrationInputs(options.calibrate))
    return error(std::move(found));
  auto read = readCalibration(statistics);
  if (!read)
    return error("the calibration inputs '" + options.calibrate + "' cannot be used: " + toString(read.takeError()) +
                 "; give inputs as the program gets them when it is used");
  calibration = std::move(*read);
  return success();
}

LogicalResult Compilation::quantize() {
  progress.show("quantising the weights");
  auto start = std::chrono::steady_clock::now();
  options.quantize->scratch = sys::path::parent_path(options.output).str();
  if (options.quantize->scratch.empty())
    options.quantize->scratch = ".";
  Calibration calibration;
  if (!options.calibrate.empty() && failed(calibrate(calibration)))
    return failure();
  if (failed(quantizeWeights(*module, weights, *options.quantize, options.calibrate.empty() ? nullptr : &calibration,
                             summary.quantized)))
    return error("the weights were not quantised; nothing was written");
  FailureOr<llvm::json::Array> functions = buildFunctionSignatures(*module);
  if (failed(functions))
    return failure();
  summary.functions = std::move(*functions);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  summary.times.push_back({"quantise", seconds});
  return success();
}

/// Weights of experts that raising put into one bank.
LogicalResult Compilation::stackWeights() {
  for (auto function : module->getOps<func::FuncOp>())
    for (unsigned i = 0; i < function.getNumArguments(); ++i) {
      auto list = function.getArgAttrOfType<ArrayAttr>(i, "moe.weight_parts");
      auto key = function.getArgAttrOfType<StringAttr>(i, "moe.weight");
      if (!list || !key)
        continue;
      std::vector<std::string> parts;
      for (StringAttr part : list.getAsRange<StringAttr>())
        parts.push_back(part.str());
      // An MLIR program that says so without a file behind it has no data for any weight.
      if (weights.lookup(parts.front()) && !weights.stack(key.getValue(), parts))
        return error("weight '" + key.getValue() + "' cannot be put together from its parts");
    }
  return success();
}

//===----------------------------------------------------------------------===//
// Output
//===----------------------------------------------------------------------===//

/// Writes all of `path`, or nothing.
static llvm::Error writeFile(StringRef path, llvm::function_ref<void(llvm::raw_ostream &)> write) {
  auto file = OutputFile::create(path);
  if (!file)
    return file.takeError();
  if (llvm::Error failed = file->write(write))
    return failed;
  return file->commit();
}

LogicalResult Compilation::writeMlir() {
  progress.clear();
  if (llvm::Error failed = writeFile(options.output, [&](llvm::raw_ostream &os) {
        module->print(os);
        os << "\n";
      }))
    return error(std::move(failed));
  return success();
}

std::string Compilation::buildSignature(llvm::json::Value weightsEntry) {
  llvm::json::Array recorded;
  for (const std::string &option : options.recorded)
    recorded.push_back(option);
  llvm::json::Object signature{
      {"format", llvm::json::Object{{"major", MOE_MODULE_MAJOR}, {"minor", MOE_MODULE_MINOR}}},
      {"compiler", llvm::json::Object{{"version", MOE_VERSION}, {"options", std::move(recorded)}}},
      {"target", describeTargets(targets)},
      {"device", std::move(device)},
      {"weights", std::move(weightsEntry)},
      {"functions", copyJson(summary.functions)},
      {"model", llvm::json::Object{{"layers", copyJson(summary.layers)}, {"parameters", int64_t(summary.parameters)}}}};
  return llvm::formatv("{0}", llvm::json::Value(std::move(signature))).str();
}

llvm::Error Compilation::makeDeviceCode() {
  ModuleOp program = *versions.front().module;
  if (options.phases.emulateGpu) {
    device = llvm::json::Object{{"api", "cuda"}, {"chip", options.chip->name}, {"emulated", true}};
    return llvm::Error::success();
  }
  progress.show("[9/9] link: kernels");
  auto ptx = emitPtx(program, *options.chip, options.phases.optLevel);
  if (!ptx)
    return ptx.takeError();
  if (options.emit == Emit::Ptx) {
    versions.front().code.assign(ptx->begin(), ptx->end());
    return llvm::Error::success();
  }
  std::string cubin;
  if (!ptx->empty()) {
    auto assembled = assemblePtx(*ptx, *options.chip, options.ptxas);
    if (!assembled)
      return assembled.takeError();
    cubin = std::move(*assembled);
  }
  device = llvm::json::Object{{"api", "cuda"},
                              {"chip", options.chip->name},
                              {"emulated", false},
                              {"cubin_bytes", int64_t(cubin.size())},
                              {"ptx_bytes", int64_t(ptx->size())}};
  embedDeviceCode(program, cubin, *ptx);
  return llvm::Error::success();
}

llvm::Error Compilation::makeMachineCode(llvm::json::Value weightsEntry) {
  struct Work {
    llvm::LLVMContext context;
    std::unique_ptr<llvm::Module> module;
    CodegenTimes times;
    std::string failure;
  };
  std::vector<std::unique_ptr<Work>> works;
  std::string signature = buildSignature(std::move(weightsEntry));
  for (Version &version : versions) {
    Work &work = *works.emplace_back(std::make_unique<Work>());
    auto translated = translateToLlvm(*version.module, work.context, *version.target,
                                      &version == &versions.front() ? signature : "", work.times);
    if (!translated)
      return translated.takeError();
    work.module = std::move(*translated);
    version.module = {};
  }

  // Nearly all of the time goes here, and versions have nothing in common: one thread for each.
  bool assembly = options.emit == Emit::Assembly, ir = options.emit == Emit::LlvmIr;
  auto run = [&](size_t i) {
    Work &work = *works[i];
    Version &version = versions[i];
    if (llvm::Error failed =
            optimise(*work.module, *version.target, options.phases.optLevel, options.llvmPasses, work.times)) {
      work.failure = "--llvm-passes: " + toString(std::move(failed));
      return;
    }
    auto print = [&](llvm::raw_ostream &os) { work.module->print(os, nullptr); };
    if (!options.dumpPhasesTo.empty()) {
      SmallString<128> path(options.dumpPhasesTo);
      sys::path::append(path, "9-link" + version.target->suffix + ".ll");
      if (llvm::Error failed = writeFile(path, print)) {
        work.failure = toString(std::move(failed));
        return;
      }
    }
    if (ir) {
      llvm::raw_svector_ostream os(version.code);
      print(os);
      return;
    }
    if (llvm::Error failed = emitMachineCode(*work.module, *version.target, assembly, version.code, work.times))
      work.failure = toString(std::move(failed));
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < works.size(); ++i)
    threads.emplace_back(run, i);
  run(0);
  for (std::thread &thread : threads)
    thread.join();

  for (auto &work : works) {
    if (!work->failure.empty())
      return llvm::createStringError(work->failure);
    summary.llvmTimes.translate += work->times.translate;
    summary.llvmTimes.optimise += work->times.optimise;
    summary.llvmTimes.generate += work->times.generate;
  }
  if (assembly || ir)
    return llvm::Error::success();
  for (Version &version : versions) {
    auto foreign = findForeignSymbols(version.code);
    if (!foreign)
      return foreign.takeError();
    if (!foreign->empty())
      return llvm::createStringError(
          "the program needs library functions that a module does not have: " + llvm::join(*foreign, ", ") +
          "; '--compile-to=codegen' shows the ops that became these calls");
  }
  return llvm::Error::success();
}

LogicalResult Compilation::link() {
  const PhaseInfo &info = getPhaseInfo(Phase::Link);
  auto start = std::chrono::steady_clock::now();
  TimingScope scope = timing.nest(info.name);

  // The weights first: the module names what is in them.
  std::vector<std::string> keys = collectWeightKeys(summary.functions);
  std::optional<OutputFile> weightsFile;
  llvm::json::Value weightsEntry = nullptr;
  if (!keys.empty() && options.emit == Emit::Module) {
    std::string path = weightsPath();
    if (path.empty())
      return error("'" + Twine(options.output) +
                   "' is no file beside which the weights could be put: give one with --weights");
    summary.weightsPath = path;
    auto created = OutputFile::create(path);
    if (!created)
      return error(created.takeError());
    weightsFile.emplace(std::move(*created));
    if (weightsFile->getTemporaryPath().empty())
      return error("cannot write the weights to '" + Twine(path) + "': not a regular file");
    auto written = writeWeights(weights, keys, weightsFile->getTemporaryPath(), [&](uint64_t done, uint64_t total) {
      progress.showBytes("[9/9] link: writing the weights", done, total);
    });
    if (!written)
      return error(written.takeError());
    summary.weightsBytes = written->size;
    summary.parameters = written->parameters;
    weightsEntry = llvm::json::Object{{"file", sys::path::filename(path).str()}, {"content_id", written->contentId}};
  }

  if (options.chip)
    if (llvm::Error failed = makeDeviceCode())
      return error(std::move(failed));
  progress.show("[9/9] link: machine code");
  if (options.emit == Emit::Ptx) {
    // Made above.
  } else if (llvm::Error failed = makeMachineCode(std::move(weightsEntry)))
    return error(std::move(failed));
  SmallVector<char, 0> file;
  if (options.emit == Emit::Module) {
    SmallVector<SmallVector<char, 0>> objects;
    for (Version &version : versions)
      objects.push_back(std::move(version.code));
    auto linked = linkModule(objects);
    if (!linked)
      return error(linked.takeError());
    file = std::move(*linked);
  } else {
    file = std::move(versions.front().code);
  }

  auto moduleFile = OutputFile::create(options.output);
  if (!moduleFile)
    return error(moduleFile.takeError());
  if (llvm::Error failed = moduleFile->write([&](llvm::raw_ostream &os) { os.write(file.data(), file.size()); }))
    return error(std::move(failed));
  // Both files are whole: only now do they take their names.
  if (weightsFile)
    if (llvm::Error failed = weightsFile->commit())
      return error(std::move(failed));
  if (llvm::Error failed = moduleFile->commit())
    return error(std::move(failed));
  if (options.output == "-")
    return success();
  summary.output = options.output;
  summary.moduleBytes = file.size();
  summary.times.push_back(
      {info.name.str(), std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
  progress.clear();
  return success();
}

} // namespace mlir::moe
