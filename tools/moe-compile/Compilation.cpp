//===- Compilation.cpp - one run of the compiler --------------------------===//
#include "Compilation.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Import/Onnx/Import.h"
#include "moe/Target/ModuleFile.h"
#include "moe/Target/Signature.h"
#include "moe/Target/WeightsFile.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

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

LogicalResult Compilation::runPhase(Phase phase) {
  const PhaseInfo &info = getPhaseInfo(phase);
  progress.show(llvm::formatv("[{0}/{1}] {2}: {3}", int(phase) + 1, getPhases().size(), info.name, info.description));
  auto start = std::chrono::steady_clock::now();
  TimingScope scope = timing.nest(info.name);
  PassManager pm(&context, ModuleOp::getOperationName());
  if (failed(applyPassManagerCLOptions(pm)))
    return failure();
  pm.enableTiming(scope);
  buildPhasePipeline(phase, pm, options.phases);
  if (failed(pm.run(*module)))
    return error("phase '" + Twine(info.name) + "' failed; nothing was written");
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (phase != Phase::Import)
    summary.times.push_back({info.name.str(), seconds});
  return success();
}

LogicalResult Compilation::dump(Phase phase) {
  if (options.dumpPhasesTo.empty())
    return success();
  if (std::error_code code = sys::fs::create_directories(options.dumpPhasesTo))
    return error("cannot make the folder '" + Twine(options.dumpPhasesTo) + "': " + code.message());
  SmallString<128> path(options.dumpPhasesTo);
  sys::path::append(path, Twine(int(phase) + 1) + "-" + getPhaseInfo(phase).name + ".mlir");
  std::error_code code;
  llvm::raw_fd_ostream os(path, code);
  if (code)
    return error("cannot write '" + Twine(path) + "': " + code.message());
  module->print(os);
  os << "\n";
  return success();
}

LogicalResult Compilation::run() {
  llvm::Expected<CpuTarget> created = createCpuTarget(options.cpu, options.phases.optLevel);
  if (!created)
    return error(created.takeError());
  target = std::move(*created);
  summary.input = options.input;
  summary.target = &target;
  summary.optLevel = options.phases.optLevel;
  options.phases.vectorLanes = target.vectorLanes;

  if (failed(import()))
    return failure();
  for (const PhaseInfo &info : getPhases()) {
    if (info.phase == Phase::Link)
      break;
    if (failed(runPhase(info.phase)) || failed(dump(info.phase)))
      return failure();
    if (info.phase == Phase::Raise && options.compileTo > Phase::Raise) {
      FailureOr<llvm::json::Array> functions = buildFunctionSignatures(*module);
      if (failed(functions))
        return error("the entry points cannot be called from outside; nothing was written");
      summary.functions = std::move(*functions);
    }
    if (info.phase == Phase::Choose)
      describeLayers();
    if (info.phase == options.compileTo)
      return writeMlir();
  }
  return link();
}

/// The widths of an apply's stacked weights: H is what comes out, I the other size of the largest bank.
static void describeSizes(ApplyOp apply, llvm::json::Object &layer) {
  auto result = dyn_cast<RankedTensorType>(apply.getResult(0).getType());
  if (!result || result.getRank() < 1 || result.isDynamicDim(result.getRank() - 1))
    return;
  int64_t hidden = result.getDimSize(result.getRank() - 1), inner = 0;
  layer["hidden"] = hidden;
  for (Value bank : apply.getExperts()) {
    auto type = cast<RankedTensorType>(bank.getType());
    if (type.getRank() != 3 || !type.hasStaticShape())
      continue;
    int64_t a = type.getDimSize(1), b = type.getDimSize(2);
    if (b == hidden)
      inner = std::max(inner, a);
    else if (a == hidden && !inner)
      inner = b;
  }
  if (inner)
    layer["inner"] = inner;
}

void Compilation::describeLayers() {
  module->walk([&](ApplyOp apply) {
    auto routing = cast<RoutingType>(apply.getRouting().getType());
    llvm::json::Object layer{{"experts", routing.getExperts()}};
    if (routing.hasPerRow())
      layer["per_token"] = routing.getPerRow();
    if (apply->getNumResults() > 0)
      describeSizes(apply, layer);
    if (auto pattern = apply->getAttrOfType<StringAttr>("moe.source"))
      layer["pattern"] = pattern.getValue();
    if (auto lowering = apply->getAttrOfType<StringAttr>("moe.lowering"))
      layer["lowering"] = lowering.getValue();
    summary.layers.push_back(std::move(layer));
  });
}

//===----------------------------------------------------------------------===//
// Output
//===----------------------------------------------------------------------===//

/// Writes `text` to `path` by a temporary file beside it, so that `path` is always whole. "-" is the standard output.
static llvm::Error writeFile(StringRef path, llvm::function_ref<void(llvm::raw_ostream &)> write) {
  if (path == "-") {
    write(llvm::outs());
    return llvm::Error::success();
  }
  auto file = sys::fs::TempFile::create(path + ".tmp-%%%%%%");
  if (!file)
    return llvm::createStringError("cannot write '" + path + "': " + toString(file.takeError()));
  llvm::raw_fd_ostream os(file->FD, /*shouldClose=*/false);
  write(os);
  os.flush();
  if (os.has_error()) {
    std::error_code code = os.error();
    os.clear_error();
    llvm::consumeError(file->discard());
    return llvm::createStringError("cannot write '" + path + "': " + code.message());
  }
  return file->keep(path);
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
  llvm::json::Array features, recorded;
  for (const std::string &feature : target.features)
    features.push_back(feature);
  for (const std::string &option : options.recorded)
    recorded.push_back(option);
  llvm::json::Object signature{
      {"format", llvm::json::Object{{"major", 1}, {"minor", 0}}},
      {"compiler", llvm::json::Object{{"version", MOE_VERSION}, {"options", std::move(recorded)}}},
      {"target", llvm::json::Object{{"triple", target.triple}, {"cpu", target.cpu}, {"features", std::move(features)}}},
      {"weights", std::move(weightsEntry)},
      {"functions", copyJson(summary.functions)},
      {"model", llvm::json::Object{{"layers", copyJson(summary.layers)}, {"parameters", int64_t(summary.parameters)}}}};
  return llvm::formatv("{0}", llvm::json::Value(std::move(signature))).str();
}

LogicalResult Compilation::link() {
  const PhaseInfo &info = getPhaseInfo(Phase::Link);
  auto start = std::chrono::steady_clock::now();
  TimingScope scope = timing.nest(info.name);

  // The weights first: the module names what is in them.
  std::vector<std::string> keys = collectWeightKeys(summary.functions);
  std::optional<sys::fs::TempFile> weightsFile;
  llvm::json::Value weightsEntry = nullptr;
  if (!keys.empty() && options.emit == Emit::Module) {
    SmallString<128> path(options.weights);
    if (path.empty()) {
      path = options.output;
      sys::path::replace_extension(path, ".safetensors");
    }
    summary.weightsPath = std::string(path);
    auto created = sys::fs::TempFile::create(path + ".tmp-%%%%%%");
    if (!created)
      return error("cannot write '" + Twine(path) + "': " + toString(created.takeError()));
    weightsFile = std::move(*created);
    auto written = writeWeights(weights, keys, weightsFile->TmpName, [&](uint64_t done, uint64_t total) {
      progress.showBytes("[9/9] link: writing the weights", done, total);
    });
    if (!written) {
      llvm::consumeError(weightsFile->discard());
      return error(written.takeError());
    }
    summary.weightsBytes = written->size;
    summary.parameters = written->parameters;
    weightsEntry = llvm::json::Object{{"file", sys::path::filename(path).str()}, {"content_id", written->contentId}};
  }
  auto discard = [&](LogicalResult result) {
    if (weightsFile)
      llvm::consumeError(weightsFile->discard());
    return result;
  };

  progress.show("[9/9] link: machine code");
  CodegenTimes times;
  llvm::LLVMContext llvmContext;
  auto llvmModule = translateAndOptimise(*module, llvmContext, target, options.phases.optLevel,
                                         buildSignature(std::move(weightsEntry)), times);
  if (!llvmModule)
    return discard(error(llvmModule.takeError()));
  if (!options.dumpPhasesTo.empty()) {
    SmallString<128> path(options.dumpPhasesTo);
    sys::path::append(path, "9-link.ll");
    if (llvm::Error failed = writeFile(path, [&](llvm::raw_ostream &os) { (*llvmModule)->print(os, nullptr); }))
      return discard(error(std::move(failed)));
  }
  if (options.emit == Emit::LlvmIr) {
    if (llvm::Error failed =
            writeFile(options.output, [&](llvm::raw_ostream &os) { (*llvmModule)->print(os, nullptr); }))
      return error(std::move(failed));
    return success();
  }

  SmallVector<char, 0> code;
  if (llvm::Error failed = emitMachineCode(**llvmModule, target, options.emit == Emit::Assembly, code, times))
    return discard(error(std::move(failed)));
  SmallVector<char, 0> file = std::move(code);
  if (options.emit == Emit::Module || options.emit == Emit::Object) {
    auto foreign = findForeignSymbols(file);
    if (!foreign)
      return discard(error(foreign.takeError()));
    if (!foreign->empty())
      return discard(
          error("the program needs library functions that a module does not have: " + llvm::join(*foreign, ", ") +
                "; '--compile-to=codegen' shows the ops that became these calls"));
  }
  if (options.emit == Emit::Module) {
    auto linked = linkModule(file);
    if (!linked)
      return discard(error(linked.takeError()));
    file = std::move(*linked);
  }

  if (options.output == "-") {
    llvm::outs().write(file.data(), file.size());
    return success();
  }
  auto moduleFile = sys::fs::TempFile::create(options.output + ".tmp-%%%%%%");
  if (!moduleFile)
    return discard(error("cannot write '" + Twine(options.output) + "': " + toString(moduleFile.takeError())));
  {
    llvm::raw_fd_ostream os(moduleFile->FD, /*shouldClose=*/false);
    os.write(file.data(), file.size());
    os.flush();
    if (os.has_error()) {
      std::error_code code = os.error();
      os.clear_error();
      llvm::consumeError(moduleFile->discard());
      return discard(error("cannot write '" + Twine(options.output) + "': " + code.message()));
    }
  }
  // Both files are whole: only now do they take their names.
  if (weightsFile)
    if (llvm::Error failed = weightsFile->keep(summary.weightsPath)) {
      llvm::consumeError(moduleFile->discard());
      return error(std::move(failed));
    }
  if (llvm::Error failed = moduleFile->keep(options.output))
    return error(std::move(failed));
  summary.output = options.output;
  summary.moduleBytes = file.size();
  summary.times.push_back(
      {info.name.str(), std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
  progress.clear();
  return success();
}

} // namespace mlir::moe
