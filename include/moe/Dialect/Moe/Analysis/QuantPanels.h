//===- QuantPanels.h - how quantised banks are stored for the kernels -*- C++ -*-===//
//
// The banks of one grouped matmul (gate and up side by side) are one stream of bytes per expert and panel of columns,
// in the order in which a kernel reads it:
//
//   [E][ceil(N / columns)][bytes of a panel]
//
//   panel   block, block, ...; padded to a multiple of 64 bytes
//   block   the codes of its k, then a scale for each column, then a zero point for each column if there are any
//   codes   a row of 32-bit words, one for each column, for every 4 (8 bits), 8 (4 bits) or 16 (2 bits) k, the first k
//           in the lowest bits: the order of instructions that multiply four bytes of each lane
//
// Codes of 3 bits have three rows of words for every 32 k. Code 8 m + i has the lower bits of half byte i mod 2 of byte
// m of word i / 2, where that is one of the three; their bits 3, which are to spare, make the half bytes of a fourth
// word: word b has bit b of each. So all but a few instructions are those of 4 bits. In blocks that are no multiple of
// 32, codes of 3 bits take 4.
//
// Codes of integers are stored with their sign (code - 2^(bits - 1) for unsigned ones). Zero points become floats of
// the scales' type (f32 beside scales of e8m0) minus the same middle. Columns and k beyond the edge are zero.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_QUANTPANELS_H
#define MOE_DIALECT_MOE_ANALYSIS_QUANTPANELS_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// A unit attribute of `moe.grouped_matmul` with panels: its products are integer ones (docs/quantisation.md). Before
/// that, of `moe.dequantize` and what it becomes: whoever made the model allows it.
constexpr llvm::StringLiteral kIntegerRows = "moe.integer_rows";
inline bool hasIntegerRows(Operation *op) { return op->hasAttr(kIntegerRows); }
inline void setIntegerRows(Operation *op, bool value) {
  if (value)
    op->setAttr(kIntegerRows, UnitAttr::get(op->getContext()));
  else
    op->removeAttr(kIntegerRows);
}

/// An attribute of the module, about its target: what multiplies bytes. One of avx2 (also without the attribute),
/// avxvnni, avx512bw and avx512vnni.
constexpr llvm::StringLiteral kIntegerDot = "moe.integer_dot";

struct QuantPanels {
  QuantAttr format;
  int64_t banks, k;
  /// Bytes of a scale, and of a zero point.
  int64_t scaleBytes;

  /// Columns of one bank in a panel, and of all banks.
  int64_t columns() const { return banks == 1 ? 32 : 16; }
  int64_t width() const { return columns() * banks; }
  int64_t storedBits() const { return format.getBits() == 3 && !usesSpareBits() ? 4 : format.getBits(); }
  /// Consecutive k of which a column has one word, or three.
  int64_t group() const { return usesSpareBits() ? 32 : 32 / storedBits(); }
  int64_t wordsPerGroup() const { return usesSpareBits() ? 3 : 1; }
  /// Whether codes of 3 bits take three.
  bool usesSpareBits() const {
    return format.getBits() == 3 && (blockLength() % 32 == 0 || (blockLength() == k && k >= 32));
  }
  /// Words of a byte for each code of a group.
  int64_t bytesPerGroup() const { return group() / 4; }
  /// Bytes of a row of words.
  int64_t rowBytes() const { return 4 * width(); }
  int64_t groupBytes() const { return wordsPerGroup() * rowBytes(); }
  int64_t blockLength() const { return format.getBlock() ? std::min(format.getBlock(), k) : k; }
  /// Words of a column when its codes of `length` k are bytes.
  int64_t byteWords(int64_t length) const { return (length + group() - 1) / group() * bytesPerGroup(); }
  int64_t wholeBlocks() const { return k / blockLength(); }
  /// Whether the last block is shorter.
  bool hasRest() const { return k % blockLength() != 0; }
  int64_t zeroPointBytes() const { return !format.getZeroPoints() ? 0 : scaleBytes == 1 ? 4 : scaleBytes; }
  /// Bytes of the codes of a block of `length` k.
  int64_t codeBytes(int64_t length) const { return (length + group() - 1) / group() * groupBytes(); }
  int64_t blockBytes(int64_t length) const { return codeBytes(length) + width() * (scaleBytes + zeroPointBytes()); }
  int64_t panelBytes() const {
    int64_t rest = k - wholeBlocks() * blockLength();
    int64_t bytes = wholeBlocks() * blockBytes(blockLength()) + (rest ? blockBytes(rest) : 0);
    return (bytes + 63) / 64 * 64;
  }
};

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_QUANTPANELS_H
