//===- GpuTiles.cpp - tiles of the grouped matmul on a GPU ----------------===//
#include "moe/Gpu/GpuTiles.h"
#include "llvm/Support/MathExtras.h"

namespace mlir::moe {

// The first tile of each table is for so few pairs that blocks of the second one would not fill a device. What counts
// then is how many bytes of the banks are on their way: it has half the columns, so there are twice as many blocks, and
// each copies longer pieces of the banks' rows. The tensor cores' padding rows cost nothing there: at an H100's 14
// bytes per clock and multiprocessor, 16 rows take a ninth of what mma.sync can do.
//
// 16-bit operands: a warp multiplies fragments of 16 x 8 with 16 of the inner extent.
static constexpr GpuTile kHalfTiles[] = {
    {16, 64, 64, 1, 2, 4},
    {16, 128, 32, 1, 4, 4},
    {64, 128, 32, 2, 2, 4},
    {128, 128, 32, 2, 2, 3},
};
// 32-bit operands on tensor cores: fragments of 16 x 8 with 8 of the inner extent. 128 rows need more registers than
// there are.
static constexpr GpuTile kTf32Tiles[] = {
    {16, 64, 32, 1, 2, 4},
    {16, 128, 32, 1, 4, 3},
    {64, 128, 32, 2, 2, 3},
};
// 32-bit operands without: threads with a few sums each. Here padding rows do cost.
static constexpr GpuTile kFloatTiles[] = {
    {4, 64, 32, 1, 2, 4},
    {16, 64, 16, 1, 8, 3},
    {64, 64, 16, 2, 4, 2},
};

/// Blocks that fill any device: two for each of its multiprocessors, of which the largest have 132 to 160.
static constexpr int64_t kManyBlocks = 256;

llvm::ArrayRef<GpuTile> getGpuTiles(GpuMath math) {
  switch (math) {
  case GpuMath::Half:
    return kHalfTiles;
  case GpuMath::Tf32:
    return kTf32Tiles;
  case GpuMath::Float:
    return kFloatTiles;
  }
  llvm_unreachable("all are listed");
}

/// The same tile with half as many columns where there are few, as long as every warp keeps two fragments of each bank
/// and every thread a column.
static GpuTile narrow(GpuTile tile, const GpuProblem &problem) {
  int64_t least = problem.math == GpuMath::Float ? tile.threadColumns() : tile.warpColumns * 16;
  while (tile.columns / problem.banks >= 2 * problem.columns && tile.columns / (2 * problem.banks) >= least)
    tile.columns /= 2;
  return tile;
}

GpuTile chooseGpuTile(const GpuProblem &problem, int64_t pairs) {
  llvm::ArrayRef<GpuTile> tiles = getGpuTiles(problem.math);
  // The rows of an expert, were they spread evenly: a tile that is mostly padding wastes the multiplications.
  int64_t perExpert = llvm::divideCeil(pairs, problem.experts);
  const GpuTile &few = tiles.front();
  GpuTile choice = tiles[1];
  for (const GpuTile &tile : tiles.drop_front(2))
    if (2 * perExpert > tile.rows && tile.sharedBytes(problem.math) <= problem.sharedLimit)
      choice = tile;
  choice = narrow(choice, problem);
  int64_t blocks = llvm::divideCeil(problem.columns, choice.columns / problem.banks) *
                   (pairs / choice.rows + std::min(pairs, problem.experts));
  return perExpert <= few.rows && blocks <= kManyBlocks ? narrow(few, problem) : choice;
}

llvm::SmallVector<GpuRegime> getGpuRegimes(const GpuProblem &problem) {
  // With more pairs the choice moves along the table and never back, so its changes can be bisected.
  int64_t most = (getGpuTiles(problem.math).back().rows + 1) * problem.experts;
  GpuTile last = chooseGpuTile(problem, most);
  llvm::SmallVector<GpuRegime> regimes;
  for (int64_t pairs = 1;;) { // without any nothing is launched
    GpuTile tile = chooseGpuTile(problem, pairs);
    if (tile == last)
      break;
    int64_t low = pairs, high = most; // the choice of `low`, and another one
    while (high - low > 1) {
      int64_t middle = low + (high - low) / 2;
      (chooseGpuTile(problem, middle) == tile ? low : high) = middle;
    }
    regimes.push_back({tile, low});
    pairs = high;
  }
  regimes.push_back({last, -1});
  return regimes;
}

} // namespace mlir::moe
