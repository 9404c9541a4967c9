//===- Device.h - what runs a module's kernels ------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CUDA_DEVICE_H
#define MOE_RUNTIME_CUDA_DEVICE_H

#include "Buffers.h"
#include "Signature.h"
#include "moe-c/Module.h"
#include <functional>
#include <memory>

namespace moe::rt {

/// Memory that the processor cannot access: a GPU's. Everything happens in the order of the calls.
class DeviceMemory {
public:
  virtual ~DeviceMemory() = default;
  /// The buffers of one call.
  virtual std::unique_ptr<Buffers> makeBuffers() = 0;
  /// A copy of `bytes` bytes at `data`, which must stay until the next finish(). Freed with its last owner.
  virtual std::shared_ptr<const void> upload(const void *data, uint64_t bytes) = 0;
  /// Copies to `to`, behind all that was started before, and waits.
  virtual void download(void *to, const void *from, uint64_t bytes) = 0;
  /// Waits for all that was started; fails with what went wrong.
  virtual void finish() = 0;
};

/// The device table of one module, and what is behind it.
class Device {
public:
  virtual ~Device() = default;
  moe_device_v1 table{};
  /// What it is, for the log.
  virtual std::string describe() const = 0;
  /// A call of this thread begins; calls run on one thread each.
  virtual void begin() {}
  /// Null: kernels work in the host's memory.
  virtual std::shared_ptr<DeviceMemory> memory() { return nullptr; }
};

/// Told what is wrong; the call then fails with the first message.
using ReportFault = std::function<void(std::string)>;

/// Runs emulated kernels on the calling thread, and checks them.
std::unique_ptr<Device> makeEmulator(ReportFault report);

/// The GPU of this machine. `cubin` and `ptx` are the module's. Fails if there is none, saying why.
std::unique_ptr<Device> makeCudaDevice(const DeviceSignature &wanted, std::string_view cubin, std::string_view ptx,
                                       ReportFault report);

} // namespace moe::rt

#endif // MOE_RUNTIME_CUDA_DEVICE_H
