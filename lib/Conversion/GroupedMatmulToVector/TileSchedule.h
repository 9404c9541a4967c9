//===- TileSchedule.h - how tile instructions go through panels --*- C++ -*-===//
//
// A tile register of AMX has 16 rows of 64 bytes. An instruction multiplies 16 rows of 32 bf16 (or 64 bytes) with a
// tile of weights, in which a row has the pairs (fours) of k of 16 columns: as panels have them. Bounds that the
// schedule rests on: a product takes 16 cycles, a load of a tile 8 from the first-level cache, a store 16; a
// configuration is loaded once for a call of a kernel and takes about as long as a dozen products.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_TILESCHEDULE_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_TILESCHEDULE_H

#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

namespace mlir::moe {

struct TileSchedule {
  /// Rows, and bytes of a row, of a tile register.
  static constexpr int64_t kRows = 16, kRowBytes = 64;
  /// Columns of a tile of weights and of sums (of 32 bits).
  static constexpr int64_t kColumns = kRowBytes / 4;
  /// The most steps in a block of k: its weights and 32 rows of it are 32 KB, which stay in a first-level cache of 48.
  static constexpr int64_t kBlockSteps = 8;

  /// Up to so many rows of an expert are multiplied by vectors: the weights' way from memory takes longer than either
  /// kind of arithmetic, and a tile with fewer rows is no faster. Measured on Sapphire Rapids with experts of 2 to 20
  /// rows, against 4, with bf16: 8 is 1.03 to 1.12 times as fast, 12 0.85 to 1.06 times; bytes with a scale per row:
  /// with 4 rows in the mean vectors are up to 1.34 times as fast, with 16 0.86 to 0.93 times.
  static constexpr int64_t kMostVectorRows = 8;
  /// The most rows that go through a task's panels together. They are copied, tile by tile, into a buffer that stays in
  /// the second-level cache with a panel.
  int64_t maxBlockRows;
  /// Tiles of rows and of columns whose sums are in registers together: 2 x 2, for wider panels 1 x 3 or 1 x 4.
  int64_t rowTiles, columnTiles;
  /// Steps over k, each of a tile's k. Of the last one only `restGroups` groups of k are there, or all (0).
  int64_t steps, restGroups;
};

/// `groups`: groups of k (pairs of bf16, fours of bytes) in a panel of `width` columns; `rowParts`: tiles that the
/// rows' elements are made of.
TileSchedule getTileSchedule(int64_t width, int64_t groups, int64_t rowParts = 1);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_TILESCHEDULE_H
