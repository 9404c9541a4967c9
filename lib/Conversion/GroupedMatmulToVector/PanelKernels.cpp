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
#include "RowBlock.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class PanelEmitter : RowBlock {
public:
  PanelEmitter(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, const KernelFunctionForm &form,
               KernelFunctions &functions)
      : RowBlock(b, op, rowsOfA, form, functions), bankType(cast<MemRefType>(op.getBanks().front().getType())),
        layout(form.layout), schedule(form.schedule) {
    assert(schedule.maxBlockRows <= KernelFunctionForm::kMostRows &&
           schedule.panelsOfOneRow <= KernelFunctionForm::kMostRows);
  }

  void run() {
    prepare();
    Value experts = index(op.getNumExperts()), panels = index(bankType.getDimSize(1));
    // All banks as one run of elements.
    SmallVector<ReassociationIndices> all(1);
    for (int64_t d = 0; d < bankType.getRank(); ++d)
      all[0].push_back(d);
    Value flat = memref::CollapseShapeOp::create(b, loc, op.getBanks().front(), all);
    weights = memref::CastOp::create(b, loc, form.weightsType(), flat);

    auto loop = scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{experts, panels},
                                        ValueRange{one, index(schedule.panelsPerTask)});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value expertOfTask = loop.getInductionVars()[0];
    first = loop.getInductionVars()[1];
    begin = memref::LoadOp::create(b, loc, op.getOffsets(), expertOfTask);
    Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expertOfTask, 1)});
    rows = sub(end, begin);
    Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt, rows, zero);
    auto branch = scf::IfOp::create(b, loc, any, /*withElse=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    beginTask(expertOfTask);
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
  /// The rule of KernelSchedule.h for numbers that are known at run time.
  struct Numbers {
    PanelEmitter &emitter;
    Value number(int64_t x) { return emitter.index(x); }
    Value mul(Value x, Value y) { return emitter.mul(x, y); }
    Value mul(Value x, int64_t y) { return emitter.mul(x, emitter.index(y)); }
    Value sum(Value x, Value y) { return emitter.sum(x, y); }
    Value sub(Value x, Value y) { return emitter.sub(x, y); }
    Value div(Value x, Value y) { return arith::DivUIOp::create(emitter.b, emitter.loc, x, y); }
    Value min(Value x, Value y) { return arith::MinUIOp::create(emitter.b, emitter.loc, x, y); }
    Value selectIfLess(Value x, Value y, Value less, Value other) {
      Value isLess = arith::CmpIOp::create(emitter.b, emitter.loc, arith::CmpIPredicate::ult, x, y);
      return emitter.select(isLess, less, other);
    }
    Value selectIfLess(Value x, int64_t y, Value less, Value other) {
      return selectIfLess(x, emitter.index(y), less, other);
    }
  };
  using Fetches = FetchRule<Value, Numbers>;

  int64_t getK() { return cast<ShapedType>(op.getA().getType()).getDimSize(1); }
  int64_t numSteps() const { return bankType.getDimSize(2); }
  int64_t panelElements() const { return form.panelElements(numSteps()); }

  /// Where a panel begins.
  Value startOf(Value panel) {
    bool perExpert = isa<AffineDimExpr>(op.getBankMap(0).getResult(0));
    Value number = perExpert ? sum(mul(expert, index(bankType.getDimSize(1))), panel) : panel;
    return mul(number, index(panelElements()));
  }

  /// One row: several panels side by side, each a stream that the processor follows for itself.
  void emitOneRow() {
    emitSources(begin, one);
    Value together = sub(last, b.createOrFold<arith::RemUIOp>(loc, sub(last, first), index(schedule.panelsOfOneRow)));
    forEach(first, together, schedule.panelsOfOneRow, [&](Value panel) {
      clearTile(index(schedule.panelsOfOneRow));
      KernelVariant variant{/*rows=*/1, Fetch::Nothing, schedule.panelsOfOneRow};
      functions.call(b, loc, form, variant,
                     {rowsOfA, sources, zero, weights, startOf(panel), zero, index(panelElements()), index(numSteps()),
                      tile, zero, index(getK()), one});
      for (int64_t p = 0; p < schedule.panelsOfOneRow; ++p)
        emitEpilogue(begin, add(panel, p), index(p));
    });
    Fetches fetches(Numbers{*this}, schedule.allLines(), one);
    forEach(together, last, 1,
            [&](Value panel) { emitPanel(panel, begin, one, {one, one, zero}, fetches, zero, zero); });
  }

  void emitBlocks() {
    Value blocks = arith::CeilDivUIOp::create(b, loc, rows, index(schedule.maxBlockRows));
    forEach(zero, blocks, 1, [&](Value block) {
      Value from = split(rows, blocks, block), to = split(rows, blocks, add(block, 1));
      Value pair = sum(begin, from), count = sub(to, from);
      emitSources(pair, count);
      Value left = sub(sub(blocks, block), one);
      Passes passes = divide(count);
      Fetches fetches(Numbers{*this}, schedule.allLines(), passes.count);
      forEach(first, last, 1, [&](Value panel) { emitPanel(panel, pair, count, passes, fetches, block, left); });
    });
  }

  /// The `count` pairs from `pair` on, which are block number `block` of the rows, with `left` to come.
  void emitPanel(Value panel, Value pair, Value count, const Passes &passes, Fetches &fetches, Value block,
                 Value left) {
    clearTile(count);
    int64_t blockElements = form.panelElements(schedule.blockSteps), total = bankType.getNumElements();
    Value start = startOf(panel), limit = index(std::max<int64_t>(0, total - blockElements));
    // Behind the group's last panel comes its first one, for the next block of rows; else what lies behind it in
    // memory, which is the next task's.
    auto both = [&](Value x, Value y) -> Value { return arith::AndIOp::create(b, loc, x, y); };
    Value again = both(equal(add(panel, 1), last), arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, left, zero));
    Value behind = select(again, startOf(first), sum(start, index(panelElements())));
    Value isFirst = both(equal(panel, first), equal(block, zero));
    forEach(zero, index(numSteps()), schedule.blockSteps, [&](Value step) {
      Value steps = min(index(schedule.blockSteps), sub(index(numSteps()), step));
      Value at = sum(start, mul(step, index(form.stepElements())));
      Value nextStep = add(step, schedule.blockSteps);
      Value isLast = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, nextStep, index(numSteps()));
      Value next = min(select(isLast, behind, sum(start, mul(nextStep, index(form.stepElements())))), limit);
      Value ahead = min(sum(at, index(schedule.aheadElements)), limit);
      Value firstK = mul(step, index(layout.group));
      Value k = min(mul(steps, index(layout.group)), sub(index(getK()), firstK));
      forEachPass(passes, [&](Value pass, Value from, Value rowsOfPass) {
        // Nobody has fetched the first block of a task before its first pass.
        Value cold = both(both(isFirst, equal(step, zero)), equal(pass, zero));
        Value own = equal(passes.count, one);
        if (schedule.aheadElements)
          own = arith::OrIOp::create(b, loc, own, cold);
        auto [lines, stream] = fetches.getShare(pass);
        // A pass without a share of the next block fetches what is there already.
        Value none = equal(lines, zero);
        Value window = select(none, at, next);
        lines = select(none, one, select(own, index(schedule.shareLines()), lines));
        stream = select(arith::OrIOp::create(b, loc, none, own), zero, stream);
        if (schedule.aheadElements)
          window = select(own, ahead, window);
        emitPass(variants, {own, lines, rowsOfPass, from, weights, at, window, stream, steps, firstK, k});
      });
    });
    forEach(zero, count, 1, [&](Value r) { emitEpilogue(sum(pair, r), panel, r); });
  }

  MemRefType bankType;
  const PanelLayout &layout;
  const KernelSchedule &schedule;
  SmallVector<KernelVariant> variants = schedule.getVariants();
  Value first, last, begin, rows, weights;
};

} // namespace

void moe::emitPanelKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions) {
  SmallVector<AffineMap> maps;
  for (unsigned i = 0; i < op.getBanks().size(); ++i)
    maps.push_back(op.getBankMap(i));
  auto bankType = cast<MemRefType>(op.getBanks().front().getType());
  PanelLayout layout = *matchPanelMaps(bankType, maps);
  Value rows = widenRows(b, op, lanes);
  auto rowType = cast<FloatType>(getElementTypeOrSelf(rows));
  KernelSchedule schedule =
      getKernelSchedule(layout, bankType.getShape(), bankType.getElementTypeBitWidth() / 8, lanes);
  int64_t k = cast<ShapedType>(op.getA().getType()).getDimSize(1);
  // The rows are as wide as the sums.
  KernelFunctionForm form{layout,
                          schedule,
                          lanes,
                          bankType.getElementType(),
                          rowType,
                          rowType,
                          k % (layout.group * KernelSchedule::kUnroll) == 0};
  PanelEmitter(b, op, rows, form, functions).run();
}
