//===- KernelSchedule.h - how a kernel goes through rows and panels -*- C++ -*-===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H

#include "moe/Dialect/Moe/Analysis/PanelLayout.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

namespace mlir::moe {

/// What a kernel fetches into a near cache while it computes.
enum class Fetch {
  Nothing,
  /// A share of the next block.
  Share,
  /// All of the next block: this is the only pass.
  All
};

/// What a kernel reads of a panel at a time.
enum class Reads {
  /// A piece of each of its parts (or, where it has only one, a block of it).
  Parts,
  /// A block in one piece, of panels that few rows read in parts.
  Block,
  /// Such a block after it has been widened to the type of the sums.
  Widened
};

/// A kernel: it is for exactly this many rows.
struct KernelVariant {
  int64_t rows;
  Fetch fetch = Fetch::Nothing;
  Reads reads = Reads::Parts;
};

/// What one of several passes over a block fetches of the next one: so many lines in each iteration, as many streams
/// (see below), from the stream of this number on.
struct FetchShare {
  int64_t lines, stream;
};

/// Passes over a block fetch the next one together, spread as evenly over their time as whole powers of two of lines
/// allow; `all` is the number of lines of an iteration. One rule for numbers of the compiler and for those that a
/// program computes: `Ops` says what arithmetic on numbers (not negative) is.
template <typename Number, typename Ops> struct FetchRule {
  Ops ops;
  int64_t all;
  /// Lines of a pass; the first `twice` passes fetch twice as many.
  Number lines, twice;

  FetchRule(Ops numbers, int64_t all, Number passes) : ops(numbers), all(all) {
    // The most lines that all passes can fetch, and what they then fetch together. More passes than lines: some have
    // none.
    lines = ops.number(1);
    Number together = ops.min(passes, ops.number(all));
    for (int64_t more = 2; more <= all; more *= 2) {
      Number product = ops.mul(passes, more);
      lines = ops.selectIfLess(product, all + 1, ops.number(more), lines);
      together = ops.selectIfLess(product, all + 1, product, together);
    }
    twice = ops.div(ops.sub(ops.number(all), together), lines);
  }

  /// Lines and stream of number `pass`.
  std::pair<Number, Number> getShare(Number pass) {
    Number doubled = ops.mul(lines, 2);
    Number mine = ops.selectIfLess(pass, twice, doubled, lines);
    Number stream = ops.selectIfLess(pass, twice, ops.mul(doubled, pass), ops.mul(lines, ops.sum(pass, twice)));
    return {ops.selectIfLess(stream, all, mine, ops.number(0)), stream};
  }
};
FetchShare getFetchShare(int64_t all, int64_t passes, int64_t pass);

/// What is known of a grouped matmul's kernels before any row is: everything but the expert's number of rows.
struct KernelSchedule {
  /// The most rows of one pass: as many as the sums in registers allow.
  int64_t maxRows;
  /// The most rows that go through a task's panels together, so that what they read stays in the second-level cache.
  int64_t maxBlockRows;
  /// Parts of a panel that few rows read in turn, so many steps of each at a time (1, 2 or kUnroll), so that the
  /// processor follows as many streams. Their sums are in this order.
  int64_t parts, visitSteps;
  /// How far ahead of its reads in each part a pass fetches that has no share of the next block, in elements; 0: it
  /// does not. Weights of 16 bits: with more instructions for each line, fewer lines are on their way at a time.
  int64_t partAheadElements;
  /// Steps over k in a part, and in its share of a block: weights that stay in a near cache from pass to pass. What is
  /// left behind the last part is a block of its own.
  int64_t partSteps, blockSteps;
  /// Steps in a block of at least so many rows: in one piece, since they read it so often that one near place counts
  /// more than several streams from memory (measured on Zen 3: up to a fifth).
  int64_t contiguousSteps, contiguousRows;
  /// Of at least so many rows (0: never) a block is widened to f32 first, once for all of them: pairs of bf16, whose
  /// widening takes registers and instructions in each pass. Its steps; the most rows of a pass over it.
  int64_t widenedRows = 0, widenedSteps = 0, widenedMaxRows = 0;
  /// Whether all of the next block is fetched, however few passes there are. Else a single pass leaves that to the
  /// processor; of several passes of few rows, the first one does so too, and the others together fetch half of the
  /// next block: that of each part which comes first. The rest of it the processor brings by itself, since it has begun
  /// to follow the parts.
  bool fetchesAll;
  /// How near fetched lines come: 3 is a first-level cache (most of them are moved out to the second-level one before
  /// they are read; on Xeon that is faster than to fetch them there: up to a tenth), 2 a second-level one.
  int64_t fetchLocality;
  /// Panels that are multiplied side by side: with two of them, an element of a row is loaded for twice as many
  /// multiplications. A panel without another is beside itself.
  int64_t panelsTogether;
  /// Whether the elements of all rows stay in registers while the columns pass by, or the columns while the rows do.
  bool rowsInRegisters;
  /// Vectors in a step over k of one panel; its cache lines.
  int64_t vectors, lines;

  /// Steps over k in one iteration of a kernel.
  static constexpr int64_t kUnroll = 4;
  /// Cache lines of an iteration.
  int64_t allLines() const { return lines * kUnroll * panelsTogether; }
  /// The most lines of a share in an iteration. A kernel fetches as many in each: with a smaller share, some of them
  /// again, which costs a slot of a load unit that is idle, and spares a kernel for every number of lines.
  int64_t shareLines() const { return std::max<int64_t>(1, allLines() / 2); }
  /// The schedule of blocks that have been widened.
  KernelSchedule getWidened(const PanelLayout &layout) const;
  /// The kernels that any number of rows needs.
  SmallVector<KernelVariant> getVariants() const;
};

/// `shape` is that of the packed banks: experts, panels, steps of k, columns. With `batchInvariant`, all numbers of
/// rows sum in the same order. The kernels can take `mostPanels` panels side by side.
KernelSchedule getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                 int64_t lanes, bool batchInvariant = false, int64_t mostPanels = 1);

/// How quantised panels are multiplied with floats. Few rows decode the codes in registers, each tile of rows again;
/// more rows have them decoded into a near cache, once for all, and read them there as the kernels of floats do.
struct DecodeSchedule {
  /// The most rows of an expert that decode in registers (0, or a power of two: they are one tile, or several smaller
  /// ones). Their sums have another order than those of more rows.
  int64_t mostDirectRows;
  /// k that are decoded together; k of these that have their scales in one place, which are a part of a block of the
  /// format.
  int64_t blockLength, segmentLength;
};
DecodeSchedule getDecodeSchedule(const QuantPanels &panels, int64_t lanes, bool batchInvariant = false);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
