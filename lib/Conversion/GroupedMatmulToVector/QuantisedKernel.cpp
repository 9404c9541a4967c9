//===- QuantisedKernel.cpp - what kernels over quantised panels share -----===//
#include "QuantisedKernel.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

void QuantisedKernel::emitTasks(int64_t mostRows, int64_t manyRows) {
  n = extent(op.getInit(), 1);
  SmallVector<ReassociationIndices> all{{0, 1, 2}};
  stream = memref::CollapseShapeOp::create(b, loc, op.getBanks().front(), all);
  int64_t count = type.getDimSize(1);
  // About a megabyte for a task, less where there would be too few tasks.
  int64_t most = std::max<int64_t>(1, count / (op.getNumExperts() >= 8 ? 4 : 16));
  int64_t perTask = std::clamp<int64_t>((1 << 20) / panels.panelBytes(), 1, most);
  auto loop =
      scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{index(op.getNumExperts()), index(count)},
                              ValueRange{one, index(perTask)});
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  expert = loop.getInductionVars()[0];
  Value first = loop.getInductionVars()[1], last = min(add(first, perTask), index(count));
  Value begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
  Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
  if (manyRows) {
    Value rows = sub(end, begin);
    Value many = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, rows, index(manyRows));
    auto choice = scf::IfOp::create(b, loc, many, /*withElse=*/true);
    b.setInsertionPointToStart(choice.thenBlock());
    emitManyRows({expert, begin, rows, first, last});
    b.setInsertionPointToStart(choice.elseBlock());
  }
  auto each = scf::ForOp::create(b, loc, first, last, one);
  b.setInsertionPointToStart(each.getBody());
  Value panel = each.getInductionVar();
  base = startOf(expert, panel);
  column = times(panel, panels.columns());
  steps(begin, end, mostRows, /*exact=*/false, [&](Value pair, int64_t rows) {
    sources = gather(pair, rows);
    emitTile(pair, rows);
  });
}

Value QuantisedKernel::startOf(Value expertOfTask, Value panel) {
  bool perExpert = op.getBankMap(0).isFunctionOfDim(0);
  Value number = perExpert ? plus(times(expertOfTask, type.getDimSize(1)), panel) : panel;
  return times(number, panels.panelBytes());
}

Value QuantisedKernel::intrinsic(StringRef name, Type resultType, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(b, loc, resultType, b.getStringAttr(name), operands).getResult(0);
}

SmallVector<Value> QuantisedKernel::emitSums() {
  SmallVector<Value> sums(sources.size() * chunk.size(), splat(0.0f));
  int64_t length = panels.blockLength(), whole = panels.wholeBlocks();
  if (whole > 1) {
    auto loop = scf::ForOp::create(b, loc, zero, index(whole), one, sums);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value block = loop.getInductionVar();
    Value at = plus(base, times(block, panels.blockBytes(length)));
    SmallVector<Value> next = emitBlock(at, block, times(block, length), length, loop.getRegionIterArgs());
    scf::YieldOp::create(b, loc, next);
    sums.assign(loop.getResults().begin(), loop.getResults().end());
  } else {
    sums = emitBlock(base, zero, zero, length, sums);
  }
  if (int64_t rest = panels.k - whole * length)
    sums = emitBlock(add(base, whole * panels.blockBytes(length)), index(whole), index(whole * length), rest, sums);
  return sums;
}

void QuantisedKernel::loadScales(Value at, int64_t length, float factor, SmallVectorImpl<Value> &scales,
                                 SmallVectorImpl<Value> &negativeZeros) {
  for (int64_t vector : chunk) {
    auto [scale, negativeZero] = decoder().loadScales(add(at, panels.codeBytes(length)), vector, factor);
    scales.push_back(scale);
    if (negativeZero)
      negativeZeros.push_back(negativeZero);
  }
}

void QuantisedKernel::emitPrefetch(Value at) {
  if (chunk.front() == 0)
    decoder().emitPrefetch(at, index(type.getNumElements() - panels.rowBytes()));
}

void QuantisedKernel::chooseChunk(int64_t vector, int64_t together) {
  chunk.clear();
  for (int64_t bank = 0; bank < panels.banks; ++bank)
    for (int64_t i = 0; i < together; ++i)
      chunk.push_back(bank * (panels.columns() / lanes) + vector + i);
}

void QuantisedKernel::finishTile(Value pair, int64_t rows, int64_t vector, ArrayRef<Value> sums) {
  int64_t together = chunk.size() / panels.banks;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < together; ++i) {
      SmallVector<Value> values;
      for (int64_t bank = 0; bank < panels.banks; ++bank)
        values.push_back(sums[r * chunk.size() + bank * together + i]);
      Value start = add(column, (vector + i) * lanes);
      finish(add(pair, r), start, values, columnsDivideBy(panels.columns()) ? Value() : mask(lanes, sub(n, start)));
    }
}
