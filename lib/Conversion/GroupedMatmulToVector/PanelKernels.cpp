//===- PanelKernels.cpp - expert kernels over packed weights --------------===//
//
// One parallel loop over (expert, group of panels). A task takes the expert's rows in blocks that stay in the
// second-level cache, and with each block its panels one after the other, as they lie in memory:
//
//   for each block of rows
//     for each panel of the group
//       tile = 0
//       for each block of k
//         for pass = 0 to passes(rows of the block)
//           the kernel for exactly this many rows: adds to their sums in the tile
//       the epilogue, row by row, from the tile to the result
//
// A pass also fetches weights that are needed later (KernelSchedule.h says which): some of its own, a little ahead,
// where one pass is all there is; else its share of the next block, so that the stream of weights never stops.
//
// Rows of a narrower type than the sums are widened once, before the loop.
//
//===----------------------------------------------------------------------===//
#include "GroupedKernel.h"
#include "KernelFunctions.h"
#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class PanelEmitter : GroupedKernel {
public:
  /// `rowsOfA`: the rows, perhaps wider than those of `op`.
  PanelEmitter(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, const PanelLayout &layout, int64_t lanes,
               KernelFunctions &functions)
      : GroupedKernel(b, op, lanes), rowsOfA(rowsOfA), layout(layout),
        bankType(cast<MemRefType>(op.getBanks().front().getType())),
        schedule(getKernelSchedule(layout, bankType.getShape(), bankType.getElementTypeBitWidth() / 8, lanes)),
        functions(functions),
        form{layout,      schedule, lanes, bankType.getElementType(), getElementTypeOrSelf(rowsOfA.getType()),
             accumulator, false} {
    assert(schedule.maxBlockRows <= KernelFunctionForm::kMostRows &&
           schedule.panelsOfOneRow <= KernelFunctionForm::kMostRows);
    form.wholeSteps = getK() % (layout.group * KernelSchedule::kUnroll) == 0;
  }

  void run() {
    n = extent(op.getInit(), 1);
    Value experts = index(op.getNumExperts()), panels = index(bankType.getDimSize(1));
    // All banks as one run of elements; the rows as they are, whatever their strides.
    SmallVector<ReassociationIndices> all(1);
    for (int64_t d = 0; d < bankType.getRank(); ++d)
      all[0].push_back(d);
    Value flat = memref::CollapseShapeOp::create(b, loc, op.getBanks().front(), all);
    weights = memref::CastOp::create(b, loc, form.weightsType(), flat);
    rowsOfA = memref::CastOp::create(b, loc, form.rowsType(), rowsOfA);

    auto loop = scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{experts, panels},
                                        ValueRange{one, index(schedule.panelsPerTask)});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    expert = loop.getInductionVars()[0];
    first = loop.getInductionVars()[1];
    begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
    Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
    rows = sub(end, begin);
    Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt, rows, zero);
    auto branch = scf::IfOp::create(b, loc, any, /*withElse=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    tile = memref::AllocaOp::create(b, loc, form.tileType(), b.getI64IntegerAttr(64));
    sources = memref::AllocaOp::create(b, loc, form.sourcesType());
    last = min(add(first, schedule.panelsPerTask), panels);
    if (schedule.panelsOfOneRow == 1)
      return emitBlocks();
    auto single = scf::IfOp::create(b, loc, equal(rows, one), /*withElse=*/true);
    b.setInsertionPointToStart(single.thenBlock());
    emitOneRow();
    b.setInsertionPointToStart(single.elseBlock());
    emitBlocks();
  }

private:
  int64_t getK() { return cast<ShapedType>(op.getA().getType()).getDimSize(1); }
  Value mul(Value x, Value y) { return b.createOrFold<arith::MulIOp>(loc, x, y); }
  Value sum(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  Value equal(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, x, y); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }

  int64_t numSteps() const { return bankType.getDimSize(2); }
  int64_t panelElements() const { return form.panelElements(numSteps()); }

  /// Where a panel begins.
  Value startOf(Value panel) {
    bool perExpert = isa<AffineDimExpr>(op.getBankMap(0).getResult(0));
    Value number = perExpert ? sum(mul(expert, index(bankType.getDimSize(1))), panel) : panel;
    return mul(number, index(panelElements()));
  }

  template <typename Fn> void forEach(Value from, Value to, int64_t step, const Fn &body) {
    auto loop = scf::ForOp::create(b, loc, from, to, index(step));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    body(loop.getInductionVar());
  }

  /// The part of `total` that number `i` of `parts` nearly equal ones begins with.
  Value split(Value total, Value parts, Value i) { return arith::DivUIOp::create(b, loc, mul(i, total), parts); }

  /// One row: several panels side by side, each a stream that the processor follows for itself.
  void emitOneRow() {
    emitSources(begin, one);
    Value together = sub(last, b.createOrFold<arith::RemUIOp>(loc, sub(last, first), index(schedule.panelsOfOneRow)));
    forEach(first, together, schedule.panelsOfOneRow, [&](Value panel) {
      clearTile(index(schedule.panelsOfOneRow));
      KernelVariant variant{/*rows=*/1, /*lines=*/0, /*own=*/false, schedule.panelsOfOneRow};
      functions.call(b, loc, form, variant,
                     {rowsOfA, sources, zero, weights, startOf(panel), zero, index(panelElements()), index(numSteps()),
                      tile, zero, index(getK())});
      for (int64_t p = 0; p < schedule.panelsOfOneRow; ++p)
        emitEpilogue(begin, add(panel, p), index(p));
    });
    forEach(together, last, 1, [&](Value panel) { emitPanel(panel, begin, one, zero, zero); });
  }

  void emitBlocks() {
    Value blocks = arith::CeilDivUIOp::create(b, loc, rows, index(schedule.maxBlockRows));
    forEach(zero, blocks, 1, [&](Value block) {
      Value from = split(rows, blocks, block), to = split(rows, blocks, add(block, 1));
      Value pair = sum(begin, from), count = sub(to, from);
      emitSources(pair, count);
      Value left = sub(sub(blocks, block), one);
      forEach(first, last, 1, [&](Value panel) { emitPanel(panel, pair, count, block, left); });
    });
  }

  /// The `count` pairs from `pair` on, which are block number `block` of the rows, with `left` to come.
  void emitPanel(Value panel, Value pair, Value count, Value block, Value left) {
    clearTile(count);
    int64_t blockElements = form.panelElements(schedule.blockSteps), total = bankType.getNumElements();
    Value start = startOf(panel), limit = index(std::max<int64_t>(0, total - blockElements));
    // Behind the group's last panel comes its first one, for the next block of rows; else what lies behind it in
    // memory, which is the next task's.
    auto both = [&](Value x, Value y) -> Value { return arith::AndIOp::create(b, loc, x, y); };
    Value again = both(equal(add(panel, 1), last), arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, left, zero));
    Value behind = select(again, startOf(first), sum(start, index(panelElements())));
    Value isFirst = both(equal(panel, first), equal(block, zero));
    Value passes = arith::CeilDivUIOp::create(b, loc, count, index(schedule.maxRows));
    forEach(zero, index(numSteps()), schedule.blockSteps, [&](Value step) {
      Value steps = min(index(schedule.blockSteps), sub(index(numSteps()), step));
      Value at = sum(start, mul(step, index(form.stepElements())));
      Value nextStep = add(step, schedule.blockSteps);
      Value isLast = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, nextStep, index(numSteps()));
      Value next = min(select(isLast, behind, sum(start, mul(nextStep, index(form.stepElements())))), limit);
      Value ahead = min(sum(at, index(schedule.aheadElements)), limit);
      Value firstK = mul(step, index(layout.group));
      Value k = min(mul(steps, index(layout.group)), sub(index(getK()), firstK));
      forEach(zero, passes, 1, [&](Value pass) {
        Value from = split(count, passes, pass), rowsOfPass = sub(split(count, passes, add(pass, 1)), from);
        // Nobody has fetched the first block of a task before its first pass.
        Value cold = both(both(isFirst, equal(step, zero)), equal(pass, zero));
        Value own = equal(passes, one);
        if (schedule.aheadElements)
          own = arith::OrIOp::create(b, loc, own, cold);
        auto [lines, stream] = emitShare(passes, pass);
        lines = select(own, index(schedule.singleLines()), lines);
        stream = select(own, zero, stream);
        Value window = schedule.aheadElements ? select(own, ahead, next) : next;
        emitCall(own, lines, rowsOfPass, {rowsOfA, sources, from, weights, at, window, stream, steps, tile, firstK, k});
      });
    });
    forEach(zero, count, 1, [&](Value r) { emitEpilogue(sum(pair, r), panel, r); });
  }

  /// One switch over (kind of fetching, rows).
  void emitCall(Value own, Value lines, Value rowsOfPass, ValueRange arguments) {
    SmallVector<int64_t> cases;
    SmallVector<KernelVariant> variants = schedule.getVariants();
    int64_t stride = schedule.maxRows + 1, kinds = schedule.allLines() + 1;
    bool hasOwn = schedule.aheadElements > 0;
    for (const KernelVariant &variant : variants)
      cases.push_back((variant.own * kinds + variant.lines) * stride + variant.rows);
    Value kind = hasOwn ? sum(lines, select(own, index(kinds), zero)) : lines;
    auto choice =
        scf::IndexSwitchOp::create(b, loc, TypeRange(), sum(mul(kind, index(stride)), rowsOfPass), cases, cases.size());
    auto fill = [&](Region &region, const KernelVariant *variant) {
      OpBuilder::InsertionGuard inner(b);
      b.createBlock(&region);
      if (variant)
        functions.call(b, loc, form, *variant, arguments);
      scf::YieldOp::create(b, loc);
    };
    fill(choice.getDefaultRegion(), nullptr);
    for (auto [i, region] : llvm::enumerate(choice.getCaseRegions()))
      fill(region, &variants[i]);
  }

  /// getFetchShare (KernelSchedule.h) for numbers that are known at run time: lines and stream.
  std::pair<Value, Value> emitShare(Value passes, Value pass) {
    Value all = index(schedule.allLines()), lines = one, each = passes;
    for (int64_t candidate = 2; candidate <= schedule.allLines(); candidate *= 2) {
      Value product = mul(passes, index(candidate));
      Value fits = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ule, product, all);
      lines = select(fits, index(candidate), lines);
      each = select(fits, product, each);
    }
    Value more = arith::DivUIOp::create(b, loc, sub(all, each), lines);
    auto below = [&](Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, x, y); };
    Value twice = below(pass, more);
    Value mine = select(twice, mul(lines, index(2)), lines);
    Value stream = select(twice, mul(mine, pass), mul(lines, sum(pass, more)));
    // More passes than lines: some have none.
    Value many = below(all, passes);
    mine = select(many, select(below(pass, all), one, zero), mine);
    return {mine, select(many, pass, stream)};
  }

  void clearTile(Value count) {
    auto accType = VectorType::get({lanes}, accumulator);
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType));
    forEach(zero, count, 1, [&](Value r) {
      for (int64_t at = 0; at < layout.width(); at += lanes)
        vector::StoreOp::create(b, loc, zeros, tile, ValueRange{r, index(at)});
    });
  }

  /// The rows of `a` that the `count` pairs from `pair` on read.
  void emitSources(Value pair, Value count) {
    forEach(zero, count, 1, [&](Value r) {
      Value p = sum(pair, r);
      Value row = op.getRows() ? memref::LoadOp::create(b, loc, op.getRows(), p).getResult() : p;
      memref::StoreOp::create(b, loc, row, sources, r);
    });
  }

  /// From row `r` of the tile to that of pair `p` in the result.
  void emitEpilogue(Value p, Value panel, Value r) {
    auto accType = VectorType::get({lanes}, accumulator);
    for (int64_t v = 0; v < layout.columns / lanes; ++v) {
      Value column = add(mul(panel, index(layout.columns)), v * lanes);
      SmallVector<Value> sums;
      for (int64_t bank = 0; bank < layout.banks; ++bank)
        sums.push_back(
            vector::LoadOp::create(b, loc, accType, tile, ValueRange{r, index(bank * layout.columns + v * lanes)}));
      finish(p, column, sums, columnsDivideBy(layout.columns) ? Value() : mask(lanes, sub(n, column)));
    }
  }

  Value rowsOfA;
  const PanelLayout &layout;
  MemRefType bankType;
  KernelSchedule schedule;
  KernelFunctions &functions;
  KernelFunctionForm form;
  Value n, first, last, begin, rows, tile, sources, weights;
};

/// The rows of a grouped matmul in the type of its sums. A kernel reads each element as often as there are panels.
class RowWidener : GroupedKernel {
public:
  RowWidener(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) : GroupedKernel(b, op, lanes) {}

  /// Nothing if the rows are as wide as the sums. The result is freed behind the op.
  Value run() {
    auto type = cast<MemRefType>(op.getA().getType());
    if (type.getElementType() == accumulator)
      return Value();
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

void moe::emitPanelKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions) {
  SmallVector<AffineMap> maps;
  for (unsigned i = 0; i < op.getBanks().size(); ++i)
    maps.push_back(op.getBankMap(i));
  std::optional<PanelLayout> layout = matchPanelMaps(cast<ShapedType>(op.getBanks().front().getType()), maps);
  Value wide = RowWidener(b, op, lanes).run();
  PanelEmitter(b, op, wide ? wide : op.getA(), *layout, lanes, functions).run();
}
