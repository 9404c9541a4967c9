//===- GroupedKernel.cpp - what the expert kernels share ------------------===//
#include "GroupedKernel.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "moe/Transforms/Host.h"

using namespace mlir;
using namespace mlir::moe;

int64_t moe::positionOf(AffineMap map, unsigned loop) {
  for (auto [i, e] : llvm::enumerate(map.getResults()))
    if (auto dim = dyn_cast<AffineDimExpr>(e); dim && dim.getPosition() == loop)
      return i;
  return -1;
}

SmallVector<Value> GroupedKernel::at(AffineMap map, Value second, Value third) {
  SmallVector<Value> indices;
  for (AffineExpr e : map.getResults()) {
    unsigned loop = cast<AffineDimExpr>(e).getPosition();
    indices.push_back(loop == 0 ? expert : loop == 1 ? second : third);
  }
  return indices;
}

SmallVector<Value> GroupedKernel::gather(Value pair, int64_t count) {
  SmallVector<Value> result;
  for (int64_t r = 0; r < count; ++r) {
    Value p = add(pair, r);
    result.push_back(op.getRows() ? memref::LoadOp::create(b, loc, op.getRows(), p).getResult() : p);
  }
  return result;
}

Value GroupedKernel::emitThreads() {
  auto module = op->getParentOfType<ModuleOp>();
  auto function = module.lookupSymbol<func::FuncOp>(kHostThreadsFunction);
  if (!function) {
    OpBuilder inner = OpBuilder::atBlockEnd(module.getBody());
    function = func::FuncOp::create(inner, module.getLoc(), kHostThreadsFunction,
                                    inner.getFunctionType({}, {inner.getIndexType()}));
    function.setPrivate();
  }
  return func::CallOp::create(b, loc, function, ValueRange()).getResult(0);
}

GroupedKernel::TaskGrain GroupedKernel::getTaskGrain(int64_t panels, int64_t panelBytes, int64_t taskBytes) {
  constexpr int64_t kSmallBytes = 256 << 10;
  bool adapts = op.getTargets() || panels * panelBytes > kSmallBytes;
  int64_t most = std::max<int64_t>(1, adapts ? panels : panels / (op.getNumExperts() >= 8 ? 4 : 16));
  return {std::clamp<int64_t>(taskBytes / std::max<int64_t>(1, panelBytes), 1, most), adapts};
}

Value GroupedKernel::emitGrain(Value count, int64_t most) {
  auto max = [&](Value x, Value y) { return b.createOrFold<arith::MaxUIOp>(loc, x, y); };
  Value threads = emitThreads(), tasks = mul(threads, index(kTasksPerThread)), work = count;
  if (op.getTargets()) {
    // All experts are in one task: on one thread there is no use for more of them.
    Value single = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, threads, one);
    tasks = arith::SelectOp::create(b, loc, single, one, mul(threads, index(kFusedTasksPerThread)));
  } else if (int64_t experts = op.getNumExperts(); experts != 1) {
    // The work of all experts is that of so many which have as many rows as the largest one.
    auto loop = scf::ForOp::create(b, loc, zero, index(experts), one, ValueRange{one, zero},
                                   [&](OpBuilder &, Location, Value e, ValueRange args) {
                                     Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(e, 1)});
                                     scf::YieldOp::create(b, loc, ValueRange{max(args[0], sub(end, args[1])), end});
                                   });
    work = mul(work, loop.getResult(1));
    tasks = mul(tasks, loop.getResult(0));
  }
  Value grain = arith::DivUIOp::create(b, loc, work, tasks);
  grain = b.createOrFold<arith::MinUIOp>(loc, grain, index(most));
  return max(grain, one);
}

GroupedKernel::TaskRange GroupedKernel::emitTaskLoops(Value count, const TaskGrain &grain) {
  Value experts = index(op.getNumExperts());
  Value step = grain.adapts ? emitGrain(count, grain.most) : index(grain.most);
  auto lastOf = [&](Value first) { return min(sum(first, step), count); };
  if (!op.getTargets()) {
    auto loop =
        scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{experts, count}, ValueRange{one, step});
    b.setInsertionPointToStart(loop.getBody());
    Value first = loop.getInductionVars()[1];
    return {loop.getInductionVars()[0], first, lastOf(first)};
  }
  auto tasks = scf::ParallelOp::create(b, loc, ValueRange{zero}, ValueRange{count}, ValueRange{step});
  b.setInsertionPointToStart(tasks.getBody());
  Value first = tasks.getInductionVars()[0], last = lastOf(first);
  auto loop = scf::ForOp::create(b, loc, zero, experts, one);
  b.setInsertionPointToStart(loop.getBody());
  return {loop.getInductionVar(), first, last};
}

GroupedKernel::TaskRange GroupedKernel::emitPanelTasks(int64_t panels, int64_t panelBytes, int64_t taskBytes,
                                                       int64_t together) {
  int64_t units = llvm::divideCeil(panels, together);
  TaskRange task = emitTaskLoops(index(units), getTaskGrain(units, together * panelBytes, taskBytes));
  if (together == 1)
    return task;
  return {task.expert, mul(task.first, index(together)), min(mul(task.last, index(together)), index(panels))};
}

Value GroupedKernel::emitNextExpert() {
  Value experts = index(op.getNumExperts());
  auto loop = scf::WhileOp::create(
      b, loc, TypeRange{b.getIndexType()}, ValueRange{add(expert, 1)},
      [&](OpBuilder &, Location, ValueRange args) {
        Value inside = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, args[0], experts);
        Value at = min(args[0], sub(experts, one));
        Value from = memref::LoadOp::create(b, loc, op.getOffsets(), at);
        Value to = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(at, 1)});
        Value goOn =
            arith::AndIOp::create(b, loc, inside, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, from, to));
        scf::ConditionOp::create(b, loc, goOn, args);
      },
      [&](OpBuilder &, Location, ValueRange args) { scf::YieldOp::create(b, loc, ValueRange{add(args[0], 1)}); });
  Value next = loop.getResult(0);
  Value isNone = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, next, experts);
  return b.createOrFold<arith::SelectOp>(loc, isNone, expert, next);
}

Value GroupedKernel::emitFollowing(const TaskRange &task, int64_t panels,
                                   function_ref<Value(Value ofExpert, Value panel)> startOf) {
  Value next = emitNextExpert();
  if (op.getTargets())
    return startOf(next, task.first);
  Value isLast = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, task.last, index(panels));
  auto select = [&](Value x, Value y) { return b.createOrFold<arith::SelectOp>(loc, isLast, x, y); };
  return startOf(select(next, expert), select(zero, task.last));
}

/// The epilogue works in the type of its arguments; sums are kept wider.
static Value narrow(OpBuilder &b, Location loc, Value sum, Type type) {
  if (getElementTypeOrSelf(sum.getType()) == type)
    return sum;
  return arith::TruncFOp::create(b, loc, cast<VectorType>(sum.getType()).clone(type), sum);
}

void GroupedKernel::finish(Value p, Value column, ArrayRef<Value> sums, Value mask) {
  auto vectorType = cast<VectorType>(sums.front().getType());
  auto typed = [&](Type t) { return vectorType.clone(getElementTypeOrSelf(t)); };
  IRMapping map;
  Block &block = op.getEpilogue().front();
  for (auto [i, sum] : llvm::enumerate(sums))
    map.map(block.getArgument(i), narrow(b, loc, sum, block.getArgument(i).getType()));
  for (auto [i, extra] : llvm::enumerate(op.getExtras())) {
    AffineMap extraMap = op.getExtraMap(i);
    SmallVector<Value> indices = at(extraMap, p, column);
    Value value;
    if (positionOf(extraMap, 2) >= 0) {
      value = load(extra, indices, typed(extra.getType()), mask);
    } else {
      Value scalar = memref::LoadOp::create(b, loc, extra, indices);
      value = vector::BroadcastOp::create(b, loc, typed(scalar.getType()), scalar);
    }
    map.map(block.getArgument(banks + i), value);
  }
  auto vectorOf = [&](Value v) -> Value {
    if (Value mapped = map.lookupOrNull(v))
      return mapped;
    // A scalar from outside the op.
    return vector::BroadcastOp::create(b, loc, typed(v.getType()), v);
  };
  for (Operation &inner : block.without_terminator()) {
    if (auto constant = dyn_cast<arith::ConstantOp>(inner)) {
      auto attr = DenseElementsAttr::get(typed(constant.getType()), constant.getValue());
      map.map(constant.getResult(), arith::ConstantOp::create(b, loc, attr).getResult());
      continue;
    }
    SmallVector<Value> operands = llvm::map_to_vector(inner.getOperands(), vectorOf);
    SmallVector<Type> types;
    for (Type type : inner.getResultTypes())
      types.push_back(typed(type));
    OperationState state(loc, inner.getName(), operands, types, inner.getAttrs());
    Operation *copy = b.create(state);
    map.map(inner.getResults(), copy->getResults());
  }
  Value result = vectorOf(op.getYield().getValues()[0]);
  SmallVector<Value> place{p, column};
  if (op.getTargets()) {
    place[0] = memref::LoadOp::create(b, loc, op.getTargets(), p);
    Value before = load(op.getInit(), place, cast<VectorType>(result.getType()), mask);
    result = arith::AddFOp::create(b, loc, before, result);
  }
  store(result, op.getInit(), place, mask);
}
