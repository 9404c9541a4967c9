//===- KernelSchedule.h - how a kernel goes through rows and panels -*- C++ -*-===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H

#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

namespace mlir::moe {

/// What a pass over a panel fetches into the second-level cache while it computes. One pass over a panel reads a panel;
/// if there are several, together they fetch the next one, each its share, spread evenly over the pass.
enum class Fetch {
  /// The lines that this pass is about to read, some kilobytes ahead.
  Own,
  /// Half of the lines of a step, or a third, from as many places of the next panel.
  LargeShare,
  SmallShare
};

/// A kernel: it is for exactly this many rows.
struct KernelVariant {
  Fetch fetch;
  int64_t rows;
};

/// What is known of a grouped matmul's kernels before any row is: everything but the expert's number of rows.
struct KernelSchedule {
  /// The most rows of one pass.
  int64_t maxRows;
  /// Panels that a task takes, one after the other: about two megabytes, fewer where there would be too few tasks.
  int64_t panelsPerTask;
  /// How far ahead of its own reads a pass fetches, in elements.
  int64_t aheadElements;
  /// Up to this many passes over a panel each take a large share of the next one.
  int64_t passesOfLargeShares;
  /// Registers for sums; vectors in a step over k of a panel; its cache lines.
  int64_t registers, vectors, lines;

  /// Vectors of a panel that a pass of `rows` rows sums up together; less than all where registers are short.
  int64_t vectorsTogether(int64_t rows) const;
  /// Steps over k in one iteration of a kernel: the unit in which shares are counted.
  static constexpr int64_t kUnroll = 4;
  /// Cache lines that an iteration fetches.
  int64_t linesPerStep(Fetch fetch) const;
  /// The kernels that passes of any number of rows need.
  SmallVector<KernelVariant> getVariants() const;
};

/// `shape` is that of the packed banks: experts, panels, steps of k, columns.
KernelSchedule getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                 int64_t lanes);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
