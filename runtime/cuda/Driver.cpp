//===- Driver.cpp - open the CUDA driver ----------------------------------===//
#include "Driver.h"
#include <cstdlib>
#include <dlfcn.h>

namespace moe::rt::cuda {

std::string Driver::describe(CUresult result) const {
  const char *text = nullptr;
  if (getErrorString(result, &text) != kSuccess || !text)
    return str("error ", result);
  return str(text, " (error ", result, ")");
}

const Driver &openDriver() {
  static const Driver driver = [] {
    const char *name = std::getenv("MOE_CUDA_DRIVER");
    void *library = ::dlopen(name ? name : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
      fail(MOE_INCOMPATIBLE, "there is no CUDA device on this machine: the driver's library cannot be opened (",
           ::dlerror(), "); compile with --target=cpu, or with --emulate to run the kernels on the processor");
    Driver out{};
    auto get = [&](auto &function, const char *symbol) {
      void *address = ::dlsym(library, symbol);
      if (!address)
        fail(MOE_INCOMPATIBLE, "the CUDA driver is too old: its library has no ", symbol,
             "; a driver of CUDA 11 or later is needed");
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
    };
#define MOE_CUDA_LOAD(member, symbol, parameters) get(out.member, symbol);
    MOE_CUDA_FUNCTIONS(MOE_CUDA_LOAD)
#undef MOE_CUDA_LOAD
    return out;
  }();
  return driver;
}

} // namespace moe::rt::cuda
