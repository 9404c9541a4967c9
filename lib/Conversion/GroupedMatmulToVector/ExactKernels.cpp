//===- ExactKernels.cpp - expert kernels over quantised panels, in floats -===//
//
// One parallel loop over (expert, group of panels), as for panels of floats. A task goes through its panels
// (QuantPanels.h) as they lie in memory; in each, tiles of (8,) 4, 2 and 1 of the expert's rows. Codes become floats in
// registers: integers by shifts and a conversion, floats and, on AVX-512, 4 bits and less by a table in a register.
//
//   few rows     the products of a block are summed up on their own and multiplied by the block's scales once
//   more rows    each weight is multiplied by its scale when it is decoded, which costs less than sums per block
//   one block    the scales of a whole column come last in either case
//
//===----------------------------------------------------------------------===//
#include "QuantisedKernel.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class ExactEmitter : QuantisedKernel {
public:
  ExactEmitter(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) : QuantisedKernel(b, op, lanes) {}

  void run() { emitTasks(lanes >= 16 ? 8 : 4); }

private:
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
    loadScales(at, length, 1.0f, scales, zeros);
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
        Value weight = decode(raw[c], j);
        if (!scaleLast)
          weight = zeros.empty() ? mul(weight, scales[c]) : fma(weight, scales[c], zeros[c]);
        weights.push_back(weight);
      }
      for (auto [r, source] : llvm::enumerate(sources)) {
        Value x = memref::LoadOp::create(b, loc, op.getA(), ValueRange{source, add(k, j)});
        Value row = vector::BroadcastOp::create(b, loc, floats, widen(x, b.getF32Type()));
        for (size_t c = 0; c < chunk.size(); ++c)
          sums[r * chunk.size() + c] = fma(row, weights[c], sums[r * chunk.size() + c]);
        if (sums.size() > numSums)
          sums[numSums + r] = arith::AddFOp::create(b, loc, sums[numSums + r], row);
      }
    }
  }

  /// Code number j of the words, as a float.
  Value decode(Value raw, int64_t j) {
    int64_t bits = panels.storedBits();
    bool isFloat = panels.format.getKind() == QuantKind::E2M1;
    if (lanes == 16 && bits < 8) {
      // The permutation reads the four lowest bits of each word; codes of two bits have the next one there as well.
      Value at = j ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(j * bits))) : raw;
      return intrinsic("llvm.x86.avx512.permvar.sf.512", floats, {getTable(), at});
    }
    if (!isFloat) {
      int32_t above = 32 - bits * (j + 1);
      Value high = above ? arith::ShLIOp::create(b, loc, raw, splat(above)).getResult() : raw;
      return arith::SIToFPOp::create(b, loc, floats, arith::ShRSIOp::create(b, loc, high, splat(int32_t(32 - bits))));
    }
    // The permutation reads the three lowest bits; the sign is the fourth.
    Value code = j ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(j * bits))) : raw;
    Value value = intrinsic("llvm.x86.avx2.permps", floats, {getTable(), code});
    int32_t above = 32 - bits * (j + 1);
    Value top = above ? arith::ShLIOp::create(b, loc, raw, splat(above)).getResult() : raw;
    Value sign = arith::AndIOp::create(b, loc, top, splat(int32_t(0x80000000)));
    Value signedBits = arith::OrIOp::create(b, loc, vector::BitCastOp::create(b, loc, words, value), sign);
    return vector::BitCastOp::create(b, loc, floats, signedBits);
  }

  /// The values of the codes, a table that the lowest four bits of a word index; three without the sign on AVX2.
  Value getTable() {
    static const float e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    SmallVector<float> values;
    for (int64_t i = 0; i < lanes; ++i) {
      if (panels.format.getKind() == QuantKind::E2M1) {
        values.push_back(e2m1[i]);
        continue;
      }
      int64_t codes = int64_t(1) << panels.storedBits(), code = i % codes;
      values.push_back(code >= codes / 2 ? code - codes : code);
    }
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, ArrayRef<float>(values)));
  }

  bool perBlock = false;
};

} // namespace

void moe::emitExactKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) { ExactEmitter(b, op, lanes).run(); }
