//===- GroupedKernel.cpp - what the expert kernels share ------------------===//
#include "GroupedKernel.h"

#include "mlir/IR/IRMapping.h"

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

GroupedKernel::TaskRange GroupedKernel::emitTaskLoops(Value count, int64_t step, int64_t leastStep) {
  Value experts = index(op.getNumExperts());
  if (!op.getTargets()) {
    auto loop = scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{experts, count},
                                        ValueRange{one, index(step)});
    b.setInsertionPointToStart(loop.getBody());
    Value first = loop.getInductionVars()[1];
    return {loop.getInductionVars()[0], first, min(add(first, step), count)};
  }
  constexpr int64_t kLeastTasks = 8;
  if (std::optional<int64_t> known = getConstantIntValue(count))
    step = std::clamp(*known / kLeastTasks, leastStep, step);
  auto tasks = scf::ParallelOp::create(b, loc, ValueRange{zero}, ValueRange{count}, ValueRange{index(step)});
  b.setInsertionPointToStart(tasks.getBody());
  Value first = tasks.getInductionVars()[0], last = min(add(first, step), count);
  auto loop = scf::ForOp::create(b, loc, zero, experts, one);
  b.setInsertionPointToStart(loop.getBody());
  return {loop.getInductionVar(), first, last};
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
