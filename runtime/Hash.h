//===- Hash.h - XXH3-128 ----------------------------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_HASH_H
#define MOE_RUNTIME_HASH_H

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace moe::rt {

/// XXH3-128 with seed 0, canonical (big-endian) form.
using Hash = std::array<uint8_t, 16>;

Hash hashOf(std::string_view bytes);

/// 32 lower-case hexadecimal digits.
std::string hex(const Hash &hash);

} // namespace moe::rt

#endif // MOE_RUNTIME_HASH_H
