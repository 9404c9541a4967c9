//===- IntegerDot.h - products of bytes, summed up in fours ------*- C++ -*-===//
//
// What integer kernels are made of: lane i of a sum gets the products of bytes 4 i to 4 i + 3 of weights and rows. Each
// instruction set does it in its own way.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERDOT_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERDOT_H

#include "mlir/IR/Builders.h"
#include <optional>

namespace mlir::moe {

struct IntegerDot {
  enum Kind { Avx2, AvxVnni, Avx512Bw, Avx512Vnni };
  Kind kind;

  static std::optional<IntegerDot> parse(StringRef name);

  bool hasVnni() const { return kind == AvxVnni || kind == Avx512Vnni; }
  bool isWide() const { return kind == Avx512Bw || kind == Avx512Vnni; }
  /// 32-bit lanes of a register.
  int64_t lanes() const { return isWide() ? 16 : 8; }
  /// VNNI multiplies unsigned weights by signed rows. The instructions before it saturate at 2^15: weights of up to 5
  /// bits are safe without a sign, those of 8 bits are not.
  bool takesUnsignedBytes() const { return hasVnni(); }

  /// A sum of 32-bit lanes that grows, and sums of 16-bit lanes that are still to be added to it.
  struct Sum {
    Value words, halves = Value();
    int64_t inHalves = 0;
  };
  /// Adds `weights` times `rows` (bytes). Rows are from -127 to 127. Weights are unsigned and at most `most`, or signed
  /// where `most` is 0.
  void add(OpBuilder &b, Location loc, Sum &sum, Value weights, Value rows, int64_t most) const;
  /// Whether products are added up in 16 bits first, and how many of weights up to `most` fit.
  bool addsHalves(int64_t most) const { return most && !hasVnni(); }
  static int64_t fitInHalves(int64_t most) { return most ? 32767 / (2 * 127 * most) : 0; }
  /// The whole sum.
  Value finish(OpBuilder &b, Location loc, const Sum &sum) const;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERDOT_H
