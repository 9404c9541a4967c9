//===- Memory.cpp - the buffers of calls ----------------------------------===//
#include "Memory.h"
#include "Support.h"
#include "moe-c/Module.h"
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace moe::rt {

/// In front of each buffer. A buffer in use is on its call's list (prev, next); a kept one on its class's (prev, next)
/// and on that of all kept ones (older, newer).
struct Block {
  Block *prev, *next;
  Block *older, *newer;
  uint64_t capacity; ///< bytes behind this header
  uint64_t bytes;    ///< asked for
  uint32_t sizeClass;
  bool live;
  char *user; ///< where the buffer starts
};

namespace {

// The buffer's start is preceded by the address of its block, which lets release() find it whatever the alignment was.
constexpr uint64_t headerSize = 128;
static_assert(sizeof(Block) + sizeof(Block *) <= headerSize);
constexpr uint64_t hugePage = 2 << 20;
constexpr unsigned char freshByte = 0xff, guardByte = 0xfd;

Block *blockOf(const void *user) {
  Block *block;
  std::memcpy(&block, static_cast<const char *>(user) - sizeof(block), sizeof(block));
  return block;
}

/// Four classes per power of two, so at most a fifth of a buffer is unused. Returns the class; rounds `size` up to its
/// size.
unsigned roundToClass(uint64_t &size) {
  unsigned log = 63 - static_cast<unsigned>(__builtin_clzll(size));
  uint64_t step = std::max<uint64_t>((uint64_t(1) << log) / 4, 1);
  uint64_t steps = (size + step - 1) / step; // 4 to 8
  size = steps * step;
  return steps == 8 ? 4 * (log + 1) : 4 * log + static_cast<unsigned>(steps - 4);
}

/// Bytes behind the buffer that debug mode watches.
uint64_t guardSize(const Block *block) {
  uint64_t behind = static_cast<uint64_t>(reinterpret_cast<const char *>(block) + headerSize + block->capacity -
                                          (block->user + block->bytes));
  return std::min<uint64_t>(behind, 4096);
}

} // namespace

uint64_t Memory::limit() const {
  constexpr uint64_t least = 16 << 20;
  return cacheLimit ? cacheLimit : std::max(2 * peak, least);
}

void *Memory::allocate(uint64_t bytes, uint64_t alignment, LiveBuffers &live) {
  alignment = std::max<uint64_t>(alignment, MOE_BUFFER_ALIGNMENT);
  uint64_t capacity = std::max<uint64_t>(bytes, 64);
  // Room to move the start up; in debug mode also for the guard.
  uint64_t extra = (alignment - MOE_BUFFER_ALIGNMENT) + (debug ? 64 : 0);
  if ((alignment & (alignment - 1)) != 0 || alignment > (1 << 20) || capacity > (uint64_t(1) << 47))
    return nullptr;
  capacity += extra;
  unsigned sizeClass = roundToClass(capacity);

  std::lock_guard<std::mutex> lock(mutex);
  Block *block = classes[sizeClass];
  if (block) {
    evict(block);
  } else {
    uint64_t total = headerSize + capacity, unit = total >= 2 * hugePage ? hugePage : MOE_BUFFER_ALIGNMENT;
    total = (total + unit - 1) / unit * unit;
    block = static_cast<Block *>(std::aligned_alloc(unit, total));
    if (!block)
      return nullptr;
    if (unit == hugePage)
      ::madvise(block, total, MADV_HUGEPAGE); // fewer TLB misses; only advice
    *block = Block{nullptr, nullptr, nullptr, nullptr, capacity, 0, sizeClass, false, nullptr};
  }
  auto start = reinterpret_cast<uintptr_t>(block) + headerSize;
  block->user = reinterpret_cast<char *>((start + alignment - 1) / alignment * alignment);
  block->bytes = bytes;
  block->live = true;
  std::memcpy(block->user - sizeof(block), &block, sizeof(block));
  block->prev = nullptr;
  block->next = live.first;
  if (live.first)
    live.first->prev = block;
  live.first = block;
  used += block->capacity;
  peak = std::max(peak, used);
  if (debug) {
    std::memset(block->user, freshByte, bytes);
    std::memset(block->user + bytes, guardByte, guardSize(block));
    livePointers.insert(block->user);
  }
  return block->user;
}

void Memory::unlink(Block *block, LiveBuffers &live) {
  (block->prev ? block->prev->next : live.first) = block->next;
  if (block->next)
    block->next->prev = block->prev;
  block->prev = block->next = nullptr;
}

std::string Memory::checkGuard(const Block *block) const {
  const char *guard = block->user + block->bytes;
  if (!debug ||
      std::all_of(guard, guard + guardSize(block), [](char c) { return static_cast<unsigned char>(c) == guardByte; }))
    return "";
  return str("the module wrote past the end of a buffer of ", block->bytes, " bytes");
}

std::string Memory::release(void *pointer, LiveBuffers *live) {
  if (!pointer)
    return "";
  std::lock_guard<std::mutex> lock(mutex);
  if (debug && !livePointers.erase(pointer))
    return "the module freed a buffer that it does not own, or freed one twice";
  Block *block = blockOf(pointer);
  std::string problem = checkGuard(block);
  if (debug)
    std::memset(block->user, freshByte, block->bytes);
  if (live)
    unlink(block, *live);
  keepOrFree(block);
  return problem;
}

void Memory::keepOrFree(Block *block) {
  used -= block->capacity;
  block->live = false;
  Block *&head = classes[block->sizeClass];
  block->prev = nullptr;
  block->next = head;
  if (head)
    head->prev = block;
  head = block;
  block->newer = nullptr;
  block->older = newest;
  (newest ? newest->newer : oldest) = block;
  newest = block;
  cached += block->capacity;
  while (cached > limit()) {
    Block *victim = oldest;
    evict(victim);
    std::free(victim);
  }
}

/// Takes a kept block from both lists.
void Memory::evict(Block *block) {
  (block->prev ? block->prev->next : classes[block->sizeClass]) = block->next;
  if (block->next)
    block->next->prev = block->prev;
  (block->older ? block->older->newer : oldest) = block->newer;
  (block->newer ? block->newer->older : newest) = block->older;
  block->prev = block->next = block->older = block->newer = nullptr;
  cached -= block->capacity;
}

Memory::Left Memory::releaseAll(LiveBuffers &live) {
  Left left;
  while (Block *block = live.first) {
    left.buffers += 1;
    left.bytes += block->bytes;
    std::string problem = release(block->user, &live);
    if (left.problem.empty())
      left.problem = std::move(problem);
  }
  return left;
}

Memory::Taken Memory::take(const void *pointer, LiveBuffers &live) {
  std::lock_guard<std::mutex> lock(mutex);
  Block *block = live.first;
  while (block && block->user != pointer)
    block = block->next;
  if (!block)
    return {};
  unlink(block, live);
  auto release = [memory = shared_from_this()](const void *p) { memory->release(const_cast<void *>(p), nullptr); };
  return {std::shared_ptr<const void>(block->user, release), block->bytes, checkGuard(block)};
}

Memory::~Memory() {
  while (oldest) {
    Block *block = oldest;
    evict(block);
    std::free(block);
  }
}

} // namespace moe::rt
