//===- IntegerBlocks.h - many rows of bytes against quantised panels -*- C++ -*-===//
//
//   for each block of rows
//     for each panel of the group (AVX-512: for each two, side by side)
//       tile = 0
//       for some blocks of k
//         their codes as bytes, in a near cache (where they are of fewer than 8 bits)
//         for pass = 0 to passes(rows of the block)
//           the kernel of integers for exactly this many rows: adds to their sums in the tile
//       the epilogue, row by row
//
// What DecodedBlocks.h does for floats. The kernel is that of IntegerBlockKernel.h. With AVX-512 the passes fetch the
// next blocks, each its share of them.
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
                const IntegerDot &dot, KernelFunctions &functions, int64_t panelsTogether);
  virtual ~IntegerBlocks() = default;

  /// Codes of 8 bits are bytes as they are, of blocks of any length. Others have to be in blocks that are so short that
  /// this can be done in a near cache.
  virtual bool isUseful() const { return !decodes() || panels.blockLength() <= kMostInOne; }
  void prepare();

  /// The products of a task with the panels of `stream`; `startOf` is the byte at which a panel begins.
  virtual void emit(const PanelTask &task, Value stream, function_ref<Value(Value panel)> startOf);

protected:
  /// k of all panels side by side that are decoded together: 16 KB of bytes, half of a first-level cache. A longer
  /// block is decoded by itself; 128 KB (of each panel) are still a part of a second-level cache, from which bytes come
  /// as fast as they are multiplied.
  static constexpr int64_t kMostTogether = 512, kMostInOne = 4096;

  /// How far ahead lines are fetched.
  static constexpr int64_t kAhead = 4096;
  bool decodes() const { return panels.storedBits() < 8; }
  virtual int64_t blocksTogether() const {
    return std::max<int64_t>(1, kMostTogether / panelsTogether() / panels.blockLength());
  }
  /// From one block to the next, where they are decoded.
  virtual int64_t weightBytes(int64_t length) const { return panels.byteWords(length) * panels.rowBytes(); }

  /// In front of the panels, for each block of rows.
  virtual void beginRows(const Rows &rows) {}
  /// The products of such blocks as emitBlocks has, whose codes are bytes now, added to the tile.
  virtual void emitProducts(Value panelsOfUnit, Value at, Value following, Value first, Value count, int64_t length,
                            const Rows &rows);

  /// The panels from `panel` to `end`, which begin at byte `base`; behind them come those at `next`.
  void emitPanels(Value panel, Value end, Value base, Value next, const Rows &rows);
  /// `count` blocks of `length` k from number `first` on, the first of which begins at byte `at`, of `panelsOfUnit`
  /// panels side by side. Behind these come the blocks at `following`.
  void emitBlocks(Value panelsOfUnit, Value at, Value following, Value first, Value count, int64_t length,
                  const Rows &rows);
  func::FuncOp getDecodeFunction();
  std::string suffix() const;

  /// Whether passes fetch the blocks that come next, from several places at a time: what AVX-512's processors read
  /// fastest, as in KernelSchedule.cpp.
  virtual bool fetchesWindows() const { return dot.isWide(); }
  int64_t panelsTogether() const { return form.schedule.panelsTogether; }
  /// Bytes of the blocks of a panel that are decoded together.
  int64_t scratchBytes() const {
    return std::min(panels.wholeBlocks(), blocksTogether()) * weightBytes(panels.blockLength());
  }
  /// From one block of weights as bytes to the next.
  int64_t weightDistance() const {
    return decodes() ? weightBytes(panels.blockLength()) : panels.blockBytes(panels.blockLength());
  }

  const QuantPanels &panels;
  const IntegerDot &dot;
  QuantisedRows rowCodes;
  Value stream, scratch;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKS_H
