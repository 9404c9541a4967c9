//===- moe-seal.cpp - module and weights files by hand --------------------===//
//
//   moe-seal module IN.so SIGNATURE.json OUT.moe    appends the trailer; the JSON must stand somewhere in the ELF
//   moe-seal weights IN.safetensors OUT.safetensors aligns the tensors, adds the content id, and prints it
//
// The hash is right whatever else is in the files, so tests reach the checks behind it.
//
//===----------------------------------------------------------------------===//
#include "Files.h"
#include "Hash.h"
#include "Safetensors.h"
#include "moe-c/Module.h"
#include <cstdio>
#include <cstring>

using namespace moe::rt;

static void sealModule(const std::string &elfPath, const std::string &signaturePath, const std::string &out) {
  auto elf = MappedFile::open(elfPath), signature = MappedFile::open(signaturePath);
  size_t at = elf->text().find(signature->text());
  if (at == std::string_view::npos)
    fail(MOE_INVALID_ARGUMENT, elfPath, ": does not contain ", signaturePath);
  moe_module_trailer trailer = {};
  std::memcpy(trailer.magic, MOE_MODULE_MAGIC, sizeof(trailer.magic));
  trailer.major = MOE_MODULE_MAJOR;
  trailer.minor = MOE_MODULE_MINOR;
  trailer.elf_size = elf->size();
  trailer.sig_offset = at;
  trailer.sig_size = signature->size();
  Hash hash = hashOf(elf->text());
  std::memcpy(trailer.hash, hash.data(), hash.size());
  AtomicFile file(out);
  file.write(elf->text());
  file.write(&trailer, sizeof(trailer));
  file.commit();
}

static void sealWeights(const std::string &in, const std::string &out) {
  SafetensorsFile source = readSafetensors(in);
  TensorMap padded;
  std::string data;
  for (const auto &[name, tensor] : source.tensors.entries) {
    data.append(static_cast<const char *>(tensor.data), tensor.bytes());
    padded.set(name, tensor);
    int64_t rest = static_cast<int64_t>((64 - data.size() % 64) % 64);
    if (rest == 0)
      continue;
    padded.set(std::string(padPrefix) + std::to_string(padded.entries.size()), Tensor::create(MOE_U8, {rest}));
    data.append(static_cast<size_t>(rest), '\0');
  }
  std::string id = hex(hashOf(data));
  writeSafetensors(out, padded, {{"format", "moe-1"}, {"moe.content_id", id}});
  std::printf("%s\n", id.c_str());
}

int main(int argc, char **argv) {
  try {
    if (argc == 5 && std::strcmp(argv[1], "module") == 0)
      sealModule(argv[2], argv[3], argv[4]);
    else if (argc == 4 && std::strcmp(argv[1], "weights") == 0)
      sealWeights(argv[2], argv[3]);
    else
      fail(MOE_INVALID_ARGUMENT, "usage: moe-seal module IN.so SIGNATURE.json OUT.moe | weights IN OUT");
  } catch (const Error &error) {
    std::fprintf(stderr, "moe-seal: %s\n", error.what());
    return 1;
  }
  return 0;
}
