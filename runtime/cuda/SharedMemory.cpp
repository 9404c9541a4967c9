//===- SharedMemory.cpp - a block's shared memory, watched ----------------===//
#include "SharedMemory.h"
#include "Support.h"
#include <cstring>

namespace moe::rt {

void SharedMemory::reset(int64_t size) {
  limit = size;
  ++epoch;
  // What a block finds there is not defined: NaN in every float type, so that using it shows.
  std::memset(base(), 0xff, static_cast<size_t>(size));
  for (int64_t i = 0; i < (size + kGranule - 1) / kGranule; ++i)
    granules[static_cast<size_t>(i)].copies = 0;
}

bool SharedMemory::contains(const void *address, int64_t size) {
  int64_t at = static_cast<const char *>(address) - static_cast<const char *>(base());
  return at >= 0 && size >= 0 && at <= limit - size;
}

template <typename Visit>
std::string SharedMemory::each(const char *what, const void *address, int64_t size, Visit visit) {
  int64_t at = static_cast<const char *>(address) - static_cast<const char *>(base());
  if (!contains(address, size))
    return str(what, " of ", size, " bytes at ", at, " is outside of the block's ", limit, " bytes of shared memory");
  for (int64_t g = at / kGranule; g <= (at + size - 1) / kGranule; ++g) {
    std::string problem = visit(granules[static_cast<size_t>(g)]);
    if (!problem.empty())
      return str(what, " of shared memory at ", at, ": ", problem);
  }
  return "";
}

std::string SharedMemory::read(int thread, const void *address, int64_t size) {
  return each("read", address, size, [&](Granule &g) -> std::string {
    if (g.copies)
      return str("thread ", thread, " reads what a copy of thread ", g.copier, " is still on its way to");
    if (g.written == epoch && g.writer != thread)
      return str("thread ", thread, " reads what thread ", g.writer, " wrote, without a barrier in between");
    g.reader = g.readIn == epoch && g.reader != thread ? kSeveral : static_cast<uint16_t>(thread);
    g.readIn = epoch;
    return "";
  });
}

std::string SharedMemory::write(int thread, const void *address, int64_t size) {
  return each("write", address, size, [&](Granule &g) -> std::string {
    if (g.copies)
      return str("thread ", thread, " writes what a copy of thread ", g.copier, " is still on its way to");
    if (g.written == epoch && g.writer != thread)
      return str("threads ", thread, " and ", g.writer, " write the same place, without a barrier in between");
    if (g.readIn == epoch && g.reader != thread)
      return str("thread ", thread, " writes what another thread reads, without a barrier in between");
    g.written = epoch;
    g.writer = static_cast<uint16_t>(thread);
    return "";
  });
}

std::string SharedMemory::startCopy(int thread, const void *address, int64_t size) {
  std::string problem = write(thread, address, size);
  if (!problem.empty())
    return problem;
  return each("copy", address, size, [&](Granule &g) -> std::string {
    g.copies = 1;
    g.copier = static_cast<uint16_t>(thread);
    return "";
  });
}

void SharedMemory::endCopy(int thread, const void *address, int64_t size) {
  each("copy", address, size, [&](Granule &g) -> std::string {
    g.copies = 0;
    // It was written at some time up to now.
    g.written = epoch;
    g.writer = static_cast<uint16_t>(thread);
    return "";
  });
}

} // namespace moe::rt
