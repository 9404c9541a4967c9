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
  ExactEmitter(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, int64_t lanes, KernelFunctions &functions,
               bool batchInvariant)
      : QuantisedKernel(b, op, lanes), rowsOfA(rowsOfA), schedule(getDecodeSchedule(panels, lanes, batchInvariant)),
        decoded(b, op, rowsOfA, panels, schedule, lanes, functions) {}

  void run() {
    decoded.prepare();
    emitTasks(schedule.mostDirectRows, schedule.mostDirectRows + 1);
  }

private:
  void emitManyRows(const PanelTask &task) override {
    decoded.emit(task, stream, [&](Value panel) { return startOf(task.expert, panel); });
  }

  /// One or two rows sum up the products of a block on their own.
  bool perBlock() const { return sources.size() <= 2 && panels.wholeBlocks() > 1 && !panels.format.getZeroPoints(); }
  /// Whether sums are multiplied with the scales, and not each weight.
  bool scalesSums() const { return perBlock() || (panels.wholeBlocks() == 1 && panels.k == panels.blockLength()); }
  /// With zero points the sum of the row's elements is needed as well.
  bool countsRows() const { return scalesSums() && panels.format.getZeroPoints(); }
  QuantDecoder decoder() { return QuantDecoder(b, loc, panels, lanes, stream, scalesSums()); }

  // Codes of fewer bits take so many instructions that one stream comes fast enough.
  bool readsSideBySide() const override { return QuantisedKernel::readsSideBySide() && panels.storedBits() == 8; }

  int64_t sumsInRegisters(int64_t) override { return (lanes >= 16 ? 24 : 8) / (perBlock() ? 2 : 1); }

  SmallVector<Value> beginBlock(const PanelBlock &block, ValueRange before) override {
    scales.clear();
    negativeZeros.clear();
    if (!scalesSums()) {
      loadScales(block, decoder().codeFactor(), scales, negativeZeros);
      return SmallVector<Value>(before);
    }
    return SmallVector<Value>(numSums() + (countsRows() ? sources.size() : 0), splat(0.0f));
  }

  SmallVector<Value> endBlock(const PanelBlock &block, ValueRange sums, ValueRange before) override {
    if (!scalesSums())
      return SmallVector<Value>(sums);
    // The factor goes to the scales where these are of a type that leaves room for it.
    float factor = decoder().codeFactor();
    bool inScales = factor == 1.0f || panels.scaleBytes == 2;
    loadScales(block, inScales ? factor : 1.0f, scales, negativeZeros);
    SmallVector<Value> result;
    for (size_t r = 0; r < sources.size(); ++r)
      for (size_t c = 0; c < chunk.size(); ++c) {
        Value mine = sums[r * chunk.size() + c];
        Value sum = fma(inScales ? mine : mul(mine, splat(factor)), scales[c], before[r * chunk.size() + c]);
        result.push_back(countsRows() ? fma(sums[numSums() + r], negativeZeros[c], sum) : sum);
      }
    return result;
  }

  Unrolling getUnrolling(int64_t groups) override {
    // A group of words is code enough; more are written out for few rows.
    int64_t few = sources.size() <= 2 ? 2 : 1;
    int64_t unroll = std::min<int64_t>(groups, panels.group() == 4 ? 2 * few : few);
    return {unroll, unroll};
  }

  size_t numSums() const { return sources.size() * chunk.size(); }

  void emitGroups(Value at, Value k, int64_t many, int64_t inLast, SmallVectorImpl<Value> &sums) override {
    int64_t group = panels.group();
    for (int64_t g = 0; g < many; ++g)
      emitGroup(add(at, g * panels.groupBytes()), add(k, g * group), g + 1 == many ? inLast : group, sums);
  }

  /// One row of words: `many` consecutive k from `k` on.
  void emitGroup(Value codes, Value k, int64_t many, SmallVectorImpl<Value> &sums) {
    emitPrefetch(codes);
    SmallVector<SmallVector<Value>> raw;
    for (int64_t vector : chunk)
      raw.push_back(loadCodes(codes, vector));
    for (int64_t j : decoder().getOrder()) {
      if (j >= many)
        continue;
      SmallVector<Value> weights;
      for (size_t c = 0; c < chunk.size(); ++c) {
        Value weight = decoder().decode(raw[c], j);
        if (!scalesSums())
          weight = negativeZeros.empty() ? mul(weight, scales[c]) : fma(weight, scales[c], negativeZeros[c]);
        weights.push_back(weight);
      }
      for (auto [r, source] : llvm::enumerate(sources)) {
        Value x = memref::LoadOp::create(b, loc, rowsOfA, ValueRange{source, add(k, j)});
        Value row = vector::BroadcastOp::create(b, loc, floats, x);
        for (size_t c = 0; c < chunk.size(); ++c)
          sums[r * chunk.size() + c] = fma(row, weights[c], sums[r * chunk.size() + c]);
        if (countsRows())
          sums[numSums() + r] = arith::AddFOp::create(b, loc, sums[numSums() + r], row);
      }
    }
  }

  Value rowsOfA;
  DecodeSchedule schedule;
  DecodedBlocks decoded;
  /// Of the block that is being emitted, where they are needed before its end.
  SmallVector<Value> scales, negativeZeros;
};

} // namespace

void moe::emitExactKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes, KernelFunctions &functions,
                           bool batchInvariant) {
  ExactEmitter(b, op, widenRows(b, op, lanes), lanes, functions, batchInvariant).run();
}
