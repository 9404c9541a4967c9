//===- IntegerTiles.h - rows of bytes by tile instructions -------*- C++ -*-===//
//
// What IntegerBlocks.h does, with tile instructions (AMX) in the place of the passes: the codes of the rows of a block
// are copied into tiles, once for all panels; a function multiplies all of them with some blocks of k.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERTILES_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERTILES_H

#include "IntegerBlocks.h"
#include "TileSchedule.h"

namespace mlir::moe {

/// How the words (of four k) of a block are divided into steps: `words` each, the last one perhaps fewer.
struct StepsOfBlock {
  int64_t words, count;

  /// Steps of nearly equal size that a tile holds: a block of 32 k is one of 8 words, in tiles of 32 bytes a row.
  static StepsOfBlock divide(int64_t wordsOfBlock) {
    int64_t count = llvm::divideCeilSigned(wordsOfBlock, TileSchedule::kRowBytes / 4);
    return {llvm::divideCeilSigned(wordsOfBlock, count), count};
  }
};

class IntegerTiles : public IntegerBlocks {
public:
  IntegerTiles(OpBuilder &b, GroupedMatmulOp op, const QuantisedRows &rowCodes, const QuantPanels &panels,
               const IntegerDot &dot, KernelFunctions &functions);

  /// The bytes of a block stay in the second-level cache.
  bool isUseful() const override { return !decodes() || weightBytes(panels.blockLength()) <= (128 << 10); }
  void emit(const PanelTask &task, Value stream, function_ref<Value(Value panel)> startOf) override;

private:
  bool fetchesWindows() const override { return false; }
  /// Steps of a block of `length` k; the last one's words, if these are fewer.
  int64_t stepsOf(int64_t length) const { return llvm::divideCeilSigned(panels.byteWords(length), steps.words); }
  int64_t restWords(int64_t length) const { return panels.byteWords(length) % steps.words; }
  int64_t allSteps() const;
  int64_t weightBytes(int64_t length) const override { return stepsOf(length) * steps.words * panels.rowBytes(); }
  /// A last step that is read as it lies is copied, for one block at a time.
  int64_t blocksTogether() const override {
    return !decodes() && restWords(panels.blockLength()) ? 1 : IntegerBlocks::blocksTogether();
  }
  void beginRows(const Rows &rows) override;
  void emitProducts(Value panelsOfUnit, Value at, Value following, Value first, Value count, int64_t length,
                    const Rows &rows) override;
  func::FuncOp getTileKernel(TypeRange types);

  /// Bytes of a tile of the rows' codes.
  int64_t tileBytes() const { return TileSchedule::kRows * steps.words * 4; }

  StepsOfBlock steps;
  TileSchedule schedule;
  Value rowTiles, rest;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_INTEGERTILES_H
