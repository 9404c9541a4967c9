//===- SideBySide.cpp - a single row against several quantised panels -----===//
//
//   for four panels at a time (fewer at the end)
//     totals[panel] = 0
//     for each block
//       for each panel                      if a block is a few lines
//         totals[panel] += its products
//       or, where a block is long
//         for some rows of words
//           for each panel
//             partial[panel] += their products
//         for each panel
//           totals[panel] += partial[panel], scaled
//     for each panel: the epilogue
//
// Each panel is a stream, and the processor (Zen) follows each of them for itself, so that four together come faster
// than one. Each is read in steps of about half a kilobyte, in the order of memory, and the next step is fetched. With
// one kernel after the other, sums are in registers during a step and in the first-level cache between steps.
//
//===----------------------------------------------------------------------===//
#include "QuantisedKernel.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// Panels that are read in turn.
constexpr int64_t kPanels = 4;
/// Rows of words in a step: eight lines.
constexpr int64_t kStepGroups = 4;
/// The next step, also where scales stand between both.
constexpr int64_t kAhead = 768;
} // namespace

/// The panels that are read in turn, and their sums as [panel][lane of the row].
struct QuantisedKernel::Abreast {
  Value count, totals, partial;
};

void QuantisedKernel::emitOneRow(Value pair, Value first, Value last) {
  sources = gather(pair, 1);
  chooseChunk(0, panels.columns() / lanes);
  ahead = kAhead;
  auto allocate = [&](int64_t vectors, Type element) -> Value {
    return memref::AllocaOp::create(b, loc, MemRefType::get({kPanels, vectors * lanes}, element),
                                    b.getI64IntegerAttr(64));
  };
  int64_t vectors = chunk.size(), length = panels.blockLength(), whole = panels.wholeBlocks();
  Value totals = allocate(vectors, b.getF32Type());
  // Sums of blocks may be more than there are vectors of columns (a sum of the row's elements).
  Value partial = allocate(vectors + 1, getElementTypeOrSelf(typeOfSums()));
  forEach(first, last, kPanels, [&](Value panel) {
    Abreast abreast{min(sub(last, panel), index(kPanels)), totals, partial};
    Value start = startOf(expert, panel);
    forEach(zero, abreast.count, 1, [&](Value p) {
      for (int64_t v = 0; v < vectors; ++v)
        vector::StoreOp::create(b, loc, splat(0.0f), totals, ValueRange{p, index(v * lanes)});
    });
    if (whole > 1)
      forEach(zero, index(whole), 1, [&](Value block) {
        emitInTurn(abreast,
                   {plus(start, times(block, panels.blockBytes(length))), block, times(block, length), length});
      });
    else
      emitInTurn(abreast, {start, zero, zero, length});
    if (int64_t rest = panels.k - whole * length)
      emitInTurn(abreast, {add(start, whole * panels.blockBytes(length)), index(whole), index(whole * length), rest});
    forEach(zero, abreast.count, 1, [&](Value p) {
      column = times(plus(panel, p), panels.columns());
      finishTile(pair, /*rows=*/1, /*vector=*/0, loadSums(totals, p, vectors, floats));
    });
  });
  ahead = kFarAhead;
}

SmallVector<Value> QuantisedKernel::loadSums(Value from, Value panel, int64_t count, VectorType vectorType) {
  SmallVector<Value> sums;
  for (int64_t v = 0; v < count; ++v)
    sums.push_back(vector::LoadOp::create(b, loc, vectorType, from, ValueRange{panel, index(v * lanes)}));
  return sums;
}

void QuantisedKernel::storeSums(ValueRange sums, Value to, Value panel) {
  for (auto [v, sum] : llvm::enumerate(sums))
    vector::StoreOp::create(b, loc, sum, to, ValueRange{panel, index(v * lanes)});
}

void QuantisedKernel::emitInTurn(const Abreast &abreast, const PanelBlock &first) {
  int64_t vectors = chunk.size(), group = panels.group(), groups = first.length / group;
  auto forEachPanel = [&](function_ref<void(Value, const PanelBlock &)> body) {
    forEach(zero, abreast.count, 1, [&](Value p) {
      PanelBlock block = first;
      block.at = plus(first.at, times(p, panels.panelBytes()));
      body(p, block);
    });
  };
  auto totalsOf = [&](Value p) { return loadSums(abreast.totals, p, vectors, floats); };
  if (groups < 2 * kStepGroups)
    return forEachPanel(
        [&](Value p, const PanelBlock &block) { storeSums(emitBlock(block, totalsOf(p)), abreast.totals, p); });

  int64_t numSums = 0;
  forEachPanel([&](Value p, const PanelBlock &block) {
    SmallVector<Value> sums = beginBlock(block, totalsOf(p));
    numSums = sums.size();
    storeSums(sums, abreast.partial, p);
  });
  auto step = [&](Value g, int64_t many, int64_t inLast) {
    forEachPanel([&](Value p, const PanelBlock &block) {
      beginBlock(block, totalsOf(p)); // what a step needs besides its words
      SmallVector<Value> sums = loadSums(abreast.partial, p, numSums, typeOfSums());
      Value at = plus(block.at, times(g, panels.groupBytes())), k = plus(block.k, times(g, group));
      if (inLast == group)
        sums = emitWhole(at, k, many, getUnrolling(many), sums);
      else
        emitGroups(at, k, many, inLast, sums);
      storeSums(sums, abreast.partial, p);
    });
  };
  int64_t main = groups / kStepGroups * kStepGroups;
  forEach(zero, index(main), kStepGroups, [&](Value g) { step(g, kStepGroups, group); });
  if (main < groups)
    step(index(main), groups - main, group);
  if (int64_t rest = first.length % group)
    step(index(groups), 1, rest);
  forEachPanel([&](Value p, const PanelBlock &block) {
    SmallVector<Value> before = totalsOf(p);
    beginBlock(block, before);
    storeSums(endBlock(block, loadSums(abreast.partial, p, numSums, typeOfSums()), before), abreast.totals, p);
  });
}
