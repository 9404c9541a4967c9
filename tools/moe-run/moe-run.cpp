//===- moe-run.cpp - run a compiled module --------------------------------===//
#include "Files.h"
#include "InputSpec.h"
#include "Npy.h"
#include "Report.h"
#include "Safetensors.h"
#include "Terminal.h"
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <iostream>

using namespace moe::rt;
using namespace moe::run;

namespace {

/// Documented in --help; scripts rely on them.
enum ExitCode { Ok = 0, Mismatch = 1, Usage = 2, BadFile = 3, CallFailed = 4, NotWritten = 5 };

constexpr const char *footer = R"(
Examples:
  What does the module want, and what does it give?
    moe-run model.moe --signature
  Run it on a tensor from numpy, and keep an output:
    moe-run model.moe --input=tokens=@tokens.npy --output=logits=@logits.npy
  Run it on made-up data (values: random:SEED[:LOW:HIGH], zeros, iota, or 1,2,3):
    moe-run model.moe --input=x=4x8xf32=random:0 --input=scale=f32=0.5
  Compare with what another program computed:
    moe-run model.moe --inputs=in.safetensors --expected=out.safetensors --rtol=1e-3
  How fast is it?
    moe-run model.moe --inputs=in.safetensors --benchmark --threads=2

Comparison: an element is right if |got - want| <= atol + rtol * |want|; NaN equals NaN, an infinity equals itself.
  Integers and bools are compared exactly. Where --atol or --rtol is not given (atol, rtol): f64 1e-9, 1e-9;
  f32 1e-5, 1e-4; f16 2e-3, 2e-3; bf16 1e-2, 1e-2; 8 bits and fewer 0.1, 0.1.

Exit status: 0 it ran and all comparisons held; 1 an output is not as expected; 2 wrong command line;
  3 a file cannot be used or an input does not fit; 4 the module failed while it ran; 5 an output was not written.
)";

struct Options {
  std::string module, function, inputsFile, expectedFile, outputsFile, weights, cpu;
  std::vector<std::string> inputs, outputs;
  std::optional<double> atol, rtol;
  std::string benchmarkText;
  int64_t benchmark = -1; ///< -1: no; 0: choose the number of calls
  int32_t threads = 0;
  bool verify = false, signature = false, machine = false, probe = false, overlap = false, json = false,
       debugMemory = false, verbose = false;
};

void describe(CLI::App &app, Options &o) {
  app.option_defaults()->group("Options");
  CLI::Option *module = app.add_option("MODULE", o.module, "The module, NAME.moe")->type_name("");
  app.add_option("--function", o.function, "The function to run (default: the only one, or main)")->type_name("NAME");
  app.add_option("--inputs", o.inputsFile, "Take inputs by name from a .safetensors file")->type_name("FILE");
  app.add_option("--input", o.inputs, "One input, as in the examples below; wins over --inputs")
      ->type_name("NAME=VALUE")
      ->take_all()
      ->expected(1);
  app.add_option("--expected", o.expectedFile, "Compare all outputs with the tensors of a .safetensors file")
      ->type_name("FILE");
  app.add_option("--atol", o.atol, "Absolute tolerance")->type_name("X")->check(CLI::NonNegativeNumber);
  app.add_option("--rtol", o.rtol, "Relative tolerance")->type_name("X")->check(CLI::NonNegativeNumber);
  app.add_option("--outputs", o.outputsFile, "Write all outputs to a .safetensors file")->type_name("FILE");
  app.add_option("--output", o.outputs, "Write one output to a .npy file")
      ->type_name("NAME=@FILE")
      ->take_all()
      ->expected(1);
  // A flag with a value, and not an option with an optional one: that would swallow a module's name behind it.
  app.add_flag("--benchmark{0}", o.benchmarkText,
               "Time calls: N of them with --benchmark=N, else for about a second; with the share of the machine's "
               "limits, which are measured in turn with the calls");
  app.add_option("--threads", o.threads, "Number of threads (default: as many as this process may use)")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  app.add_option("--weights", o.weights, "The weights file (default: the one beside the module)")->type_name("FILE");
  app.add_option("--cpu", o.cpu, "Run the module's code for this processor (default: the best for this machine)")
      ->type_name("NAME");
  app.add_flag("--verify", o.verify, "Read the whole weights file and check its contents");
  app.add_flag("--signature", o.signature, "Print what the module says about itself, and stop");
  CLI::Option *machine = app.add_flag("--machine", o.machine,
                                      "Measure what the machine reads and computes at most with --threads, and stop")
                             ->excludes(module);
  app.add_flag(
         "--probe", o.probe,
         "With --machine: first measure again for each line of the standard input, and answer with a line of JSON "
         "(limits of this moment, and the most so far)")
      ->needs(machine);
  app.add_flag("--overlap", o.overlap,
               "With --machine: also how far reading and multiplying overlap on one thread, which no kernel can exceed")
      ->needs(machine);
  app.add_flag(
      "--debug-memory", o.debugMemory,
      "Fill fresh memory with NaN; fail on writes past a buffer's end, changed inputs, and buffers left behind");
  app.add_flag("--json", o.json, "Print one JSON object instead of text");
  app.add_flag("-v,--verbose", o.verbose, "Print what the module logs");
  app.footer(footer);
}

/// Runs as the options say. Fills `report` for --json; prints text otherwise.
class Runner {
public:
  Runner(const Options &options, Json &report) : options(options), report(report) {}

  ExitCode run() {
    if (options.machine)
      return showMachine();
    if (options.signature)
      return showSignature();
    auto begin = std::chrono::steady_clock::now();
    RuntimeOptions settings;
    settings.threads = options.threads;
    settings.debugMemory = options.debugMemory;
    settings.cpu = options.cpu;
    if (options.verbose)
      settings.log = [](int32_t, std::string_view text) {
        std::fprintf(stderr, "moe-run: log: %.*s\n", int(text.size()), text.data());
      };
    runtime = std::make_shared<Runtime>(settings);
    std::shared_ptr<Module> module = Module::load(runtime, options.module, options.weights, options.verify);
    double loadSeconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const Function &function = module->function(options.function);
    report["module"] = options.module;
    report["function"] = function.signature->name;
    report["cpu"] = module->cpu();
    report["load_seconds"] = loadSeconds;
    if (options.verbose && !options.json)
      std::printf("loaded in %s, code for %s\n", printSeconds(loadSeconds).c_str(), module->cpu().c_str());

    // All that can be wrong with the command line and the files is found before the module runs.
    std::vector<std::pair<std::string, std::string>> outputFiles = parseOutputs(function);
    checkOutputs(*module, outputFiles);
    std::optional<SafetensorsFile> expected;
    if (!options.expectedFile.empty())
      expected = readSafetensors(options.expectedFile);
    Call call(function);
    bindInputs(call);
    call.run();

    std::vector<Comparison> comparisons;
    if (expected)
      comparisons = compareAll(call, *expected);
    bool good = std::all_of(comparisons.begin(), comparisons.end(), [](const Comparison &c) { return c.good(); });
    showOutputs(call, comparisons,
                outputFiles.empty() && options.outputsFile.empty() && !expected && options.benchmark < 0);
    writeOutputs(call, outputFiles);
    if (options.benchmark >= 0 && good)
      showBenchmark(call);
    return good ? Ok : Mismatch;
  }

private:
  ExitCode showMachine() {
    MachineProbe probe(Scheduler(options.threads).threads());
    for (std::string line; options.probe && std::getline(std::cin, line);) {
      Json now = {{"now", machineJson(probe.measure())}, {"best", machineJson(probe.best())}};
      std::printf("%s\n", now.dump().c_str());
      std::fflush(stdout);
    }
    Machine machine = probe.best();
    report["machine"] = machineJson(machine);
    if (!options.json)
      printMachine(machine);
    if (options.overlap) {
      std::vector<Overlap> overlap = measureOverlap();
      for (const Overlap &one : overlap)
        report["overlap"].push_back({{"balance", one.balance}, {"share", one.share}});
      if (!options.json)
        printOverlap(overlap);
    }
    return Ok;
  }

  ExitCode showSignature() {
    std::shared_ptr<const MappedFile> file = MappedFile::open(options.module);
    ModuleFile module = checkModuleFile(options.module, file->text());
    if (options.json)
      report = Json::parse(module.json);
    else
      printSignature(options.module, module.signature);
    return Ok;
  }

  std::vector<std::pair<std::string, std::string>> parseOutputs(const Function &function) const {
    std::vector<std::pair<std::string, std::string>> out;
    for (const std::string &text : options.outputs) {
      auto [name, value] = splitAssignment(text, function.outputNames(), "--output");
      if (value.size() < 2 || value[0] != '@')
        fail(MOE_INVALID_ARGUMENT, "--output=", text, ": expected ", name, "=@FILE.npy");
      out.emplace_back(name, value.substr(1));
    }
    return out;
  }

  /// Outputs must not be written over the files that the module is loaded from.
  void checkOutputs(const Module &module, const std::vector<std::pair<std::string, std::string>> &files) const {
    std::vector<std::filesystem::path> loaded{options.module};
    if (!options.weights.empty())
      loaded.push_back(options.weights);
    else if (module.signature().weights)
      loaded.push_back(std::filesystem::path(options.module).replace_filename(module.signature().weights->file));
    auto check = [&](const std::string &path) {
      for (const std::filesystem::path &file : loaded)
        if (std::error_code code; !path.empty() && std::filesystem::equivalent(path, file, code))
          fail(MOE_INVALID_ARGUMENT, path, ": outputs would replace a file of the module; nothing was run");
    };
    check(options.outputsFile);
    for (const auto &[name, path] : files)
      check(path);
  }

  /// Says which file or option an input came from if it does not fit.
  static void bind(Call &call, const std::string &name, const Tensor &tensor, const std::string &source) {
    try {
      call.setInput(name, tensor);
    } catch (const Error &error) {
      fail(error.code, source, ": ", error.what());
    }
  }

  void bindInputs(Call &call) const {
    std::vector<std::string> names = call.function.inputNames();
    if (!options.inputsFile.empty())
      for (const auto &[name, tensor] : readSafetensors(options.inputsFile).tensors.entries)
        bind(call, name, tensor, options.inputsFile);
    for (const std::string &text : options.inputs) {
      auto [name, value] = splitAssignment(text, names, "--input");
      bind(call, name, makeInput(value, name), value[0] == '@' ? value.substr(1) : "--input=" + name);
    }
  }

  std::vector<Comparison> compareAll(const Call &call, const SafetensorsFile &expected) const {
    std::vector<Comparison> out;
    std::vector<std::string> names = call.function.outputNames();
    for (const std::string &name : names) {
      if (const Tensor *want = expected.tensors.find(name)) {
        out.push_back(compare(name, call.output(name), *want, options.atol, options.rtol));
        continue;
      }
      out.emplace_back();
      out.back().name = name;
      out.back().problem =
          options.expectedFile + " has no tensor of this name" + suggestion(name, expected.tensors.names());
    }
    for (const std::string &name : expected.tensors.names()) {
      if (std::find(names.begin(), names.end(), name) != names.end())
        continue;
      out.emplace_back();
      out.back().name = name;
      out.back().problem =
          options.expectedFile + " expects it, but the function has no such output" + suggestion(name, names);
    }
    return out;
  }

  void showOutputs(const Call &call, const std::vector<Comparison> &comparisons, bool summary) {
    report["outputs"] = Json::array();
    for (const std::string &name : call.function.outputNames()) {
      report["outputs"].push_back(outputJson(name, call.output(name)));
      if (summary && !options.json)
        printOutput(name, call.output(name));
    }
    if (!options.expectedFile.empty())
      report["comparisons"] = Json::array();
    for (const Comparison &comparison : comparisons) {
      report["comparisons"].push_back(comparisonJson(comparison));
      if (!options.json)
        std::printf("%s %s\n",
                    comparison.good() ? colored(stdout, Color::Green, "PASS").c_str()
                                      : colored(stdout, Color::Red, "FAIL").c_str(),
                    comparison.print().c_str());
    }
  }

  void writeOutputs(const Call &call, const std::vector<std::pair<std::string, std::string>> &files) {
    try {
      if (!options.outputsFile.empty()) {
        TensorMap all;
        for (const std::string &name : call.function.outputNames())
          all.set(name, call.output(name));
        writeSafetensors(options.outputsFile, all);
      }
      for (const auto &[name, path] : files)
        writeNpy(path, call.output(name));
    } catch (const Error &error) {
      notWritten = true;
      throw;
    }
  }

  void showBenchmark(Call &call) {
    std::optional<Work> work = countWork(call);
    std::optional<MachineProbe> probe;
    if (work)
      probe.emplace(runtime->scheduler.threads());
    Timings timings = benchmark(call, options.benchmark, probe ? &*probe : nullptr);
    BenchmarkReport result{timings, call.function.module->cpu(), runtime->memory->peakBytes(), {}, work};
    result.machine.threads = runtime->scheduler.threads();
    if (probe)
      result.machine = probe->best();
    report["benchmark"] = benchmarkJson(result);
    if (!options.json)
      printBenchmark(result);
  }

  const Options &options;
  Json &report;
  std::shared_ptr<Runtime> runtime;

public:
  bool notWritten = false;
};

ExitCode exitCodeOf(const Error &error, const Runner &runner) {
  if (runner.notWritten)
    return NotWritten;
  switch (error.code) {
  case MOE_CALL_FAILED:
  case MOE_OUT_OF_MEMORY:
  case MOE_INTERNAL:
    return CallFailed;
  default:
    return BadFile;
  }
}

ExitCode complain(const Options &options, Json &report, ExitCode code, const std::string &message) {
  std::fflush(stdout);
  std::fprintf(stderr, "moe-run: %s %s\n", colored(stderr, Color::Red, "error:").c_str(), message.c_str());
  report["error"] = message;
  (void)options;
  return code;
}

} // namespace

int main(int argc, char **argv) {
  std::signal(SIGXFSZ, SIG_IGN); // a file that may not grow further is an error of the write
  Options options;
  CLI::App app("Runs a module that moe-compile made: binds inputs, calls a function, compares or writes the outputs.",
               "moe-run");
  describe(app, options);
  try {
    app.parse(argc, argv);
    if (options.module.empty() && !options.machine)
      throw CLI::RequiredError("MODULE");
    if (!options.benchmarkText.empty() && !CLI::detail::lexical_cast(options.benchmarkText, options.benchmark))
      throw CLI::ValidationError("--benchmark", options.benchmarkText + " is not a number of calls");
    if (!options.benchmarkText.empty() && options.benchmark < 0)
      throw CLI::ValidationError("--benchmark", "the number of calls cannot be negative");
  } catch (const CLI::CallForHelp &help) {
    return app.exit(help);
  } catch (const CLI::ParseError &error) {
    std::fprintf(stderr, "moe-run: %s %s (see moe-run --help)\n", colored(stderr, Color::Red, "error:").c_str(),
                 error.what());
    return Usage;
  }

  Json report = Json::object();
  Runner runner(options, report);
  ExitCode code;
  try {
    code = runner.run();
  } catch (const Error &error) {
    code = complain(options, report, exitCodeOf(error, runner), error.what());
  } catch (const std::bad_alloc &) {
    code = complain(options, report, CallFailed, "out of memory");
  } catch (const std::exception &error) {
    code = complain(options, report, CallFailed, error.what());
  }
  if (options.json) {
    if (!options.signature || code != Ok)
      report["status"] = code == Ok ? "ok" : code == Mismatch ? "mismatch" : "error";
    std::printf("%s\n", report.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  }
  if (std::fflush(stdout) != 0 && code == Ok)
    code = NotWritten;
  return code;
}
