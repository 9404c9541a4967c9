//===- moe-gpu-tiles.cpp - print the tiles of GPU kernels -----------------===//
//
//   moe-gpu-tiles chips                                      name and shared memory of a block, of each chip
//   moe-gpu-tiles half|tf32|float                            every tile of the table
//   moe-gpu-tiles half|tf32|float EXPERTS COLUMNS BANKS LIMIT  the choices by the number of pairs
//
// A tile is a line: rows, columns, depth, warps along both, stages, threads, bytes of shared memory; of a choice, the
// largest number of pairs stands in front of it.
//
//===----------------------------------------------------------------------===//
#include "moe/Gpu/GpuTiles.h"
#include "moe/Target/CudaTarget.h"
#include <cstdio>

using namespace mlir::moe;

static void print(const GpuTile &tile, GpuMath math) {
  for (int64_t number : {tile.rows, tile.columns, tile.depth, tile.warpRows, tile.warpColumns, tile.stages,
                         tile.threads(), tile.sharedBytes(math)})
    std::printf(" %lld", static_cast<long long>(number));
  std::printf("\n");
}

int main(int argc, char **argv) {
  llvm::StringRef what = argc > 1 ? argv[1] : "";
  if (what == "chips" && argc == 2) {
    for (const CudaChip &chip : getCudaChips())
      std::printf("%s %lld\n", chip.name.data(), static_cast<long long>(chip.sharedLimit));
    return 0;
  }
  std::optional<GpuMath> math;
  for (auto [name, value] : {std::pair("half", GpuMath::Half), {"tf32", GpuMath::Tf32}, {"float", GpuMath::Float}})
    if (what == name)
      math = value;
  if (!math || (argc != 2 && argc != 6)) {
    std::fprintf(stderr, "usage: moe-gpu-tiles chips | half|tf32|float [EXPERTS COLUMNS BANKS LIMIT]\n");
    return 2;
  }
  if (argc == 2) {
    for (const GpuTile &tile : getGpuTiles(*math))
      print(tile, *math);
    return 0;
  }
  for (const GpuRegime &regime :
       getGpuRegimes({*math, std::atoll(argv[2]), std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5])})) {
    std::printf("%lld", static_cast<long long>(regime.maxPairs));
    print(regime.tile, *math);
  }
  return 0;
}
