//===- ParallelizeLoops.cpp - loops over rows become parallel -------------===//
//
// A loop is parallel if no iteration reads what another one writes. That is proved here for one form only, which is
// what loops over tokens have: every buffer from outside that the loop writes is touched in the row of the iteration
// alone, b[i, ...] or a subview [i, ...] [1, ...].
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Interfaces/ViewLikeInterface.h"
#include "moe/Transforms/Passes.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-parallelize-loops"
static llvm::TrackingStatistic numParallel(DEBUG_TYPE, "num-parallel", "Loops over rows that became parallel");
static llvm::TrackingStatistic numSerial(DEBUG_TYPE, "num-serial", "Loops that write to buffers and stayed serial");

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPARALLELIZELOOPSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// What a loop does with one buffer from outside.
struct Use {
  bool read = false, written = false;
  /// Each access is to the row of its iteration, through the one value `view`.
  bool inRow = true;
  Value view;
};

class LoopAnalysis {
public:
  explicit LoopAnalysis(scf::ForOp loop) : loop(loop) {}

  /// Empty if the loop is parallel; else why not.
  std::string run() {
    if (loop.getNumResults() > 0)
      return "it carries values from iteration to iteration";
    if (getConstantIntValue(loop.getStep()) != 1)
      return "its step is not 1";
    std::string why;
    loop.getBody()->walk([&](Operation *op) {
      why = visit(op);
      return why.empty() ? WalkResult::advance() : WalkResult::interrupt();
    });
    if (!why.empty())
      return why;
    for (auto &[root, use] : uses) {
      writes |= use.written;
      if (!use.written)
        continue;
      if (!root.getDefiningOp<memref::AllocOp>())
        return "it writes to a buffer that may have another name";
      if (!use.inRow)
        return "it writes to other rows of a buffer than its own";
    }
    return "";
  }

  bool writesBuffers() const { return writes; }

private:
  std::string visit(Operation *op) {
    if (auto load = dyn_cast<memref::LoadOp>(op))
      return access(load.getMemRef(), load.getIndices(), /*write=*/false);
    if (auto store = dyn_cast<memref::StoreOp>(op))
      return access(store.getMemRef(), store.getIndices(), /*write=*/true);
    if (auto copy = dyn_cast<memref::CopyOp>(op)) {
      std::string why = access(copy.getSource(), {}, /*write=*/false);
      return why.empty() ? access(copy.getTarget(), {}, /*write=*/true) : why;
    }
    if (auto structured = dyn_cast<linalg::LinalgOp>(op)) {
      // A product is worth more as a parallel loop of its own.
      if (structured.getNumReductionLoops() > 0)
        return "it has a reduction inside, which is parallel by itself";
      for (OpOperand &operand : op->getOpOperands()) {
        if (!isa<MemRefType>(operand.get().getType()))
          continue;
        std::string why = access(operand.get(), {}, structured.isDpsInit(&operand));
        if (!why.empty())
          return why;
      }
      return "";
    }
    if (isa<memref::AllocOp, memref::AllocaOp, memref::DeallocOp, ViewLikeOpInterface>(op))
      return "";
    // Ops inside are visited by themselves.
    if (op->hasTrait<OpTrait::HasRecursiveMemoryEffects>() || op->hasTrait<OpTrait::IsTerminator>() ||
        isMemoryEffectFree(op))
      return "";
    return ("it contains '" + op->getName().getStringRef() + "'").str();
  }

  bool isOutside(Value value) { return loop.isDefinedOutsideOfLoop(value); }

  /// `indices` are those of a single element; without them the whole of `memref` is meant.
  std::string access(Value memref, ValueRange indices, bool write) {
    bool inRow = isOutside(memref) && !indices.empty() && indices.front() == loop.getInductionVar();
    while (!isOutside(memref)) {
      Operation *op = memref.getDefiningOp();
      if (!op)
        return "a buffer is carried through a loop";
      if (isa<memref::AllocOp, memref::AllocaOp>(op))
        return ""; // the iteration's own
      if (auto slice = dyn_cast<memref::SubViewOp>(op)) {
        inRow = isOutside(slice.getSource()) &&
                getValueOrNull(slice.getMixedOffsets().front()) == loop.getInductionVar() &&
                getConstantIntValue(slice.getMixedSizes().front()) == 1;
        memref = slice.getSource();
      } else if (auto view = dyn_cast<ViewLikeOpInterface>(op)) {
        inRow = false;
        memref = view.getViewSource();
      } else {
        return ("a buffer comes from '" + op->getName().getStringRef() + "'").str();
      }
    }
    // Rows of a strided view may overlap.
    inRow &= cast<MemRefType>(memref.getType()).getLayout().isIdentity();
    Value root = memref;
    while (auto view = root.getDefiningOp<ViewLikeOpInterface>())
      root = view.getViewSource();
    if (Operation *op = root.getDefiningOp(); op && !isa<memref::AllocOp, memref::GetGlobalOp>(op))
      return ("a buffer comes from '" + op->getName().getStringRef() + "'").str();
    Use &use = uses[root];
    (write ? use.written : use.read) = true;
    use.inRow &= inRow && (!use.view || use.view == memref);
    use.view = memref;
    return "";
  }

  static Value getValueOrNull(OpFoldResult value) { return dyn_cast<Value>(value); }

  scf::ForOp loop;
  bool writes = false;
  llvm::MapVector<Value, Use> uses;
};

void makeParallel(scf::ForOp loop) {
  OpBuilder b(loop);
  auto parallel = scf::ParallelOp::create(b, loop.getLoc(), loop.getLowerBound(), loop.getUpperBound(), loop.getStep());
  loop.getInductionVar().replaceAllUsesWith(parallel.getInductionVars()[0]);
  Block *body = parallel.getBody();
  body->getOperations().splice(body->begin(), loop.getBody()->getOperations(), loop.getBody()->begin(),
                               std::prev(loop.getBody()->end()));
  loop.erase();
}

struct ParallelizeLoops : impl::MoeParallelizeLoopsPassBase<ParallelizeLoops> {
  void runOnOperation() override {
    SmallVector<scf::ForOp> loops;
    getOperation()->walk<WalkOrder::PreOrder>([&](Operation *op) {
      if (isa<scf::ParallelOp, scf::ForallOp, linalg::LinalgOp>(op))
        return WalkResult::skip();
      auto loop = dyn_cast<scf::ForOp>(op);
      if (!loop)
        return WalkResult::advance();
      LoopAnalysis analysis(loop);
      std::string why = analysis.run();
      if (why.empty() && analysis.writesBuffers()) {
        loops.push_back(loop);
        return WalkResult::skip();
      }
      ++numSerial;
      remark::missed(loop.getLoc(), remark::RemarkOpts::name("LoopSerial").category(DEBUG_TYPE))
          << "loop stays serial: " + (why.empty() ? "it writes to no buffer" : why);
      return WalkResult::advance();
    });
    for (scf::ForOp loop : loops) {
      ++numParallel;
      remark::passed(loop.getLoc(), remark::RemarkOpts::name("LoopParallel").category(DEBUG_TYPE))
          << "loop over rows is parallel";
      makeParallel(loop);
    }
  }
};
} // namespace
} // namespace mlir::moe
