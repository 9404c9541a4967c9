//===- MemoryFile.h - bytes as a file that has a path ---------------------===//
#ifndef MOE_TEST_LIB_FUZZ_MEMORYFILE_H
#define MOE_TEST_LIB_FUZZ_MEMORYFILE_H

#include <cstdint>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

/// The readers take paths: a file in memory has one as well, and nothing is left behind.
class MemoryFile {
public:
  MemoryFile(const uint8_t *data, size_t size) : fd(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size))
      std::abort();
  }
  ~MemoryFile() { close(fd); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd); }

private:
  int fd;
};

#endif // MOE_TEST_LIB_FUZZ_MEMORYFILE_H
