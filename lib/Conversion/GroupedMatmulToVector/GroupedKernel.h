//===- GroupedKernel.h - what the expert kernels share -----------*- C++ -*-===//
//
// Rows of an expert, indices of the operands of a grouped matmul, and the epilogue on vectors of columns.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_GROUPEDKERNEL_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_GROUPEDKERNEL_H

#include "../Support/KernelTiles.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// The position of `loop` (0, 1 or 2) among the plain results of `map`, or -1.
int64_t positionOf(AffineMap map, unsigned loop);

class GroupedKernel : protected KernelTiles {
protected:
  GroupedKernel(OpBuilder &b, GroupedMatmulOp op, int64_t lanes)
      : KernelTiles(b, op.getLoc()), op(op), lanes(lanes), banks(op.getBanks().size()),
        element(cast<FloatType>(getElementTypeOrSelf(op.getInit()))),
        accumulator(element.getWidth() < 32 ? b.getF32Type() : element) {}

  Value extent(Value memref, int64_t dim) { return b.createOrFold<memref::DimOp>(loc, memref, dim); }

  /// Whether the number of columns is known to be a multiple of `by`.
  bool columnsDivideBy(int64_t by) {
    auto type = cast<ShapedType>(op.getInit().getType());
    return !type.isDynamicDim(1) && type.getDimSize(1) % by == 0;
  }

  /// Indices of an operand: loop 0 is the expert, `second` and `third` stand for (k, n) of a bank or (p, n) of an extra
  /// operand.
  SmallVector<Value> at(AffineMap map, Value second, Value third);

  /// The rows of `a` that `count` pairs from `pair` on read.
  SmallVector<Value> gather(Value pair, int64_t count);

  /// An expert, and columns or panels of its from `first` to `last`.
  struct TaskRange {
    Value expert, first, last;
  };
  /// The rows of a task's expert, and its panels; where those of the next task begin in the banks, if it is known.
  struct PanelTask {
    Value expert, begin, rows, first, last, following;
  };
  /// The columns or panels of an expert that a task takes, one after the other; `adapts`: at most so many, fewer where
  /// there are more threads, or where a few experts have most of the rows.
  struct TaskGrain {
    int64_t most;
    bool adapts = false;
  };
  /// About `taskBytes` in a task. Small matrices are divided the same way for all, and outlining puts several of their
  /// tasks together where they are too little work.
  TaskGrain getTaskGrain(int64_t panels, int64_t panelBytes, int64_t taskBytes);

  /// The loops over the tasks, into which it goes: one per expert and `grain` of the `count` columns or panels. Where
  /// the experts add to the same rows, all of them are one task for the same columns, so that the order of a sum is
  /// that of the experts.
  TaskRange emitTaskLoops(Value count, const TaskGrain &grain);
  /// These for `panels` panels (of `panelBytes` bytes each) of which `together` are multiplied side by side: no task
  /// ends between them.
  TaskRange emitPanelTasks(int64_t panels, int64_t panelBytes, int64_t taskBytes, int64_t together);
  /// Where the panels of the task behind `task` begin (on one thread), as `startOf` gives it: of the `panels` panels of
  /// the same expert, or of the next one that has rows.
  Value emitFollowing(const TaskRange &task, int64_t panels, function_ref<Value(Value ofExpert, Value panel)> startOf);

  /// Applies the epilogue to `sums` (one vector per bank, of the columns from `column` on of pair `p`) and stores it,
  /// or adds it to the pair's target.
  void finish(Value p, Value column, ArrayRef<Value> sums, Value mask);

private:
  /// Tasks that a thread gets at least, if there are enough panels: so many that it does not wait long for the others,
  /// also if they have less of their processors. Where a task has the rows of all experts, it reads them again for each
  /// of its tasks.
  static constexpr int64_t kTasksPerThread = 8, kFusedTasksPerThread = 4;

  /// How many threads the host has.
  Value emitThreads();
  /// The number of panels in a task, 1 to `most`: fewer for more threads, and where a few experts have most of the
  /// rows. No result depends on it.
  Value emitGrain(Value count, int64_t most);
  /// The next expert that has rows, or this one.
  Value emitNextExpert();

protected:
  GroupedMatmulOp op;
  int64_t lanes;
  unsigned banks;
  FloatType element, accumulator;
  /// The expert of the task that is being emitted.
  Value expert;
};

/// Emits the kernels for banks in panels (see PanelLayout.h) in place of `op`; with `byTiles`, experts of many rows are
/// multiplied by tile instructions, which may round f32 rows with `roundRows`; with `batchInvariant`, sums have the
/// same order for any number of rows.
class KernelFunctions;
void emitPanelKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions, bool byTiles,
                      bool roundRows, bool batchInvariant);

/// Emits the kernels for quantised banks in panels (see QuantPanels.h) in place of `op`: with floats, or with integers.
void emitExactKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions, bool batchInvariant);
struct IntegerDot;
void emitIntegerKernels(OpBuilder &b, GroupedMatmulOp op, const IntegerDot &dot, KernelFunctions &functions,
                        bool byTiles);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_GROUPEDKERNEL_H
