//===- PanelLayout.h - how weights are stored for the kernels ----*- C++ -*-===//
//
// A bank of E matrices [K, N] is stored as panels of columns, in the order in which a kernel reads them:
//
//   [E][ceil(N / columns)][ceil(K / group)][banks * columns][group]
//
// Banks that are multiplied with the same rows (gate and up) stand side by side in one panel, so that there is one
// stream. What is missing at the edges is zero. The layout depends on the element type and the number of banks, never
// on the instruction set: 32 f32 columns are two registers of AVX-512 or four of AVX2.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_PANELLAYOUT_H
#define MOE_DIALECT_MOE_ANALYSIS_PANELLAYOUT_H

#include "mlir/IR/AffineMap.h"
#include "mlir/IR/BuiltinTypes.h"
#include <optional>

namespace mlir::moe {

struct PanelLayout {
  /// Columns of one bank in a panel, and the banks in it.
  int64_t columns, banks;
  /// Consecutive k that stand together: 2 for bf16, which widens in pairs, else 1.
  int64_t group;

  int64_t width() const { return columns * banks; }
};

/// The layout for `banks` banks of `element`; nothing if the kernels have none for it.
std::optional<PanelLayout> getPanelLayout(Type element, int64_t banks);

/// The type of the packed form of `banks` banks [experts, k, n] of `element`.
RankedTensorType getPanelType(const PanelLayout &layout, int64_t experts, int64_t k, int64_t n, Type element);

/// How (e, k, n) of bank number `bank` indexes the packed form.
AffineMap getPanelMap(const PanelLayout &layout, int64_t bank, bool perExpert, MLIRContext *context);

/// The layout that `maps` (of the banks of one grouped matmul, all in one packed operand of type `type`) stand for;
/// nothing if it is not a packed form.
std::optional<PanelLayout> matchPanelMaps(ShapedType type, ArrayRef<AffineMap> maps);

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_PANELLAYOUT_H
