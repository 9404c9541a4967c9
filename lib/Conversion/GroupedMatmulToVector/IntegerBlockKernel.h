//===- IntegerBlockKernel.h - some rows of bytes against panels --*- C++ -*-===//
//
// The inner kernel of IntegerBlocks.h, for an exact number of rows and one panel or several side by side. It has the
// integers of its rows and two vectors of columns of each panel in registers for the length of a block; it scales them,
// and adds them to floats in the tile.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKKERNEL_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKKERNEL_H

#include "IntegerDot.h"
#include "KernelFunctions.h"

namespace mlir::moe {

struct IntegerBlockKernel {
  const QuantPanels &panels;
  const IntegerDot &dot;
  /// Of the format, for the function's name.
  std::string format;
  /// Whether the weights are bytes already; how many bytes there are from one block of them to the next.
  bool decoded;
  int64_t weightDistance;
  int64_t panelsTogether;
  /// Whether the kernel fetches its share of a window.
  bool fetchesWindow;

  struct Arguments {
    /// The banks, and the byte at which the scales of the first block begin.
    Value stream, scalesAt;
    /// Codes, steps and starts of rows (QuantisedRows.h); the numbers of the rows of the block, and the first of them.
    Value codes, steps, starts, sources, from;
    /// Where the weights of the first block begin; how far ahead their lines are fetched (0: not; windows: never).
    Value weights, weightsAt, ahead;
    /// The sums of all rows of the block.
    Value tile;
    /// The first block, how many there are, and how many words of a row each of them has.
    Value firstBlock, blocks, words;
    /// How far behind the first panel the one beside it has its weights, and its scales: 0 where there is none.
    Value weightsBeside, scalesBeside;
    /// What is fetched meanwhile: a line in each segment from each of so many places of the stream, which are
    /// `placeBytes` apart; the first one is at `window`.
    Value window, places, placeBytes;

    SmallVector<Value *> all() {
      return {&stream,        &scalesAt,     &codes,  &steps,  &starts,     &sources, &from,
              &weights,       &weightsAt,    &ahead,  &tile,   &firstBlock, &blocks,  &words,
              &weightsBeside, &scalesBeside, &window, &places, &placeBytes};
    }
  };

  /// Words of a column between two fetches, and how often there are so many in a block.
  int64_t segmentWords() const;
  int64_t segments() const { return llvm::divideCeilSigned(panels.byteWords(panels.blockLength()), segmentWords()); }

  /// Calls the function for `rows` rows.
  void call(OpBuilder &b, Location loc, KernelFunctions &functions, int64_t rows, Arguments &args) const;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERBLOCKKERNEL_H
