//===- KernelFunctions.h - the inner kernels, as functions -------*- C++ -*-===//
//
// The kernel for r rows and a panel is a private function that all grouped matmuls with the same layout and types
// share, whatever their sizes: a module has a few dozen of them, however many layers it has.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELFUNCTIONS_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELFUNCTIONS_H

#include "KernelSchedule.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {

/// What distinguishes one family of kernels from another.
struct KernelFunctionForm {
  PanelLayout layout;
  KernelSchedule schedule;
  int64_t lanes;
  /// Element types: of the weights, of the rows, of the sums.
  Type stored, rows;
  FloatType accumulator;
  /// Whether k is a multiple of the k in one iteration of the kernel.
  bool wholeSteps;
  /// Of the banks that a pass fetches lines of, where `stored` is that of a copy of a block of them.
  Type packed = stored;

  int64_t stepElements() const { return layout.width() * layout.group; }
  int64_t panelElements(int64_t steps) const { return steps * stepElements(); }

  /// Weights as one run of elements.
  MemRefType weightsType() const { return MemRefType::get({ShapedType::kDynamic}, stored); }
  /// Rows with any distance between them.
  MemRefType rowsType() const;
  /// Scratch types do not depend on the sizes of the matmul, so that all of them share the kernels.
  static constexpr int64_t kMostRows = 192;
  /// The numbers of the rows of a block.
  MemRefType sourcesType() const { return MemRefType::get({kMostRows}, IndexType::get(stored.getContext())); }
  /// The sums of a block.
  MemRefType tileType() const {
    return MemRefType::get({kMostRows, layout.width() * schedule.panelsTogether}, accumulator);
  }
};

/// Vector `v` of a step of the weights (`group` consecutive k) that begins at element `at`, as it is stored.
Value loadStored(OpBuilder &b, Location loc, const KernelFunctionForm &form, Value weights, Value at, int64_t v);
/// The weights of number `g` in the group as floats.
Value widenStored(OpBuilder &b, Location loc, const KernelFunctionForm &form, Value raw, int64_t g);

class KernelFunctions {
public:
  explicit KernelFunctions(ModuleOp module) : module(module) {}

  /// Calls the kernel, which is made if there is none yet. The arguments: rows; the numbers of those of the block; the
  /// first of them that this pass takes; weights; where the block starts in them; the packed banks; where the window to
  /// fetch starts in these; the first of its streams; steps over k in a part; the tile; the first k; how many k there
  /// are in a part; how many streams the share has, at least one; how many parts there are; the distance between two of
  /// them, in steps; and that between two panels side by side, in elements, of the weights and of the window.
  void call(OpBuilder &b, Location loc, const KernelFunctionForm &form, const KernelVariant &variant,
            ValueRange arguments);

  /// The private function `name` of these arguments, without results; `body` emits it (but for its end) if there is
  /// none yet.
  func::FuncOp get(StringRef name, TypeRange types, function_ref<void(OpBuilder &, Block &)> body);

private:
  ModuleOp module;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_KERNELFUNCTIONS_H
