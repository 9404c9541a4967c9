//===- BlockStages.cpp - an iteration shared by a block's threads ---------===//
//
//   scf.parallel (%b) ... {                        launch: block %b
//     %s = memref.alloc() : 4x64 floats              %s in shared memory
//     scf.parallel (%i, %j) ... { %s[%i, %j] = }      each thread its part of the (%i, %j)
//     scf.for %t ... { row %t of %r from %s }          barrier; thread %t row %t
//   }
//
// A barrier stands between two stages where the later one touches what another thread may have written, or writes what
// another one may still read: not where both spread the same loops over the threads and touch the element of their own.
//
//===----------------------------------------------------------------------===//
#include "BlockStages.h"

#include "mlir/Interfaces/LoopLikeInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Interfaces/ValueBoundsOpInterface.h"
#include "mlir/Interfaces/ViewLikeInterface.h"

using namespace mlir;
using namespace mlir::moe;

Value moe::getBaseBuffer(Value value) {
  while (auto view = value.getDefiningOp<ViewLikeOpInterface>())
    value = view.getViewSource();
  return value;
}

BlockStages::BlockStages(scf::ParallelOp loop, int64_t limit) : loop(loop) {
  if (loop.getNumLoops() != 1 || loop.getNumResults() > 0) {
    why = "it is not one loop without results";
    return;
  }
  for (Operation &op : loop.getBody()->without_terminator()) {
    add(&op);
    if (!why.empty())
      return;
  }
  if (llvm::none_of(stages, [](const Stage &stage) { return stage.kind == Stage::Spread; }))
    why = "nothing in it is parallel";
  else if (bytes > limit)
    why = ("its buffers take " + Twine(bytes) + " bytes, of " + Twine(limit) + " that a block has").str();
}

/// Takes room for a buffer of the iteration; its dynamic sizes have upper bounds.
std::string BlockStages::addBuffer(memref::AllocOp op) {
  MemRefType type = op.getType();
  if (!type.getLayout().isIdentity())
    return "a buffer in it has a layout";
  int64_t bits = type.getElementType().isIndex() ? 64 : type.getElementTypeBitWidth(), size = (bits + 7) / 8;
  auto next = op.getDynamicSizes().begin();
  for (int64_t extent : type.getShape()) {
    if (ShapedType::isDynamic(extent)) {
      FailureOr<int64_t> bound = ValueBoundsConstraintSet::computeConstantBound(
          presburger::BoundType::UB, ValueBoundsConstraintSet::Variable(OpFoldResult(*next++)), nullptr,
          /*closedUB=*/true);
      if (failed(bound))
        return "the size of a buffer in it has no bound";
      extent = *bound;
    }
    size *= extent;
  }
  buffers[op.getResult()] = {bytes, op};
  bytes += llvm::alignTo(size, 16);
  return "";
}

void BlockStages::add(Operation *op) {
  if (auto alloc = dyn_cast<memref::AllocOp>(op)) {
    why = addBuffer(alloc);
    stages.push_back({Stage::All, op, {}});
    return;
  }
  if (isa<memref::DeallocOp>(op))
    return;
  Stage stage{Stage::One, op, {}};
  auto isPrivate = [&](memref::AllocOp alloc) { return alloc.getType().hasStaticShape(); };
  bool simple = !op->walk([&](Operation *inner) {
                     bool fits = isMemoryEffectFree(inner) || inner->hasTrait<OpTrait::HasRecursiveMemoryEffects>() ||
                                 isa<memref::LoadOp, memref::StoreOp, memref::DeallocOp>(inner);
                     if (auto alloc = dyn_cast<memref::AllocOp>(inner))
                       fits = isPrivate(alloc);
                     return fits ? WalkResult::advance() : WalkResult::interrupt();
                   }).wasInterrupted();
  if (!simple) {
    why = ("it contains '" + op->getName().getStringRef() + "'").str();
    return;
  }
  if (auto parallel = dyn_cast<scf::ParallelOp>(op); parallel && parallel.getNumResults() == 0)
    stage.kind = Stage::Spread;
  else if (auto rows = dyn_cast<scf::ForOp>(op); rows && rows.getNumResults() == 0)
    stage.kind = hasOwnRows(rows) ? Stage::Rows : Stage::One;
  else if (isMemoryEffectFree(op) || isa<memref::LoadOp>(op))
    stage.kind = Stage::All;
  else if (!isa<memref::StoreOp>(op) && op->getNumResults() > 0) {
    why = ("it contains '" + op->getName().getStringRef() + "' with results").str();
    return;
  }
  findAccesses(stage);
  stages.push_back(std::move(stage));
}

void BlockStages::findAccesses(Stage &stage) {
  SmallVector<Value> ivs;
  if (auto parallel = dyn_cast<scf::ParallelOp>(stage.op))
    llvm::append_range(ivs, parallel.getInductionVars());
  else if (stage.kind == Stage::Rows)
    ivs.push_back(cast<scf::ForOp>(stage.op).getInductionVar());
  stage.op->walk([&](Operation *inner) {
    Value memref;
    ValueRange at;
    bool isStore = false;
    if (auto load = dyn_cast<memref::LoadOp>(inner)) {
      memref = load.getMemref();
      at = load.getIndices();
    } else if (auto store = dyn_cast<memref::StoreOp>(inner)) {
      memref = store.getMemref();
      at = store.getIndices();
      isStore = true;
    } else {
      return;
    }
    Value base = getBaseBuffer(memref);
    if (stage.op->isAncestor(base.getParentBlock()->getParentOp()))
      return; // the thread's own
    auto [it, isNew] = stage.accesses.insert({base, Access()});
    Access &access = it->second;
    (isStore ? access.written : access.read) = true;
    bool own = !ivs.empty() && at.size() >= ivs.size() && llvm::equal(at.take_front(ivs.size()), ivs);
    if (isNew)
      access.view = own ? memref : Value();
    else if (!own || access.view != memref)
      access.view = Value();
  });
}

/// Whether iteration t touches row t alone of every buffer that the loop writes.
bool BlockStages::hasOwnRows(scf::ForOp rows) const {
  if (!isa<IndexType>(rows.getInductionVar().getType()))
    return false;
  struct Use {
    Value view;
    bool written = false, inRow = true;
  };
  llvm::MapVector<Value, Use> uses;
  bool known = true;
  rows.getBody()->walk([&](Operation *op) {
    Value memref;
    ValueRange at;
    if (auto load = dyn_cast<memref::LoadOp>(op)) {
      memref = load.getMemref();
      at = load.getIndices();
    } else if (auto store = dyn_cast<memref::StoreOp>(op)) {
      memref = store.getMemref();
      at = store.getIndices();
    } else {
      return;
    }
    bool inRow = rows.isDefinedOutsideOfLoop(memref) && !at.empty() && at.front() == rows.getInductionVar();
    while (!rows.isDefinedOutsideOfLoop(memref)) {
      Operation *source = memref.getDefiningOp();
      if (isa_and_present<memref::AllocOp>(source))
        return; // the iteration's own
      if (auto slice = dyn_cast_if_present<memref::SubViewOp>(source)) {
        inRow = rows.isDefinedOutsideOfLoop(slice.getSource()) &&
                llvm::dyn_cast_if_present<Value>(slice.getMixedOffsets()[0]) == rows.getInductionVar() &&
                getConstantIntValue(slice.getMixedSizes()[0]) == 1;
        memref = slice.getSource();
      } else if (auto view = dyn_cast_if_present<ViewLikeOpInterface>(source)) {
        inRow = false;
        memref = view.getViewSource();
      } else {
        known = false;
        return;
      }
    }
    Use &use = uses[getBaseBuffer(memref)];
    use.written |= isa<memref::StoreOp>(op);
    use.inRow &= inRow && (!use.view || use.view == memref);
    use.view = memref;
  });
  // Of two allocations one is never a view of the other; of anything else this is not known.
  for (auto &[base, use] : uses)
    known &= !use.written || (use.inRow && base.getDefiningOp<memref::AllocOp>());
  return known;
}

/// Whether both give an index to the same thread.
bool BlockStages::isSameSpread(const Stage &a, const Stage &b) {
  auto isSpread = [](const Stage &stage) { return stage.kind == Stage::Spread || stage.kind == Stage::Rows; };
  if (!isSpread(a) || !isSpread(b))
    return false;
  auto same = [](OpFoldResult u, OpFoldResult v) {
    std::optional<int64_t> c = getConstantIntValue(u);
    return u == v || (c && c == getConstantIntValue(v));
  };
  auto x = cast<LoopLikeOpInterface>(a.op), y = cast<LoopLikeOpInterface>(b.op);
  return llvm::equal(*x.getLoopLowerBounds(), *y.getLoopLowerBounds(), same) &&
         llvm::equal(*x.getLoopUpperBounds(), *y.getLoopUpperBounds(), same) &&
         llvm::equal(*x.getLoopSteps(), *y.getLoopSteps(), same);
}

bool BlockStages::needsBarrier(const Stage &later, ArrayRef<const Stage *> since) const {
  for (const Stage *earlier : since)
    for (const auto &[base, access] : later.accesses) {
      auto it = earlier->accesses.find(base);
      if (it == earlier->accesses.end() || !(access.written || it->second.written))
        continue;
      bool own = access.view && access.view == it->second.view && isSameSpread(*earlier, later);
      bool oneThread = earlier->kind == Stage::One && later.kind == Stage::One;
      if (!own && !oneThread)
        return true;
    }
  return false;
}

/// Clones ops; what is a view of shared memory is one in its type.
void BlockStages::cloneInto(GpuBuilder &b, Block &body, IRMapping &mapping) {
  for (Operation &op : body.without_terminator()) {
    Operation *copy = b.clone(op, mapping);
    copy->walk<WalkOrder::PreOrder>([](Operation *inner) {
      auto view = dyn_cast<ViewLikeOpInterface>(inner);
      if (!view)
        return;
      auto source = cast<MemRefType>(view.getViewSource().getType());
      if (auto type = dyn_cast<MemRefType>(inner->getResult(0).getType()))
        inner->getResult(0).setType(
            static_cast<MemRefType>(MemRefType::Builder(type).setMemorySpace(source.getMemorySpace())));
    });
  }
}

void BlockStages::emitStage(GpuBuilder &b, const Stage &stage, IRMapping &mapping) {
  OpBuilder::InsertionGuard guard(b);
  if (stage.kind == Stage::One) {
    auto first = scf::IfOp::create(b, b.equal(thread, b.index(0)), false);
    b.setInsertionPointToStart(first.thenBlock());
    IRMapping inner(mapping);
    b.clone(*stage.op, inner);
    return;
  }
  SmallVector<Value> lower, upper, steps, ivs;
  auto mapped = [&](ValueRange values, SmallVectorImpl<Value> &into) {
    for (Value value : values)
      into.push_back(mapping.lookupOrDefault(value));
  };
  Block *body;
  if (auto parallel = dyn_cast<scf::ParallelOp>(stage.op)) {
    mapped(parallel.getLowerBound(), lower);
    mapped(parallel.getUpperBound(), upper);
    mapped(parallel.getStep(), steps);
    llvm::append_range(ivs, parallel.getInductionVars());
    body = parallel.getBody();
  } else {
    auto rows = cast<scf::ForOp>(stage.op);
    mapped(rows.getLowerBound(), lower);
    mapped(rows.getUpperBound(), upper);
    mapped(rows.getStep(), steps);
    ivs.push_back(rows.getInductionVar());
    body = rows.getBody();
  }
  SmallVector<Value> trips;
  Value total = b.index(1), zero = b.index(0);
  for (auto [from, to, step] : llvm::zip(lower, upper, steps)) {
    Value trip = b.maximum(arith::CeilDivSIOp::create(b, b.sub(to, from), step), zero);
    trips.push_back(trip);
    total = b.mul(total, trip);
  }
  auto mine = scf::ForOp::create(b, thread, total, b.index(kThreads));
  b.setInsertionPointToStart(mine.getBody());
  IRMapping inner(mapping);
  Value rest = mine.getInductionVar();
  for (int64_t d = ivs.size() - 1; d >= 0; --d) {
    Value digit = rest;
    if (d > 0) {
      digit = arith::RemUIOp::create(b, rest, trips[d]);
      rest = arith::DivUIOp::create(b, rest, trips[d]);
    }
    inner.map(ivs[d], b.add(b.mul(digit, steps[d]), lower[d]));
  }
  cloneInto(b, *body, inner);
}

gpu::LaunchOp BlockStages::emit() {
  OpBuilder builder(loop);
  GpuBuilder b(loop.getLoc(), builder);
  b.setInsertionPoint(loop);
  Value one = b.index(1), zero = b.index(0);
  Value lower = loop.getLowerBound()[0], step = loop.getStep()[0];
  Value blocks = b.maximum(arith::CeilDivSIOp::create(b, b.sub(loop.getUpperBound()[0], lower), step), zero);
  auto launch =
      gpu::LaunchOp::create(b, blocks, one, one, b.index(kThreads), one, one, b.i32(std::max<int64_t>(bytes, 16)));
  b.setInsertionPointToStart(&launch.getBody().front());
  thread = gpu::ThreadIdOp::create(b, gpu::Dimension::x);
  Value block = gpu::BlockIdOp::create(b, gpu::Dimension::x);
  IRMapping mapping;
  mapping.map(loop.getInductionVars()[0], b.add(b.mul(block, step), lower));
  auto space = gpu::AddressSpaceAttr::get(b.getContext(), gpu::AddressSpace::Workgroup);
  Value shared = gpu::DynamicSharedMemoryOp::create(
      b, MemRefType::get({ShapedType::kDynamic}, b.getI8Type(), MemRefLayoutAttrInterface(), space));
  SmallVector<const Stage *> since;
  for (const Stage &stage : stages) {
    if (auto buffer = buffers.find(stage.op->getNumResults() ? stage.op->getResult(0) : Value());
        buffer != buffers.end()) {
      memref::AllocOp alloc = buffer->second.alloc;
      SmallVector<Value> sizes;
      for (Value size : alloc.getDynamicSizes())
        sizes.push_back(mapping.lookupOrDefault(size));
      auto type = static_cast<MemRefType>(MemRefType::Builder(alloc.getType()).setMemorySpace(space));
      mapping.map(alloc.getResult(),
                  memref::ViewOp::create(b, type, shared, b.index(buffer->second.offset), sizes).getResult());
      continue;
    }
    if (needsBarrier(stage, since)) {
      b.barrier();
      ++barriers;
      since.clear();
    }
    since.push_back(&stage);
    if (stage.kind == Stage::All) {
      Operation *copy = b.clone(*stage.op, mapping);
      if (auto view = dyn_cast<ViewLikeOpInterface>(copy)) {
        auto source = cast<MemRefType>(view.getViewSource().getType());
        auto type = cast<MemRefType>(copy->getResult(0).getType());
        copy->getResult(0).setType(
            static_cast<MemRefType>(MemRefType::Builder(type).setMemorySpace(source.getMemorySpace())));
      }
      continue;
    }
    emitStage(b, stage, mapping);
  }
  gpu::TerminatorOp::create(b);
  return launch;
}
