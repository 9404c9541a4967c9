//===- KernelSchedule.cpp - how a kernel goes through rows and panels -----===//
#include "KernelSchedule.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

FetchShare moe::getFetchShare(int64_t all, int64_t passes, int64_t pass) {
  struct Numbers {
    int64_t number(int64_t x) { return x; }
    int64_t mul(int64_t x, int64_t y) { return x * y; }
    int64_t sum(int64_t x, int64_t y) { return x + y; }
    int64_t sub(int64_t x, int64_t y) { return x - y; }
    int64_t div(int64_t x, int64_t y) { return x / y; }
    int64_t min(int64_t x, int64_t y) { return std::min(x, y); }
    int64_t selectIfLess(int64_t x, int64_t y, int64_t less, int64_t other) { return x < y ? less : other; }
  };
  auto [lines, stream] = FetchRule<int64_t, Numbers>(Numbers(), all, passes).getShare(pass);
  return {lines, stream};
}

KernelSchedule KernelSchedule::getWidened(const PanelLayout &layout) const {
  KernelSchedule schedule = *this;
  schedule.maxRows = widenedMaxRows;
  schedule.parts = 1;
  // Lines of the banks, not of what has been widened.
  schedule.lines = std::max<int64_t>(1, lines / layout.group);
  return schedule;
}

SmallVector<KernelVariant> KernelSchedule::getVariants() const {
  SmallVector<KernelVariant> variants;
  for (int64_t rows = 1; rows <= maxRows; ++rows)
    variants.push_back({rows, fetchesAll ? Fetch::All : Fetch::Nothing});
  // Several passes are of nearly equal size, so that none of them has fewer rows than this.
  auto addPasses = [&](int64_t most, Fetch fetch, Reads reads) {
    for (int64_t rows = (most + 1) / 2; rows <= most; ++rows)
      variants.push_back({rows, fetch, reads});
  };
  addPasses(maxRows, Fetch::Share, Reads::Parts);
  for (Fetch fetch : {Fetch::Nothing, Fetch::Share}) {
    if (parts > 1)
      addPasses(maxRows, fetch, Reads::Block);
    if (widenedRows)
      addPasses(widenedMaxRows, fetch, Reads::Widened);
  }
  return variants;
}

KernelSchedule moe::getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                      int64_t lanes, bool batchInvariant, int64_t mostPanels) {
  KernelSchedule schedule;
  bool wide = lanes >= 16;
  schedule.vectors = layout.width() / lanes;
  // An element of a row is loaded for each panel again: 12 rows by 2 vectors take 14 loads for 24 multiplications, 6 by
  // 4 take 10. Processors with AVX-512 do two of each in a cycle, but where another thread runs on the same core, about
  // one load (measured on Sapphire Rapids: 0.66 and 0.79 of the peak then, both 0.97 alone).
  // Weights that have to be widened are better widened for 12 rows than for 6 (bf16 1.05, f16 1.0 to 1.3 times as
  // fast).
  schedule.panelsTogether = wide && elementBytes == 4 ? std::min<int64_t>(2, mostPanels) : 1;
  // Of 32 registers of AVX-512 and 16 of AVX2; the others hold weights and elements of rows. Pairs of bf16 need more of
  // them while they are widened.
  auto getMaxRows = [&](int64_t registers) {
    return std::max<int64_t>(1, registers / std::max<int64_t>(1, schedule.vectors * schedule.panelsTogether));
  };
  bool isPairs = layout.group > 1;
  schedule.maxRows = getMaxRows(wide ? 24 : isPairs ? 8 : 12);
  schedule.rowsInRegisters = !wide;
  int64_t stepBytes = layout.width() * layout.group * elementBytes, panelBytes = shape[2] * stepBytes;
  schedule.lines = std::max<int64_t>(1, stepBytes / 64);

  // A processor follows a stream by itself, not far ahead. Zen needs four of them to read as fast as its memory gives
  // lines, and each line that software fetches takes the place of one that it would. On Xeon software that fetches the
  // next block from eight or sixteen places of it reads faster than eight streams do. The instruction set stands for
  // the family here.
  constexpr int64_t unroll = KernelSchedule::kUnroll;
  constexpr int64_t kParts = 4, kLeastSteps = 8;
  schedule.parts = wide || batchInvariant || shape[2] < kParts * kLeastSteps ? 1 : kParts;
  schedule.partSteps = schedule.parts > 1 ? shape[2] / schedule.parts / unroll * unroll : shape[2];
  schedule.fetchesAll = wide;
  schedule.fetchLocality = wide ? 3 : 2;

  // Measured on Zen 3, one thread, one row: bf16 1.25 times, f16 1.05 times as fast as in visits of four steps; 1.15
  // and 1.02 without the fetches; f32 is slower with either.
  bool isNarrow = !wide && elementBytes < 4;
  schedule.visitSteps = isNarrow ? std::clamp<int64_t>(128 / stepBytes, 1, unroll) : unroll;
  schedule.partAheadElements = isNarrow ? 256 / elementBytes : 0;

  // Blocks of nearly equal size: in a second-level cache, or, of several parts, in half of a first-level one. Those of
  // AVX-512's processors are larger: 1024 steps are 1.01 to 1.02 times as fast as 512 on Sapphire Rapids, and 256 and
  // 128 0.96 and 0.75 to 0.98 times.
  auto divide = [&](int64_t all, int64_t mostSteps) {
    int64_t blocks = std::max<int64_t>(1, llvm::divideCeil(all, mostSteps));
    int64_t steps = llvm::alignTo(llvm::divideCeil(all, blocks), unroll);
    return std::max(unroll, steps);
  };
  schedule.contiguousSteps = divide(shape[2], wide ? 1024 : 512);
  schedule.blockSteps =
      schedule.parts > 1 ? divide(schedule.partSteps, 128 / schedule.parts) : schedule.contiguousSteps;
  schedule.contiguousRows = 4 * schedule.maxRows + 1;
  if (!wide && isPairs) {
    // Measured on Zen 3, one thread: with 16 rows as fast as without, with 32 1.04 and with 128 1.1 times as fast. The
    // floats of a block are half of a first-level cache.
    schedule.widenedRows = 20;
    schedule.widenedMaxRows = getMaxRows(12);
    schedule.widenedSteps = divide(shape[2], 128 / layout.group);
  }

  // What a block of k reads of the rows stays in a second-level cache: with AVX2 of 256 or 512 KB, whatever k is, since
  // the other blocks come from a third-level one as fast as they are needed. Processors with AVX-512 have at least a
  // megabyte; there all of k counts.
  int64_t rowBytes = std::max<int64_t>(1, (wide ? shape[2] : schedule.contiguousSteps) * layout.group * 4);
  int64_t budget = wide ? 512 << 10 : 256 << 10;
  int64_t rows = std::clamp<int64_t>(budget / rowBytes, wide ? 48 : 24, wide ? 192 : 96);
  schedule.maxBlockRows = rows / schedule.maxRows * schedule.maxRows;
  return schedule;
}

DecodeSchedule moe::getDecodeSchedule(const QuantPanels &panels, int64_t lanes, bool batchInvariant) {
  DecodeSchedule schedule;
  schedule.mostDirectRows = batchInvariant ? 0 : lanes >= 16 ? 4 : 2;
  // Half of a first-level cache; the other half is for rows and sums.
  constexpr int64_t kBytes = 16 << 10;
  int64_t most = std::max<int64_t>(16, kBytes / (4 * panels.width()) / 16 * 16), block = panels.blockLength();
  if (block <= most) {
    schedule.segmentLength = block;
    schedule.blockLength = most / block * block;
    return schedule;
  }
  // Blocks are multiples of 16, unless there is only one.
  int64_t step = std::max<int64_t>(16, panels.group()), segment = most / step * step;
  while (block < panels.k && block % segment != 0)
    segment -= step;
  schedule.segmentLength = schedule.blockLength = segment;
  return schedule;
}
