//===- KernelSchedule.cpp - how a kernel goes through rows and panels -----===//
#include "KernelSchedule.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

int64_t KernelSchedule::vectorsPerBank(int64_t rows) const {
  int64_t together = perBank;
  while (together > 1 && rows * banks * together > registers)
    together /= 2;
  return together;
}

int64_t KernelSchedule::unroll(int64_t rows) const { return rows <= 3 ? 8 : rows <= 6 ? 4 : 2; }

KernelSchedule moe::getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                      int64_t lanes) {
  KernelSchedule schedule;
  // Of 32 registers of AVX-512 and 16 of AVX2; the others hold weights and one element of a row.
  schedule.registers = lanes >= 16 ? 24 : 12;
  schedule.perBank = layout.columns / lanes;
  schedule.banks = layout.banks;
  schedule.maxRows = schedule.registers / std::max<int64_t>(2, layout.banks);
  int64_t panelBytes = shape[2] * layout.width() * layout.group * elementBytes;
  constexpr int64_t kTaskBytes = 1 << 20;
  int64_t most = std::max<int64_t>(1, shape[1] / (shape[0] >= 8 ? 4 : 16));
  schedule.panelsPerTask = std::clamp<int64_t>(kTaskBytes / std::max<int64_t>(1, panelBytes), 1, most);
  return schedule;
}
