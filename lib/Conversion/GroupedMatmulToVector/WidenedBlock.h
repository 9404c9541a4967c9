//===- WidenedBlock.h - a block of narrow weights as floats ------*- C++ -*-===//
//
// An expert of many rows reads a block of a panel once for every few of them. Where the weights have 16 bits, each of
// these passes would widen them again, which takes registers (bf16: two rows in a pass in place of three) and
// instructions. So the block is widened once, into a buffer that stays in a near cache, and the kernels of f32 weights
// read that. The sums are the same, and in the same order.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_WIDENEDBLOCK_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_WIDENEDBLOCK_H

#include "../Support/KernelTiles.h"
#include "KernelFunctions.h"

namespace mlir::moe {

class WidenedBlock : KernelTiles {
public:
  /// `packed` is the form of the kernels that read the banks themselves; `wholeSteps`: whether k is a multiple of the
  /// k in an iteration of the others.
  WidenedBlock(OpBuilder &b, Location loc, const KernelFunctionForm &packed, bool wholeSteps,
               KernelFunctions &functions);

  /// The form of the kernels that read the buffer.
  const KernelFunctionForm &getForm() const { return form; }
  /// The buffer.
  Value getElements() const { return elements; }

  /// Makes the buffer of a task, in the current block.
  void beginTask();
  /// Fills it with `steps` steps of the banks `weights` from element `at` on.
  void emit(Value weights, Value at, Value steps);

private:
  const KernelFunctionForm packed;
  KernelFunctionForm form;
  KernelFunctions &functions;
  Value elements;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_WIDENEDBLOCK_H
