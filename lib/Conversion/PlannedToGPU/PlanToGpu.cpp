//===- PlanToGpu.cpp - the plan of a routing, made by warps ---------------===//
//
// A stable counting sort without atomics and without the host: one warp per expert runs over all slots, 32 at a time,
// and a vote tells each lane how many matches are in front of it. A first launch counts, a second one adds the
// counts of the experts before its own and places the pairs.
//
//===----------------------------------------------------------------------===//
#include "GpuBuilder.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTPLANTOGPUPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

class PlanKernels {
public:
  PlanKernels(GpuBuilder &b, DevicePlanOp op) : b(b), op(op), experts(op.getExperts()) {}

  void emit() {
    indices = GpuView::of(b, op.getIndices());
    tokens = b.createOrFold<memref::DimOp>(b.getLoc(), op.getIndices(), 0);
    slots = b.createOrFold<memref::DimOp>(b.getLoc(), op.getIndices(), 1);
    offsets = GpuView::of(b, op.getOffsets());
    rows = GpuView::of(b, op.getRows());
    slotsOut = GpuView::of(b, op.getSlots());
    pairExperts = GpuView::of(b, op.getPairExperts());
    inverse = GpuView::of(b, op.getInverse());
    // One warp more, for the slots without an expert.
    launch(experts + 1, [&](Value expert) { place(expert); });
  }

private:
  static constexpr int64_t kWarps = 4;

  /// body(warp) on `warps` warps.
  void launch(int64_t warps, function_ref<void(Value)> body) {
    Value one = b.index(1);
    auto op =
        gpu::LaunchOp::create(b, b.index(llvm::divideCeil(warps, kWarps)), one, one, b.index(32 * kWarps), one, one);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&op.getBody().front());
    Value thread = b.thread();
    lane = b.modulo(thread, 32);
    Value warp = b.add(b.mul(b.block(gpu::Dimension::x), kWarps), b.divide(thread, 32));
    {
      auto inside = scf::IfOp::create(b, b.less(warp, b.i32(warps)), false);
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(inside.thenBlock());
      body(warp);
    }
    gpu::TerminatorOp::create(b);
  }

  /// Sums over a warp; every lane gets the sum.
  Value sumOfWarp(Value v) {
    for (int64_t distance = 16; distance >= 1; distance /= 2) {
      auto other = gpu::ShuffleOp::create(b, v, distance, 32, gpu::ShuffleMode::XOR);
      v = b.add(v, other.getShuffleResult());
    }
    return v;
  }

  /// For 32 slots at a time: body(number of this lane's slot, its expert or -2 behind the end, state).
  Values forSlots(ValueRange state, function_ref<Values(Value, Value, ValueRange)> body) {
    Value base = b.global(indices.address);
    Value total = b.mul(b.toI64(tokens), b.toI64(slots));
    auto loop = scf::ForOp::create(b, b.i64(0), total, b.i64(32), state);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value slot = b.add(loop.getInductionVar(), b.toI64(lane));
    auto there = scf::IfOp::create(b, TypeRange{b.getI32Type()}, b.less(slot, total), true);
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(there.thenBlock());
      scf::YieldOp::create(b, b.load(b.getI32Type(), b.advance(base, slot, 4)));
      b.setInsertionPointToStart(there.elseBlock());
      scf::YieldOp::create(b, b.i32(-2));
    }
    scf::YieldOp::create(b, body(slot, there.getResult(0), loop.getRegionIterArgs()));
    return llvm::to_vector_of<Value>(loop.getResults());
  }

  void whenFirstLane(function_ref<void()> body) { when(b.equal(lane, b.i32(0)), body); }
  void when(Value condition, function_ref<void()> body) {
    auto op = scf::IfOp::create(b, condition, false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.thenBlock());
    body();
  }

  void place(Value expert) {
    // Its pairs begin behind those of the experts before it. Each warp counts these itself: as many reads as if the
    // counts came from a launch in front of this one, and no launch. No expert is a negative number.
    Value before = forSlots(b.i32(0), [&](Value, Value e, ValueRange state) -> Values {
                     Value isBefore = b.cmp(arith::CmpIPredicate::ult, e, expert);
                     return {b.add(state[0], b.select(isBefore, b.i32(1), b.i32(0)))};
                   }).front();
    Value begin = b.toI64(sumOfWarp(before));
    auto put = [&](const GpuView &view, Value at, Value value) {
      b.store(b.toI64(value), b.advance(b.global(view.address), at, 8));
    };
    whenFirstLane([&] { put(offsets, b.toI64(expert), begin); });
    Value isNone = b.equal(expert, b.i32(experts));
    // The slots without an expert follow behind all pairs: what is looked up for them is row 0, and nobody uses it.
    Value sought = b.select(isNone, b.i32(-1), expert);
    Value lower = b.sub(Value(arith::ShLIOp::create(b, b.i32(1), lane)), b.i32(1));
    forSlots(begin, [&](Value slot, Value e, ValueRange state) -> Values {
      Value match = b.equal(e, sought);
      Value votes = NVVM::VoteSyncOp::create(b, b.getI32Type(), b.i32(-1), match, NVVM::VoteSyncKind::ballot);
      Value inFront = math::CtPopOp::create(b, b.land(votes, lower));
      Value p = b.add(state[0], b.toI64(inFront));
      when(match, [&] {
        Value zero = b.i64(0), width = b.toI64(slots);
        Value row = arith::DivUIOp::create(b, slot, width), column = arith::RemUIOp::create(b, slot, width);
        put(rows, p, b.select(isNone, zero, row));
        put(slotsOut, p, b.select(isNone, zero, column));
        put(pairExperts, p, b.select(isNone, zero, b.toI64(expert)));
        put(inverse, slot, b.select(isNone, b.i64(-1), p));
      });
      return {b.add(state[0], b.toI64(math::CtPopOp::create(b, votes)))};
    });
  }

  GpuBuilder &b;
  DevicePlanOp op;
  int64_t experts;
  GpuView indices, offsets, rows, slotsOut, pairExperts, inverse;
  Value tokens, slots, lane;
};

struct ConvertPlanToGpuPass : moe::impl::ConvertPlanToGpuPassBase<ConvertPlanToGpuPass> {
  void runOnOperation() override {
    SmallVector<DevicePlanOp> ops;
    getOperation()->walk([&](DevicePlanOp op) { ops.push_back(op); });
    for (DevicePlanOp op : ops) {
      OpBuilder builder(op);
      GpuBuilder b(op.getLoc(), builder);
      b.setInsertionPoint(op);
      PlanKernels(b, op).emit();
      op.erase();
    }
  }
};
} // namespace
