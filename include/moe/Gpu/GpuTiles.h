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
#include <algorithm>
#include <cstdint>

namespace mlir::moe {

/// How a kernel multiplies: 16-bit types on tensor cores, f32 on tensor cores rounded to tf32, or f32 by fused
/// multiply-adds.
enum class GpuMath { Half, Tf32, Float };

/// A thread block computes `rows` pairs by `columns` columns, the columns of all banks together, `depth` of the inner
/// extent at a time. Its warps are arranged as warpRows x warpColumns. `stages` slices of the operands are in shared
/// memory, all but one of them on their way.
struct GpuTile {
  int64_t rows, columns, depth, warpRows, warpColumns, stages;

  int64_t threads() const { return warpRows * warpColumns * 32; }
  /// Without tensor cores the threads are arranged as threadRows() x threadColumns(), each with a few rows and columns.
  int64_t threadRows() const { return std::min<int64_t>(rows, 16); }
  int64_t threadColumns() const { return threads() / threadRows(); }
  int64_t sharedBytes(GpuMath math) const {
    return stages * (rows + columns) * depth * (math == GpuMath::Half ? 2 : 4);
  }
  bool operator==(const GpuTile &other) const {
    return rows == other.rows && columns == other.columns && depth == other.depth && warpRows == other.warpRows &&
           warpColumns == other.warpColumns && stages == other.stages;
  }
};

/// Every tile that may be chosen: first the one for few pairs, then ascending in rows.
llvm::ArrayRef<GpuTile> getGpuTiles(GpuMath math);

/// What is known of a grouped matmul at compile time.
struct GpuProblem {
  GpuMath math;
  /// `columns` of each of `banks` banks.
  int64_t experts, columns, banks;
  /// Bytes of shared memory that a block may have.
  int64_t sharedLimit;
};

/// The tile for `pairs` pairs over all experts.
GpuTile chooseGpuTile(const GpuProblem &problem, int64_t pairs);

/// A tile, and the largest number of pairs for which it is the choice (-1: any number).
struct GpuRegime {
  GpuTile tile;
  int64_t maxPairs;
};

/// The choices for every number of pairs, ascending: the number is known at the call only.
llvm::SmallVector<GpuRegime> getGpuRegimes(const GpuProblem &problem);

} // namespace mlir::moe

#endif // MOE_GPU_GPUTILES_H
