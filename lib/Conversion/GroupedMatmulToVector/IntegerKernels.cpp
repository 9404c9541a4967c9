//===- IntegerKernels.cpp - expert kernels with integer products ----------===//
//
// The rows are quantised first, once for all experts (QuantisedRows.h). Tasks and tiles are those of the exact kernels;
// a block's products are integers, which are converted and scaled once:
//
//   for each block
//     for each vector of columns: the bytes of some words in registers
//       for each row: sum[row][vector] += bytes * row's codes       (IntegerDot.h)
//     result[row][vector] += float(sum) * (the column's scale * the row's step)
//
// Codes have a sign in memory. Fewer than 8 bits are multiplied without one (code + middle), as are all with VNNI; then
// the sum begins with -middle * (sum of the row's codes), and the result is the same integer in either way.
//
//===----------------------------------------------------------------------===//
#include "IntegerDot.h"
#include "QuantisedKernel.h"
#include "QuantisedRows.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class IntegerEmitter : QuantisedKernel {
public:
  IntegerEmitter(OpBuilder &b, GroupedMatmulOp op, const IntegerDot &dot)
      : QuantisedKernel(b, op, dot.lanes()), dot(dot), bytes(VectorType::get({4 * lanes}, b.getI8Type())) {
    isFloat = panels.format.getKind() == QuantKind::E2M1;
    noSign = panels.storedBits() < 8 || dot.takesUnsignedBytes();
    if (isFloat)
      most = kFloatMiddle + 12;
    else if (noSign)
      most = (1 << panels.storedBits()) - 1;
  }

  void run() {
    rowCodes = quantiseRows(b, op, op.getA(), panels);
    emitTasks(dot.isWide() ? 8 : 4);
  }

private:
  /// Twice the values of e2m1, -12 to 12, plus this.
  static constexpr int64_t kFloatMiddle = 16;

  // Half of the registers hold weights.
  int64_t sumsInRegisters(int64_t) override { return dot.isWide() ? 16 : 4; }

  SmallVector<Value> beginBlock(const PanelBlock &block, ValueRange) override {
    SmallVector<Value> integers;
    steps.clear();
    negativeSums.clear();
    int32_t shift = isFloat ? 4 : panels.storedBits() - 1;
    for (Value source : sources) {
      steps.push_back(memref::LoadOp::create(b, loc, rowCodes.steps, ValueRange{source, block.number}));
      if (noSign || panels.format.getZeroPoints())
        negativeSums.push_back(memref::LoadOp::create(b, loc, rowCodes.sums, ValueRange{source, block.number}));
      Value start = splat(int32_t(0));
      if (noSign)
        start = arith::ShLIOp::create(b, loc, broadcast(words, negativeSums.back()), splat(shift));
      integers.append(chunk.size(), start);
    }
    return integers;
  }

  SmallVector<Value> endBlock(const PanelBlock &block, ValueRange sums, ValueRange before) override {
    SmallVector<Value> scales, negativeZeros, result;
    loadScales(block, isFloat ? 0.5f : 1.0f, scales, negativeZeros);
    for (size_t r = 0; r < sources.size(); ++r) {
      Value step = broadcast(floats, steps[r]), rowSum;
      if (!negativeZeros.empty()) {
        // The sum of what the codes stand for.
        Value codes = arith::SIToFPOp::create(b, loc, b.getF32Type(), negativeSums[r]);
        Value sum = arith::MulFOp::create(b, loc, arith::NegFOp::create(b, loc, codes), steps[r]);
        rowSum = broadcast(floats, sum);
      }
      for (size_t v = 0; v < chunk.size(); ++v) {
        size_t i = r * chunk.size() + v;
        Value converted = arith::SIToFPOp::create(b, loc, floats, sums[i]);
        Value sum = fma(converted, mul(scales[v], step), before[i]);
        result.push_back(rowSum ? fma(rowSum, negativeZeros[v], sum) : sum);
      }
    }
    return result;
  }

  VectorType typeOfSums() const override { return words; }

  /// Some rows of words at a time, as many as give eight registers of bytes.
  Unrolling getUnrolling(int64_t groups) override {
    int64_t unroll = std::min(groups, std::max<int64_t>(1, (noSign ? 8 : 4) / panels.codesPerByte()));
    return {unroll, 2 * unroll};
  }

  void emitGroups(Value at, Value k, int64_t many, int64_t, SmallVectorImpl<Value> &sums) override {
    int64_t c = panels.codesPerByte();
    // A row's codes are read in words of four; those behind its end are zeros.
    Value word = b.createOrFold<arith::DivUIOp>(loc, k, index(4));
    auto loadRow = [&](Value source, int64_t i) {
      Value four = memref::LoadOp::create(b, loc, rowCodes.codes, ValueRange{source, add(word, i)});
      return vector::BitCastOp::create(b, loc, bytes, broadcast(words, four)).getResult();
    };
    if (sources.size() == 1) {
      // The order of memory, which a processor follows best.
      SmallVector<IntegerDot::Sum> partial;
      for (Value sum : sums)
        partial.push_back({sum});
      for (int64_t g = 0; g < many; ++g) {
        emitPrefetch(add(at, g * panels.rowBytes()));
        SmallVector<Value> codes;
        for (int64_t i = 0; i < c; ++i)
          codes.push_back(loadRow(sources[0], g * c + i));
        for (auto [v, vector] : llvm::enumerate(chunk)) {
          SmallVector<Value> weights;
          decode(loadCodes(add(at, g * panels.rowBytes()), vector), weights);
          for (auto [weight, code] : llvm::zip(weights, codes))
            dot.add(b, loc, partial[v], weight, code, most);
        }
      }
      for (auto [sum, all] : llvm::zip(sums, partial))
        sum = dot.finish(b, loc, all);
      return;
    }
    for (int64_t g = 0; g < many; ++g)
      emitPrefetch(add(at, g * panels.rowBytes()));
    for (auto [v, vector] : llvm::enumerate(chunk)) {
      SmallVector<Value> weights;
      for (int64_t g = 0; g < many; ++g)
        decode(loadCodes(add(at, g * panels.rowBytes()), vector), weights);
      for (auto [r, source] : llvm::enumerate(sources)) {
        IntegerDot::Sum sum{sums[r * chunk.size() + v]};
        for (int64_t i = 0; i < many * c; ++i)
          dot.add(b, loc, sum, weights[i], loadRow(source, i), most);
        sums[r * chunk.size() + v] = dot.finish(b, loc, sum);
      }
    }
  }

  /// The bytes of words of codes: of 8 bits as they are, else the lower ones first.
  void decode(Value raw, SmallVectorImpl<Value> &weights) {
    int64_t bits = panels.storedBits();
    auto asBytes = [&](Value v) { return vector::BitCastOp::create(b, loc, bytes, v).getResult(); };
    if (noSign && !isFloat) {
      // The highest bit of each code the other way round: the code plus the middle.
      uint32_t middles = 0;
      for (int64_t at = bits - 1; at < 32; at += bits)
        middles |= 1u << at;
      raw = arith::XOrIOp::create(b, loc, raw, splat(int32_t(middles)));
    }
    if (bits == 8)
      return weights.push_back(asBytes(raw));
    uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    for (int64_t i = 0; i < panels.codesPerByte(); ++i) {
      Value shifted = i ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(i * bits))).getResult() : raw;
      Value each = asBytes(arith::AndIOp::create(b, loc, shifted, splat(int32_t(mask))));
      weights.push_back(isFloat ? lookUp(each) : each);
    }
  }

  /// Twice the value of each code of e2m1, plus the middle.
  Value lookUp(Value codes) {
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    SmallVector<int8_t> table;
    for (int64_t i = 0; i < 4 * lanes; ++i)
      table.push_back(doubled[i % 16] + kFloatMiddle);
    Value values = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(bytes, ArrayRef<int8_t>(table)));
    if (!dot.portable)
      return intrinsic(dot.isWide() ? "llvm.x86.avx512.pshuf.b.512" : "llvm.x86.avx2.pshuf.b", bytes, {values, codes});
    Value result = arith::ConstantOp::create(b, loc, b.getZeroAttr(bytes));
    for (int64_t i = 0; i < 16; ++i) {
      auto splatByte = [&](int8_t value) {
        return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(bytes, value)).getResult();
      };
      Value is = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, codes, splatByte(i));
      result = arith::SelectOp::create(b, loc, is, splatByte(table[i]), result);
    }
    return result;
  }

  Value broadcast(VectorType type, Value scalar) { return vector::BroadcastOp::create(b, loc, type, scalar); }

  const IntegerDot &dot;
  VectorType bytes;
  bool isFloat, noSign;
  /// The largest weight without a sign; 0 if they have one.
  int64_t most = 0;
  QuantisedRows rowCodes;
  /// Of the block that is being emitted, by row.
  SmallVector<Value> steps, negativeSums;
};

} // namespace

void moe::emitIntegerKernels(OpBuilder &b, GroupedMatmulOp op, const IntegerDot &dot) {
  IntegerEmitter(b, op, dot).run();
}
