//===- QuantisedKernel.cpp - what kernels over quantised panels share -----===//
#include "QuantisedKernel.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

void QuantisedKernel::emitTasks(int64_t mostRows) {
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
  Value first = loop.getInductionVars()[1];
  Value begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
  Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
  auto each = scf::ForOp::create(b, loc, first, min(add(first, perTask), index(count)), one);
  b.setInsertionPointToStart(each.getBody());
  Value panel = each.getInductionVar();
  bool perExpert = op.getBankMap(0).isFunctionOfDim(0);
  Value number = perExpert ? plus(times(expert, count), panel) : panel;
  base = times(number, panels.panelBytes());
  column = times(panel, panels.columns());
  steps(begin, end, mostRows, /*exact=*/false, [&](Value pair, int64_t rows) {
    sources = gather(pair, rows);
    emitTile(pair, rows);
  });
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

Value QuantisedKernel::loadFloats(Value at, int64_t bytes) {
  Value raw = loadBytes(at, lanes * bytes);
  if (bytes == 4)
    return vector::BitCastOp::create(b, loc, floats, raw);
  if (bytes == 2) {
    Value half = vector::BitCastOp::create(b, loc, floats.clone(b.getF16Type()), raw);
    return arith::ExtFOp::create(b, loc, floats, half);
  }
  // e8m0: the exponent of an f32, but for 0 (2^-127) and 255 (NaN).
  Value code = arith::ExtUIOp::create(b, loc, words, raw);
  Value bits = arith::ShLIOp::create(b, loc, code, splat(23));
  auto select = [&](int32_t special, int32_t instead) {
    Value is = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, code, splat(special));
    bits = arith::SelectOp::create(b, loc, is, splat(instead), bits);
  };
  select(0, 0x00400000);
  select(255, 0x7fc00000);
  return vector::BitCastOp::create(b, loc, floats, bits);
}

void QuantisedKernel::loadScales(Value at, int64_t length, float factor, SmallVectorImpl<Value> &scales,
                                 SmallVectorImpl<Value> &negativeZeros) {
  for (int64_t vector : chunk) {
    Value scaleAt = add(at, panels.codeBytes(length) + vector * lanes * panels.scaleBytes);
    scales.push_back(loadFloats(scaleAt, panels.scaleBytes));
    if (factor != 1.0f)
      scales.back() = mul(scales.back(), splat(factor));
    if (int64_t bytes = panels.zeroPointBytes()) {
      Value zeroAt = add(at, panels.codeBytes(length) + panels.width() * panels.scaleBytes + vector * lanes * bytes);
      negativeZeros.push_back(mul(arith::NegFOp::create(b, loc, loadFloats(zeroAt, bytes)), scales.back()));
    }
  }
}

void QuantisedKernel::emitPrefetch(Value at) {
  if (chunk.front() != 0)
    return;
  constexpr int64_t kAhead = 4096;
  Value limit = index(type.getNumElements() - panels.rowBytes());
  Value ahead = min(add(at, kAhead), limit);
  for (int64_t line = 0; line < panels.rowBytes(); line += 64)
    memref::PrefetchOp::create(b, loc, stream, ValueRange{add(ahead, line)}, /*isWrite=*/false, /*locality=*/2,
                               /*isDataCache=*/true);
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
