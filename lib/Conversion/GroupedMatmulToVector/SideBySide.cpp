//===- SideBySide.cpp - a single row against several quantised panels -----===//
//
//   the panels of a task in four runs of neighbours; for the first panel of each run, then the second, ...
//     totals[panel] = 0
//     for each block
//       for a few rows of words
//         for each of the four panels
//           partial[panel] += their products
//       (with the last of them) totals[panel] += partial[panel], scaled
//     for each panel: the epilogue
//
// Each run is a stream that the processor (Zen) follows for itself, and it is not far ahead of any: four together come
// faster than one, and they come fastest in short steps, each in the order of memory, so that what a step reads has
// been brought while the others were computed. Sums lie in the first-level cache between two steps.
//
//===----------------------------------------------------------------------===//
#include "QuantisedKernel.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// Panels that are read in turn.
constexpr int64_t kPanels = 4;
/// A few steps: what is fetched so near need not wait for memory long, and does not take the place of what is read.
constexpr int64_t kAhead = 512;
/// Steps of a block that are written out; more are a loop.
constexpr int64_t kMostWritten = 8;
} // namespace

/// The panels that are read in turn: how many there are, the byte at which each begins behind the first, and their sums
/// as [panel][lane of the row].
struct QuantisedKernel::Abreast {
  Value count, offsets, totals, partial;
};

void QuantisedKernel::emitOneRow(Value pair, Value first, Value last) {
  sources = gather(pair, 1);
  chooseChunk(0, panels.columns() / lanes);
  ahead = kAhead;
  locality = 3;
  auto allocate = [&](int64_t vectors, Type element) -> Value {
    return memref::AllocaOp::create(b, loc, MemRefType::get({kPanels, vectors * lanes}, element),
                                    b.getI64IntegerAttr(64));
  };
  int64_t vectors = chunk.size(), length = panels.blockLength(), whole = panels.wholeBlocks();
  Value totals = allocate(vectors, b.getF32Type());
  Value partial = allocate(numKept(), b.getI32Type());
  // Runs of nearly equal length, the longer ones first.
  Value most = index(kPanels), count = sub(last, first);
  Value each = b.createOrFold<arith::DivUIOp>(loc, count, most),
        left = sub(count, b.createOrFold<arith::MulIOp>(loc, each, most));
  auto startOfRun = [&](Value p) { return plus(b.createOrFold<arith::MulIOp>(loc, p, each), min(p, left)); };
  Value offsets = memref::AllocaOp::create(b, loc, MemRefType::get({kPanels}, b.getIndexType()));
  forEach(zero, most, 1,
          [&](Value p) { memref::StoreOp::create(b, loc, times(startOfRun(p), panels.panelBytes()), offsets, p); });
  Value rounds = b.createOrFold<arith::CeilDivUIOp>(loc, count, most);
  forEach(zero, rounds, 1, [&](Value round) {
    Value all = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, round, each);
    Abreast abreast{arith::SelectOp::create(b, loc, all, most, left), offsets, totals, partial};
    Value panel = plus(first, round), start = startOf(expert, panel);
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
      column = times(plus(panel, startOfRun(p)), panels.columns());
      SmallVector<Type> types(vectors, floats);
      finishTile(pair, /*rows=*/1, /*vector=*/0, loadSums(totals, p, types));
    });
  });
  ahead = kFarAhead;
  locality = 2;
}

SmallVector<Value> QuantisedKernel::loadSums(Value from, Value panel, TypeRange types) {
  auto stored = VectorType::get({lanes}, getElementTypeOrSelf(from.getType()));
  SmallVector<Value> sums;
  for (auto [v, type] : llvm::enumerate(types)) {
    Value loaded = vector::LoadOp::create(b, loc, stored, from, ValueRange{panel, index(v * lanes)});
    sums.push_back(stored == type ? loaded : vector::BitCastOp::create(b, loc, cast<VectorType>(type), loaded));
  }
  return sums;
}

void QuantisedKernel::storeSums(ValueRange sums, Value to, Value panel) {
  auto stored = VectorType::get({lanes}, getElementTypeOrSelf(to.getType()));
  for (auto [v, sum] : llvm::enumerate(sums)) {
    Value value = sum.getType() == stored ? sum : vector::BitCastOp::create(b, loc, stored, sum);
    vector::StoreOp::create(b, loc, value, to, ValueRange{panel, index(v * lanes)});
  }
}

void QuantisedKernel::emitInTurn(const Abreast &abreast, const PanelBlock &first) {
  int64_t group = panels.group(), together = groupsInTurn(), groups = llvm::divideCeilSigned(first.length, group);
  int64_t inLastGroup = first.length - (groups - 1) * group;
  SmallVector<Type> typesOfTotals(chunk.size(), floats), typesOfKept;
  auto forEachPanel = [&](function_ref<void(Value, const PanelBlock &, ValueRange)> body) {
    forEach(zero, abreast.count, 1, [&](Value p) {
      PanelBlock block = first;
      block.at = plus(first.at, memref::LoadOp::create(b, loc, abreast.offsets, p));
      body(p, block, loadSums(abreast.totals, p, typesOfTotals));
    });
  };
  auto end = [&](Value p, const PanelBlock &block, ValueRange sums, ValueRange totals) {
    storeSums(endBlock(block, sums, totals), abreast.totals, p);
  };
  if (groups <= kMostWritten * together) {
    for (int64_t from = 0; from < groups; from += together) {
      int64_t many = std::min(together, groups - from);
      bool isLast = from + many == groups;
      Step step{from, many, isLast ? inLastGroup : group, isLast};
      SmallVector<Type> types;
      forEachPanel([&](Value p, const PanelBlock &block, ValueRange totals) {
        SmallVector<Value> begin = beginBlock(block, totals), kept = loadSums(abreast.partial, p, typesOfKept);
        emitStep(add(block.at, from * panels.groupBytes()), add(block.k, from * group), step, begin, kept);
        if (isLast)
          return end(p, block, kept, totals);
        storeSums(kept, abreast.partial, p);
        llvm::append_range(types, ValueRange(kept).getTypes());
      });
      typesOfKept = types;
    }
    return;
  }

  forEachPanel([&](Value p, const PanelBlock &block, ValueRange totals) {
    SmallVector<Value> sums = beginBlock(block, totals);
    llvm::append_range(typesOfKept, ValueRange(sums).getTypes());
    storeSums(sums, abreast.partial, p);
  });
  auto step = [&](Value g, int64_t many, int64_t inLast) {
    forEachPanel([&](Value p, const PanelBlock &block, ValueRange totals) {
      beginBlock(block, totals); // what a step needs besides its words
      SmallVector<Value> sums = loadSums(abreast.partial, p, typesOfKept);
      emitGroups(plus(block.at, times(g, panels.groupBytes())), plus(block.k, times(g, group)), many, inLast, sums);
      storeSums(sums, abreast.partial, p);
    });
  };
  int64_t main = first.length / group / together * together;
  forEach(zero, index(main), together, [&](Value g) { step(g, together, group); });
  if (main < groups)
    step(index(main), groups - main, inLastGroup);
  forEachPanel([&](Value p, const PanelBlock &block, ValueRange totals) {
    beginBlock(block, totals);
    end(p, block, loadSums(abreast.partial, p, typesOfKept), totals);
  });
}

void QuantisedKernel::emitStep(Value at, Value k, const Step &step, ValueRange begin, SmallVectorImpl<Value> &kept) {
  if (step.from == 0)
    kept.assign(begin.begin(), begin.end());
  emitGroups(at, k, step.many, step.inLast, kept);
}
