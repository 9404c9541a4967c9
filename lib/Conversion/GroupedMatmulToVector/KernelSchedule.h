//===- KernelSchedule.h - how a kernel goes through rows and panels -*- C++ -*-===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H

#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

namespace mlir::moe {

/// What is known of a grouped matmul's kernels before any row is: everything but the expert's number of rows.
struct KernelSchedule {
  /// The most rows of one pass.
  int64_t maxRows;
  /// Panels that a task takes, one after the other: about a megabyte, fewer where there would be too few tasks.
  int64_t panelsPerTask;
  /// Registers for sums, vectors of a panel per bank, banks.
  int64_t registers, perBank, banks;

  /// Vectors of each bank that a pass of `rows` rows sums up together; less than all where registers are short.
  int64_t vectorsPerBank(int64_t rows) const;
  /// Steps over k in one iteration of a pass of `rows` rows.
  int64_t unroll(int64_t rows) const;
};

/// `shape` is that of the packed banks: experts, panels, steps of k, columns.
KernelSchedule getKernelSchedule(const PanelLayout &layout, ArrayRef<int64_t> shape, int64_t elementBytes,
                                 int64_t lanes);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELSCHEDULE_H
