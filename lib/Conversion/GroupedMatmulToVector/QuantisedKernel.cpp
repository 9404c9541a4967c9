//===- QuantisedKernel.cpp - what kernels over quantised panels share -----===//
#include "QuantisedKernel.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

void QuantisedKernel::emitTasks(int64_t mostRows, int64_t manyRows, int64_t panelsTogether) {
  n = extent(op.getInit(), 1);
  SmallVector<ReassociationIndices> all{{0, 1, 2}};
  stream = memref::CollapseShapeOp::create(b, loc, op.getBanks().front(), all);
  int64_t count = type.getDimSize(1);
  OpBuilder::InsertionGuard guard(b);
  TaskRange task = emitPanelTasks(count, panels.panelBytes(), /*taskBytes=*/1 << 20, panelsTogether);
  Value first = task.first, last = task.last;
  expert = task.expert;
  Value begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
  Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
  auto branch = [&](arith::CmpIPredicate predicate, int64_t number, function_ref<void(Value)> body) {
    Value rows = sub(end, begin);
    Value holds = arith::CmpIOp::create(b, loc, predicate, rows, index(number));
    auto choice = scf::IfOp::create(b, loc, holds, /*withElse=*/true);
    b.setInsertionPointToStart(choice.thenBlock());
    body(rows);
    b.setInsertionPointToStart(choice.elseBlock());
  };
  Value following;
  if (fetchesWindows())
    following = emitFollowing(task, count, [&](Value ofExpert, Value panel) { return startOf(ofExpert, panel); });
  if (manyRows)
    branch(arith::CmpIPredicate::sge, manyRows,
           [&](Value rows) { emitManyRows({expert, begin, rows, first, last, following}); });
  if (mostRows == 0)
    return;
  if (readsSideBySide())
    branch(arith::CmpIPredicate::eq, 1, [&](Value) { emitOneRow(begin, first, last); });
  // Two rows are all that is left then, if more than two are many.
  bool exact = readsSideBySide() && mostRows == 2 && manyRows == 3;
  forEach(first, last, 1, [&](Value panel) {
    base = startOf(expert, panel);
    column = times(panel, panels.columns());
    if (fetchesWindows())
      beginWindow(panel, task, following);
    steps(begin, end, mostRows, exact, [&](Value pair, int64_t rows) {
      sources = gather(pair, rows);
      emitTile(pair, rows);
    });
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

void QuantisedKernel::emitTile(Value pair, int64_t rows) {
  int64_t perBank = panels.columns() / lanes, together = perBank, registers = sumsInRegisters(rows);
  // The same columns of all banks stay together.
  while (together > 1 && rows * together * panels.banks > registers)
    together /= 2;
  for (int64_t v = 0; v < perBank; v += together) {
    chooseChunk(v, together);
    finishTile(pair, rows, v, emitSums());
  }
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
    scf::YieldOp::create(b, loc, emitBlock({at, block, times(block, length), length}, loop.getRegionIterArgs()));
    sums.assign(loop.getResults().begin(), loop.getResults().end());
  } else {
    sums = emitBlock({base, zero, zero, length}, sums);
  }
  if (int64_t rest = panels.k - whole * length)
    sums = emitBlock({add(base, whole * panels.blockBytes(length)), index(whole), index(whole * length), rest}, sums);
  return sums;
}

SmallVector<Value> QuantisedKernel::emitBlock(const PanelBlock &block, ValueRange before) {
  if (fetchesWindows() && hasShortBlocks())
    emitWindowFetch(block.at, panels.blockBytes(block.length));
  SmallVector<Value> sums = beginBlock(block, before);
  int64_t group = panels.group(), groups = block.length / group;
  sums = emitWhole(block.at, block.k, groups, getUnrolling(llvm::divideCeilSigned(block.length, group)), sums);
  if (int64_t rest = block.length % group)
    emitGroups(add(block.at, groups * panels.groupBytes()), add(block.k, groups * group), 1, rest, sums);
  return endBlock(block, sums, before);
}

SmallVector<Value> QuantisedKernel::emitWhole(Value at, Value k, int64_t groups, Unrolling unrolling,
                                              ValueRange before) {
  SmallVector<Value> sums(before);
  int64_t group = panels.group(), unroll = unrolling.groups, main = groups / unroll * unroll;
  auto emitGroups = [&](Value at, Value k, int64_t many, int64_t inLast, SmallVectorImpl<Value> &sums) {
    if (fetchesWindows() && !hasShortBlocks())
      emitWindowFetch(at, many * panels.groupBytes());
    this->emitGroups(at, k, many, inLast, sums);
  };
  if (main > unrolling.withoutLoop) {
    auto loop = scf::ForOp::create(b, loc, zero, index(main), index(unroll), sums);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value g = loop.getInductionVar();
    SmallVector<Value> next(loop.getRegionIterArgs());
    emitGroups(plus(at, times(g, panels.groupBytes())), plus(k, times(g, group)), unroll, group, next);
    scf::YieldOp::create(b, loc, next);
    sums.assign(loop.getResults().begin(), loop.getResults().end());
  } else {
    for (int64_t g = 0; g < main; g += unroll)
      emitGroups(add(at, g * panels.groupBytes()), add(k, g * group), unroll, group, sums);
  }
  if (int64_t left = groups - main)
    emitGroups(add(at, main * panels.groupBytes()), add(k, main * group), left, group, sums);
  return sums;
}

void QuantisedKernel::loadScales(const PanelBlock &block, float factor, SmallVectorImpl<Value> &scales,
                                 SmallVectorImpl<Value> &negativeZeros) {
  for (int64_t vector : chunk) {
    auto [scale, negativeZero] = decoder().loadScales(add(block.at, panels.codeBytes(block.length)), vector, factor);
    scales.push_back(scale);
    if (negativeZero)
      negativeZeros.push_back(negativeZero);
  }
}

void QuantisedKernel::beginWindow(Value panel, const TaskRange &task, Value following) {
  Value inWindow = b.createOrFold<arith::RemUIOp>(loc, sub(panel, task.first), index(windowPanels()));
  int64_t bytes = windowPanels() * panels.panelBytes();
  window = sub(base, times(inWindow, panels.panelBytes()));
  Value next = sum(sub(panel, inWindow), index(windowPanels()));
  Value isLast = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, next, task.last);
  nextWindow = b.createOrFold<arith::SelectOp>(loc, isLast, following, add(window, bytes));
  nextWindow = min(nextWindow, index(std::max<int64_t>(0, type.getNumElements() - bytes)));
}

void QuantisedKernel::emitWindowFetch(Value at, int64_t bytes) {
  if (chunk.front() != 0)
    return;
  int64_t lines = llvm::divideCeil(bytes, 64), place = llvm::alignTo(windowPanels() * panels.panelBytes() / lines, 64);
  // Lines that come at once shall not be of one set of a first-level cache.
  if (place % 4096 == 0)
    place += 64;
  Value step = b.createOrFold<arith::DivUIOp>(loc, sub(at, window), index(64 * lines));
  Value from = plus(nextWindow, times(step, 64));
  for (int64_t line = 0; line < lines; ++line)
    memref::PrefetchOp::create(b, loc, stream, ValueRange{add(from, line * place)}, /*isWrite=*/false,
                               /*localityHint=*/3,
                               /*isDataCache=*/true);
}

void QuantisedKernel::emitPrefetch(Value at) {
  if (chunk.front() == 0 && !fetchesWindows())
    decoder().emitPrefetch(at, ahead, index(type.getNumElements() - panels.groupBytes()), locality);
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
