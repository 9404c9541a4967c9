//===- Fragments.cpp - a warp's matrix product ----------------------------===//
#include "Fragments.h"
#include <cstring>

namespace moe::rt::fragments {

float widen(int type, uint16_t bits) {
  uint32_t word;
  if (type == 1) {
    word = uint32_t(bits) << 16;
  } else {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, fraction = bits & 0x3ff;
    if (exponent == 0) {
      // Zero or denormal: exact in f32.
      float value = float(fraction) * 0x1p-24f;
      return sign ? -value : value;
    }
    word = exponent == 31 ? sign | 0x7f800000 | (fraction << 13) : sign | ((exponent + 112) << 23) | (fraction << 13);
  }
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

void multiply(int type, uint32_t *const words[32]) {
  float a[16][16], b[16][8];
  int depth = type == 2 ? 8 : 16;
  for (int lane = 0; lane < 32; ++lane) {
    if (type == 2) {
      // The hardware reads 19 of the 32 bits.
      auto element = [&](int i) {
        uint32_t word = words[lane][i] & ~uint32_t(0x1fff);
        float value;
        std::memcpy(&value, &word, sizeof(value));
        return value;
      };
      for (int i = 0; i < 4; ++i)
        a[ofATf32(lane, i).row][ofATf32(lane, i).column] = element(i);
      for (int i = 0; i < 2; ++i)
        b[ofBTf32(lane, i).row][ofBTf32(lane, i).column] = element(4 + i);
      continue;
    }
    auto element = [&](int first, int i) {
      return widen(type, uint16_t(words[lane][first + i / 2] >> (16 * (i & 1))));
    };
    for (int i = 0; i < 8; ++i)
      a[ofA(lane, i).row][ofA(lane, i).column] = element(0, i);
    for (int i = 0; i < 4; ++i)
      b[ofB(lane, i).row][ofB(lane, i).column] = element(4, i);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      Place at = ofC(lane, i);
      float sum;
      std::memcpy(&sum, &words[lane][6 + i], sizeof(sum));
      for (int k = 0; k < depth; ++k)
        sum += a[at.row][k] * b[k][at.column];
      std::memcpy(&words[lane][10 + i], &sum, sizeof(sum));
    }
}

} // namespace moe::rt::fragments
