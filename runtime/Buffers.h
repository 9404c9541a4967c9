//===- Buffers.h - the buffers of one call ----------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_BUFFERS_H
#define MOE_RUNTIME_BUFFERS_H

#include "Memory.h"

namespace moe::rt {

/// What one call has allocated and not freed, in the host's memory or a device's. Destroying it frees what is left.
class Buffers {
public:
  virtual ~Buffers() = default;
  /// As Memory's functions of these names. If there is no memory, allocate() returns null and `problem` says why.
  virtual void *allocate(uint64_t bytes, uint64_t alignment, std::string &problem) = 0;
  virtual std::string release(void *pointer) = 0;
  virtual Memory::Left releaseAll() = 0;
  virtual Memory::Taken take(const void *pointer) = 0;
};

/// Buffers in the host's memory.
class HostBuffers : public Buffers {
public:
  explicit HostBuffers(Memory &memory) : memory(memory) {}
  ~HostBuffers() override { memory.releaseAll(live); }

  void *allocate(uint64_t bytes, uint64_t alignment, std::string &problem) override {
    void *pointer = memory.allocate(bytes, alignment, live);
    if (!pointer)
      problem = "no memory for a buffer of " + std::to_string(bytes) + " bytes";
    return pointer;
  }
  std::string release(void *pointer) override { return memory.release(pointer, &live); }
  Memory::Left releaseAll() override { return memory.releaseAll(live); }
  Memory::Taken take(const void *pointer) override { return memory.take(pointer, live); }

private:
  Memory &memory;
  LiveBuffers live;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_BUFFERS_H
