//===- PanelKernels.cpp - expert kernels over packed weights --------------===//
//
// One parallel loop over (expert, group of panels). A task takes the expert's rows in blocks that stay in the
// second-level cache, and with each block its panels one after the other, as they lie in memory:
//
//   for each block of rows
//     for each panel of the group (or two side by side)
//       tile = 0
//       for each block of k (few rows: a piece of each part of the panel)
//         for pass = 0 to passes(rows of the block)
//           the kernel for exactly this many rows: adds to their sums in the tile
//       the epilogue, row by row, from the tile to the result
//
// A pass may also fetch its share of the next block of weights (KernelSchedule.h says which), so that their stream
// never stops.
//
// Rows of a narrower type than the sums are widened once, before the loop.
//
// Where the target has AMX and the weights are bf16, an expert of more than a few rows goes from the tile of a panel to
// the epilogue by TileKernels.h instead of the passes. f32 rows are taken apart into three of bf16, unless they may be
// rounded.
//
//===----------------------------------------------------------------------===//
#include "RowBlock.h"
#include "TileKernels.h"
#include "WidenedBlock.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class PanelEmitter : RowBlock {
public:
  PanelEmitter(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, const KernelFunctionForm &form,
               KernelFunctions &functions, const std::optional<TileForm> &tileForm)
      : RowBlock(b, op, rowsOfA, form, functions), bankType(cast<MemRefType>(op.getBanks().front().getType())),
        layout(form.layout), schedule(form.schedule) {
    if (tileForm) {
      tiles.emplace(b, loc, *tileForm, functions);
      // A few rows are one pass. (More are several, after all, where a sum by tiles is no number.)
      llvm::erase_if(variants, [&](const KernelVariant &variant) {
        return variant.reads != Reads::Parts || (schedule.fetchesAll && variant.fetch == Fetch::Share);
      });
    }
    if (schedule.widenedRows)
      widened.emplace(b, loc, form, getK() % KernelSchedule::kUnroll == 0, functions);
    assert(schedule.maxBlockRows <= KernelFunctionForm::kMostRows);
  }

  void run() {
    prepare();
    // All banks as one run of elements.
    SmallVector<ReassociationIndices> all(1);
    for (int64_t d = 0; d < bankType.getRank(); ++d)
      all[0].push_back(d);
    Value flat = memref::CollapseShapeOp::create(b, loc, op.getBanks().front(), all);
    weights = memref::CastOp::create(b, loc, form.weightsType(), flat);

    OpBuilder::InsertionGuard guard(b);
    int64_t panelBytes = panelElements() * bankType.getElementTypeBitWidth() / 8;
    TaskRange task = emitPanelTasks(bankType.getDimSize(1), panelBytes, /*taskBytes=*/2 << 20, schedule.panelsTogether);
    first = task.first;
    last = task.last;
    begin = memref::LoadOp::create(b, loc, op.getOffsets(), task.expert);
    Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(task.expert, 1)});
    rows = sub(end, begin);
    Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt, rows, zero);
    auto branch = scf::IfOp::create(b, loc, any, /*withElse=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    beginTask(task.expert);
    if (widened)
      widened->beginTask();
    few = less(rows, index(schedule.contiguousRows));
    if (widened)
      many = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, rows, index(schedule.widenedRows));
    following = emitFollowing(task, bankType.getDimSize(1),
                              [&](Value ofExpert, Value panel) { return startOf(ofExpert, panel); });
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
  Value startOf(Value ofExpert, Value panel) {
    bool perExpert = isa<AffineDimExpr>(op.getBankMap(0).getResult(0));
    Value number = perExpert ? sum(mul(ofExpert, index(bankType.getDimSize(1))), panel) : panel;
    return mul(number, index(panelElements()));
  }
  Value startOf(Value panel) { return startOf(expert, panel); }

  /// Emits `body` behind a branch.
  template <typename Fn> void emitIf(Value condition, const Fn &body) {
    auto branch = scf::IfOp::create(b, loc, condition, /*withElse=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    body();
  }

  /// For few rows, which read panels in parts; for more; for so many that blocks are widened first.
  Value choose(Value ofFew, Value ofMore, Value ofMany) {
    return select(few, ofFew, many ? select(many, ofMany, ofMore) : ofMore);
  }
  Value choose(int64_t ofFew, int64_t ofMore, int64_t ofMany) {
    return choose(index(ofFew), index(ofMore), index(ofMany));
  }

  void emitBlocks() {
    int64_t mostRows = tiles ? tiles->getSchedule().maxBlockRows : schedule.maxBlockRows;
    if (tiles) {
      Value few = index(TileSchedule::kMostVectorRows);
      byTiles = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ugt, rows, few);
      tiles->beginTask(byTiles);
    }
    Value mostOfPass = choose(schedule.maxRows, schedule.maxRows, schedule.widenedMaxRows);
    forEachRowBlock(begin, rows, mostRows, mostOfPass, [&](const Rows &some) {
      if (tiles)
        emitIf(byTiles, [&] { tiles->emitRows(op.getA(), getK(), sources, some.count); });
      Shares shares(*this, some.passes.count);
      forEach(first, last, schedule.panelsTogether,
              [&](Value panel) { emitPanel(panel, some.pair, some.count, some.passes, shares, some.left); });
    });
    if (tiles)
      tiles->endTask(byTiles);
  }

  /// What the passes over a block fetch of the next one, and how a panel is divided into blocks.
  struct Shares {
    Shares(PanelEmitter &emitter, Value passes)
        : whole(Numbers{emitter}, emitter.schedule.allLines(), passes),
          half(Numbers{emitter}, std::max<int64_t>(1, emitter.schedule.allLines() / 2),
               emitter.sub(emitter.b.createOrFold<arith::MaxUIOp>(emitter.loc, passes, emitter.one), emitter.one)) {
      const KernelSchedule &schedule = emitter.schedule;
      if (emitter.widened)
        ofWidened.emplace(Numbers{emitter}, emitter.widened->getForm().schedule.allLines(), passes);
      steps = emitter.choose(schedule.blockSteps, schedule.contiguousSteps, schedule.widenedSteps);
      all = emitter.choose(schedule.partSteps, emitter.numSteps(), emitter.numSteps());
      blocks = arith::CeilDivUIOp::create(emitter.b, emitter.loc, all, steps);
    }
    Fetches whole, half;
    std::optional<Fetches> ofWidened;
    /// The steps of a part in a block, and in all blocks; the number of blocks.
    Value steps, all, blocks;
  };

  /// Lines and stream of number `pass`; no lines: it fetches nothing.
  std::pair<Value, Value> getShare(Shares &shares, Value pass) {
    auto [lines, stream] = shares.whole.getShare(pass);
    if (schedule.fetchesAll)
      return {lines, stream};
    auto [someLines, someStream] = shares.half.getShare(sub(pass, one));
    someLines = select(equal(pass, zero), zero, someLines);
    auto [manyLines, manyStream] =
        shares.ofWidened ? shares.ofWidened->getShare(pass) : std::pair<Value, Value>{lines, stream};
    return {choose(someLines, lines, manyLines), choose(someStream, stream, manyStream)};
  }

  /// The `count` pairs from `pair` on, with `left` blocks of them to come, and the panel and those beside it.
  void emitPanel(Value panel, Value pair, Value count, const Passes &passes, Shares &shares, Value left) {
    clearTile(byTiles ? select(byTiles, tiles->padded(count), count) : count);
    int64_t total = bankType.getNumElements(), parts = schedule.parts, together = schedule.panelsTogether;
    Value start = startOf(panel), distance = index(schedule.partSteps);
    // If the last panel is alone, it is beside itself, and what it gives there is not used.
    Value end = min(add(panel, together), last), beside = zero;
    if (together > 1)
      beside = mul(sub(sub(end, panel), one), index(panelElements()));
    int64_t unit = together * panelElements();
    // Behind the group's last panel comes its first one, for the next block of rows; else that of the next task.
    auto both = [&](Value x, Value y) -> Value { return arith::AndIOp::create(b, loc, x, y); };
    Value isLast = equal(end, last);
    Value again = both(isLast, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, left, zero));
    Value next = min(sum(sum(start, beside), index(panelElements())), index(std::max<int64_t>(0, total - unit)));
    next = select(isLast, following, next);
    Value behind = select(again, startOf(first), next);
    scf::IfOp choice;
    if (byTiles) {
      bool inParts = tiles->getParts() > 1;
      choice = scf::IfOp::create(b, loc, inParts ? TypeRange(b.getI1Type()) : TypeRange(), byTiles, /*withElse=*/true);
      b.setInsertionPointToStart(choice.thenBlock());
      Value most = index(std::max<int64_t>(0, total - tiles->fetchedElements()));
      tiles->emitPanel(weights, start, min(behind, most), tile, count);
      if (inParts) {
        // A part that is zero times an infinite weight is no number, where the element times the weight is one.
        Value byVectors = tiles->emitHasNaN(tile, count);
        emitIf(byVectors, [&] { clearTile(count); });
        scf::YieldOp::create(b, loc, byVectors);
        b.setInsertionPointToStart(choice.elseBlock());
        scf::YieldOp::create(b, loc, arith::ConstantOp::create(b, loc, b.getBoolAttr(true)).getResult());
        b.setInsertionPointAfter(choice);
        choice = scf::IfOp::create(b, loc, choice.getResult(0), /*withElse=*/false);
        b.setInsertionPointToStart(choice.thenBlock());
      } else {
        b.setInsertionPointToStart(choice.elseBlock());
      }
    }
    // Blocks of all parts, and one of the steps that are left behind them.
    Value blockSteps = shares.steps, blocks = shares.blocks;
    int64_t restAt = parts * schedule.partSteps, rest = numSteps() - restAt;
    Value allBlocks = rest > 0 ? select(few, add(blocks, 1), blocks) : blocks;
    forEach(zero, allBlocks, 1, [&](Value number) {
      Value step = mul(number, blockSteps);
      Value steps = min(blockSteps, sub(shares.all, step));
      Value nextStep = sum(step, blockSteps), numParts = select(few, index(parts), one);
      Value isLastBlock = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, nextStep, shares.all);
      Value readsKind = choose(zero, kindOf(Fetch::Nothing, parts > 1 ? Reads::Block : Reads::Parts),
                               kindOf(Fetch::Nothing, Reads::Widened));
      if (rest > 0) {
        Value isRest = both(few, equal(number, blocks));
        step = select(isRest, index(restAt), step);
        steps = select(isRest, index(rest), steps);
        numParts = select(isRest, one, numParts);
      }
      Value at = sum(start, mul(step, index(form.stepElements())));
      Value next = select(isLastBlock, behind, sum(start, mul(nextStep, index(form.stepElements()))));
      Value firstK = mul(step, index(layout.group));
      Value k = min(mul(steps, index(layout.group)), sub(index(getK()), firstK));
      if (widened)
        emitIf(many, [&] { widened->emit(weights, at, steps); });
      forEachPass(passes, [&](Value pass, Value from, Value rowsOfPass) {
        auto [lines, stream] = getShare(shares, pass);
        Value isNone = equal(lines, zero), kind, window = next;
        if (schedule.fetchesAll) {
          kind = kindOf(Fetch::All);
          if (!tiles)
            kind = select(equal(passes.count, one), kind, kindOf(Fetch::Share));
          // A pass without a share of the next block fetches what is there already.
          window = select(isNone, at, window);
          lines = select(isNone, one, lines);
          stream = select(isNone, zero, stream);
        } else {
          kind = sum(select(isNone, kindOf(Fetch::Nothing), kindOf(Fetch::Share)), readsKind);
        }
        emitPass(variants,
                 {kind, lines, rowsOfPass, from, weights, at, window, stream, steps, firstK, k, numParts, distance,
                  beside, index(panelElements())},
                 widened ? &*widened : nullptr);
      });
    });
    if (choice)
      b.setInsertionPointAfter(choice);
    auto emitEpilogues = [&](Value each, Value column) {
      forEach(zero, count, 1, [&](Value r) { emitEpilogue(sum(pair, r), each, r, column); });
    };
    if (together == 1)
      return emitEpilogues(panel, zero);
    forEach(panel, end, 1, [&](Value each) { emitEpilogues(each, mul(sub(each, panel), index(layout.width()))); });
  }

  MemRefType bankType;
  const PanelLayout &layout;
  const KernelSchedule &schedule;
  SmallVector<KernelVariant> variants = schedule.getVariants();
  Value first, last, begin, rows, weights, following;
  /// Whether the rows are so few that panels are read in parts; so many that blocks are widened (nothing: never).
  Value few, many;
  std::optional<WidenedBlock> widened;
  std::optional<TileBlocks> tiles;
  /// Whether the task's expert has enough rows for tiles; nothing without them.
  Value byTiles;
};

} // namespace

static PanelLayout getLayout(GroupedMatmulOp op) {
  SmallVector<AffineMap> maps;
  for (unsigned i = 0; i < op.getBanks().size(); ++i)
    maps.push_back(op.getBankMap(i));
  return *matchPanelMaps(cast<ShapedType>(op.getBanks().front().getType()), maps);
}

void moe::emitPanelKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions, bool byTiles,
                           bool roundRows, bool batchInvariant) {
  auto bankType = cast<MemRefType>(op.getBanks().front().getType());
  PanelLayout layout = getLayout(op);
  KernelSchedule schedule =
      getKernelSchedule(layout, bankType.getShape(), bankType.getElementTypeBitWidth() / 8, lanes, batchInvariant,
                        /*mostPanels=*/byTiles ? 1 : 2);
  std::optional<TileForm> tiles;
  if (byTiles) {
    // Three bf16 are an f32.
    int64_t rowParts = getElementTypeOrSelf(op.getA()).isF32() && !roundRows ? 3 : 1;
    tiles = TileForm{bankType.getElementType(),
                     b.getF32Type(),
                     layout.width(),
                     layout.group,
                     getTileSchedule(layout.width(), bankType.getDimSize(2), rowParts),
                     rowParts};
    // Vectors get no more rows than these.
    schedule.maxRows = std::min(schedule.maxRows, TileSchedule::kMostVectorRows);
    schedule.widenedRows = 0;
    schedule.contiguousRows = std::numeric_limits<int64_t>::max();
  }
  // The rows are as wide as the sums, unless only a few are read by vectors.
  Value rows = byTiles ? op.getA() : widenRows(b, op, lanes);
  auto rowType = cast<FloatType>(getElementTypeOrSelf(rows));
  FloatType sumType = byTiles ? FloatType(b.getF32Type()) : rowType;
  int64_t k = cast<ShapedType>(op.getA().getType()).getDimSize(1);
  KernelFunctionForm form{layout,
                          schedule,
                          lanes,
                          bankType.getElementType(),
                          rowType,
                          sumType,
                          k % (layout.group * KernelSchedule::kUnroll) == 0};
  PanelEmitter(b, op, rows, form, functions, tiles).run();
}
