//===- CApi.cpp - statuses, runtimes, modules and calls in C --------------===//
#include "CApi.h"

using namespace moe::rt;

/// A value of a signature, laid out for C.
namespace {
struct Info {
  explicit Info(const ValueSignature &value) : value(&value) {
    for (const std::string &name : value.dimNames)
      dimNames.push_back(name.empty() ? nullptr : name.c_str());
  }
  moe_tensor_info get() const {
    return {value->name.c_str(), value->dtype, static_cast<int32_t>(value->shape.size()), value->shape.data(),
            dimNames.data()};
  }
  const ValueSignature *value;
  std::vector<const char *> dimNames;
};
} // namespace

struct moe_function {
  explicit moe_function(const Function &function) : function(&function) {
    for (size_t i : function.inputs)
      inputs.emplace_back(function.signature->arguments[i]);
    for (const ValueSignature &result : function.signature->results)
      outputs.emplace_back(result);
  }
  const Function *function;
  std::vector<Info> inputs, outputs;
};

struct moe_module {
  explicit moe_module(std::shared_ptr<Module> loaded) : module(std::move(loaded)) {
    for (const Function &function : module->functions())
      functions.emplace_back(function);
  }
  std::shared_ptr<Module> module;
  std::vector<moe_function> functions;
};

struct moe_call {
  explicit moe_call(const Function &function) : call(function) {}
  Call call;
};

namespace moe::rt {
/// Not on the heap: it says that there is no memory for another one.
static moe_status noMemory{MOE_OUT_OF_MEMORY, "out of memory"};

moe_status *makeStatus(moe_code code, const char *message) noexcept {
  try {
    return new moe_status{code, message};
  } catch (...) {
    return &noMemory;
  }
}
} // namespace moe::rt

moe_code moe_status_code(const moe_status *status) { return status ? status->code : MOE_OK; }
const char *moe_status_message(const moe_status *status) { return status ? status->message.c_str() : "ok"; }
void moe_status_free(moe_status *status) {
  if (status != &moe::rt::noMemory)
    delete status;
}

moe_status *moe_runtime_create(const moe_runtime_options *given, moe_runtime **runtime) {
  return guarded([&] {
    checkArgument(runtime, "runtime");
    RuntimeOptions options;
    if (given) {
      if (given->size != sizeof(moe_runtime_options))
        fail(MOE_INVALID_ARGUMENT, "the options' size is ", given->size, ", expected ", sizeof(moe_runtime_options));
      options.threads = given->threads;
      options.debugMemory = given->debug_memory != 0;
      options.cacheBytes = given->cache_bytes;
      if (given->log)
        options.log = [log = given->log, context = given->log_context](int32_t level, std::string_view message) {
          log(context, level, message.data(), message.size());
        };
    }
    *runtime = new moe_runtime{std::make_shared<Runtime>(options)};
  });
}

void moe_runtime_free(moe_runtime *runtime) { delete runtime; }

moe_status *moe_runtime_set_threads(moe_runtime *runtime, int32_t threads) {
  return guarded([&] {
    checkArgument(runtime, "runtime");
    runtime->runtime->scheduler.setThreads(threads);
  });
}

int32_t moe_runtime_threads(const moe_runtime *runtime) { return runtime ? runtime->runtime->scheduler.threads() : 0; }

moe_status *moe_module_load(moe_runtime *runtime, const char *path, const char *weights_path, uint32_t flags,
                            moe_module **module) {
  return guarded([&] {
    checkArgument(runtime, "runtime");
    checkArgument(path, "path");
    checkArgument(module, "module");
    if (flags & ~MOE_LOAD_VERIFY)
      fail(MOE_INVALID_ARGUMENT, "unknown flags ", flags);
    *module =
        new moe_module(Module::load(runtime->runtime, path, weights_path ? weights_path : "", flags & MOE_LOAD_VERIFY));
  });
}

void moe_module_free(moe_module *module) { delete module; }

const char *moe_module_signature(const moe_module *module) {
  return module ? module->module->signatureText().c_str() : nullptr;
}
size_t moe_module_num_functions(const moe_module *module) { return module ? module->functions.size() : 0; }

const char *moe_module_function_name(const moe_module *module, size_t index) {
  return index < moe_module_num_functions(module) ? moe_function_name(&module->functions[index]) : nullptr;
}

moe_status *moe_module_function(const moe_module *module, const char *name, const moe_function **function) {
  return guarded([&] {
    checkArgument(module, "module");
    checkArgument(function, "function");
    const Function &found = module->module->function(name ? name : "");
    *function = &module->functions[static_cast<size_t>(&found - module->module->functions().data())];
  });
}

const char *moe_function_name(const moe_function *function) {
  return function ? function->function->signature->name.c_str() : nullptr;
}
size_t moe_function_num_inputs(const moe_function *function) { return function ? function->inputs.size() : 0; }
size_t moe_function_num_outputs(const moe_function *function) { return function ? function->outputs.size() : 0; }

int moe_function_input(const moe_function *function, size_t index, moe_tensor_info *info) {
  if (!info || index >= moe_function_num_inputs(function))
    return 0;
  *info = function->inputs[index].get();
  return 1;
}

int moe_function_output(const moe_function *function, size_t index, moe_tensor_info *info) {
  if (!info || index >= moe_function_num_outputs(function))
    return 0;
  *info = function->outputs[index].get();
  return 1;
}

moe_status *moe_call_create(const moe_function *function, moe_call **call) {
  return guarded([&] {
    checkArgument(function, "function");
    checkArgument(call, "call");
    *call = new moe_call(*function->function);
  });
}

void moe_call_free(moe_call *call) { delete call; }

moe_status *moe_call_set_input(moe_call *call, const char *name, const moe_tensor *tensor) {
  return guarded([&] {
    checkArgument(call, "call");
    checkArgument(name, "name");
    checkArgument(tensor, "tensor");
    call->call.setInput(name, tensor->tensor);
  });
}

moe_status *moe_call_run(moe_call *call) {
  return guarded([&] {
    checkArgument(call, "call");
    call->call.run();
  });
}

moe_status *moe_call_output(const moe_call *call, const char *name, moe_tensor **tensor) {
  return guarded([&] {
    checkArgument(call, "call");
    checkArgument(name, "name");
    checkArgument(tensor, "tensor");
    *tensor = new moe_tensor{call->call.output(name)};
  });
}
