//===- Hash.cpp - XXH3-128 ------------------------------------------------===//
#include "Hash.h"
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace moe::rt {

Hash hashOf(std::string_view bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  Hash out;
  std::memcpy(out.data(), canonical.digest, out.size());
  return out;
}

std::string hex(const Hash &hash) {
  std::string out;
  for (uint8_t byte : hash) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

} // namespace moe::rt
