//===- moe-files.cpp - tensor files and number formats, for tests ---------===//
//
//   moe-files copy IN OUT               reads a .npy or .safetensors file and writes it again
//   moe-files decode DTYPE OUT          the values of all codes of a narrow float, as doubles
//   moe-files encode DTYPE IN OUT       doubles to that dtype
//
//===----------------------------------------------------------------------===//
#include "Files.h"
#include "Npy.h"
#include "Safetensors.h"
#include <cstdio>
#include <cstring>

using namespace moe::rt;

static moe_dtype dtypeNamed(const char *name) {
  const DTypeInfo *type = dtypeByName(name);
  if (!type)
    fail(MOE_INVALID_ARGUMENT, "no dtype ", quote(name));
  return type->dtype;
}

static void copy(const std::string &in, const std::string &out) {
  if (in.size() > 4 && in.compare(in.size() - 4, 4, ".npy") == 0)
    return writeNpy(out, readNpy(in));
  SafetensorsFile file = readSafetensors(in);
  writeSafetensors(out, file.tensors, file.metadata);
}

static void decode(moe_dtype dtype, const std::string &out) {
  AtomicFile file(out);
  for (uint32_t code = 0; code < 1u << info(dtype).bits; ++code) {
    double value = loadFloat(dtype, &code, 0);
    file.write(&value, sizeof(value));
  }
  file.commit();
}

static void encode(moe_dtype dtype, const std::string &in, const std::string &out) {
  auto values = MappedFile::open(in);
  auto count = static_cast<int64_t>(values->size() / sizeof(double));
  Tensor codes = Tensor::create(dtype, {count});
  for (int64_t i = 0; i < count; ++i)
    storeFloat(dtype, codes.mutableData(), i, loadFloat(MOE_F64, values->data(), i));
  AtomicFile file(out);
  file.write(codes.data, codes.bytes());
  file.commit();
}

int main(int argc, char **argv) {
  try {
    if (argc == 4 && std::strcmp(argv[1], "copy") == 0)
      copy(argv[2], argv[3]);
    else if (argc == 4 && std::strcmp(argv[1], "decode") == 0)
      decode(dtypeNamed(argv[2]), argv[3]);
    else if (argc == 5 && std::strcmp(argv[1], "encode") == 0)
      encode(dtypeNamed(argv[2]), argv[3], argv[4]);
    else
      fail(MOE_INVALID_ARGUMENT, "usage: moe-files copy IN OUT | decode DTYPE OUT | encode DTYPE IN OUT");
  } catch (const Error &error) {
    std::fprintf(stderr, "moe-files: %s\n", error.what());
    return 1;
  }
  return 0;
}
