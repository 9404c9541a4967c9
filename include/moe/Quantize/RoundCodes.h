//===- RoundCodes.h - numbers to codes and scales ----------------*- C++ -*-===//
#ifndef MOE_QUANTIZE_ROUNDCODES_H
#define MOE_QUANTIZE_ROUNDCODES_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// How scales are stored.
enum class ScaleType { F32, F16, UE8M0 };

/// `value` as it is read back from a scale of this type.
float roundScale(float value, ScaleType type);

/// The codes and the scale of one block of `values` that make the squared error, weighted by `importance` (one number
/// per value, or empty), small. The values are `scale * (code - 2^(bits - 1))`, or `scale * e2m1(code)`. Returns that
/// error.
///
/// Several scales are tried: the largest value need not be met exactly if that serves the others. For integers the
/// scale may be negative, which gives the larger side of the block the code that the smaller one lacks.
double roundBlock(ArrayRef<float> values, ArrayRef<float> importance, QuantKind kind, int64_t bits, ScaleType type,
                  float &scale, MutableArrayRef<uint8_t> codes);

/// The codes of `values` for a scale that `roundBlock` has found.
void codeBlock(ArrayRef<float> values, QuantKind kind, int64_t bits, float scale, MutableArrayRef<uint8_t> codes);

/// Scales as they are stored; those that `roundBlock` finds come back as they were.
int64_t getScaleBytes(ScaleType type);
void storeScale(float scale, ScaleType type, char *bytes);
float loadScale(const char *bytes, ScaleType type);

/// Writes codes of `bits` bits from the lowest bit of `bytes` on.
void packCodes(ArrayRef<uint8_t> codes, int64_t bits, MutableArrayRef<char> bytes);

/// Gives each item one of several widths, so that the mean of the bits is at most `meanBits` and the sum of the errors
/// is small: `errors[item][w]` belongs to `bits[w]` (ascending), `sizes[item]` is the number of weights of the item.
/// Starts from the narrowest widths and widens where an error falls most for the bits it costs. Empty if even the
/// narrowest are too wide.
SmallVector<unsigned> chooseWidths(ArrayRef<SmallVector<double>> errors, ArrayRef<int64_t> sizes,
                                   ArrayRef<int64_t> bits, double meanBits);

} // namespace mlir::moe

#endif // MOE_QUANTIZE_ROUNDCODES_H
