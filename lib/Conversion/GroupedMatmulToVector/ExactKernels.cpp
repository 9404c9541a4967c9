//===- ExactKernels.cpp - expert kernels over quantised panels, in floats -===//
//
// One parallel loop over (expert, group of panels), as for panels of floats. A task goes through its panels
// (QuantPanels.h) as they lie in memory. What it does depends on the expert's number of rows:
//
//   few     the codes become floats in registers, in tiles of (4,) 2 and 1 rows. One or two rows sum up the products of
//   a
//           block on their own and multiply them by the block's scales once; more multiply each weight when it is
//           decoded
//   more    some k are decoded into a near cache, once for all rows of a block: DecodedBlocks.h
//
//===----------------------------------------------------------------------===//
#include "DecodedBlocks.h"
#include "QuantisedKernel.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class ExactEmitter : QuantisedKernel {
public:
  ExactEmitter(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, int64_t lanes, KernelFunctions &functions)
      : QuantisedKernel(b, op, lanes), rowsOfA(rowsOfA), schedule(getDecodeSchedule(panels, lanes)),
        decoded(b, op, rowsOfA, panels, schedule, lanes, functions) {}

  void run() {
    decoded.prepare();
    emitTasks(schedule.mostDirectRows, schedule.mostDirectRows + 1);
  }

private:
  void emitManyRows(const Task &task) override {
    decoded.emit(task.expert, task.begin, task.rows, task.first, task.last, stream,
                 [&](Value panel) { return startOf(task.expert, panel); });
  }

  void emitTile(Value pair, int64_t rows) override {
    int64_t perBank = panels.columns() / lanes;
    // Registers for sums: 24 of AVX-512's, 8 of AVX2's; the same columns of all banks stay together.
    int64_t registers = lanes >= 16 ? 24 : 8, together = perBank;
    perBlock = rows <= 2 && panels.wholeBlocks() > 1 && !panels.format.getZeroPoints();
    while (together > 1 && rows * together * panels.banks * (perBlock ? 2 : 1) > registers)
      together /= 2;
    for (int64_t v = 0; v < perBank; v += together) {
      chooseChunk(v, together);
      finishTile(pair, rows, v, emitSums());
    }
  }

  SmallVector<Value> emitBlock(Value at, Value, Value k, int64_t length, ValueRange before) override {
    bool only = panels.wholeBlocks() == 1 && panels.k == panels.blockLength();
    bool scaleLast = perBlock || only;
    SmallVector<Value> scales, zeros; // -zero * scale
    loadScales(at, length, decoder().codeFactor(), scales, zeros);
    // With zero points the sum of the row's elements is needed as well.
    bool countRows = scaleLast && !zeros.empty();
    SmallVector<Value> sums(before);
    if (scaleLast)
      sums.assign(sources.size() * chunk.size(), splat(0.0f));
    size_t numSums = sums.size();
    if (countRows)
      sums.append(sources.size(), splat(0.0f));

    int64_t group = panels.group(), groups = length / group, rest = length % group;
    // A group of words is code enough; more are written out for few rows.
    int64_t few = sources.size() <= 2 ? 2 : 1;
    int64_t unroll = std::min<int64_t>(groups, group == 4 ? 2 * few : few);
    auto emitGroups = [&](Value codes, Value start, int64_t many, int64_t inLast, ValueRange old) {
      SmallVector<Value> next(old);
      for (int64_t g = 0; g < many; ++g)
        emitGroup(add(codes, g * panels.rowBytes()), add(start, g * group), g + 1 == many ? inLast : group, scaleLast,
                  scales, zeros, numSums, next);
      return next;
    };
    int64_t main = unroll ? groups / unroll * unroll : 0;
    if (main > unroll) {
      auto loop = scf::ForOp::create(b, loc, zero, index(main), index(unroll), sums);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value g = loop.getInductionVar();
      scf::YieldOp::create(b, loc,
                           emitGroups(plus(at, times(g, panels.rowBytes())), plus(k, times(g, group)), unroll, group,
                                      loop.getRegionIterArgs()));
      sums.assign(loop.getResults().begin(), loop.getResults().end());
    } else if (main) {
      sums = emitGroups(at, k, main, group, sums);
    }
    if (int64_t left = groups - main)
      sums = emitGroups(add(at, main * panels.rowBytes()), add(k, main * group), left, group, sums);
    if (rest)
      sums = emitGroups(add(at, groups * panels.rowBytes()), add(k, groups * group), 1, rest, sums);

    if (!scaleLast)
      return sums;
    SmallVector<Value> result;
    for (size_t r = 0; r < sources.size(); ++r)
      for (size_t c = 0; c < chunk.size(); ++c) {
        Value sum = fma(sums[r * chunk.size() + c], scales[c], before[r * chunk.size() + c]);
        result.push_back(countRows ? fma(sums[numSums + r], zeros[c], sum) : sum);
      }
    return result;
  }

  /// One row of words: `many` consecutive k from `k` on.
  void emitGroup(Value codes, Value k, int64_t many, bool scaleLast, ArrayRef<Value> scales, ArrayRef<Value> zeros,
                 size_t numSums, SmallVectorImpl<Value> &sums) {
    emitPrefetch(codes);
    SmallVector<Value> raw;
    for (int64_t vector : chunk)
      raw.push_back(loadCodes(codes, vector));
    for (int64_t j = 0; j < many; ++j) {
      SmallVector<Value> weights;
      for (size_t c = 0; c < chunk.size(); ++c) {
        Value weight = decoder().decode(raw[c], j);
        if (!scaleLast)
          weight = zeros.empty() ? mul(weight, scales[c]) : fma(weight, scales[c], zeros[c]);
        weights.push_back(weight);
      }
      for (auto [r, source] : llvm::enumerate(sources)) {
        Value x = memref::LoadOp::create(b, loc, rowsOfA, ValueRange{source, add(k, j)});
        Value row = vector::BroadcastOp::create(b, loc, floats, x);
        for (size_t c = 0; c < chunk.size(); ++c)
          sums[r * chunk.size() + c] = fma(row, weights[c], sums[r * chunk.size() + c]);
        if (sums.size() > numSums)
          sums[numSums + r] = arith::AddFOp::create(b, loc, sums[numSums + r], row);
      }
    }
  }

  Value rowsOfA;
  DecodeSchedule schedule;
  DecodedBlocks decoded;
  bool perBlock = false;
};

} // namespace

void moe::emitExactKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions) {
  ExactEmitter(b, op, widenRows(b, op, lanes), lanes, functions).run();
}
