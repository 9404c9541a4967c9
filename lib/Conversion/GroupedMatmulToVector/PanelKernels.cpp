//===- PanelKernels.cpp - expert kernels over packed weights --------------===//
//
// One parallel loop over (expert, group of panels). A task takes its panels one after the other, as they lie in memory,
// and each panel with the expert's rows in passes of nearly equal size:
//
//   for each panel of the group
//     for pass = 0 to passes(rows)
//       the kernel for exactly this many rows: the sums of all columns of the panel over all k, into a tile
//       the epilogue, row by row, from the tile to the result
//
// A pass also fetches weights that are needed later (KernelSchedule.h says which): its own, a little ahead, where one
// pass is all there is; else its share of the next panel, so that the stream of weights never stops.
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
  PanelEmitter(OpBuilder &b, GroupedMatmulOp op, const PanelLayout &layout, int64_t lanes, KernelFunctions &functions)
      : GroupedKernel(b, op, lanes), layout(layout), bankType(cast<MemRefType>(op.getBanks().front().getType())),
        schedule(getKernelSchedule(layout, bankType.getShape(), bankType.getElementTypeBitWidth() / 8, lanes)),
        functions(functions),
        form{layout,      schedule, lanes, bankType.getElementType(), getElementTypeOrSelf(op.getA().getType()),
             accumulator, false} {
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
    rowsOfA = memref::CastOp::create(b, loc, form.rowsType(), op.getA());

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
    auto each = scf::ForOp::create(b, loc, first, last, one);
    b.setInsertionPointToStart(each.getBody());
    emitPanel(each.getInductionVar());
  }

private:
  int64_t getK() { return cast<ShapedType>(op.getA().getType()).getDimSize(1); }
  Value mul(Value x, Value y) { return b.createOrFold<arith::MulIOp>(loc, x, y); }
  Value sum(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  Value equal(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, x, y); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }

  void emitPanel(Value panel) {
    bool perExpert = isa<AffineDimExpr>(op.getBankMap(0).getResult(0));
    int64_t elements = form.panelElements(bankType.getDimSize(2)), total = bankType.getNumElements();
    Value number = perExpert ? sum(mul(expert, index(bankType.getDimSize(1))), panel) : panel;
    Value start = mul(number, index(elements));
    // What a pass may fetch: the same panel a little ahead, or the next one of this task. Never beyond the banks.
    Value limit = index(total - elements);
    Value ahead = min(sum(start, index(schedule.aheadElements)), limit);
    Value isLast = equal(add(panel, 1), last);
    Value next = select(isLast, start, min(sum(start, index(elements)), limit));

    Value passes = arith::CeilDivUIOp::create(b, loc, rows, index(schedule.maxRows));
    Value single = equal(passes, one);
    auto loop = scf::ForOp::create(b, loc, zero, passes, one);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value pass = loop.getInductionVar();
    Value from = arith::DivUIOp::create(b, loc, mul(pass, rows), passes);
    Value to = arith::DivUIOp::create(b, loc, mul(add(pass, 1), rows), passes);
    Value count = sub(to, from);
    Value pair = arith::AddIOp::create(b, loc, begin, from);
    emitSources(pair, count);

    // Nobody has fetched the first panel of a task before its first pass.
    Value cold = arith::AndIOp::create(b, loc, equal(pass, zero), equal(panel, first));
    Value own = arith::OrIOp::create(b, loc, single, cold);
    // One switch over (kind of fetching, rows).
    SmallVector<int64_t> cases;
    SmallVector<KernelVariant> variants = schedule.getVariants();
    int64_t stride = schedule.maxRows + 1;
    for (const KernelVariant &variant : variants)
      cases.push_back(int64_t(variant.fetch) * stride + variant.rows);
    Value kind = select(own, index(int64_t(Fetch::Own)), emitShare(passes));
    Value window = select(own, ahead, next);
    Value which = arith::AddIOp::create(b, loc, mul(kind, index(stride)), count);
    auto choice = scf::IndexSwitchOp::create(b, loc, TypeRange(), which, cases, cases.size());
    auto fill = [&](Region &region, const KernelVariant *variant) {
      OpBuilder::InsertionGuard inner(b);
      b.createBlock(&region);
      if (variant) {
        Value stream = mul(pass, index(schedule.linesPerStep(variant->fetch)));
        functions.call(
            b, loc, form, *variant,
            {rowsOfA, sources, weights, start, window, stream, index(bankType.getDimSize(2)), tile, index(getK())});
      }
      scf::YieldOp::create(b, loc);
    };
    fill(choice.getDefaultRegion(), nullptr);
    for (auto [i, region] : llvm::enumerate(choice.getCaseRegions()))
      fill(region, &variants[i]);
    emitEpilogue(pair, count, panel);
  }

  /// Which share of the next panel each of `passes` passes fetches.
  Value emitShare(Value passes) {
    Value few = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ule, passes, index(schedule.passesOfLargeShares));
    return select(few, index(int64_t(Fetch::LargeShare)), index(int64_t(Fetch::SmallShare)));
  }

  /// The rows of `a` that the pass reads.
  void emitSources(Value pair, Value count) {
    auto loop = scf::ForOp::create(b, loc, zero, count, one);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value p = arith::AddIOp::create(b, loc, pair, loop.getInductionVar());
    Value row = op.getRows() ? memref::LoadOp::create(b, loc, op.getRows(), p).getResult() : p;
    memref::StoreOp::create(b, loc, row, sources, loop.getInductionVar());
  }

  /// From the tile to the result.
  void emitEpilogue(Value pair, Value count, Value panel) {
    auto loop = scf::ForOp::create(b, loc, zero, count, one);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value r = loop.getInductionVar();
    Value p = arith::AddIOp::create(b, loc, pair, r);
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

  const PanelLayout &layout;
  MemRefType bankType;
  KernelSchedule schedule;
  KernelFunctions &functions;
  KernelFunctionForm form;
  Value n, first, last, begin, rows, tile, sources, weights, rowsOfA;
};

} // namespace

void moe::emitPanelKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions) {
  SmallVector<AffineMap> maps;
  for (unsigned i = 0; i < op.getBanks().size(); ++i)
    maps.push_back(op.getBankMap(i));
  std::optional<PanelLayout> layout = matchPanelMaps(cast<ShapedType>(op.getBanks().front().getType()), maps);
  PanelEmitter(b, op, *layout, lanes, functions).run();
}
