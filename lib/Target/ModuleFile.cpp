//===- ModuleFile.cpp - link an object into NAME.moe ----------------------===//
#include "moe/Target/ModuleFile.h"
#include "lld/Common/Driver.h"
#include "moe-c/Module.h"
#include "llvm/Object/ObjectFile.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/xxhash.h"

LLD_HAS_DRIVER(elf)

using namespace llvm;

namespace mlir::moe {

namespace {
/// Where the section `name` lies in an ELF file.
Expected<std::pair<uint64_t, uint64_t>> findSection(StringRef elf, StringRef name) {
  auto file = object::ObjectFile::createObjectFile(MemoryBufferRef(elf, "module"));
  if (!file)
    return file.takeError();
  for (const object::SectionRef &section : (*file)->sections()) {
    auto sectionName = section.getName();
    if (!sectionName)
      return sectionName.takeError();
    if (*sectionName != name)
      continue;
    auto contents = section.getContents();
    if (!contents)
      return contents.takeError();
    return std::make_pair(uint64_t(contents->data() - elf.data()), uint64_t(contents->size()));
  }
  return createStringError("the linked module has no section " + name);
}

template <typename T> void append(SmallVectorImpl<char> &out, T value) {
  char bytes[sizeof(T)];
  support::endian::write<T>(bytes, value, endianness::little);
  out.append(bytes, bytes + sizeof(T));
}
} // namespace

Expected<SmallVector<char, 0>> linkModule(ArrayRef<SmallVector<char, 0>> objects) {
  // lld reads and writes files.
  std::vector<SmallString<128>> inputs(objects.size());
  std::vector<FileRemover> removeInputs(objects.size());
  for (auto [object, input, remove] : zip_equal(objects, inputs, removeInputs)) {
    int descriptor;
    if (std::error_code error = sys::fs::createTemporaryFile("moe-link", "o", descriptor, input))
      return createStringError(error, "cannot make a temporary file: " + error.message());
    input.c_str(); // terminates it
    remove.setFile(input);
    raw_fd_ostream os(descriptor, /*shouldClose=*/true);
    os.write(object.data(), object.size());
    os.close();
    if (os.has_error()) {
      std::error_code error = os.error();
      os.clear_error();
      return createStringError(error, "cannot write " + input + ": " + error.message());
    }
  }
  SmallString<128> output = inputs.front();
  output += ".so";
  FileRemover removeOutput(output);

  // Undefined symbols were checked in the object: what is left is libc's memcpy and its like, which every process has.
  // -Bsymbolic: the module's symbols are its own, whatever else is loaded.
  std::string text;
  raw_string_ostream messages(text);
  std::vector<const char *> arguments = {"ld.lld",
                                         "-shared",
                                         "-z",
                                         "now",
                                         "-z",
                                         "noexecstack",
                                         "-Bsymbolic",
                                         "--build-id=none",
                                         "--hash-style=gnu",
                                         "--unresolved-symbols=ignore-all",
                                         "--threads=1",
                                         "-o",
                                         output.c_str()};
  for (const SmallString<128> &input : inputs)
    arguments.push_back(input.data());
  lld::Result result = lld::lldMain(arguments, messages, messages, {{lld::Gnu, &lld::elf::link}});
  if (result.retCode != 0)
    return createStringError("the linker failed: " + text);

  auto buffer = MemoryBuffer::getFile(output, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!buffer)
    return createStringError(buffer.getError(), "cannot read " + output + ": " + buffer.getError().message());
  StringRef elf = (*buffer)->getBuffer();
  auto signature = findSection(elf, ".moe.sig");
  if (!signature)
    return signature.takeError();

  SmallVector<char, 0> file(elf.begin(), elf.end());
  XXH128_hash_t hash = xxh3_128bits(ArrayRef(reinterpret_cast<const uint8_t *>(elf.data()), elf.size()));
  file.append({'M', 'O', 'E', 'M', 'O', 'D', 'U', 'L'});
  append<uint32_t>(file, MOE_MODULE_MAJOR);
  append<uint32_t>(file, MOE_MODULE_MINOR);
  append<uint64_t>(file, elf.size());
  append<uint64_t>(file, signature->first);
  append<uint64_t>(file, signature->second);
  // The canonical form is big-endian, the high half first.
  for (uint64_t half : {hash.high64, hash.low64})
    for (int shift = 56; shift >= 0; shift -= 8)
      file.push_back(char(half >> shift));
  append<uint64_t>(file, 0);
  return file;
}

} // namespace mlir::moe
