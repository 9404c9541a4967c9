//===- DeviceMemory.h - memory and stream of a GPU --------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CUDA_DEVICEMEMORY_H
#define MOE_RUNTIME_CUDA_DEVICEMEMORY_H

#include "Device.h"
#include "Driver.h"
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace moe::rt {

/// A module's stream, and a pool of its buffers on the device: what is freed is kept for the next request of about the
/// same size, and given back to the driver when memory runs out and at the end.
class CudaMemory : public DeviceMemory, public std::enable_shared_from_this<CudaMemory> {
public:
  CudaMemory(const cuda::Driver &driver, cuda::CUdevice device);
  ~CudaMemory() override;

  std::unique_ptr<Buffers> makeBuffers() override;
  std::shared_ptr<const void> upload(const void *data, uint64_t bytes) override;
  void download(void *to, const void *from, uint64_t bytes) override;
  void finish() override;

  cuda::CUstream getStream() const { return stream; }
  /// The driver's functions work on the calling thread's context.
  void makeCurrent();
  /// Remembers a kernel that was started, for the message should it fail.
  void noteLaunch(const char *kernel);

  /// Null if there is no memory; `problem` then says so.
  void *allocate(uint64_t bytes, std::string &problem);
  /// Of a pointer from allocate().
  void release(void *pointer);
  /// The size of a buffer as it was asked for.
  uint64_t sizeOf(const void *pointer);

private:
  void trim();
  void check(cuda::CUresult result, const char *what);

  struct Block {
    uint64_t capacity, bytes;
  };
  const cuda::Driver &driver;
  cuda::CUdevice device;
  cuda::CUcontext context = nullptr;
  cuda::CUstream stream = nullptr;
  std::mutex mutex;
  std::unordered_map<const void *, Block> blocks; ///< all in use
  std::multimap<uint64_t, void *> kept;           ///< by capacity
  /// The kernels since the last wait, the newest last, and how many more there were in front of them.
  std::vector<const char *> launched;
  uint64_t notListed = 0;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_CUDA_DEVICEMEMORY_H
