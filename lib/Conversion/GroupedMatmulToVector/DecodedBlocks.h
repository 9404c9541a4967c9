//===- DecodedBlocks.h - quantised panels that many rows read ----*- C++ -*-===//
//
//   for each block of rows
//     for each panel of the group
//       tile = 0
//       for each block of k
//         its weights as floats, in the first-level cache
//         for pass = 0 to passes(rows of the block)
//           the kernel of floats for exactly this many rows: adds to their sums in the tile
//       the epilogue, row by row
//
// What decodes is a function that all grouped matmuls of a format share, as the kernels of floats are.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_DECODEDBLOCKS_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_DECODEDBLOCKS_H

#include "RowBlock.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

namespace mlir::moe {

class DecodedBlocks : RowBlock {
public:
  DecodedBlocks(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, const QuantPanels &panels,
                const DecodeSchedule &decode, int64_t lanes, KernelFunctions &functions);

  using RowBlock::prepare;

  /// The products of a task with the panels of `stream`; `startOf` is the byte at which a panel begins.
  void emit(const PanelTask &task, Value stream, function_ref<Value(Value panel)> startOf);

private:
  void emitPanel(Value panel, Value base, Value pair, Value count, const Passes &passes);
  /// Decodes `length` k from `k` on into the scratch.
  void emitDecode(Value base, Value k, Value length);
  func::FuncOp getDecodeFunction();

  const QuantPanels &panels;
  const DecodeSchedule &decode;
  SmallVector<KernelVariant> variants;
  Value stream, scratch;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_DECODEDBLOCKS_H
