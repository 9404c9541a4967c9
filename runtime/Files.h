//===- Files.h - mapped reading, atomic writing -----------------*- C++ -*-===//
#ifndef MOE_RUNTIME_FILES_H
#define MOE_RUNTIME_FILES_H

#include "Support.h"
#include <memory>

namespace moe::rt {

/// A whole file, mapped read-only. The file must not shrink while it is mapped.
class MappedFile {
public:
  static std::shared_ptr<const MappedFile> open(const std::string &path);
  ~MappedFile();
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;

  const char *data() const { return static_cast<const char *>(base); }
  uint64_t size() const { return length; }
  std::string_view text() const { return {data(), length}; }
  const std::string &path() const { return name; }

private:
  MappedFile(std::string name, void *base, uint64_t length) : name(std::move(name)), base(base), length(length) {}
  std::string name;
  void *base;
  uint64_t length;
};

/// Writes a file under a temporary name beside `path` and renames it in commit(). If it is destroyed before that,
/// nothing is left behind. What is not a regular file (such as /dev/stdout) is written directly.
class AtomicFile {
public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile &) = delete;
  AtomicFile &operator=(const AtomicFile &) = delete;

  void write(const void *data, uint64_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

private:
  [[noreturn]] void failed(const char *what, int number);
  std::string path, temporary;
  int fd = -1;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_FILES_H
