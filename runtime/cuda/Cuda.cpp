//===- Cuda.cpp - kernels and memory on an NVIDIA GPU ---------------------===//
//
// One stream per module: kernels and copies run in the order in which the module asks for them, so a buffer that was
// freed can be given out again at once. Nothing but `read`, the copy of a result and the end of a call waits.
//
//===----------------------------------------------------------------------===//
#include "Device.h"
#include "DeviceMemory.h"
#include "Driver.h"
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <vector>

namespace moe::rt {

using namespace cuda;

namespace {

/// Something failed in this thread's call: what follows is not started.
thread_local bool broken = false;

/// "sm_86" -> 86.
int numberOf(const std::string &chip) { return std::atoi(chip.c_str() + 3); }

class CudaDevice : public Device {
public:
  CudaDevice(const DeviceSignature &wanted, std::string_view cubin, std::string_view ptx, ReportFault report)
      : driver(openDriver()), report(std::move(report)) {
    chooseDevice(wanted);
    pool = std::make_shared<CudaMemory>(driver, device);
    loadKernels(wanted, cubin, ptx);
    table.version = 1;
    table.size = sizeof(table);
    table.ctx = this;
    table.launch = [](void *ctx, const moe_kernel *kernel, int64_t x, int64_t y, int64_t z, int64_t threads,
                      int64_t shared,
                      void *parameters) { self(ctx).launch(*kernel, {x, y, z}, threads, shared, parameters); };
    table.read = [](void *ctx, void *to, const void *from, int64_t bytes) {
      self(ctx).read(to, from, static_cast<uint64_t>(bytes));
    };
    table.constant = [](void *ctx, const void *data, int64_t bytes) {
      return self(ctx).constant(data, static_cast<uint64_t>(bytes));
    };
  }

  ~CudaDevice() override {
    constants.clear();
    pool->makeCurrent();
    if (kernels)
      driver.moduleUnload(kernels);
  }

  std::string describe() const override { return name; }
  void begin() override { broken = false; }
  std::shared_ptr<DeviceMemory> memory() override { return pool; }

private:
  static CudaDevice &self(void *ctx) { return *static_cast<CudaDevice *>(ctx); }

  void chooseDevice(const DeviceSignature &wanted) {
    auto check = [&](CUresult result, const char *what) {
      if (result != kSuccess)
        fail(MOE_INCOMPATIBLE, "there is no usable CUDA device: ", what, ": ", driver.describe(result));
    };
    check(driver.init(0), "cuInit");
    int count = 0;
    check(driver.deviceGetCount(&count), "cuDeviceGetCount");
    if (count == 0)
      fail(MOE_INCOMPATIBLE, "there is no CUDA device on this machine; compile with --target=cpu, or with --emulate to "
                             "run the kernels on the processor");
    check(driver.deviceGet(&device, 0), "cuDeviceGet");
    char text[256] = {};
    check(driver.deviceGetName(text, sizeof(text) - 1, device), "cuDeviceGetName");
    int major = 0, minor = 0;
    check(driver.deviceGetAttribute(&major, kComputeCapabilityMajor, device), "cuDeviceGetAttribute");
    check(driver.deviceGetAttribute(&minor, kComputeCapabilityMinor, device), "cuDeviceGetAttribute");
    capability = major * 10 + minor;
    name = str(text, " (sm_", capability, ")");
    if (capability < numberOf(wanted.chip))
      fail(MOE_INCOMPATIBLE, "the device, ", name, ", is older than the kernels' chip; compile with --chip=sm_",
           capability);
  }

  /// Machine code runs on chips of the same generation that are as new; for others the driver compiles the PTX.
  void loadKernels(const DeviceSignature &wanted, std::string_view cubin, std::string_view ptx) {
    if (ptx.empty() && cubin.empty())
      return; // a program without kernels
    int needs = numberOf(wanted.chip);
    bool fits = !cubin.empty() && capability / 10 == needs / 10 && capability >= needs;
    if (fits && tryLoad(cubin, nullptr) == kSuccess)
      return;
    std::string log;
    CUresult result = tryLoad(ptx, &log);
    if (result == kSuccess)
      return;
    fail(MOE_INCOMPATIBLE, "the driver cannot load the kernels on ", name, ": ", driver.describe(result),
         log.empty() ? "" : ": ", log, "; compile with --chip=sm_", capability, ", or install a newer driver");
  }

  CUresult tryLoad(std::string_view image, std::string *log) {
    char words[2048] = {};
    int options[] = {kErrorLogBuffer, kErrorLogBufferBytes};
    void *values[] = {words, reinterpret_cast<void *>(sizeof(words) - 1)};
    CUresult result = driver.moduleLoad(&kernels, image.data(), log ? 2 : 0, options, values);
    if (result != kSuccess)
      kernels = nullptr;
    if (log)
      for (*log = words; !log->empty() && static_cast<unsigned char>(log->back()) <= ' ';)
        log->pop_back();
    return result;
  }

  void failed(std::string message) {
    broken = true;
    report(std::move(message));
  }

  void launch(const moe_kernel &kernel, const int64_t (&grid)[3], int64_t threads, int64_t shared, void *parameters) {
    if (broken || grid[0] <= 0 || grid[1] <= 0 || grid[2] <= 0)
      return;
    auto wrong = [&](const auto &...what) { failed(str("kernel ", kernel.name, ": ", what...)); };
    if (grid[0] > 0x7fffffff || grid[1] > 0xffff || grid[2] > 0xffff)
      return wrong("a grid of ", grid[0], " x ", grid[1], " x ", grid[2],
                   " blocks is larger than a GPU takes; use fewer tokens in one call");
    std::lock_guard<std::mutex> lock(mutex);
    pool->makeCurrent();
    Function &function = functions[&kernel];
    if (!function.handle) {
      CUresult result =
          kernels ? driver.moduleGetFunction(&function.handle, kernels, kernel.name) : CUresult(500 /* not found */);
      if (result != kSuccess) {
        function.handle = nullptr;
        return wrong("is not among the module's kernels: ", driver.describe(result));
      }
    }
    if (shared > std::max(function.shared, kPlainSharedBytes)) {
      CUresult result = driver.functionSetAttribute(function.handle, kMaxDynamicSharedBytes, static_cast<int>(shared));
      if (result != kSuccess)
        return wrong("needs ", shared, " bytes of shared memory per block, which ", name,
                     " does not give: ", driver.describe(result), "; compile with --chip=sm_", capability);
      function.shared = shared;
    }
    values.clear();
    for (int64_t i = 0; i < kernel.parameters; ++i)
      values.push_back(static_cast<char *>(parameters) + 8 * i);
    CUresult result = driver.launchKernel(
        function.handle, static_cast<unsigned>(grid[0]), static_cast<unsigned>(grid[1]), static_cast<unsigned>(grid[2]),
        static_cast<unsigned>(threads), 1, 1, static_cast<unsigned>(shared), pool->getStream(), values.data(), nullptr);
    if (result != kSuccess)
      return wrong("cannot be started: ", driver.describe(result));
    pool->noteLaunch(kernel.name);
    if (waitAfterEach)
      guarded([&] { pool->finish(); });
  }

  void read(void *to, const void *from, uint64_t bytes) {
    // The module goes on with what it gets: zeros lead to no work.
    std::memset(to, 0, bytes);
    if (!broken)
      guarded([&] { pool->download(to, from, bytes); });
  }

  const void *constant(const void *data, uint64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<const void> &copy = constants[data];
    if (!copy && !broken)
      guarded([&] { copy = pool->upload(data, bytes); });
    return copy.get();
  }

  template <typename Body> void guarded(Body body) {
    // Compiled code is on the stack: nothing may be thrown through it.
    try {
      body();
    } catch (const std::exception &error) {
      failed(error.what());
    }
  }

  struct Function {
    CUfunction handle = nullptr;
    int64_t shared = 0;
  };

  const Driver &driver;
  ReportFault report;
  CUdevice device = 0;
  int capability = 0;
  std::string name;
  std::shared_ptr<CudaMemory> pool;
  CUmodule kernels = nullptr;
  std::mutex mutex; ///< of what follows: calls may run at the same time
  std::unordered_map<const moe_kernel *, Function> functions;
  std::unordered_map<const void *, std::shared_ptr<const void>> constants;
  std::vector<void *> values;
  /// MOE_CUDA_SYNC=1: wait for every kernel, so that an error names the one that made it.
  const bool waitAfterEach = [] {
    const char *value = std::getenv("MOE_CUDA_SYNC");
    return value && std::string_view(value) == "1";
  }();
};

} // namespace

std::unique_ptr<Device> makeCudaDevice(const DeviceSignature &wanted, std::string_view cubin, std::string_view ptx,
                                       ReportFault report) {
  return std::make_unique<CudaDevice>(wanted, cubin, ptx, std::move(report));
}

} // namespace moe::rt
