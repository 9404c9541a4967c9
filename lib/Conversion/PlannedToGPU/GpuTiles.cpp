//===- GpuTiles.cpp - tiles of the grouped matmul on a GPU ----------------===//
#include "moe/Gpu/GpuTiles.h"
#include "llvm/Support/MathExtras.h"

namespace mlir::moe {

// Ascending in rows. 16-bit operands: a warp multiplies fragments of 16 x 8 with 16 of the inner extent.
static constexpr GpuTile kHalfTiles[] = {
    {16, 128, 32, 1, 4, 4},
    {64, 128, 32, 2, 2, 4},
    {128, 128, 32, 2, 2, 3},
};
// 32-bit operands: 256 threads with a few sums each.
static constexpr GpuTile kFloatTiles[] = {
    {16, 64, 16, 1, 8, 3},
    {64, 64, 16, 2, 4, 2},
};

// 32-bit operands on tensor cores: fragments of 16 x 8 with 8 of the inner extent. 128 rows need more registers than
// there are.
static constexpr GpuTile kTf32Tiles[] = {
    {16, 128, 32, 1, 4, 3},
    {64, 128, 32, 2, 2, 3},
};

llvm::ArrayRef<GpuTile> getGpuTiles(int64_t elementBytes, bool tf32) {
  if (tf32)
    return kTf32Tiles;
  return elementBytes == 2 ? llvm::ArrayRef<GpuTile>(kHalfTiles) : llvm::ArrayRef<GpuTile>(kFloatTiles);
}

GpuTile chooseGpuTile(int64_t rows, int64_t experts, int64_t columns, int64_t banks, int64_t elementBytes,
                      int64_t sharedLimit, bool tf32) {
  llvm::ArrayRef<GpuTile> tiles = getGpuTiles(elementBytes, tf32);
  // The rows of an expert, were they spread evenly: a tile that is mostly padding wastes the multiplications.
  int64_t perExpert = llvm::divideCeil(rows, experts);
  GpuTile choice = tiles.front();
  for (const GpuTile &tile : tiles.drop_front())
    if (2 * perExpert > tile.rows && tile.sharedBytes(elementBytes) <= sharedLimit)
      choice = tile;
  // Few columns: the same tile with half as many, as long as every warp keeps a fragment of each bank.
  while (choice.columns / banks >= 2 * columns && choice.columns / (2 * banks) >= choice.warpColumns * 16)
    choice.columns /= 2;
  return choice;
}

llvm::SmallVector<GpuRegime> getGpuRegimes(int64_t experts, int64_t columns, int64_t banks, int64_t elementBytes,
                                           int64_t sharedLimit, bool tf32) {
  // The choice changes with rows / experts against half a tile's rows only.
  llvm::SmallVector<GpuRegime> regimes;
  for (const GpuTile &tile : getGpuTiles(elementBytes, tf32).drop_front()) {
    int64_t below = tile.rows / 2 * experts;
    GpuTile choice = chooseGpuTile(below, experts, columns, banks, elementBytes, sharedLimit, tf32);
    if (!regimes.empty() && regimes.back().tile == choice)
      regimes.back().maxRows = below;
    else
      regimes.push_back({choice, below});
  }
  GpuTile last = chooseGpuTile((getGpuTiles(elementBytes, tf32).back().rows + 1) * experts, experts, columns, banks,
                               elementBytes, sharedLimit, tf32);
  if (!regimes.empty() && regimes.back().tile == last)
    regimes.back().maxRows = -1;
  else
    regimes.push_back({last, -1});
  return regimes;
}

} // namespace mlir::moe
