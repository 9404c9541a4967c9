//===- IntegerKernels.cpp - expert kernels with integer products ----------===//
//
// The rows are quantised first, once for all experts (QuantisedRows.h). Tasks and tiles are those of the exact kernels;
// a block's products are integers, which are converted and scaled once:
//
//   for each block
//     for each vector of columns: the bytes of some words in registers  (IntegerWeights.h)
//       for each row: sum[row][vector] += bytes * row's codes           (IntegerDot.h)
//     result[row][vector] += float(sum) * (the column's scale * the row's step)
//
// Many rows have codes of fewer than 8 bits made bytes once for all of them: IntegerBlocks.h.
//
//===----------------------------------------------------------------------===//
#include "IntegerTiles.h"
#include "QuantisedKernel.h"
#include "QuantisedRows.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class IntegerEmitter : QuantisedKernel {
public:
  IntegerEmitter(OpBuilder &b, GroupedMatmulOp op, const IntegerDot &dot, KernelFunctions &functions, bool byTiles)
      : QuantisedKernel(b, op, dot.lanes()), dot(dot), functions(functions), byTiles(byTiles) {}

  void run() {
    rowCodes = quantiseRows(b, op, op.getA(), panels);
    int64_t direct = dot.isWide() ? 8 : 4;
    if (byTiles) {
      blocks = std::make_unique<IntegerTiles>(b, op, rowCodes, panels, dot, functions);
      if (blocks->isUseful()) {
        blocks->prepare();
        return emitTasks(direct / 2, TileSchedule::kMostVectorRows + 1);
      }
    }
    // A word of a row is loaded for each panel again, as in KernelSchedule.cpp.
    int64_t together = dot.isWide() ? std::min<int64_t>(2, type.getDimSize(1)) : 1;
    blocks = std::make_unique<IntegerBlocks>(b, op, rowCodes, panels, dot, functions, together);
    if (!blocks->isUseful())
      return emitTasks(direct);
    blocks->prepare();
    emitTasks(direct / 2, direct, together);
  }

private:
  void emitManyRows(const PanelTask &task) override {
    blocks->emit(task, stream, [&](Value panel) { return startOf(task.expert, panel); });
  }

  // Half of the registers hold weights; those of 8 bits need no others.
  int64_t sumsInRegisters(int64_t) override { return dot.isWide() ? 16 : panels.storedBits() == 8 ? 8 : 4; }

  SmallVector<Value> beginBlock(const PanelBlock &block, ValueRange) override {
    SmallVector<Value> integers;
    steps.clear();
    starts.clear();
    for (Value source : sources) {
      steps.push_back(memref::LoadOp::create(b, loc, rowCodes.steps, ValueRange{source, block.number}));
      starts.push_back(memref::LoadOp::create(b, loc, rowCodes.starts, ValueRange{source, block.number}));
      integers.append(chunk.size(), weightsOf().start(starts.back()));
    }
    return integers;
  }

  SmallVector<Value> endBlock(const PanelBlock &block, ValueRange sums, ValueRange before) override {
    SmallVector<Value> scales, negativeZeros, result;
    loadScales(block, weightsOf().factor(), scales, negativeZeros);
    for (size_t r = 0; r < sources.size(); ++r)
      for (size_t v = 0; v < chunk.size(); ++v) {
        size_t i = r * chunk.size() + v;
        result.push_back(weightsOf().scale(sums[i], scales[v], negativeZeros.empty() ? Value() : negativeZeros[v],
                                           steps[r], starts[r], before[i]));
      }
    return result;
  }

  /// Some rows of words at a time, as many as give eight registers of bytes.
  Unrolling getUnrolling(int64_t groups) override {
    int64_t unroll = std::min(groups, std::max<int64_t>(1, (weightsOf().noSign ? 8 : 4) / panels.bytesPerGroup()));
    return {unroll, 2 * unroll};
  }

  void emitGroups(Value at, Value k, int64_t many, int64_t, SmallVectorImpl<Value> &sums) override {
    if (sources.size() == 1) {
      SmallVector<IntegerDot::Sum> partial;
      for (Value sum : sums)
        partial.push_back({sum});
      emitOrdered(at, k, many, partial);
      for (auto [sum, all] : llvm::zip(sums, partial))
        sum = dot.finish(b, loc, all);
      return;
    }
    int64_t c = panels.bytesPerGroup(), most = weightsOf().most;
    for (int64_t g = 0; g < many; ++g)
      emitPrefetch(add(at, g * panels.groupBytes()));
    for (auto [v, vector] : llvm::enumerate(chunk)) {
      SmallVector<Value> weights;
      for (int64_t g = 0; g < many; ++g)
        weightsOf().decode(loadCodes(add(at, g * panels.groupBytes()), vector), weights);
      for (auto [r, source] : llvm::enumerate(sources)) {
        IntegerDot::Sum sum{sums[r * chunk.size() + v]};
        for (int64_t i = 0; i < many * c; ++i)
          dot.add(b, loc, sum, weights[i], loadRow(source, k, i), most);
        sums[r * chunk.size() + v] = dot.finish(b, loc, sum);
      }
    }
  }

  /// Word `i` of a row's codes from `k` on, for all columns. Those behind the row's end are zeros.
  Value loadRow(Value source, Value k, int64_t i) {
    Value word = b.createOrFold<arith::DivUIOp>(loc, k, index(4));
    Value four = memref::LoadOp::create(b, loc, rowCodes.codes, ValueRange{source, add(word, i)});
    Value all = vector::BroadcastOp::create(b, loc, words, four);
    return vector::BitCastOp::create(b, loc, weightsOf().bytes, all);
  }

  /// A single row, in the order of memory, which a processor follows best.
  void emitOrdered(Value at, Value k, int64_t many, MutableArrayRef<IntegerDot::Sum> partial) {
    int64_t c = panels.bytesPerGroup(), most = weightsOf().most;
    for (int64_t g = 0; g < many; ++g) {
      emitPrefetch(add(at, g * panels.groupBytes()));
      SmallVector<Value> codes;
      for (int64_t i = 0; i < c; ++i)
        codes.push_back(loadRow(sources[0], k, g * c + i));
      for (auto [v, vector] : llvm::enumerate(chunk)) {
        SmallVector<Value> weights;
        weightsOf().decode(loadCodes(add(at, g * panels.groupBytes()), vector), weights);
        for (auto [weight, code] : llvm::zip(weights, codes))
          dot.add(b, loc, partial[v], weight, code, most);
      }
    }
  }

  /// Sums of 16 bits are kept as they are; those of 32 bits are what the block began with until some were added to
  /// them.
  void emitStep(Value at, Value k, const Step &step, ValueRange begin, SmallVectorImpl<Value> &kept) override {
    int64_t most = weightsOf().most, c = panels.bytesPerGroup();
    int64_t together = dot.addsHalves(most) ? IntegerDot::fitInHalves(most) : 1, before = step.from * c;
    size_t numWords = before < together ? 0 : begin.size();
    bool hasHalves = before % together != 0;
    SmallVector<IntegerDot::Sum> partial;
    for (size_t v = 0; v < begin.size(); ++v) {
      IntegerDot::Sum sum{numWords ? kept[v] : begin[v]};
      if (hasHalves)
        sum = {sum.words, kept[numWords + v], before % together};
      partial.push_back(sum);
    }
    emitOrdered(at, k, step.many, partial);
    kept.clear();
    if (step.isLast || before + step.many * c >= together)
      for (const IntegerDot::Sum &sum : partial)
        kept.push_back(step.isLast ? dot.finish(b, loc, sum) : sum.words);
    if (!step.isLast)
      for (const IntegerDot::Sum &sum : partial)
        if (sum.halves)
          kept.push_back(sum.halves);
  }
  int64_t numKept() const override { return 2 * chunk.size(); }

  IntegerWeights weightsOf() { return IntegerWeights(b, loc, panels, dot); }

  const IntegerDot &dot;
  KernelFunctions &functions;
  QuantisedRows rowCodes;
  bool byTiles;
  std::unique_ptr<IntegerBlocks> blocks;
  /// Of the block that is being emitted, by row.
  SmallVector<Value> steps, starts;
};

} // namespace

void moe::emitIntegerKernels(OpBuilder &b, GroupedMatmulOp op, const IntegerDot &dot, KernelFunctions &functions,
                             bool byTiles) {
  IntegerEmitter(b, op, dot, functions, byTiles).run();
}
