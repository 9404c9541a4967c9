//===- Fragments.h - which lane holds which element -------------*- C++ -*-===//
//
// As the PTX manual describes them: mma.m16n8k16 for 16-bit types, and ldmatrix. test/gpu checks these functions
// against tables of their own.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_RUNTIME_CUDA_FRAGMENTS_H
#define MOE_RUNTIME_CUDA_FRAGMENTS_H

#include <cstdint>

namespace moe::rt::fragments {

struct Place {
  int row, column;
};

/// Element i (0 to 7) of the 16 x 16 multiplicand A that `lane` holds; two elements per word.
inline Place ofA(int lane, int i) {
  int group = lane >> 2, within = lane & 3;
  return {(i < 2 || (i >= 4 && i < 6)) ? group : group + 8, within * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
/// Element i (0 to 3) of the 16 x 8 multiplicand B.
inline Place ofB(int lane, int i) {
  int group = lane >> 2, within = lane & 3;
  return {within * 2 + (i & 1) + (i >= 2 ? 8 : 0), group};
}
/// Element i (0 to 3) of the 16 x 8 sums C and D.
inline Place ofC(int lane, int i) {
  int group = lane >> 2, within = lane & 3;
  return {i < 2 ? group : group + 8, within * 2 + (i & 1)};
}
/// Of tf32, element i (0 to 3) of the 16 x 8 multiplicand A, and (0 and 1) of the 8 x 8 multiplicand B; one per word.
inline Place ofATf32(int lane, int i) { return {(lane >> 2) + 8 * (i & 1), (lane & 3) + 4 * (i >> 1)}; }
inline Place ofBTf32(int lane, int i) { return {(lane & 3) + 4 * i, lane >> 2}; }
/// ldmatrix: the two elements of each 8 x 8 matrix that `lane` gets (`half` 0 or 1), by their place in memory.
inline Place ofLoadedMatrix(int lane, int half, bool transposed) {
  int a = lane >> 2, b = (lane & 3) * 2 + half;
  return transposed ? Place{b, a} : Place{a, b};
}

/// d = a * b + c of a whole warp, each lane's operands in `words[lane]`: a[4] b[2] c[4] d[4]. type 0 f16, 1 bf16, 2
/// tf32.
void multiply(int type, uint32_t *const words[32]);

float widen(int type, uint16_t bits);

} // namespace moe::rt::fragments

#endif // MOE_RUNTIME_CUDA_FRAGMENTS_H
