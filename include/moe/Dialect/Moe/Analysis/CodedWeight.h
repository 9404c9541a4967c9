//===- CodedWeight.h - weights that codes of the file stand for --*- C++ -*-===//
//
// While layers are raised, a constant that DequantizeLinear dequantises is a weight of floats like any other: an
// argument with `moe.weight` and, in `moe.coded`, what it is made of. No such numbers are ever stored: `moe-take-codes`
// gives their readers new arguments with codes, scales and zero points as `moe.dequantize` takes them, each described
// by `moe.recoded`. (`part = "unpacked"`: one byte for each code of the stored tensor `weight`, packed along its last
// dimension.)
//
//===----------------------------------------------------------------------===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_CODEDWEIGHT_H
#define MOE_DIALECT_MOE_ANALYSIS_CODEDWEIGHT_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

constexpr llvm::StringLiteral kCoded = "moe.coded";
constexpr llvm::StringLiteral kRecoded = "moe.recoded";

/// What `moe.coded` says. Number i of a tensor is `scale * (code - zero point)`; the codes are in the order of the
/// numbers, in one tensor or in one per index of the first dimension.
struct CodedWeight {
  /// A divisor that stands for the whole dimension: all of it has one scale.
  static constexpr int64_t kWhole = 0;

  /// "i4", "u8", "e2m1": the type of a code.
  StringAttr type;
  /// The element type of the scales.
  Type scaleType;
  /// Each a key of the weights or the elements themselves; as many as there are tensors of codes. `zeroPoints` is null
  /// where there are none: then all are 0.
  ArrayAttr codes, scales, zeroPoints;
  /// For each dimension how many neighbours share a scale. The scales of all tensors, one behind the other, are in the
  /// order of the dimensions.
  SmallVector<int64_t> divisors;
  SmallVector<int64_t> shape;

  DictionaryAttr getAttr() const;
  /// What the argument `index` says, or nothing.
  static std::optional<CodedWeight> get(func::FuncOp function, unsigned index);
  static CodedWeight get(DictionaryAttr attribute, ArrayRef<int64_t> shape);

  /// The number of scales along dimension d.
  int64_t numScales(unsigned d) const {
    return divisors[d] == kWhole ? 1 : llvm::divideCeilSigned(shape[d], divisors[d]);
  }
  QuantKind kind() const {
    return type.getValue() == "e2m1"          ? QuantKind::E2M1
           : type.getValue().starts_with("u") ? QuantKind::Unsigned
                                              : QuantKind::Signed;
  }
  int64_t bits() const {
    int64_t width = 4;
    if (kind() != QuantKind::E2M1)
      (void)type.getValue().drop_front().getAsInteger(10, width);
    return width;
  }
  /// The zero point that all have, where that is known.
  std::optional<int64_t> commonZeroPoint() const;
};

/// The element type of codes as `moe.coded` names it; empty if it is no such type.
StringRef getCodeTypeName(Type type);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_CODEDWEIGHT_H
