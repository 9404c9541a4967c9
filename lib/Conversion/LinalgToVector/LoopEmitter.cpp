//===- LoopEmitter.cpp - the loops around a vectorised body ---------------===//
//
//   tasks (scf.parallel) over blocks of rows, or over pieces of the vector loop where there are no other loops
//     rows (scf.for); what is the same for a whole row is computed here
//       columns form                          rows form
//         vectors of columns                    outer reductions
//           reductions, results in registers      vectors along the reduction, several partial sums
//
// A task's size depends on extents alone, and a sum's order not even on that: neither the number of threads nor the
// neighbours of a row change its bits.
//
//===----------------------------------------------------------------------===//
#include "LoopEmitter.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Utils/StructuredOpsUtils.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

LoopEmitter::LoopEmitter(RewriterBase &b, linalg::GenericOp op, const VectorLoop &choice, int64_t grain)
    : b(b), op(op), loc(op.getLoc()), choice(choice), lanes(choice.lanes), grain(grain), ivs(op.getNumLoops()) {
  llvm::BitVector varying(op.getNumLoops());
  for (auto [loop, kind] : llvm::enumerate(op.getIteratorTypesArray())) {
    bool parallel = kind == utils::IteratorType::parallel;
    if (loop == choice.loop || !parallel)
      varying.set(loop);
    if (loop != choice.loop)
      (parallel ? rows : reductions).push_back(loop);
  }
  body.emplace(b, op, choice.loop, lanes, varying);
}

Value LoopEmitter::index(int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }
Value LoopEmitter::extent(unsigned loop) { return getValueOrCreateConstantIndexOp(b, loc, extents[loop]); }
Value LoopEmitter::add(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
Value LoopEmitter::sub(Value x, Value y) { return b.createOrFold<arith::SubIOp>(loc, x, y); }
Value LoopEmitter::mul(Value x, Value y) { return b.createOrFold<arith::MulIOp>(loc, x, y); }
Value LoopEmitter::product(ArrayRef<unsigned> loops) {
  Value result = index(1);
  for (unsigned loop : loops)
    result = mul(result, extent(loop));
  return result;
}

void LoopEmitter::run() {
  b.setInsertionPoint(op);
  for (Range range : cast<linalg::LinalgOp>(op.getOperation()).createLoopRanges(b, loc))
    extents.push_back(range.size);
  emitTasks();
  b.eraseOp(op);
}

void LoopEmitter::emitTasks() {
  OpBuilder::InsertionGuard guard(b);
  Value zero = index(0), one = index(1);
  Value count = rows.empty() ? extent(choice.loop) : product(rows);
  SmallVector<unsigned> inner(reductions);
  if (!rows.empty())
    inner.push_back(choice.loop);
  Value work = product(inner); // per row, or per column
  std::optional<int64_t> knownWork = getConstantIntValue(mul(count, work));
  bool serial = op->getParentOfType<scf::ParallelOp>() || op->getParentOfType<scf::ForallOp>() ||
                (knownWork && *knownWork <= grain) || (rows.empty() && choice.isRows());
  auto task = [&](Value begin, Value end) {
    if (rows.empty())
      emitRow(begin, end);
    else
      emitRows(begin, end);
  };
  if (serial)
    return task(zero, count);
  // Pieces of the vector loop are whole vectors, so that a mask is needed once.
  Value most = b.createOrFold<arith::DivUIOp>(loc, index(grain), b.createOrFold<arith::MaxUIOp>(loc, work, one));
  Value unit = index(rows.empty() ? lanes * 4 : 1);
  Value block =
      mul(b.createOrFold<arith::CeilDivUIOp>(loc, b.createOrFold<arith::MaxUIOp>(loc, most, one), unit), unit);
  auto loop = scf::ParallelOp::create(b, loc, zero, count, block);
  b.setInsertionPointToStart(loop.getBody());
  Value begin = loop.getInductionVars()[0];
  task(begin, b.createOrFold<arith::MinUIOp>(loc, add(begin, block), count));
}

void LoopEmitter::emitRows(Value begin, Value end) {
  auto loop = scf::ForOp::create(b, loc, begin, end, index(1));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  // The number of a row, taken apart into its loops; the last runs fastest.
  Value rest = loop.getInductionVar();
  for (unsigned row : llvm::reverse(ArrayRef(rows).drop_front())) {
    ivs[row] = b.createOrFold<arith::RemUIOp>(loc, rest, extent(row));
    rest = b.createOrFold<arith::DivUIOp>(loc, rest, extent(row));
  }
  ivs[rows.front()] = rest;
  emitRow(index(0), extent(choice.loop));
}

void LoopEmitter::emitRow(Value begin, Value end) {
  body->hoist(ivs);
  if (choice.isRows())
    emitRowReduction(0, end);
  else
    emitColumns(begin, end);
}

SmallVector<Value> LoopEmitter::emitSteps(Value begin, Value end, int64_t vectors, ValueRange carried, TileFn tile) {
  SmallVector<Value> values(carried.begin(), carried.end());
  Value position = begin;
  std::optional<int64_t> first = getConstantIntValue(begin), last = getConstantIntValue(end), span;
  if (first && last)
    span = *last - *first;
  SmallVector<int64_t> counts{1};
  if (vectors > 1)
    counts.insert(counts.begin(), vectors);
  for (int64_t count : counts) {
    int64_t by = count * lanes;
    if (span && *span < by)
      continue;
    int64_t taken = span ? *span / by * by : 0;
    Value stop =
        span ? index(*first + taken) : sub(end, b.createOrFold<arith::RemUIOp>(loc, sub(end, position), index(by)));
    auto loop = scf::ForOp::create(b, loc, position, stop, index(by), values);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    SmallVector<Value> next = tile(loop.getInductionVar(), count, Value(), Value(), loop.getRegionIterArgs());
    if (!values.empty())
      scf::YieldOp::create(b, loc, next);
    values.assign(loop.getResults().begin(), loop.getResults().end());
    position = stop;
    if (span) {
      *first += taken;
      *span -= taken;
    }
  }
  // Tasks begin at whole vectors, so a multiple of them has no rest in any task.
  std::optional<int64_t> whole = getConstantIntValue(extents[choice.loop]);
  if ((whole && *whole % lanes == 0) || (span && *span == 0))
    return values;
  Value active = sub(end, position);
  auto rest = [&]() {
    Value mask = vector::CreateMaskOp::create(b, loc, VectorType::get({lanes}, b.getI1Type()), ValueRange{active});
    return tile(position, 1, mask, active, values);
  };
  if (span)
    return rest();
  Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt, active, index(0));
  bool carries = !values.empty();
  auto choiceOp = scf::IfOp::create(b, loc, ValueRange(values).getTypes(), any, carries);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(choiceOp.thenBlock());
  SmallVector<Value> next = rest();
  if (!carries)
    return {};
  b.setInsertionPointToEnd(choiceOp.thenBlock());
  scf::YieldOp::create(b, loc, next);
  b.setInsertionPointToStart(choiceOp.elseBlock());
  scf::YieldOp::create(b, loc, values);
  return SmallVector<Value>(choiceOp.getResults());
}

//===----------------------------------------------------------------------===//
// Columns: every lane has its own result
//===----------------------------------------------------------------------===//

/// Whether the body is so short (`most` ops) that the instructions of the loop around it count. An elementary function
/// is a polynomial: unrolled, it would only make code.
static bool isShort(linalg::GenericOp op, int64_t most) {
  int64_t ops = 0;
  for (Operation &bodyOp : op.getBody()->without_terminator())
    ops += isa<math::MathDialect>(bodyOp.getDialect()) ? 16 : 1;
  return ops < most;
}

void LoopEmitter::emitColumns(Value begin, Value end) {
  // With a reduction inside, wide tiles use the whole of a cache line that is fetched.
  int64_t vectors = isShort(op, reductions.empty() ? 4 : 12) ? 4 : 1;
  emitSteps(begin, end, vectors, {}, [&](Value at, int64_t count, Value mask, Value active, ValueRange) {
    emitColumnTile(at, count, mask, active);
    return SmallVector<Value>();
  });
}

void LoopEmitter::emitColumnTile(Value begin, int64_t vectors, Value mask, Value active) {
  int64_t outputs = op.getNumDpsInits();
  SmallVector<Value> results;
  auto moveTo = [&](int64_t vector, ValueRange accumulators) {
    ivs[choice.loop] = add(begin, index(vector * lanes));
    body->moveTo({ivs, mask, active}, accumulators);
  };
  for (int64_t v = 0; v < vectors; ++v) {
    moveTo(v, {});
    for (int64_t i = 0; i < outputs; ++i)
      results.push_back(reductions.empty() ? body->get(op.getBody()->getTerminator()->getOperand(i))
                                           : body->readOutput(i));
  }
  if (!reductions.empty())
    emitReductionNest(0, begin, vectors, mask, active, results);
  for (int64_t v = 0; v < vectors; ++v) {
    moveTo(v, {});
    for (int64_t i = 0; i < outputs; ++i)
      body->writeOutput(i, results[v * outputs + i]);
  }
}

void LoopEmitter::emitReductionNest(unsigned level, Value begin, int64_t vectors, Value mask, Value active,
                                    SmallVector<Value> &accumulators) {
  if (level == reductions.size()) {
    int64_t outputs = op.getNumDpsInits();
    SmallVector<Value> next;
    for (int64_t v = 0; v < vectors; ++v) {
      ivs[choice.loop] = add(begin, index(v * lanes));
      body->moveTo({ivs, mask, active}, ValueRange(accumulators).slice(v * outputs, outputs));
      for (Value yielded : op.getBody()->getTerminator()->getOperands())
        next.push_back(body->get(yielded));
    }
    accumulators = next;
    return;
  }
  auto loop = scf::ForOp::create(b, loc, index(0), extent(reductions[level]), index(1), accumulators);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  ivs[reductions[level]] = loop.getInductionVar();
  SmallVector<Value> inside(loop.getRegionIterArgs());
  emitReductionNest(level + 1, begin, vectors, mask, active, inside);
  scf::YieldOp::create(b, loc, inside);
  accumulators.assign(loop.getResults().begin(), loop.getResults().end());
}

//===----------------------------------------------------------------------===//
// Rows: every lane has a part of one result
//===----------------------------------------------------------------------===//

void LoopEmitter::emitRowReduction(unsigned level, Value end) {
  if (level == reductions.size())
    return emitRowRun(end);
  auto loop = scf::ForOp::create(b, loc, index(0), extent(reductions[level]), index(1));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  ivs[reductions[level]] = loop.getInductionVar();
  emitRowReduction(level + 1, end);
}

Value LoopEmitter::combine(const Combiner &combiner, Value left, Value right) {
  return clone(b, combiner.op, left.getType(), {left, right})->getResult(0);
}

SmallVector<Value> LoopEmitter::mergeVectors(Value begin, int64_t vectors, Value mask, Value active,
                                             ValueRange accumulators) {
  SmallVector<Value> next(accumulators.begin(), accumulators.end());
  for (int64_t v = 0; v < vectors; ++v) {
    ivs[choice.loop] = add(begin, index(v * lanes));
    body->moveTo({ivs, mask, active}, {});
    for (auto [i, combiner] : llvm::enumerate(choice.combiners)) {
      Value merged = body->get(combiner.merged);
      if (mask) {
        auto type = cast<VectorType>(merged.getType());
        TypedAttr neutral = neutralElement(combiner.op, type.getElementType());
        Value none = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, Attribute(neutral)));
        merged = arith::SelectOp::create(b, loc, mask, merged, none);
      }
      Value &accumulator = next[v * choice.combiners.size() + i];
      accumulator = combine(combiner, accumulator, merged);
    }
  }
  return next;
}

Value LoopEmitter::foldLanes(const Combiner &combiner, Value vector) {
  for (int64_t half = lanes / 2; half >= 1; half /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t lane = 0; lane < half; ++lane) {
      low.push_back(lane);
      high.push_back(lane + half);
    }
    vector = combine(combiner, vector::ShuffleOp::create(b, loc, vector, vector, low),
                     vector::ShuffleOp::create(b, loc, vector, vector, high));
  }
  return vector::ExtractOp::create(b, loc, vector, 0);
}

void LoopEmitter::emitRowRun(Value end) {
  size_t outputs = choice.combiners.size();
  std::optional<int64_t> known = getConstantIntValue(extents[choice.loop]);
  // Several partial results hide the latency of the combining op; a long body does so by itself.
  int64_t vectors = isShort(op, 12) ? 4 : 1;
  while (known && vectors > 1 && *known < vectors * lanes)
    vectors /= 2;
  SmallVector<Value> accumulators;
  for (int64_t v = 0; v < vectors; ++v)
    for (const Combiner &combiner : choice.combiners) {
      auto type = VectorType::get({lanes}, combiner.merged.getType());
      TypedAttr neutral = neutralElement(combiner.op, type.getElementType());
      accumulators.push_back(arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, Attribute(neutral))));
    }
  accumulators = emitSteps(index(0), end, vectors, accumulators,
                           [&](Value at, int64_t count, Value mask, Value active, ValueRange carried) {
                             return mergeVectors(at, count, mask, active, carried);
                           });
  for (int64_t half = vectors / 2; half >= 1; half /= 2)
    for (int64_t v = 0; v < half; ++v)
      for (auto [i, combiner] : llvm::enumerate(choice.combiners))
        accumulators[v * outputs + i] =
            combine(combiner, accumulators[v * outputs + i], accumulators[(v + half) * outputs + i]);
  for (auto [i, combiner] : llvm::enumerate(choice.combiners)) {
    OpOperand *init = op.getDpsInitOperand(i);
    SmallVector<Value> at;
    for (AffineExpr expr : op.getMatchingIndexingMap(init).getResults())
      at.push_back(affine::expandAffineExpr(b, loc, expr, ivs, {}));
    Value old = memref::LoadOp::create(b, loc, init->get(), at);
    Value result = combine(combiner, old, foldLanes(combiner, accumulators[i]));
    memref::StoreOp::create(b, loc, result, init->get(), at);
  }
}
