//===- BlockStages.h - an iteration shared by a block's threads ---*- C++ -*-===//
#ifndef LIB_CONVERSION_PLANNEDTOGPU_BLOCKSTAGES_H
#define LIB_CONVERSION_PLANNEDTOGPU_BLOCKSTAGES_H

#include "GpuBuilder.h"
#include "llvm/ADT/MapVector.h"
#include <string>

namespace mlir::moe {

/// The buffer that `value` is a view of.
Value getBaseBuffer(Value value);

/// The body of a parallel loop as stages that the threads of a block run one after the other: parallel loops inside,
/// loops over rows, and what one thread does. Buffers of the iteration lie in shared memory.
class BlockStages {
public:
  static constexpr int64_t kThreads = 128;

  /// Not valid, with a reason, if the body is anything else or its buffers take more than `limit` bytes.
  BlockStages(scf::ParallelOp loop, int64_t limit);

  bool isValid() const { return why.empty(); }
  const std::string &getReason() const { return why; }
  unsigned getNumBarriers() const { return barriers; }

  /// Emits the launch in front of the loop, which stays.
  gpu::LaunchOp emit();

private:
  /// How an op's accesses to one buffer are spread over threads.
  struct Access {
    bool read = false, written = false;
    /// All go through this view, at the variables of the op's loops and whatever follows them: a thread has its own
    /// part.
    Value view;
  };
  struct Stage {
    enum Kind { All, Spread, Rows, One } kind;
    Operation *op;
    llvm::MapVector<Value, Access> accesses;
  };

  void add(Operation *op);
  std::string addBuffer(memref::AllocOp op);
  void findAccesses(Stage &stage);
  bool hasOwnRows(scf::ForOp loop) const;
  bool needsBarrier(const Stage &later, ArrayRef<const Stage *> since) const;
  static bool isSameSpread(const Stage &a, const Stage &b);
  void emitStage(GpuBuilder &b, const Stage &stage, IRMapping &mapping);
  void cloneInto(GpuBuilder &b, Block &body, IRMapping &mapping);

  scf::ParallelOp loop;
  std::string why;
  SmallVector<Stage> stages;
  struct Buffer {
    int64_t offset;
    memref::AllocOp alloc;
  };
  llvm::MapVector<Value, Buffer> buffers;
  int64_t bytes = 0;
  unsigned barriers = 0;
  Value thread;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_PLANNEDTOGPU_BLOCKSTAGES_H
