//===- Memory.h - the buffers of calls --------------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_MEMORY_H
#define MOE_RUNTIME_MEMORY_H

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>

namespace moe::rt {

class Memory;

/// The buffers that one call has allocated and not freed.
struct LiveBuffers {
  struct Block *first = nullptr;
};

/// A caching allocator: a freed buffer is kept, in its size class, for the next request of that class. A model asks for
/// the same sizes in every call, so from the second call on no page is faulted in anew. What is kept is bounded; the
/// buffers that have not been used for longest go first.
class Memory : public std::enable_shared_from_this<Memory> {
public:
  /// cacheBytes: 0 for twice the most that was ever in use at once.
  Memory(uint64_t cacheBytes, bool debug) : cacheLimit(cacheBytes), debug(debug) {}
  ~Memory();

  /// At least 64-byte aligned, never null for 0 bytes, not cleared; nullptr if there is no memory. Joins `live`.
  void *allocate(uint64_t bytes, uint64_t alignment, LiveBuffers &live);
  /// Returns what is wrong with the pointer or (in debug mode) with the buffer; empty if nothing is.
  std::string release(void *pointer, LiveBuffers *live);
  struct Left {
    uint64_t buffers = 0, bytes = 0;
    std::string problem; ///< as release() returns it
  };
  /// Frees all that is left.
  Left releaseAll(LiveBuffers &live);
  struct Taken {
    std::shared_ptr<const void> owner; ///< null if no buffer of the list starts there
    uint64_t bytes = 0;
    std::string problem; ///< as release() returns it
  };
  /// Takes the buffer that starts at `pointer` from the list; its memory then lives as long as its owner.
  Taken take(const void *pointer, LiveBuffers &live);

  bool isDebug() const { return debug; }
  uint64_t peakBytes() const { return peak; }

private:
  std::string checkGuard(const Block *block) const;
  void unlink(Block *block, LiveBuffers &live);
  void keepOrFree(Block *block);
  void evict(Block *block);
  uint64_t limit() const;

  std::mutex mutex;
  uint64_t cacheLimit;
  bool debug;
  uint64_t used = 0, peak = 0, cached = 0;
  /// Kept buffers: one list per size class, newest first, and one of all by age.
  static constexpr unsigned numClasses = 4 * 64;
  std::array<Block *, numClasses> classes{};
  Block *newest = nullptr, *oldest = nullptr;
  std::unordered_set<const void *> livePointers; ///< debug mode only
};

} // namespace moe::rt

#endif // MOE_RUNTIME_MEMORY_H
