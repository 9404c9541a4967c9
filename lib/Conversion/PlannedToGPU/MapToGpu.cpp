//===- MapToGpu.cpp - divide a function between host and device -----------===//
#include "BlockStages.h"
#include "GpuBuilder.h"
#include "moe/Gpu/DeviceTable.h"
#include "moe/Gpu/Passes.h"
#include "moe/Support/Remarks.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Interfaces/ViewLikeInterface.h"
#include "mlir/Pass/Pass.h"
#include "llvm/ADT/Statistic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEMAPTOGPUPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "moe-map-to-gpu"
static llvm::TrackingStatistic numParallel(DEBUG_TYPE, "num-parallel", "Launches with a thread per iteration");
static llvm::TrackingStatistic numBlocks(DEBUG_TYPE, "num-blocks", "Launches with a block of threads per iteration");
static llvm::TrackingStatistic numBarriers(DEBUG_TYPE, "num-barriers", "Barriers between the stages of such blocks");
static llvm::TrackingStatistic numSerial(DEBUG_TYPE, "num-serial", "Launches of one thread");
static llvm::TrackingStatistic numReads(DEBUG_TYPE, "num-host-reads", "Elements that the host reads from the device");

namespace {

/// Bytes of a thread's own memory that one buffer may take.
constexpr int64_t kPrivateBytes = 4096;
constexpr int64_t kBlock = 128;

Value baseOf(Value value) { return getBaseBuffer(value); }

bool isSmall(memref::AllocOp alloc) {
  MemRefType type = alloc.getType();
  if (!type.hasStaticShape())
    return false;
  int64_t bits = type.getElementType().isIndex() ? 64 : type.getElementTypeBitWidth();
  return type.getNumElements() * ((bits + 7) / 8) <= kPrivateBytes;
}

/// Whether everything inside can run on the device.
bool isDeviceCode(Operation *op) {
  return !op->walk([&](Operation *inner) {
              if (auto alloc = dyn_cast<memref::AllocOp>(inner))
                return isSmall(alloc) ? WalkResult::advance() : WalkResult::interrupt();
              if (auto dealloc = dyn_cast<memref::DeallocOp>(inner))
                // What is freed here was allocated here.
                return op->isAncestor(baseOf(dealloc.getMemref()).getParentBlock()->getParentOp())
                           ? WalkResult::advance()
                           : WalkResult::interrupt();
              if (isa<CallOpInterface, gpu::LaunchOp, memref::GetGlobalOp, func::ReturnOp>(inner))
                return WalkResult::interrupt();
              return WalkResult::advance();
            }).wasInterrupted();
}

/// A loop all of whose iterations touch rows of their own: see the description of the pass.
bool hasOwnRows(scf::ForOp loop) {
  if (loop.getNumResults() || !isa<IndexType>(loop.getInductionVar().getType()))
    return false;
  auto isInside = [&](Value v) {
    return loop->isProperAncestor(v.getParentBlock()->getParentOp()) || v.getParentBlock() == loop.getBody();
  };
  llvm::SmallPtrSet<Value, 8> written;
  bool ok = true;
  auto eachAccess = [&](function_ref<void(Value memref, ValueRange indices, bool isStore)> visit) {
    loop.walk([&](Operation *op) {
      if (auto load = dyn_cast<memref::LoadOp>(op))
        visit(load.getMemref(), load.getIndices(), false);
      else if (auto store = dyn_cast<memref::StoreOp>(op))
        visit(store.getMemref(), store.getIndices(), true);
    });
  };
  eachAccess([&](Value memref, ValueRange, bool isStore) {
    Value base = baseOf(memref);
    if (!isStore || isInside(base))
      return;
    // Of two allocations one is never a view of the other; of anything else this is not known.
    ok &= base.getDefiningOp<memref::AllocOp>() != nullptr;
    written.insert(base);
  });
  auto startsWithRow = [&](Value memref, ValueRange indices) {
    if (memref.getDefiningOp<memref::AllocOp>())
      return !indices.empty() && indices.front() == loop.getInductionVar();
    auto view = memref.getDefiningOp<memref::SubViewOp>();
    return view && view.getSource().getDefiningOp<memref::AllocOp>() && !view.getMixedOffsets().empty() &&
           llvm::dyn_cast_if_present<Value>(view.getMixedOffsets()[0]) == loop.getInductionVar() &&
           getConstantIntValue(view.getMixedSizes()[0]) == 1;
  };
  eachAccess([&](Value memref, ValueRange indices, bool) {
    if (written.contains(baseOf(memref)))
      ok &= startsWithRow(memref, indices);
  });
  return ok;
}

/// A constant from outside would become a parameter of the kernel, of which nothing is known.
void sinkConstants(gpu::LaunchOp launch) {
  OpBuilder b(launch.getBody());
  llvm::DenseMap<Operation *, Operation *> copies;
  launch.getBody().walk([&](Operation *op) {
    for (OpOperand &operand : op->getOpOperands()) {
      Operation *source = operand.get().getDefiningOp();
      if (!source || launch->isProperAncestor(source) ||
          !(source->hasTrait<OpTrait::ConstantLike>() || isa<LLVM::UndefOp, LLVM::ZeroOp>(source)))
        continue;
      Operation *&copy = copies[source];
      if (!copy) {
        b.setInsertionPointToStart(&launch.getBody().front());
        copy = b.clone(*source);
      }
      operand.set(copy->getResult(cast<OpResult>(operand.get()).getResultNumber()));
    }
  });
}

class Mapper {
public:
  Mapper(func::FuncOp function, int64_t sharedLimit) : function(function), sharedLimit(sharedLimit) {}

  LogicalResult run() {
    for (Block &block : function.getBody())
      if (failed(mapBlock(block)))
        return failure();
    return success();
  }

private:
  LogicalResult mapBlock(Block &block) {
    for (Operation &op : llvm::make_early_inc_range(block))
      if (failed(map(&op)))
        return failure();
    return success();
  }

  LogicalResult map(Operation *op) {
    if (auto loop = dyn_cast<scf::ParallelOp>(op)) {
      if (launchBlocks(loop))
        return success();
      if (loop.getNumResults() == 0 && isDeviceCode(loop)) {
        launchParallel(loop, loop.getLowerBound(), loop.getUpperBound(), loop.getStep(), loop.getInductionVars(),
                       *loop.getBody());
        return success();
      }
      return map(makeSerial(loop));
    }
    if (auto loop = dyn_cast<scf::ForOp>(op)) {
      if (isDeviceCode(loop) && hasOwnRows(loop)) {
        launchParallel(loop, loop.getLowerBound(), loop.getUpperBound(), loop.getStep(), loop.getInductionVar(),
                       *loop.getBody());
        return success();
      }
      bool hasParallel = loop.walk([](scf::ParallelOp) { return WalkResult::interrupt(); }).wasInterrupted();
      if (loop.getNumResults() == 0 && !hasParallel && isDeviceCode(loop)) {
        launchSerial(loop);
        return success();
      }
      return mapRegions(op);
    }
    if (auto load = dyn_cast<memref::LoadOp>(op)) {
      readOnHost(load);
      return success();
    }
    if (isa<memref::StoreOp>(op)) {
      launchSerial(op);
      return success();
    }
    if (isa<gpu::LaunchOp>(op))
      return success();
    if (isa<memref::AllocaOp>(op))
      return op->emitError() << "a stack buffer outside of a kernel cannot be seen by the device";
    if (op->getNumRegions())
      return mapRegions(op);
    if (isa_and_present<linalg::LinalgDialect>(op->getDialect()) || isa<memref::CopyOp>(op))
      return op->emitError() << "'" << op->getName() << "' was expected to be a loop before the mapping to a GPU";
    return success();
  }

  LogicalResult mapRegions(Operation *op) {
    for (Region &region : op->getRegions())
      for (Block &block : region)
        if (failed(mapBlock(block)))
          return failure();
    return success();
  }

  /// A block of threads for each iteration, if what it does can be shared.
  bool launchBlocks(scf::ParallelOp loop) {
    if (loop.getBody()->getOps<scf::ParallelOp>().empty())
      return false;
    BlockStages stages(loop, sharedLimit);
    if (!stages.isValid()) {
      reportDecision(loop, "BlockStages", DEBUG_TYPE, false,
                     "no block of threads per iteration: " + stages.getReason());
      return false;
    }
    gpu::LaunchOp launch = stages.emit();
    ++numBlocks;
    numBarriers += stages.getNumBarriers();
    reportDecision(loop, "BlockStages", DEBUG_TYPE, true,
                   "a block of threads per iteration, " + Twine(stages.getNumBarriers()) + " barriers");
    loop.erase();
    finish(launch);
    return true;
  }

  /// Nested serial loops for a parallel one.
  Operation *makeSerial(scf::ParallelOp loop) {
    OpBuilder b(loop);
    Operation *outermost = nullptr;
    IRMapping mapping;
    for (auto [lower, upper, step, iv] :
         llvm::zip(loop.getLowerBound(), loop.getUpperBound(), loop.getStep(), loop.getInductionVars())) {
      auto serial = scf::ForOp::create(b, loop.getLoc(), lower, upper, step);
      if (!outermost)
        outermost = serial;
      mapping.map(iv, serial.getInductionVar());
      b.setInsertionPointToStart(serial.getBody());
    }
    for (Operation &op : loop.getBody()->without_terminator())
      b.clone(op, mapping);
    loop.erase();
    return outermost;
  }

  void launchParallel(Operation *loop, ValueRange lower, ValueRange upper, ValueRange steps, ValueRange ivs,
                      Block &body) {
    ++numParallel;
    OpBuilder builder(loop);
    GpuBuilder b(loop->getLoc(), builder);
    b.setInsertionPoint(loop);
    SmallVector<Value> trips;
    Value total = b.index(1), zero = b.index(0), one = b.index(1);
    for (auto [from, to, step] : llvm::zip(lower, upper, steps)) {
      Value trip = b.maximum(arith::CeilDivSIOp::create(b, b.sub(to, from), step), zero);
      trips.push_back(trip);
      total = b.mul(total, trip);
    }
    Value blocks = arith::CeilDivSIOp::create(b, total, b.index(kBlock));
    auto launch = gpu::LaunchOp::create(b, blocks, one, one, b.index(kBlock), one, one);
    Block *entry = &launch.getBody().front();
    b.setInsertionPointToStart(entry);
    // 64-bit arithmetic: a launch may have more than 2^31 threads.
    Value id = b.add(b.mul(Value(gpu::BlockIdOp::create(b, gpu::Dimension::x)), kBlock),
                     Value(gpu::ThreadIdOp::create(b, gpu::Dimension::x)));
    auto inside = scf::IfOp::create(b, b.less(id, total), false);
    b.setInsertionPointToEnd(entry);
    gpu::TerminatorOp::create(b);
    b.setInsertionPointToStart(inside.thenBlock());
    IRMapping mapping;
    Value rest = id;
    for (int64_t d = ivs.size() - 1; d >= 0; --d) {
      Value digit = rest;
      if (d > 0) {
        digit = arith::RemUIOp::create(b, rest, trips[d]);
        rest = arith::DivUIOp::create(b, rest, trips[d]);
      }
      mapping.map(ivs[d], b.add(b.mul(digit, steps[d]), lower[d]));
    }
    for (Operation &op : body.without_terminator())
      b.clone(op, mapping);
    loop->erase();
    finish(launch);
  }

  void launchSerial(Operation *op) {
    ++numSerial;
    OpBuilder builder(op);
    GpuBuilder b(op->getLoc(), builder);
    b.setInsertionPoint(op);
    Value one = b.index(1);
    auto launch = gpu::LaunchOp::create(b, one, one, one, one, one, one);
    b.setInsertionPointToStart(&launch.getBody().front());
    b.clone(*op);
    gpu::TerminatorOp::create(b);
    op->erase();
    finish(launch);
  }

  /// Loops inside a kernel are serial, and its buffers the thread's own.
  void finish(gpu::LaunchOp launch) {
    SmallVector<scf::ParallelOp> loops;
    launch.walk([&](scf::ParallelOp loop) { loops.push_back(loop); });
    for (scf::ParallelOp loop : llvm::reverse(loops))
      makeSerial(loop);
    launch.walk([&](memref::DeallocOp op) { op.erase(); });
    SmallVector<memref::AllocOp> allocs;
    launch.walk([&](memref::AllocOp op) { allocs.push_back(op); });
    OpBuilder b(launch.getBody());
    for (memref::AllocOp alloc : allocs) {
      b.setInsertionPointToStart(&launch.getBody().front());
      Value own = memref::AllocaOp::create(b, alloc.getLoc(), alloc.getType());
      alloc.replaceAllUsesWith(own);
      alloc.erase();
    }
  }

  void readOnHost(memref::LoadOp load) {
    ++numReads;
    OpBuilder builder(load);
    GpuBuilder b(load.getLoc(), builder);
    b.setInsertionPoint(load);
    GpuView view = GpuView::of(b, load.getMemref());
    Value at = b.index(0);
    for (auto [i, index] : llvm::enumerate(load.getIndices()))
      at = b.add(at, b.mul(index, view.strides[i]));
    Type type = load.getType();
    Type stored = type.isIndex() ? b.getI64Type() : type.isInteger(1) ? b.getI8Type() : type;
    int64_t bytes = (stored.getIntOrFloatBitWidth() + 7) / 8;
    auto pointer = LLVM::LLVMPointerType::get(b.getContext());
    Value source = LLVM::IntToPtrOp::create(b, pointer, b.toI64(b.add(view.address, b.mul(at, bytes))));
    // One slot per read at the start of the function, so that a loop does not grow the stack.
    Value slot;
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(&function.getBody().front());
      slot = LLVM::AllocaOp::create(b, pointer, b.getI64Type(), b.i64(1));
    }
    LLVM::CallOp::create(b, TypeRange(), kDeviceReadFunction, ValueRange{slot, source, b.i64(bytes)});
    Value value = b.load(stored, slot);
    if (type.isIndex())
      value = b.toIndex(value);
    else if (type.isInteger(1))
      value = arith::TruncIOp::create(b, type, value);
    load.replaceAllUsesWith(value);
    load.erase();
  }

  func::FuncOp function;
  int64_t sharedLimit;
};

struct MoeMapToGpuPass : moe::impl::MoeMapToGpuPassBase<MoeMapToGpuPass> {
  using MoeMapToGpuPassBase::MoeMapToGpuPassBase;

  void runOnOperation() override {
    declareDeviceTable(getOperation());
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (!function.isExternal() && failed(Mapper(function, sharedLimit).run()))
        return signalPassFailure();
    getOperation().walk([](gpu::LaunchOp launch) { sinkConstants(launch); });
  }
};
} // namespace
