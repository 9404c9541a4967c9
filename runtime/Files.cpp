//===- Files.cpp - mapped reading, atomic writing -------------------------===//
#include "Files.h"
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace moe::rt {

namespace {
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0)
      ::close(fd);
  }
};
} // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::string &path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0)
    fail(errno == ENOENT ? MOE_NOT_FOUND : MOE_IO_ERROR, path, ": cannot open the file: ", systemError(errno));
  struct stat status;
  if (::fstat(file.fd, &status) != 0)
    fail(MOE_IO_ERROR, path, ": cannot read the file: ", systemError(errno));
  if (!S_ISREG(status.st_mode))
    fail(MOE_IO_ERROR, path, ": not a regular file", S_ISDIR(status.st_mode) ? " but a directory" : "");
  auto length = static_cast<uint64_t>(status.st_size);
  void *base = nullptr;
  if (length > 0) {
    base = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (base == MAP_FAILED)
      fail(errno == ENOMEM ? MOE_OUT_OF_MEMORY : MOE_IO_ERROR, path, ": cannot map the file: ", systemError(errno));
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, base, length));
}

MappedFile::~MappedFile() {
  if (base)
    ::munmap(base, length);
}

AtomicFile::AtomicFile(std::string path) : path(std::move(path)) {
  struct stat status;
  if (::stat(this->path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    fd = ::open(this->path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
      failed("cannot write the file", errno);
    return;
  }
  temporary = this->path + ".tmp-XXXXXX";
  fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) {
    temporary.clear();
    failed("cannot create the file", errno);
  }
  // mkostemp makes files that only their owner can read; a result should be as readable as any other new file.
  mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(fd, 0666 & ~mask);
}

AtomicFile::~AtomicFile() {
  if (fd >= 0)
    ::close(fd);
  if (!temporary.empty())
    ::unlink(temporary.c_str());
}

void AtomicFile::write(const void *data, uint64_t size) {
  const char *bytes = static_cast<const char *>(data);
  while (size > 0) {
    ssize_t written = ::write(fd, bytes, std::min<uint64_t>(size, 1u << 30));
    if (written < 0 && errno == EINTR)
      continue;
    if (written < 0)
      failed("cannot write the file", errno);
    bytes += written;
    size -= static_cast<uint64_t>(written);
  }
}

void AtomicFile::commit() {
  int closing = fd;
  fd = -1;
  if (::close(closing) != 0)
    failed("cannot write the file", errno);
  if (temporary.empty())
    return;
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    failed("cannot put the file in its place", errno);
  temporary.clear();
}

void AtomicFile::failed(const char *what, int number) {
  fail(MOE_IO_ERROR, path, ": ", what, ": ", systemError(number));
}

} // namespace moe::rt
