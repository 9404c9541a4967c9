//===- DeviceMemory.cpp - memory and stream of a GPU ----------------------===//
#include "DeviceMemory.h"
#include <algorithm>
#include <unordered_set>

namespace moe::rt {

using namespace cuda;

namespace {

/// At most an eighth of a buffer is unused; all start at multiples of 512.
uint64_t roundUp(uint64_t bytes) {
  bytes = std::max<uint64_t>(bytes, 1);
  uint64_t unit = std::max<uint64_t>(512, (uint64_t(1) << (63 - __builtin_clzll(bytes))) / 8);
  return (bytes + unit - 1) / unit * unit;
}

void *pointerOf(CUdeviceptr address) { return reinterpret_cast<void *>(static_cast<uintptr_t>(address)); }
CUdeviceptr addressOf(const void *pointer) { return static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(pointer)); }

class CudaBuffers : public Buffers {
public:
  explicit CudaBuffers(std::shared_ptr<CudaMemory> memory) : memory(std::move(memory)) {}
  ~CudaBuffers() override { releaseAll(); }

  void *allocate(uint64_t bytes, uint64_t alignment, std::string &problem) override {
    if (alignment > 512) {
      problem = str("no buffer at a multiple of ", alignment, " bytes");
      return nullptr;
    }
    void *pointer = memory->allocate(bytes, problem);
    if (pointer)
      live.insert(pointer);
    return pointer;
  }

  std::string release(void *pointer) override {
    if (!pointer)
      return "";
    if (!live.erase(pointer))
      return "the module freed a buffer that it does not own, or freed one twice";
    memory->release(pointer);
    return "";
  }

  Memory::Left releaseAll() override {
    Memory::Left left;
    for (void *pointer : live) {
      left.buffers += 1;
      left.bytes += memory->sizeOf(pointer);
      memory->release(pointer);
    }
    live.clear();
    return left;
  }

  Memory::Taken take(const void *pointer) override {
    if (!live.erase(const_cast<void *>(pointer)))
      return {};
    auto free = [memory = memory](const void *p) { memory->release(const_cast<void *>(p)); };
    return {std::shared_ptr<const void>(pointer, free), memory->sizeOf(pointer), ""};
  }

private:
  std::shared_ptr<CudaMemory> memory;
  std::unordered_set<void *> live;
};

} // namespace

CudaMemory::CudaMemory(const Driver &driver, CUdevice device) : driver(driver), device(device) {
  auto must = [&](CUresult result, const char *what) {
    if (result == kSuccess)
      return;
    if (context)
      driver.contextRelease(device);
    fail(result == kOutOfMemory ? MOE_OUT_OF_MEMORY : MOE_INCOMPATIBLE, "the CUDA device cannot be used: ", what, ": ",
         driver.describe(result));
  };
  must(driver.contextRetain(&context, device), "cuDevicePrimaryCtxRetain");
  must(driver.contextSetCurrent(context), "cuCtxSetCurrent");
  must(driver.streamCreate(&stream, kNonBlockingStream), "cuStreamCreate");
}

CudaMemory::~CudaMemory() {
  makeCurrent();
  driver.streamSynchronize(stream);
  trim();
  for (auto &[pointer, block] : blocks)
    driver.memFree(addressOf(pointer));
  driver.streamDestroy(stream);
  driver.contextSetCurrent(nullptr);
  driver.contextRelease(device);
}

void CudaMemory::makeCurrent() { driver.contextSetCurrent(context); }

void CudaMemory::noteLaunch(const char *kernel) {
  constexpr size_t most = 8;
  std::lock_guard<std::mutex> lock(mutex);
  if (launched.size() == most) {
    launched.erase(launched.begin());
    ++notListed;
  }
  launched.push_back(kernel);
}

void CudaMemory::check(CUresult result, const char *what) {
  if (result == kSuccess)
    return;
  std::lock_guard<std::mutex> lock(mutex);
  std::string names;
  for (const char *name : launched)
    names += (names.empty() ? "" : ", ") + std::string(name);
  std::string which;
  if (launched.size() == 1 && !notListed)
    which = str("kernel ", names, ": ");
  else if (!launched.empty())
    which = str("one of the kernels ", notListed ? "..., " : "", names, " (MOE_CUDA_SYNC=1 tells which): ");
  fail(result == kOutOfMemory ? MOE_OUT_OF_MEMORY : MOE_CALL_FAILED, which, what, ": ", driver.describe(result));
}

void CudaMemory::finish() {
  makeCurrent();
  check(driver.streamSynchronize(stream), "cuStreamSynchronize");
  std::lock_guard<std::mutex> lock(mutex);
  launched.clear();
  notListed = 0;
}

std::unique_ptr<Buffers> CudaMemory::makeBuffers() { return std::make_unique<CudaBuffers>(shared_from_this()); }

std::shared_ptr<const void> CudaMemory::upload(const void *data, uint64_t bytes) {
  std::string problem;
  void *copy = allocate(bytes, problem);
  if (!copy)
    fail(MOE_OUT_OF_MEMORY, problem);
  std::shared_ptr<const void> owner(
      copy, [memory = shared_from_this()](const void *p) { memory->release(const_cast<void *>(p)); });
  if (bytes)
    check(driver.copyToDevice(addressOf(copy), data, bytes, stream), "cuMemcpyHtoDAsync");
  return owner;
}

void CudaMemory::download(void *to, const void *from, uint64_t bytes) {
  makeCurrent();
  if (bytes)
    check(driver.copyToHost(to, addressOf(from), bytes, stream), "cuMemcpyDtoHAsync");
  finish();
}

void *CudaMemory::allocate(uint64_t bytes, std::string &problem) {
  std::lock_guard<std::mutex> lock(mutex);
  uint64_t capacity = roundUp(bytes);
  void *pointer = nullptr;
  // A kept one of at most a quarter more.
  if (auto it = kept.lower_bound(capacity); it != kept.end() && it->first <= capacity + capacity / 4) {
    capacity = it->first;
    pointer = it->second;
    kept.erase(it);
  } else {
    makeCurrent();
    CUdeviceptr address = 0;
    CUresult result = driver.memAlloc(&address, capacity);
    if (result == kOutOfMemory && !kept.empty()) {
      // What is kept may still be read by kernels that were started.
      driver.streamSynchronize(stream);
      trim();
      result = driver.memAlloc(&address, capacity);
    }
    if (result != kSuccess) {
      size_t free = 0, total = 0;
      std::string room;
      if (driver.memGetInfo(&free, &total) == kSuccess)
        room = str("; ", free >> 20, " of its ", total >> 20, " MiB are free");
      problem = str("no memory on the device for a buffer of ", bytes, " bytes: ", driver.describe(result), room);
      return nullptr;
    }
    pointer = pointerOf(address);
  }
  blocks[pointer] = {capacity, bytes};
  return pointer;
}

void CudaMemory::release(void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  auto it = blocks.find(pointer);
  kept.emplace(it->second.capacity, pointer);
  blocks.erase(it);
}

uint64_t CudaMemory::sizeOf(const void *pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  return blocks.at(pointer).bytes;
}

/// Gives back what is kept.
void CudaMemory::trim() {
  makeCurrent();
  for (auto &[capacity, pointer] : kept)
    driver.memFree(addressOf(pointer));
  kept.clear();
}

} // namespace moe::rt
