//===- GpuTiles.h - tiles of the grouped matmul on a GPU ---------*- C++ -*-===//
//
// Which tile a kernel computes is a pure function of shapes, rows and chip: it can be tested, and its table compiled
// for every chip, without a GPU.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_GPU_GPUTILES_H
#define MOE_GPU_GPUTILES_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include <cstdint>

namespace mlir::moe {

/// A thread block computes `rows` pairs by `columns` columns, the columns of all banks together, `depth` of the inner
/// extent at a time. Its warps are arranged as warpRows x warpColumns. `stages` slices of the operands are in shared
/// memory, all but one of them on their way.
struct GpuTile {
  int64_t rows, columns, depth, warpRows, warpColumns, stages;

  int64_t threads() const { return warpRows * warpColumns * 32; }
  int64_t sharedBytes(int64_t elementBytes) const { return stages * (rows + columns) * depth * elementBytes; }
  bool operator==(const GpuTile &other) const {
    return rows == other.rows && columns == other.columns && depth == other.depth && warpRows == other.warpRows &&
           warpColumns == other.warpColumns && stages == other.stages;
  }
};

/// Every tile that may be chosen for operands of 16 bits (tensor cores) or 32 bits (tensor cores with `tf32` only).
llvm::ArrayRef<GpuTile> getGpuTiles(int64_t elementBytes, bool tf32 = false);

/// The tile for `rows` pairs over `experts` experts, `columns` columns of each of `banks` banks, on a chip with
/// `sharedLimit` bytes of shared memory per block.
GpuTile chooseGpuTile(int64_t rows, int64_t experts, int64_t columns, int64_t banks, int64_t elementBytes,
                      int64_t sharedLimit, bool tf32 = false);

/// A tile, and the largest number of pairs for which it is the choice (-1: any number).
struct GpuRegime {
  GpuTile tile;
  int64_t maxRows;
};

/// The choices for every number of rows, ascending: the number of pairs is known at the call only.
llvm::SmallVector<GpuRegime> getGpuRegimes(int64_t experts, int64_t columns, int64_t banks, int64_t elementBytes,
                                           int64_t sharedLimit, bool tf32 = false);

} // namespace mlir::moe

#endif // MOE_GPU_GPUTILES_H
