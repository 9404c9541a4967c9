//===- KernelSchedule.h - how a kernel goes through rows and panels -*- C++ -*-===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H

#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

namespace mlir::moe {

/// A kernel: it is for exactly this many rows.
struct KernelVariant {
  int64_t rows;
  /// Cache lines that an iteration fetches into the second-level cache while it computes.
  int64_t lines;
  /// They are those that this pass is about to read, some kilobytes ahead; else a share of the next block.
  bool own = false;
  /// Panels that are read side by side, each with sums of its own. Nothing is fetched then.
  int64_t panels = 1;
};

/// What one of several passes over a block fetches of the next one: so many lines in each iteration, as many streams
/// (see below), from the stream of this number on.
struct FetchShare {
  int64_t lines, stream;
};

/// The passes over a block fetch the next one together, spread as evenly over their time as whole powers of two of
/// lines allow; `all` is the number of lines of an iteration.
FetchShare getFetchShare(int64_t all, int64_t passes, int64_t pass);

/// What is known of a grouped matmul's kernels before any row is: everything but the expert's number of rows.
struct KernelSchedule {
  /// The most rows of one pass: as many as the sums in registers allow.
  int64_t maxRows;
  /// The most rows that go through a task's panels together, so that what they read stays in the second-level cache.
  int64_t maxBlockRows;
  /// Steps over k in a block: weights that stay in a near cache from pass to pass.
  int64_t blockSteps;
  /// Panels that a task takes, one after the other: about two megabytes, fewer where there would be too few tasks.
  int64_t panelsPerTask;
  /// How far ahead of its own reads a single pass fetches, in elements; 0: it fetches some lines of the next block, and
  /// leaves the others to the processor, which follows.
  int64_t aheadElements;
  /// Panels that a single row reads side by side.
  int64_t panelsOfOneRow;
  /// Whether the elements of all rows stay in registers while the columns pass by, or the columns while the rows do.
  bool rowsInRegisters;
  /// Vectors in a step over k of a panel; its cache lines.
  int64_t vectors, lines;

  /// Steps over k in one iteration of a kernel.
  static constexpr int64_t kUnroll = 4;
  /// Cache lines of an iteration.
  int64_t allLines() const { return lines * kUnroll; }
  /// What a single pass fetches.
  int64_t singleLines() const { return aheadElements ? allLines() : std::max<int64_t>(1, allLines() / 2); }
  /// The kernels that any number of rows needs, but the one for several panels.
  SmallVector<KernelVariant> getVariants() const;
};

/// `shape` is that of the packed banks: experts, panels, steps of k, columns.
KernelSchedule getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                 int64_t lanes);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
