//===- Cuda.cpp - NVIDIA GPUs through the driver --------------------------===//
//
// The driver's library is opened when a module asks for it: building and running everything else needs no CUDA.
//
//===----------------------------------------------------------------------===//
#include "Device.h"
#include "Support.h"
#include <dlfcn.h>

namespace moe::rt {

namespace {

// What is used of the driver's interface, as cuda.h declares it.
using CUresult = int;
using CUdevice = int;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUdeviceptr = unsigned long long;

struct Driver {
  CUresult (*init)(unsigned);
  CUresult (*deviceGetCount)(int *);
  CUresult (*deviceGet)(CUdevice *, int);
  CUresult (*deviceGetAttribute)(int *, int, CUdevice);
  CUresult (*contextRetain)(CUcontext *, CUdevice);
  CUresult (*contextSetCurrent)(CUcontext);
  CUresult (*moduleLoadData)(CUmodule *, const void *);
  CUresult (*moduleUnload)(CUmodule);
  CUresult (*moduleGetFunction)(CUfunction *, CUmodule, const char *);
  CUresult (*functionSetAttribute)(CUfunction, int, int);
  CUresult (*launchKernel)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
                           void **, void **);
  CUresult (*copyToHost)(void *, CUdeviceptr, size_t);
  CUresult (*getErrorString)(CUresult, const char **);
};

constexpr int kAttributeMajor = 75, kAttributeMinor = 76;

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
        fail(MOE_INCOMPATIBLE, "the CUDA driver is too old: its library has no ", symbol);
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
    };
    get(out.init, "cuInit");
    get(out.deviceGetCount, "cuDeviceGetCount");
    get(out.deviceGet, "cuDeviceGet");
    get(out.deviceGetAttribute, "cuDeviceGetAttribute");
    get(out.contextRetain, "cuDevicePrimaryCtxRetain");
    get(out.contextSetCurrent, "cuCtxSetCurrent");
    get(out.moduleLoadData, "cuModuleLoadData");
    get(out.moduleUnload, "cuModuleUnload");
    get(out.moduleGetFunction, "cuModuleGetFunction");
    get(out.functionSetAttribute, "cuFuncSetAttribute");
    get(out.launchKernel, "cuLaunchKernel");
    get(out.copyToHost, "cuMemcpyDtoH_v2");
    get(out.getErrorString, "cuGetErrorString");
    return out;
  }();
  return driver;
}
} // namespace

std::unique_ptr<Device> makeCudaDevice(const DeviceSignature &wanted, std::string_view, std::string_view, ReportFault) {
  const Driver &driver = openDriver();
  auto check = [&](CUresult result, const char *what) {
    if (result == 0)
      return;
    const char *text = nullptr;
    driver.getErrorString(result, &text);
    fail(MOE_INCOMPATIBLE, "there is no usable CUDA device: ", what, ": ", text ? text : "unknown error");
  };
  check(driver.init(0), "cuInit");
  int count = 0;
  check(driver.deviceGetCount(&count), "cuDeviceGetCount");
  if (count == 0)
    fail(MOE_INCOMPATIBLE, "there is no CUDA device on this machine");
  CUdevice device;
  check(driver.deviceGet(&device, 0), "cuDeviceGet");
  int major = 0, minor = 0;
  check(driver.deviceGetAttribute(&major, kAttributeMajor, device), "cuDeviceGetAttribute");
  check(driver.deviceGetAttribute(&minor, kAttributeMinor, device), "cuDeviceGetAttribute");
  int has = major * 10 + minor, needs = std::stoi(wanted.chip.substr(3));
  if (has < needs)
    fail(MOE_INCOMPATIBLE, "the device is sm_", has, ", the kernels need ", wanted.chip, "; compile with --chip=sm_",
         has);
  fail(MOE_INCOMPATIBLE,
       "running on a CUDA device is not implemented yet; --emulate runs the kernels on the processor");
}

} // namespace moe::rt
