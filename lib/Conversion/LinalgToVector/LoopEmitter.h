//===- LoopEmitter.h - the loops around a vectorised body --------*- C++ -*-===//
#ifndef LIB_CONVERSION_LINALGTOVECTOR_LOOPEMITTER_H
#define LIB_CONVERSION_LINALGTOVECTOR_LOOPEMITTER_H

#include "LaneBody.h"
#include "VectorLoop.h"

namespace mlir::moe {

/// Replaces `op` by loops over vectors. `grain` is the number of body iterations that are worth a task of their own.
class LoopEmitter {
public:
  LoopEmitter(RewriterBase &b, linalg::GenericOp op, const VectorLoop &choice, int64_t grain);
  void run();

private:
  using SpanFn = llvm::function_ref<void(Value begin, Value end)>;

  void emitTasks();
  void emitRows(Value begin, Value end);
  /// One row: the loops that are left are the vector loop, from `begin` to `end`, and the reductions.
  void emitRow(Value begin, Value end);

  void emitColumns(Value begin, Value end);
  void emitColumnTile(Value begin, int64_t vectors, Value mask, Value active);
  void emitReductionNest(unsigned level, Value begin, int64_t vectors, Value mask, Value active,
                         SmallVector<Value> &accumulators);

  void emitRowReduction(unsigned level, Value end);
  void emitRowRun(Value end);
  SmallVector<Value> mergeVectors(Value begin, int64_t vectors, Value mask, Value active, ValueRange accumulators);
  Value combine(const Combiner &combiner, Value left, Value right);
  Value foldLanes(const Combiner &combiner, Value vector);

  /// The steps of the vector loop: `vectors` vectors at a time, then single ones, then the masked rest.
  /// `tile(begin, vectors, mask, active, carried)` returns what is carried to the next step.
  using TileFn = llvm::function_ref<SmallVector<Value>(Value begin, int64_t vectors, Value mask, Value active,
                                                       ValueRange carried)>;
  SmallVector<Value> emitSteps(Value begin, Value end, int64_t vectors, ValueRange carried, TileFn tile);

  Value index(int64_t value);
  Value extent(unsigned loop);
  Value product(ArrayRef<unsigned> loops);
  Value add(Value x, Value y);
  Value sub(Value x, Value y);
  Value mul(Value x, Value y);

  RewriterBase &b;
  linalg::GenericOp op;
  Location loc;
  const VectorLoop &choice;
  int64_t lanes, grain;
  /// The parallel loops and the reductions, without the vector loop.
  SmallVector<unsigned> rows, reductions;
  SmallVector<OpFoldResult> extents;
  SmallVector<Value> ivs;
  std::optional<LaneBody> body;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_LINALGTOVECTOR_LOOPEMITTER_H
