//===- FakeCuda.cpp - a CUDA driver without a GPU, for tests --------------===//
//
// The functions of libcuda.so.1 that the runtime uses. Device memory lies in pages that nobody can access while no
// kernel or copy runs, so a host that touches it ends with a fault; memory that was freed stays closed. Kernels and
// copies are queued and run when the host waits. A kernel is run by the emulator: $MOE_FAKE_CUDA_KERNELS names the same
// program compiled with --emulate, in which it is looked up by name.
//
//   MOE_FAKE_CUDA_CHIP=sm_90         the device (default sm_80); "none": there is none
//   MOE_FAKE_CUDA_MEMORY=BYTES       its memory (default 1 GiB)
//   MOE_FAKE_CUDA_FAIL=NAME@N=CODE   the N-th call of NAME (from 1) fails with CODE; N+ : all from then on
//   MOE_FAKE_CUDA_LOG=FILE           one line for each call
//
//===----------------------------------------------------------------------===//
#include "cuda/Device.h"
#include "cuda/Driver.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <sys/mman.h>

using namespace moe::rt::cuda;
using moe::rt::str;

namespace {

constexpr CUresult kInvalidValue = 1, kNotInitialized = 3, kNoDevice = 100, kInvalidImage = 200, kInvalidContext = 201,
                   kNoBinary = 209, kInvalidPtx = 218, kNotFound = 500, kIllegalAddress = 700, kLaunchFailed = 719;
constexpr size_t kPage = 4096, kArena = size_t(64) << 30;

struct Image {
  std::string bytes;
  bool isText;
};

struct Kernel {
  const moe_kernel *emulated;
  int64_t dynamicShared = 48 << 10;
};

class FakeDriver {
public:
  FakeDriver() {
    if (const char *name = std::getenv("MOE_FAKE_CUDA_LOG"))
      log = std::fopen(name, "a");
    if (const char *text = std::getenv("MOE_FAKE_CUDA_FAIL")) {
      char name[64];
      int from = 0, code = 0;
      char plus[2] = {};
      if (std::sscanf(text, "%63[^@]@%d+=%d", name, &from, &code) == 3)
        plus[0] = '+';
      else if (std::sscanf(text, "%63[^@]@%d=%d", name, &from, &code) != 3)
        std::abort();
      failName = name;
      failFrom = from;
      failAlways = plus[0];
      failCode = code;
    }
    const char *text = std::getenv("MOE_FAKE_CUDA_CHIP");
    chip = !text ? 80 : std::string_view(text) == "none" ? 0 : std::atoi(text + 3);
    if (const char *bytes = std::getenv("MOE_FAKE_CUDA_MEMORY"))
      memory = std::strtoull(bytes, nullptr, 10);
  }

  /// Whether this call of `name` is to go on, or what it returns.
  CUresult enter(const char *name, const std::string &what = "", bool wantsContext = true) {
    int number = ++calls[name];
    CUresult result = kSuccess;
    if (failName == name && (number == failFrom || (failAlways && number > failFrom)))
      result = failCode;
    else if (std::string_view(name) != "cuInit" && !initialized)
      result = kNotInitialized;
    else if (wantsContext && !contextIsCurrent)
      result = kInvalidContext;
    else if (poisoned)
      result = poisoned;
    note(str(name, what.empty() ? "" : " ", what, result ? str(" -> ", result) : ""));
    return result;
  }
  void note(const std::string &line) {
    if (log) {
      std::fprintf(log, "%s\n", line.c_str());
      std::fflush(log);
    }
  }

  /// Opens or closes the memory that is allocated.
  void protect(bool open) {
    for (auto &[address, bytes] : live)
      ::mprotect(reinterpret_cast<void *>(address), (bytes + kPage - 1) / kPage * kPage,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
  /// Whether the bytes are one allocation's.
  bool contains(CUdeviceptr address, size_t bytes) {
    auto it = live.upper_bound(address);
    return it != live.begin() && (--it, address + bytes <= it->first + it->second);
  }

  CUresult drain() {
    while (!queue.empty() && !poisoned) {
      auto work = std::move(queue.front());
      queue.pop_front();
      protect(true);
      poisoned = work();
      protect(false);
    }
    queue.clear();
    return poisoned;
  }

  CUresult allocate(CUdeviceptr *out, size_t bytes) {
    if (!bytes)
      return kInvalidValue;
    if (used + bytes > memory)
      return kOutOfMemory;
    if (!arena) {
      void *base = ::mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (base == MAP_FAILED)
        return kOutOfMemory;
      arena = next = reinterpret_cast<CUdeviceptr>(base);
    }
    // Addresses are not used twice; a closed page follows each.
    size_t room = (bytes + kPage - 1) / kPage * kPage;
    if (next + room + kPage > arena + kArena)
      return kOutOfMemory;
    *out = next;
    next += room + kPage;
    live[*out] = bytes;
    used += bytes;
    void *start = reinterpret_cast<void *>(*out);
    ::mprotect(start, room, PROT_READ | PROT_WRITE);
    std::memset(start, 0xff, room);
    ::mprotect(start, room, PROT_NONE);
    return kSuccess;
  }
  CUresult release(CUdeviceptr address) {
    auto it = live.find(address);
    if (it == live.end())
      return kInvalidValue;
    // As the driver does, wait for what may use it.
    if (CUresult result = drain())
      return result;
    ::madvise(reinterpret_cast<void *>(address), (it->second + kPage - 1) / kPage * kPage, MADV_DONTNEED);
    used -= it->second;
    live.erase(it);
    return kSuccess;
  }

  CUresult load(Image *image, std::string &words) {
    const char *prefix = "\x7f"
                         "ELF";
    image->isText = image->bytes.compare(0, 4, prefix) != 0;
    if (!image->isText)
      return kSuccess;
    size_t at = image->bytes.find(".target sm_");
    if (at == std::string::npos)
      return kInvalidImage;
    if (int wanted = std::atoi(image->bytes.c_str() + at + 11); wanted > chip) {
      words = str("ptxas fatal: sm_", wanted, " is newer than sm_", chip);
      return kInvalidPtx;
    }
    return kSuccess;
  }

  /// The kernel of the program that was compiled for emulation; its parameters must be those that the PTX declares.
  CUresult find(const Image &image, const char *name, Kernel **out) {
    if (image.bytes.find(name) == std::string::npos)
      return kNotFound;
    if (!emulated) {
      const char *path = std::getenv("MOE_FAKE_CUDA_KERNELS");
      emulated = path ? ::dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
      if (!emulated) {
        std::fprintf(stderr, "fake-cuda: no kernels: %s\n", path ? ::dlerror() : "MOE_FAKE_CUDA_KERNELS is not set");
        return kNotFound;
      }
      emulator = moe::rt::makeEmulator([this](std::string message) {
        std::fprintf(stderr, "fake-cuda: %s\n", message.c_str());
        fault = kLaunchFailed;
      });
      *static_cast<const moe_device_v1 **>(::dlsym(emulated, MOE_MODULE_DEVICE_SYMBOL)) = &emulator->table;
    }
    auto *description = static_cast<const moe_kernel *>(::dlsym(emulated, str("moe_kernel.", name).c_str()));
    if (!description)
      return kNotFound;
    if (image.isText) {
      size_t begin = image.bytes.find(str(".entry ", name, "(")), end = image.bytes.find(")\n", begin);
      int64_t declared = 0;
      for (size_t at = begin; (at = image.bytes.find(".param ", at + 1)) < end;)
        ++declared;
      if (declared != description->parameters) {
        std::fprintf(stderr, "fake-cuda: %s has %ld parameters in the PTX, %ld in the host's code\n", name,
                     long(declared), long(description->parameters));
        return kInvalidValue;
      }
    }
    *out = new Kernel{description};
    return kSuccess;
  }

  CUresult launch(Kernel *kernel, const unsigned (&grid)[3], unsigned threads, unsigned shared, void **parameters) {
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 0xffff || grid[2] > 0xffff || !threads || threads > 1024 ||
        shared > kernel->dynamicShared)
      return kInvalidValue;
    std::vector<uint64_t> values(static_cast<size_t>(kernel->emulated->parameters));
    for (size_t i = 0; i < values.size(); ++i)
      std::memcpy(&values[i], parameters[i], 8);
    queue.push_back([=]() mutable {
      fault = kSuccess;
      emulator->table.launch(emulator->table.ctx, kernel->emulated, grid[0], grid[1], grid[2], threads, shared,
                             values.data());
      return fault;
    });
    return kSuccess;
  }

  /// The limit of the chip for one block.
  int64_t mostShared() const { return int64_t(chip == 80 ? 163 : chip == 90 || chip == 100 ? 227 : 99) << 10; }

  int chip;
  size_t memory = size_t(1) << 30, used = 0;
  bool initialized = false, contextIsCurrent = false;
  int contexts = 0;
  std::map<CUdeviceptr, size_t> live;
  std::set<Image *> images;
  int streams = 0;
  std::deque<std::function<CUresult()>> queue;

private:
  FILE *log = nullptr;
  std::string failName;
  int failFrom = 0;
  bool failAlways = false;
  CUresult failCode = 0, poisoned = 0, fault = 0;
  std::map<std::string, int> calls;
  CUdeviceptr arena = 0, next = 0;
  void *emulated = nullptr;
  std::unique_ptr<moe::rt::Device> emulator;
};

FakeDriver &driver() {
  static FakeDriver *it = new FakeDriver;
  return *it;
}

} // namespace

#define ENTER(...)                                                                                                     \
  if (CUresult entered = driver().enter(__VA_ARGS__))                                                                  \
  return entered
#define EXPORT extern "C" __attribute__((visibility("default"))) CUresult

EXPORT cuInit(unsigned) {
  ENTER("cuInit", "", false);
  driver().initialized = true;
  return driver().chip ? kSuccess : kNoDevice;
}
EXPORT cuDeviceGetCount(int *count) {
  ENTER("cuDeviceGetCount", "", false);
  *count = 1;
  return kSuccess;
}
EXPORT cuDeviceGet(CUdevice *device, int number) {
  ENTER("cuDeviceGet", "", false);
  *device = 7;
  return number ? kInvalidValue : kSuccess;
}
EXPORT cuDeviceGetName(char *name, int size, CUdevice) {
  ENTER("cuDeviceGetName", "", false);
  std::snprintf(name, static_cast<size_t>(size), "Fake GPU");
  return kSuccess;
}
EXPORT cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  ENTER("cuDeviceGetAttribute", "", false);
  int chip = driver().chip;
  *value = attribute == kComputeCapabilityMajor ? chip / 10 : attribute == kComputeCapabilityMinor ? chip % 10 : -1;
  return *value < 0 || device != 7 ? kInvalidValue : kSuccess;
}
EXPORT cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
  ENTER("cuDevicePrimaryCtxRetain", "", false);
  ++driver().contexts;
  *context = reinterpret_cast<CUcontext>(&driver());
  return kSuccess;
}
EXPORT cuDevicePrimaryCtxRelease_v2(CUdevice) {
  FakeDriver &d = driver();
  d.enter("cuDevicePrimaryCtxRelease_v2", "", false);
  if (--d.contexts == 0)
    d.note(str("left: ", d.live.size(), " buffers, ", d.images.size(), " modules, ", d.streams, " streams, ",
               d.queue.size(), " tasks"));
  return kSuccess;
}
EXPORT cuCtxSetCurrent(CUcontext context) {
  driver().contextIsCurrent = context != nullptr;
  return kSuccess;
}
EXPORT cuModuleLoadDataEx(CUmodule *module, const void *data, unsigned options, int *names, void **values) {
  // The end of an image is in itself: text ends in a zero, an ELF file behind its tables.
  const char *bytes = static_cast<const char *>(data);
  bool isElf = std::memcmp(bytes,
                           "\x7f"
                           "ELF",
                           4) == 0;
  size_t size = 0;
  if (isElf) {
    uint64_t sections, programs;
    uint16_t programSize, programCount, sectionSize, sectionCount;
    std::memcpy(&programs, bytes + 32, 8);
    std::memcpy(&sections, bytes + 40, 8);
    std::memcpy(&programSize, bytes + 54, 2);
    std::memcpy(&programCount, bytes + 56, 2);
    std::memcpy(&sectionSize, bytes + 58, 2);
    std::memcpy(&sectionCount, bytes + 60, 2);
    size = std::max(sections + uint64_t(sectionSize) * sectionCount, programs + uint64_t(programSize) * programCount);
  } else {
    size = std::strlen(bytes);
  }
  ENTER("cuModuleLoadDataEx", isElf ? "cubin" : "ptx");
  auto *image = new Image{std::string(bytes, size), !isElf};
  std::string words;
  CUresult result = driver().load(image, words);
  for (unsigned i = 0; i + 1 < options; ++i)
    if (names[i] == kErrorLogBuffer && names[i + 1] == kErrorLogBufferBytes)
      std::snprintf(static_cast<char *>(values[i]), reinterpret_cast<size_t>(values[i + 1]), "%s\n", words.c_str());
  if (result) {
    delete image;
    return result;
  }
  driver().images.insert(image);
  *module = reinterpret_cast<CUmodule>(image);
  return kSuccess;
}
EXPORT cuModuleUnload(CUmodule module) {
  ENTER("cuModuleUnload");
  auto *image = reinterpret_cast<Image *>(module);
  if (!driver().images.erase(image))
    return kInvalidValue;
  delete image;
  return kSuccess;
}
EXPORT cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  ENTER("cuModuleGetFunction", name);
  return driver().find(*reinterpret_cast<Image *>(module), name, reinterpret_cast<Kernel **>(function));
}
EXPORT cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  ENTER("cuFuncSetAttribute", std::to_string(value));
  if (attribute != kMaxDynamicSharedBytes || value > driver().mostShared())
    return kInvalidValue;
  reinterpret_cast<Kernel *>(function)->dynamicShared = value;
  return kSuccess;
}
EXPORT cuStreamCreate(CUstream *stream, unsigned) {
  ENTER("cuStreamCreate");
  *stream = reinterpret_cast<CUstream>(&driver());
  ++driver().streams;
  return kSuccess;
}
EXPORT cuStreamDestroy_v2(CUstream) {
  ENTER("cuStreamDestroy_v2");
  --driver().streams;
  return kSuccess;
}
EXPORT cuStreamSynchronize(CUstream) {
  ENTER("cuStreamSynchronize");
  return driver().drain();
}
EXPORT cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  ENTER("cuMemAlloc_v2", std::to_string(bytes));
  return driver().allocate(address, bytes);
}
EXPORT cuMemFree_v2(CUdeviceptr address) {
  ENTER("cuMemFree_v2");
  return driver().release(address);
}
EXPORT cuMemGetInfo_v2(size_t *free, size_t *total) {
  ENTER("cuMemGetInfo_v2");
  *free = driver().memory - driver().used;
  *total = driver().memory;
  return kSuccess;
}
EXPORT cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream) {
  ENTER("cuMemcpyHtoDAsync_v2", std::to_string(bytes));
  if (!bytes || !driver().contains(to, bytes))
    return kInvalidValue;
  // Pageable memory is staged by the call itself.
  std::string staged(static_cast<const char *>(from), bytes);
  driver().queue.push_back([to, staged = std::move(staged)] {
    std::memcpy(reinterpret_cast<void *>(to), staged.data(), staged.size());
    return driver().contains(to, staged.size()) ? kSuccess : kIllegalAddress;
  });
  return kSuccess;
}
EXPORT cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream) {
  ENTER("cuMemcpyDtoHAsync_v2", std::to_string(bytes));
  if (!bytes || !driver().contains(from, bytes))
    return kInvalidValue;
  driver().queue.push_back([=] {
    std::memcpy(to, reinterpret_cast<const void *>(from), bytes);
    return kSuccess;
  });
  return kSuccess;
}
EXPORT cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threadsY,
                      unsigned threadsZ, unsigned shared, CUstream, void **parameters, void **) {
  auto *kernel = reinterpret_cast<Kernel *>(function);
  ENTER("cuLaunchKernel",
        str(kernel->emulated->name, " grid ", x, " ", y, " ", z, " threads ", threads, " shared ", shared));
  if (threadsY != 1 || threadsZ != 1)
    return kInvalidValue;
  return driver().launch(kernel, {x, y, z}, threads, shared, parameters);
}
EXPORT cuGetErrorString(CUresult result, const char **text) {
  switch (result) {
  case kInvalidValue:
    *text = "invalid argument";
    return kSuccess;
  case kOutOfMemory:
    *text = "out of memory";
    return kSuccess;
  case kNoDevice:
    *text = "no CUDA-capable device is detected";
    return kSuccess;
  case kIllegalAddress:
    *text = "an illegal memory access was encountered";
    return kSuccess;
  case kLaunchFailed:
    *text = "unspecified launch failure";
    return kSuccess;
  case kNotFound:
    *text = "named symbol not found";
    return kSuccess;
  case kInvalidPtx:
    *text = "a PTX JIT compilation failed";
    return kSuccess;
  case kNoBinary:
    *text = "no kernel image is available for execution on the device";
    return kSuccess;
  default:
    return kInvalidValue;
  }
}
