//===- Module.h - loaded modules and calls ----------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_MODULE_H
#define MOE_RUNTIME_MODULE_H

#include "Memory.h"
#include "Scheduler.h"
#include "Signature.h"
#include "Tensor.h"
#include "cuda/Device.h"
#include "moe-c/Module.h"
#include <functional>
#include <optional>

namespace moe::rt {

struct RuntimeOptions {
  int32_t threads = 0;
  bool debugMemory = false;
  uint64_t cacheBytes = 0;
  std::string cpu; ///< the version of modules' code to take, by its processor; empty: the best that this one can run
  std::function<void(int32_t level, std::string_view message)> log;
};

/// What modules share: threads, memory, the log.
struct Runtime {
  explicit Runtime(RuntimeOptions options)
      : options(options), scheduler(options.threads),
        memory(std::make_shared<Memory>(options.cacheBytes, options.debugMemory)) {}
  RuntimeOptions options;
  Scheduler scheduler;
  std::shared_ptr<Memory> memory;
};

/// A function of a loaded module.
struct Function {
  class Module *module;
  const FunctionSignature *signature;
  moe_entry_fn entry;
  std::vector<Tensor> weights; ///< one for each weight argument, in order
  /// Their copies on the device, for a module whose memory is not the host's.
  std::vector<std::shared_ptr<const void>> deviceWeights;

  /// Positions among the signature's arguments.
  std::vector<size_t> inputs;
  std::vector<std::string> inputNames() const;
  std::vector<std::string> outputNames() const;
};

class Module : public std::enable_shared_from_this<Module> {
public:
  /// Checks the file, opens it, maps and checks its weights. weightsPath: empty for the file that the module names,
  /// beside it. verify: also hash the weights.
  static std::shared_ptr<Module> load(std::shared_ptr<Runtime> runtime, const std::string &path,
                                      const std::string &weightsPath, bool verify);
  ~Module();
  Module(const Module &) = delete;
  Module &operator=(const Module &) = delete;

  /// name: empty for the only function, or "main".
  const Function &function(std::string_view name) const;

  const std::string &path() const { return modulePath; }
  const std::string &signatureText() const { return json; }
  const Signature &signature() const { return sig; }
  const std::vector<Function> &functions() const { return entries; }
  const std::shared_ptr<Runtime> &runtime() const { return shared; }
  /// The processor that the code in use was compiled for: one of the signature's versions.
  const std::string &cpu() const { return cpuName; }
  /// What runs the kernels of a module for a GPU; null for other modules.
  Device *device() const { return kernels.get(); }

private:
  Module() = default;
  void chooseVersion();
  void open(std::string_view elf);
  void openDevice();
  void bindWeights(const std::string &weightsPath, bool verify);
  void uploadWeights();

  std::shared_ptr<Runtime> shared;
  std::string modulePath, json, cpuName, suffix;
  Signature sig;
  std::vector<Function> entries;
  moe_host_v1 host{};
  std::unique_ptr<Device> kernels; ///< of a module for a GPU
  int fd = -1;
  void *handle = nullptr;
};

/// What the checks before opening a module find out. Needs nothing but the file, so tools can use it on modules for
/// other machines.
struct ModuleFile {
  std::string_view elf, json;
  Signature signature;
};
ModuleFile checkModuleFile(const std::string &path, std::string_view bytes);

/// A function with its bound inputs and the outputs of its last run.
class Call {
public:
  explicit Call(const Function &function);

  void setInput(std::string_view name, const Tensor &tensor);
  void run();
  const Tensor &output(std::string_view name) const;
  /// By argument of the signature; null for weights and what is not set.
  std::vector<const Tensor *> boundInputs() const;

  const Function &function;

private:
  std::vector<std::shared_ptr<const void>> uploadInputs();
  Tensor takeResult(const ValueSignature &expected, const int64_t *descriptor, struct CallState &state,
                    std::vector<std::pair<std::string, int64_t>> &symbols) const;

  std::shared_ptr<const Module> keep;
  std::shared_ptr<DeviceMemory> remote;      ///< null: the module works in the host's memory
  std::vector<std::optional<Tensor>> inputs; ///< one per argument of kind input
  std::vector<std::vector<int64_t>> descriptors;
  std::vector<void *> arguments;
  std::vector<Tensor> outputs;
  bool ran = false;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_MODULE_H
