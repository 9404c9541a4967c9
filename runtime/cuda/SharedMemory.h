//===- SharedMemory.h - a block's shared memory, watched --------*- C++ -*-===//
//
// Every two bytes know who touched them since the last barrier. Two threads that touch the same bytes between two
// barriers, one of them writing, are a race; so is touching what an asynchronous copy is still on its way to.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_RUNTIME_CUDA_SHAREDMEMORY_H
#define MOE_RUNTIME_CUDA_SHAREDMEMORY_H

#include <cstdint>
#include <string>
#include <vector>

namespace moe::rt {

class SharedMemory {
public:
  SharedMemory() : bytes(kMost + 16), granules(kMost / kGranule) {}

  /// For the next block, which asked for this many bytes.
  void reset(int64_t size);
  void *base() { return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(bytes.data()) + 15) & ~uintptr_t(15)); }
  /// A barrier: what was done before is ordered before what comes.
  void newEpoch() { ++epoch; }

  // Each returns what is wrong, or "".
  std::string read(int thread, const void *address, int64_t size);
  std::string write(int thread, const void *address, int64_t size);
  /// An asynchronous copy of `thread` starts, or lands.
  std::string startCopy(int thread, const void *address, int64_t size);
  void endCopy(int thread, const void *address, int64_t size);
  bool contains(const void *address, int64_t size);

  static constexpr int64_t kMost = 256 << 10, kGranule = 2;

private:
  static constexpr uint16_t kNobody = 0xffff, kSeveral = 0xfffe;
  struct Granule {
    uint32_t written = 0, readIn = 0;
    uint16_t writer = kNobody, reader = kNobody, copier = kNobody, copies = 0;
  };
  template <typename Visit> std::string each(const char *what, const void *address, int64_t size, Visit visit);

  std::vector<char> bytes;
  std::vector<Granule> granules;
  uint32_t epoch = 1;
  int64_t limit = 0;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_CUDA_SHAREDMEMORY_H
