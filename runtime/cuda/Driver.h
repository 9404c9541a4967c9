//===- Driver.h - the CUDA driver's interface -------------------*- C++ -*-===//
//
// The driver's library is opened when a module asks for it: building and running everything else needs no CUDA.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_RUNTIME_CUDA_DRIVER_H
#define MOE_RUNTIME_CUDA_DRIVER_H

#include "Support.h"

namespace moe::rt::cuda {

// What is used of it, as cuda.h declares it.
using CUresult = int;
using CUdevice = int;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUstream = struct CUstream_st *;
using CUdeviceptr = unsigned long long;

constexpr CUresult kSuccess = 0, kOutOfMemory = 2;
/// CUdevice_attribute.
constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76;
/// CUjit_option: where the compiler of PTX writes its errors.
constexpr int kErrorLogBuffer = 5, kErrorLogBufferBytes = 6;
/// CUfunction_attribute.
constexpr int kMaxDynamicSharedBytes = 8;
constexpr unsigned kNonBlockingStream = 1;
/// Shared memory that a kernel may have without asking for more.
constexpr int64_t kPlainSharedBytes = 48 << 10;

#define MOE_CUDA_FUNCTIONS(X)                                                                                          \
  X(init, "cuInit", (unsigned))                                                                                        \
  X(deviceGetCount, "cuDeviceGetCount", (int *))                                                                       \
  X(deviceGet, "cuDeviceGet", (CUdevice *, int))                                                                       \
  X(deviceGetName, "cuDeviceGetName", (char *, int, CUdevice))                                                         \
  X(deviceGetAttribute, "cuDeviceGetAttribute", (int *, int, CUdevice))                                                \
  X(contextRetain, "cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice))                                                \
  X(contextRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice))                                                        \
  X(contextSetCurrent, "cuCtxSetCurrent", (CUcontext))                                                                 \
  X(moduleLoad, "cuModuleLoadDataEx", (CUmodule *, const void *, unsigned, int *, void **))                            \
  X(moduleUnload, "cuModuleUnload", (CUmodule))                                                                        \
  X(moduleGetFunction, "cuModuleGetFunction", (CUfunction *, CUmodule, const char *))                                  \
  X(functionSetAttribute, "cuFuncSetAttribute", (CUfunction, int, int))                                                \
  X(streamCreate, "cuStreamCreate", (CUstream *, unsigned))                                                            \
  X(streamDestroy, "cuStreamDestroy_v2", (CUstream))                                                                   \
  X(streamSynchronize, "cuStreamSynchronize", (CUstream))                                                              \
  X(memAlloc, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                                                \
  X(memFree, "cuMemFree_v2", (CUdeviceptr))                                                                            \
  X(memGetInfo, "cuMemGetInfo_v2", (size_t *, size_t *))                                                               \
  X(copyToDevice, "cuMemcpyHtoDAsync_v2", (CUdeviceptr, const void *, size_t, CUstream))                               \
  X(copyToHost, "cuMemcpyDtoHAsync_v2", (void *, CUdeviceptr, size_t, CUstream))                                       \
  X(launchKernel, "cuLaunchKernel",                                                                                    \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))    \
  X(getErrorString, "cuGetErrorString", (CUresult, const char **))

struct Driver {
#define MOE_CUDA_MEMBER(member, symbol, parameters) CUresult(*member) parameters;
  MOE_CUDA_FUNCTIONS(MOE_CUDA_MEMBER)
#undef MOE_CUDA_MEMBER

  /// The driver's words for an error.
  std::string describe(CUresult result) const;
};

/// Opens the library that $MOE_CUDA_DRIVER names, or libcuda.so.1, once; fails if there is none or an old one.
const Driver &openDriver();

} // namespace moe::rt::cuda

#endif // MOE_RUNTIME_CUDA_DRIVER_H
