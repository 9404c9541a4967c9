//===- PanelKernels.cpp - expert kernels over packed weights --------------===//
//
// One parallel loop over (expert, group of panels). A task takes its panels one after the other, as they lie in memory,
// and each panel with the expert's rows in passes of nearly equal size:
//
//   for each panel of the group
//     for pass = 0 to passes(rows)
//       one of the kernels for exactly 1, 2, ... rows: the sums of all columns of the panel, in registers, over all k
//       the epilogue, row by row, from the kernel's tile of sums to the result
//
// How many passes there are is decided from the expert's own rows (KernelSchedule.h).
//
//===----------------------------------------------------------------------===//
#include "GroupedKernel.h"
#include "KernelSchedule.h"
#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class PanelEmitter : GroupedKernel {
public:
  PanelEmitter(OpBuilder &b, GroupedMatmulOp op, PanelLayout layout, int64_t lanes)
      : GroupedKernel(b, op, lanes), layout(layout), bankType(cast<MemRefType>(op.getBanks().front().getType())),
        schedule(getKernelSchedule(layout, bankType.getShape(), bankType.getElementTypeBitWidth() / 8, lanes)),
        k(cast<ShapedType>(op.getA().getType()).getDimSize(1)) {}

  void run() {
    n = extent(op.getInit(), 1);
    Value experts = index(op.getNumExperts()), panels = index(bankType.getDimSize(1));
    auto loop = scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{experts, panels},
                                        ValueRange{one, index(schedule.panelsPerTask)});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    expert = loop.getInductionVars()[0];
    Value first = loop.getInductionVars()[1];
    begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
    Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
    rows = sub(end, begin);
    Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt, rows, zero);
    auto branch = scf::IfOp::create(b, loc, any, /*withElse=*/false);
    b.setInsertionPointToStart(branch.thenBlock());

    auto tileType = MemRefType::get({schedule.maxRows, layout.width()}, accumulator);
    tile = memref::AllocaOp::create(b, loc, tileType, b.getI64IntegerAttr(64));
    Value last = min(add(first, schedule.panelsPerTask), panels);
    auto each = scf::ForOp::create(b, loc, first, last, one);
    b.setInsertionPointToStart(each.getBody());
    emitPanel(each.getInductionVar());
  }

private:
  Value mul(Value x, Value y) { return b.createOrFold<arith::MulIOp>(loc, x, y); }

  void emitPanel(Value panel) {
    // The panel alone: [k][columns of all banks].
    SmallVector<OpFoldResult> offsets(bankType.getRank(), b.getIndexAttr(0)), sizes, strides(bankType.getRank(),
                                                                                             b.getIndexAttr(1));
    bool perExpert = isa<AffineDimExpr>(op.getBankMap(0).getResult(0));
    offsets[0] = perExpert ? OpFoldResult(expert) : b.getIndexAttr(0);
    offsets[1] = panel;
    for (int64_t size : bankType.getShape())
      sizes.push_back(b.getIndexAttr(size));
    sizes[0] = sizes[1] = b.getIndexAttr(1);
    auto type = memref::SubViewOp::inferRankReducedResultType(bankType.getShape().drop_front(2), bankType, offsets,
                                                              sizes, strides);
    weights = memref::SubViewOp::create(b, loc, type, op.getBanks().front(), offsets, sizes, strides);

    Value most = index(schedule.maxRows);
    Value passes = arith::CeilDivUIOp::create(b, loc, rows, most);
    auto loop = scf::ForOp::create(b, loc, zero, passes, one);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value pass = loop.getInductionVar();
    Value from = arith::DivUIOp::create(b, loc, mul(pass, rows), passes);
    Value to = arith::DivUIOp::create(b, loc, mul(add(pass, 1), rows), passes);
    Value count = sub(to, from);
    Value pair = arith::AddIOp::create(b, loc, begin, from);

    SmallVector<int64_t> cases;
    for (int64_t r = 1; r <= schedule.maxRows; ++r)
      cases.push_back(r);
    auto choice = scf::IndexSwitchOp::create(b, loc, TypeRange(), count, cases, cases.size());
    auto fill = [&](Region &region, int64_t r) {
      OpBuilder::InsertionGuard inner(b);
      b.createBlock(&region);
      if (r > 0)
        emitKernel(pair, r);
      scf::YieldOp::create(b, loc);
    };
    fill(choice.getDefaultRegion(), 0);
    for (auto [region, r] : llvm::zip(choice.getCaseRegions(), cases))
      fill(region, r);
    emitEpilogue(pair, count, panel);
  }

  /// The weights of step `step` (`group` consecutive k) for the chosen vectors of each bank: [k in group][vector].
  /// Other ways to store an element (scaled integers) decode here.
  SmallVector<SmallVector<Value>> loadWeights(Value step, ArrayRef<int64_t> columns) {
    Type stored = bankType.getElementType();
    SmallVector<SmallVector<Value>> result(layout.group);
    for (int64_t column : columns) {
      Value at = index(column);
      if (layout.group == 1) {
        auto type = VectorType::get({lanes}, stored);
        result[0].push_back(widen(vector::LoadOp::create(b, loc, type, weights, ValueRange{step, at}), accumulator));
        continue;
      }
      // Pairs of bf16 in 32 bits: the upper half is an f32 as it stands, the lower one after a shift.
      auto flat = VectorType::get({2 * lanes}, stored);
      auto words = VectorType::get({lanes}, b.getI32Type());
      Value raw = vector::LoadOp::create(b, loc, flat, flatWeights(), ValueRange{step, index(2 * column)});
      Value bits = vector::BitCastOp::create(b, loc, words, raw);
      auto splat = [&](uint32_t value) {
        return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, APInt(32, value)));
      };
      Value even = arith::ShLIOp::create(b, loc, bits, splat(16));
      Value odd = arith::AndIOp::create(b, loc, bits, splat(0xffff0000u));
      auto floats = VectorType::get({lanes}, b.getF32Type());
      result[0].push_back(vector::BitCastOp::create(b, loc, floats, even));
      result[1].push_back(vector::BitCastOp::create(b, loc, floats, odd));
    }
    return result;
  }

  /// The panel as [steps, columns * group].
  Value flatWeights() {
    SmallVector<ReassociationIndices> groups{{0}, {1, 2}};
    return memref::CollapseShapeOp::create(b, loc, weights, groups);
  }

  /// Sums of `count` rows from `pair` on, over all k, into the tile.
  void emitKernel(Value pair, int64_t count) {
    SmallVector<Value> sources = gather(pair, count);
    int64_t perBank = layout.columns / lanes, together = schedule.vectorsPerBank(count);
    for (int64_t v = 0; v < perBank; v += together) {
      SmallVector<int64_t> columns;
      for (int64_t bank = 0; bank < layout.banks; ++bank)
        for (int64_t i = v; i < v + together; ++i)
          columns.push_back(bank * layout.columns + i * lanes);
      emitSums(sources, columns);
    }
  }

  void emitSums(ArrayRef<Value> sources, ArrayRef<int64_t> columns) {
    auto accType = VectorType::get({lanes}, accumulator);
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType));
    SmallVector<Value> acc(sources.size() * columns.size(), zeros);
    // One step multiplies `group` k, fewer at the end.
    auto step = [&](Value at, int64_t many, ValueRange old) {
      SmallVector<Value> next(old);
      SmallVector<SmallVector<Value>> weight = loadWeights(at, columns);
      for (int64_t g = 0; g < many; ++g) {
        Value column = add(layout.group == 1 ? at : mul(at, index(layout.group)), g);
        for (auto [r, source] : llvm::enumerate(sources)) {
          Value x = memref::LoadOp::create(b, loc, op.getA(), ValueRange{source, column});
          Value broadcast = vector::BroadcastOp::create(b, loc, accType, widen(x, accumulator));
          for (size_t c = 0; c < columns.size(); ++c) {
            Value &sum = next[r * columns.size() + c];
            sum = vector::FMAOp::create(b, loc, broadcast, weight[g][c], sum);
          }
        }
      }
      return next;
    };
    int64_t steps = k / layout.group, unroll = schedule.unroll(sources.size());
    int64_t main = steps / unroll * unroll;
    if (main > 0) {
      auto loop = scf::ForOp::create(b, loc, zero, index(main), index(unroll), acc);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      SmallVector<Value> sums(loop.getRegionIterArgs());
      for (int64_t u = 0; u < unroll; ++u)
        sums = step(add(loop.getInductionVar(), u), layout.group, sums);
      scf::YieldOp::create(b, loc, sums);
      acc.assign(loop.getResults().begin(), loop.getResults().end());
    }
    for (int64_t s = main; s < steps; ++s)
      acc = step(index(s), layout.group, acc);
    if (k % layout.group)
      acc = step(index(steps), k % layout.group, acc);
    for (size_t r = 0; r < sources.size(); ++r)
      for (auto [c, column] : llvm::enumerate(columns))
        vector::StoreOp::create(b, loc, acc[r * columns.size() + c], tile,
                                ValueRange{index(r), index(column)});
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
        sums.push_back(vector::LoadOp::create(b, loc, accType, tile,
                                              ValueRange{r, index(bank * layout.columns + v * lanes)}));
      finish(p, column, sums, columnsDivideBy(layout.columns) ? Value() : mask(lanes, sub(n, column)));
    }
  }

  PanelLayout layout;
  MemRefType bankType;
  KernelSchedule schedule;
  int64_t k;
  Value n, begin, rows, tile, weights;
};

} // namespace

void moe::emitPanelKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) {
  SmallVector<AffineMap> maps;
  for (unsigned i = 0; i < op.getBanks().size(); ++i)
    maps.push_back(op.getBankMap(i));
  std::optional<PanelLayout> layout = matchPanelMaps(cast<ShapedType>(op.getBanks().front().getType()), maps);
  PanelEmitter(b, op, *layout, lanes).run();
}
