//===- KernelSchedule.cpp - how a kernel goes through rows and panels -----===//
#include "KernelSchedule.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

int64_t KernelSchedule::vectorsTogether(int64_t rows) const {
  int64_t together = vectors;
  while (together > 1 && rows * together > registers)
    together = llvm::divideCeil(together, 2);
  return together;
}

int64_t KernelSchedule::linesPerStep(Fetch fetch) const {
  int64_t all = lines * kUnroll;
  switch (fetch) {
  case Fetch::Own:
    return all;
  case Fetch::LargeShare:
    return std::max<int64_t>(1, llvm::divideCeil(all, 2));
  case Fetch::SmallShare:
    return std::max<int64_t>(1, llvm::divideCeil(all, 3));
  }
  llvm_unreachable("unknown kind of fetching");
}

SmallVector<KernelVariant> KernelSchedule::getVariants() const {
  SmallVector<KernelVariant> variants;
  for (int64_t rows = 1; rows <= maxRows; ++rows)
    variants.push_back({Fetch::Own, rows});
  // The smallest pass of p is that of (p - 1) * maxRows + 1 rows.
  auto add = [&](Fetch fetch, int64_t passes) {
    for (int64_t rows = ((passes - 1) * maxRows + 1) / passes; rows <= maxRows; ++rows)
      variants.push_back({fetch, rows});
  };
  add(Fetch::LargeShare, 2);
  add(Fetch::SmallShare, passesOfLargeShares + 1);
  return variants;
}

KernelSchedule moe::getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                      int64_t lanes) {
  KernelSchedule schedule;
  // Of 32 registers of AVX-512 and 16 of AVX2; the others hold weights and one element of a row.
  schedule.registers = lanes >= 16 ? 24 : 12;
  schedule.vectors = layout.width() / lanes;
  // AVX2 takes the panel in two halves, so that there are as many rows to a load.
  schedule.maxRows = schedule.registers / (lanes >= 16 ? schedule.vectors : 2);
  int64_t stepBytes = layout.width() * layout.group * elementBytes, panelBytes = shape[2] * stepBytes;
  schedule.lines = std::max<int64_t>(1, stepBytes / 64);
  schedule.aheadElements = 8192 / elementBytes;
  schedule.passesOfLargeShares = 2;
  constexpr int64_t kTaskBytes = 2 << 20;
  int64_t most = std::max<int64_t>(1, shape[1] / (shape[0] >= 8 ? 4 : 16));
  schedule.panelsPerTask = std::clamp<int64_t>(kTaskBytes / std::max<int64_t>(1, panelBytes), 1, most);
  return schedule;
}
