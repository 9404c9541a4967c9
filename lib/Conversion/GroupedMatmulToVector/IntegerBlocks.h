//===- IntegerBlocks.h - many rows of bytes against quantised panels -*- C++ -*-===//
//
//   for each block of rows
//     for each panel of the group
//       tile = 0
//       for some blocks of k
//         their codes as bytes, in a near cache (where they are of fewer than 8 bits)
//         for pass = 0 to passes(rows of the block)
//           the kernel of integers for exactly this many rows: adds to their sums in the tile
//       the epilogue, row by row
//
// What DecodedBlocks.h does for floats. A kernel has the integers of its rows and two vectors of columns in registers
// for the length of a block; it scales them, and adds them to floats in the tile.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKS_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKS_H

#include "IntegerDot.h"
#include "IntegerWeights.h"
#include "QuantisedRows.h"
#include "RowBlock.h"

namespace mlir::moe {

class IntegerBlocks : protected RowBlock {
public:
  IntegerBlocks(OpBuilder &b, GroupedMatmulOp op, const QuantisedRows &rowCodes, const QuantPanels &panels,
                const IntegerDot &dot, KernelFunctions &functions);
  virtual ~IntegerBlocks() = default;

  /// Codes of 8 bits are bytes as they are, of blocks of any length. Others have to be in blocks that are so short that
  /// this can be done in a near cache.
  virtual bool isUseful() const { return !decodes() || panels.blockLength() <= kMostInOne; }
  void prepare();

  /// The products of `count` rows from pair `begin` on with panels `first` to `last` of `stream`; `startOf` is the byte
  /// at which a panel begins.
  virtual void emit(Value expertOfTask, Value begin, Value count, Value first, Value last, Value stream,
                    function_ref<Value(Value panel)> startOf);

protected:
  /// k that are decoded together: 16 KB of bytes, half of a first-level cache. A longer block is decoded by itself; 128
  /// KB are still a part of a second-level cache, from which bytes come as fast as they are multiplied.
  static constexpr int64_t kMostTogether = 512, kMostInOne = 4096;

  /// How far ahead lines are fetched.
  static constexpr int64_t kAhead = 4096;
  bool decodes() const { return panels.storedBits() < 8; }
  virtual int64_t blocksTogether() const { return std::max<int64_t>(1, kMostTogether / panels.blockLength()); }
  /// From one block to the next, where they are decoded.
  virtual int64_t weightBytes(int64_t length) const { return wordsOf(length) * panels.rowBytes(); }

  /// In front of the panels, for each block of rows.
  virtual void beginRows(const Rows &rows) {}
  /// The products with such blocks as emitBlocks has, whose codes are bytes now, added to the tile.
  virtual void emitProducts(Value at, Value first, Value count, int64_t length, const Rows &rows);

  void emitPanel(Value panel, Value base, const Rows &rows);
  /// `count` blocks of `length` k from number `first` on, the first of which begins at byte `at`.
  void emitBlocks(Value at, Value first, Value count, int64_t length, const Rows &rows);
  func::FuncOp getDecodeFunction();
  func::FuncOp getKernel(int64_t rows);
  void emitKernel(OpBuilder &inner, Block &block, int64_t rows);
  std::string suffix() const;

  int64_t wordsOf(int64_t length) const {
    return llvm::divideCeilSigned(length, panels.group()) * panels.bytesPerGroup();
  }
  /// Whether the last block is shorter.
  bool hasRest() const { return panels.k % panels.blockLength() != 0; }

  const QuantPanels &panels;
  const IntegerDot &dot;
  QuantisedRows rowCodes;
  Value stream, scratch;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKS_H
