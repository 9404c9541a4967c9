//===- Device.h - what runs a module's kernels ------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CUDA_DEVICE_H
#define MOE_RUNTIME_CUDA_DEVICE_H

#include "Signature.h"
#include "moe-c/Module.h"
#include <functional>
#include <memory>

namespace moe::rt {

/// The device table of one module, and what is behind it.
class Device {
public:
  virtual ~Device() = default;
  moe_device_v1 table{};
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
