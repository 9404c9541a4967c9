//===- TileSchedule.cpp - how tile instructions go through panels ---------===//
#include "TileSchedule.h"
#include "KernelFunctions.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

TileSchedule moe::getTileSchedule(int64_t width, int64_t groups, int64_t rowParts) {
  TileSchedule schedule;
  schedule.columnTiles = width / TileSchedule::kColumns;
  schedule.rowTiles = schedule.columnTiles <= 2 ? 2 : 1;
  schedule.steps = llvm::divideCeilSigned(groups, TileSchedule::kRows);
  schedule.restGroups = groups % TileSchedule::kRows;
  // Half of a second-level cache of 2 MB. Below 64 rows the weights, which are read once for each block of rows, would
  // come too slowly even from the second-level cache.
  constexpr int64_t kBytes = 1 << 20, kFewest = 64;
  int64_t rows = kBytes / std::max<int64_t>(1, schedule.steps * TileSchedule::kRowBytes * rowParts);
  int64_t together = schedule.rowTiles * TileSchedule::kRows;
  schedule.maxBlockRows = std::clamp(rows, kFewest, KernelFunctionForm::kMostRows) / together * together;
  return schedule;
}
