//===- RowBlock.cpp - some rows of an expert against panels ---------------===//
#include "RowBlock.h"
#include "WidenedBlock.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

void RowBlock::prepare() {
  n = extent(op.getInit(), 1);
  rowsOfA = memref::CastOp::create(b, loc, form.rowsType(), rowsOfA);
}

void RowBlock::beginTask(Value expertOfTask) {
  expert = expertOfTask;
  tile = memref::AllocaOp::create(b, loc, form.tileType(), b.getI64IntegerAttr(64));
  sources = memref::AllocaOp::create(b, loc, form.sourcesType());
}

void RowBlock::emitSources(Value pair, Value count) {
  forEach(zero, count, 1, [&](Value r) {
    Value p = sum(pair, r);
    Value row = op.getRows() ? memref::LoadOp::create(b, loc, op.getRows(), p).getResult() : p;
    memref::StoreOp::create(b, loc, row, sources, r);
  });
}

void RowBlock::clearTile(Value count) {
  auto accType = VectorType::get({lanes}, accumulator);
  Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType));
  forEach(zero, count, 1, [&](Value r) {
    for (int64_t at = 0; at < form.tileType().getDimSize(1); at += lanes)
      vector::StoreOp::create(b, loc, zeros, tile, ValueRange{r, index(at)});
  });
}

RowBlock::Passes RowBlock::divide(Value rows, Value mostRowsOfPass) {
  Value count = arith::CeilDivUIOp::create(b, loc, rows, mostRowsOfPass);
  Value atLeastOne = b.createOrFold<arith::MaxUIOp>(loc, count, one);
  Value size = arith::DivUIOp::create(b, loc, rows, atLeastOne);
  return {count, size, sub(rows, mul(size, count))};
}

void RowBlock::forEachRowBlock(Value begin, Value count, int64_t most, Value mostOfPass,
                               function_ref<void(const Rows &)> body) {
  Value blocks = arith::CeilDivUIOp::create(b, loc, count, index(most));
  forEach(zero, blocks, 1, [&](Value block) {
    Value from = split(count, blocks, block), to = split(count, blocks, add(block, 1));
    Value pair = sum(begin, from), rows = sub(to, from);
    emitSources(pair, rows);
    body({rows, pair, block, sub(sub(blocks, block), one), divide(rows, mostOfPass)});
  });
}

void RowBlock::emitPass(ArrayRef<KernelVariant> variants, const Pass &pass, const WidenedBlock *widened) {
  // One switch over (kind, rows).
  SmallVector<int64_t> cases;
  for (const KernelVariant &variant : variants)
    cases.push_back(numberOf(variant.fetch, variant.reads) + variant.rows);
  Value number = sum(pass.rows, pass.kind);
  auto choice = scf::IndexSwitchOp::create(b, loc, TypeRange(), number, cases, cases.size());
  OpBuilder::InsertionGuard guard(b);
  for (auto [variant, region] : llvm::zip(variants, choice.getCaseRegions())) {
    b.createBlock(&region);
    bool isWidened = variant.reads == Reads::Widened;
    Value weights = isWidened ? widened->getElements() : pass.weights, at = isWidened ? zero : pass.at;
    Value steps = isWidened ? mul(pass.steps, index(form.layout.group)) : pass.steps;
    functions.call(b, loc, isWidened ? widened->getForm() : form, variant,
                   {rowsOfA, sources, pass.from, weights, at, pass.weights, pass.window, pass.stream, steps, tile,
                    pass.firstK, pass.k, pass.lines, pass.parts, pass.distance, pass.beside, pass.windowBeside});
    scf::YieldOp::create(b, loc);
  }
  // The variants are all that the schedule asks for. Should they ever not be, no sum may be missing in silence.
  b.createBlock(&choice.getDefaultRegion());
  LLVM::Trap::create(b, loc);
  scf::YieldOp::create(b, loc);
}

void RowBlock::emitEpilogue(Value p, Value panel, Value r, Value columnOfTile) {
  const PanelLayout &layout = form.layout;
  auto accType = VectorType::get({lanes}, accumulator);
  for (int64_t v = 0; v < layout.columns / lanes; ++v) {
    Value column = add(mul(panel, index(layout.columns)), v * lanes);
    if (lanes >= 16 && !op.getTargets())
      memref::PrefetchOp::create(b, loc, op.getInit(), ValueRange{add(p, kResultsAhead), column}, /*isWrite=*/true,
                                 /*localityHint=*/3, /*isDataCache=*/true);
    SmallVector<Value> sums;
    for (int64_t bank = 0; bank < layout.banks; ++bank)
      sums.push_back(vector::LoadOp::create(b, loc, accType, tile,
                                            ValueRange{r, add(columnOfTile, bank * layout.columns + v * lanes)}));
    finish(p, column, sums, columnsDivideBy(layout.columns) ? Value() : mask(lanes, sub(n, column)));
  }
}

namespace {

class RowWidener : GroupedKernel {
public:
  RowWidener(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) : GroupedKernel(b, op, lanes) {}

  Value run() {
    auto type = cast<MemRefType>(op.getA().getType());
    if (type.getElementType() == accumulator)
      return op.getA();
    SmallVector<Value> sizes;
    if (type.isDynamicDim(0))
      sizes.push_back(extent(op.getA(), 0));
    Value wide = memref::AllocOp::create(b, loc, MemRefType::get(type.getShape(), accumulator), sizes);
    auto loop = scf::ParallelOp::create(b, loc, ValueRange{zero}, ValueRange{extent(op.getA(), 0)}, ValueRange{one});
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value row = loop.getInductionVars()[0];
      int64_t k = type.getDimSize(1), whole = k / lanes * lanes;
      auto copy = [&](Value at, Value mask) {
        Value narrow = load(op.getA(), ValueRange{row, at}, VectorType::get({lanes}, type.getElementType()), mask);
        store(widen(narrow, accumulator), wide, ValueRange{row, at}, mask);
      };
      auto columns = scf::ForOp::create(b, loc, zero, index(whole), index(lanes));
      b.setInsertionPointToStart(columns.getBody());
      copy(columns.getInductionVar(), Value());
      b.setInsertionPointAfter(columns);
      if (whole != k)
        copy(index(whole), mask(lanes, index(k - whole)));
    }
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointAfter(op);
    memref::DeallocOp::create(b, loc, wide);
    return wide;
  }
};

} // namespace

Value moe::widenRows(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) { return RowWidener(b, op, lanes).run(); }
