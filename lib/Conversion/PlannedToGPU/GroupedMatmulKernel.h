//===- GroupedMatmulKernel.h - emission of one expert kernel -----*- C++ -*-===//
#ifndef LIB_CONVERSION_PLANNEDTOGPU_GROUPEDMATMULKERNEL_H
#define LIB_CONVERSION_PLANNEDTOGPU_GROUPEDMATMULKERNEL_H

#include "GpuBuilder.h"
#include "moe/Conversion/GroupedMatmulKernels.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Gpu/GpuTiles.h"

namespace mlir::moe {

/// A tile of an operand in shared memory. 16-byte chunks of a row are permuted by the row's number, so that eight rows
/// of one column of chunks lie in different banks: neither copies nor ldmatrix have conflicts.
struct SharedTile {
  int64_t rows, columns; ///< in elements
  int64_t elementBytes;
  bool swizzled;
  /// How far the permutations of neighbouring rows are apart: 2 where a warp reads words of four rows, not of eight.
  int64_t keyStep = 1;

  int64_t bytes() const { return rows * columns * elementBytes; }
  /// The byte of element (row, column) from the tile's start.
  Value offset(GpuBuilder &b, Value row, Value column) const;
};

/// One launch of a grouped matmul with one tile.
class GroupedMatmulKernel {
public:
  GroupedMatmulKernel(GpuBuilder &b, GroupedMatmulOp op, KernelForm form, GpuTile tile, GpuMath math);
  /// Emits the launch at the builder's place.
  void emit();

private:
  struct Copy;
  Value bankStride(unsigned bank, unsigned loop);
  Copy planCopy(const SharedTile &tile, int64_t chunkBytes, function_ref<std::pair<Value, Value>(Value, Value)> source);
  void issue(const Copy &copy, Value slotBase, Value depthStart, Value depthStride);
  void issueAll(Value step, Value slot);
  void emitBlock();
  void findWork();
  void emitStages();
  SmallVector<Value> loadColumns(Value base, Value depth, Value column);
  SmallVector<Value> multiplyFragments(Value slot, ValueRange sums);
  SmallVector<Value> loadWords(Value base, Value offset, int64_t count);
  SmallVector<Value> multiplyScalars(Value slot, ValueRange sums);
  void storeFragments(ValueRange sums);
  void storeScalars(ValueRange sums);
  Value scalarColumn(int64_t j);
  Value applyEpilogue(Value pair, Value column, ArrayRef<Value> sums);
  Value slotOf(Value step);

  GpuBuilder &b;
  GroupedMatmulOp op;
  KernelForm form;
  GpuTile tile;
  unsigned banks;
  Type element;
  int64_t bytes, n, k, bankColumns;
  bool tensorCores;
  SharedTile aTile, bTile;

  // In front of the launch.
  GpuView a, rowsView, offsetsView, initView;
  SmallVector<GpuView> bankViews, extraViews;

  // Inside.
  struct Copy {
    SharedTile tile;
    int64_t chunk;                   ///< elements
    SmallVector<Value> sources;      ///< pointer of each of this thread's chunks, at depth 0
    SmallVector<Value> valid;        ///< i1: the chunk is inside the operand, whatever the depth
    SmallVector<Value> depths;       ///< its depth in the tile
    SmallVector<Value> destinations; ///< byte offset in the tile
    SmallVector<Value> mine;         ///< i1 or null: this thread has such a chunk
  };
  Copy aCopy;
  SmallVector<Copy, 0> bankCopies;
  Value thread, lane, warpRow, warpColumn, shared, expert, pairBegin, pairEnd, columnBegin;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_PLANNEDTOGPU_GROUPEDMATMULKERNEL_H
