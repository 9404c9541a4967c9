//===- QuantisedKernels.cpp - expert kernels over quantised panels --------===//
//
// One parallel loop over (expert, group of panels), as for panels of floats. A task goes through its panels
// (QuantPanels.h) as they lie in memory; in each, tiles of (8,) 4, 2 and 1 of the expert's rows. Codes become floats in
// registers: bytes by a conversion, 4 bits and less by a table of 16 floats (AVX-512) or shifts and a conversion.
//
//   few rows     the products of a block are summed up on their own and multiplied by the block's scales once
//   more rows    each weight is multiplied by its scale when it is decoded, which costs less than sums per block
//   one block    the scales of a whole column come last in either case
//
//===----------------------------------------------------------------------===//
#include "GroupedKernel.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class QuantisedEmitter : GroupedKernel {
public:
  QuantisedEmitter(OpBuilder &b, GroupedMatmulOp op, int64_t lanes)
      : GroupedKernel(b, op, lanes), type(cast<MemRefType>(op.getBanks().front().getType())),
        panels{op.getFormat(0), int64_t(op.getBanks().size()), cast<ShapedType>(op.getA().getType()).getDimSize(1),
               int64_t(*op.getPanels())},
        floats(VectorType::get({lanes}, b.getF32Type())), words(VectorType::get({lanes}, b.getI32Type())) {}

  void run() {
    n = extent(op.getInit(), 1);
    SmallVector<ReassociationIndices> all{{0, 1, 2}};
    stream = memref::CollapseShapeOp::create(b, loc, op.getBanks().front(), all);
    int64_t count = type.getDimSize(1);
    // About a megabyte for a task, less where there would be too few tasks.
    int64_t most = std::max<int64_t>(1, count / (op.getNumExperts() >= 8 ? 4 : 16));
    int64_t perTask = std::clamp<int64_t>((1 << 20) / panels.panelBytes(), 1, most);
    auto loop =
        scf::ParallelOp::create(b, loc, ValueRange{zero, zero}, ValueRange{index(op.getNumExperts()), index(count)},
                                ValueRange{one, index(perTask)});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    expert = loop.getInductionVars()[0];
    Value first = loop.getInductionVars()[1];
    Value begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
    Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
    auto each = scf::ForOp::create(b, loc, first, min(add(first, perTask), index(count)), one);
    b.setInsertionPointToStart(each.getBody());
    Value panel = each.getInductionVar();
    bool perExpert = op.getBankMap(0).isFunctionOfDim(0);
    Value number = perExpert ? plus(times(expert, count), panel) : panel;
    base = times(number, panels.panelBytes());
    column = times(panel, panels.columns());
    steps(begin, end, lanes >= 16 ? 8 : 4, /*exact=*/false, [&](Value pair, int64_t rows) { emitTile(pair, rows); });
  }

private:
  Value plus(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  Value times(Value x, int64_t y) { return y == 1 ? x : b.createOrFold<arith::MulIOp>(loc, x, index(y)); }
  Value splat(float value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, value)); }
  Value splat(int32_t value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, value)); }
  Value fma(Value x, Value y, Value z) { return vector::FMAOp::create(b, loc, x, y, z); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }

  /// The columns of a chunk: vectors of the panel by number.
  void emitTile(Value pair, int64_t rows) {
    sources = gather(pair, rows);
    int64_t vectors = panels.width() / lanes, perBank = vectors / panels.banks;
    // Registers for sums: 24 of AVX-512's, 8 of AVX2's; the same columns of all banks stay together.
    int64_t registers = lanes >= 16 ? 24 : 8, together = perBank;
    perBlock = rows <= 2 && panels.wholeBlocks() > 1 && !panels.format.getZeroPoints();
    while (together > 1 && rows * together * panels.banks * (perBlock ? 2 : 1) > registers)
      together /= 2;
    for (int64_t v = 0; v < perBank; v += together) {
      chunk.clear();
      for (int64_t bank = 0; bank < panels.banks; ++bank)
        for (int64_t i = 0; i < together; ++i)
          chunk.push_back(bank * perBank + v + i);
      SmallVector<Value> sums = emitSums();
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < together; ++i) {
          SmallVector<Value> values;
          for (int64_t bank = 0; bank < panels.banks; ++bank)
            values.push_back(sums[r * chunk.size() + bank * together + i]);
          Value start = add(column, (v + i) * lanes);
          finish(add(pair, r), start, values, columnsDivideBy(panels.columns()) ? Value() : mask(lanes, sub(n, start)));
        }
    }
  }

  /// [row][vector of the chunk]: the sums over all k.
  SmallVector<Value> emitSums() {
    SmallVector<Value> sums(sources.size() * chunk.size(), splat(0.0f));
    int64_t length = panels.blockLength(), whole = panels.wholeBlocks();
    if (whole > 1) {
      auto loop = scf::ForOp::create(b, loc, zero, index(whole), one, sums);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value block = loop.getInductionVar();
      Value at = plus(base, times(block, panels.blockBytes(length)));
      SmallVector<Value> next = emitBlock(at, times(block, length), length, loop.getRegionIterArgs());
      scf::YieldOp::create(b, loc, next);
      sums.assign(loop.getResults().begin(), loop.getResults().end());
    } else {
      sums = emitBlock(base, zero, length, sums);
    }
    if (int64_t rest = panels.k - whole * length)
      sums = emitBlock(add(base, whole * panels.blockBytes(length)), index(whole * length), rest, sums);
    return sums;
  }

  /// Adds the products of the `length` k from `k` on, whose block begins at byte `at`.
  SmallVector<Value> emitBlock(Value at, Value k, int64_t length, ValueRange before) {
    bool only = panels.wholeBlocks() == 1 && panels.k == panels.blockLength();
    bool scaleLast = perBlock || only;
    SmallVector<Value> scales, zeros; // -zero * scale
    for (int64_t vector : chunk) {
      Value scaleAt = add(at, panels.codeBytes(length) + vector * lanes * panels.scaleBytes);
      scales.push_back(loadFloats(scaleAt, panels.scaleBytes));
      if (panels.format.getKind() == QuantKind::E2M1 && lanes != 16)
        scales.back() = mul(scales.back(), splat(0.5f)); // see decode
      if (int64_t bytes = panels.zeroPointBytes()) {
        Value zeroAt = add(at, panels.codeBytes(length) + panels.width() * panels.scaleBytes + vector * lanes * bytes);
        zeros.push_back(mul(arith::NegFOp::create(b, loc, loadFloats(zeroAt, bytes)), scales.back()));
      }
    }
    // With zero points the sum of the row's elements is needed as well.
    bool countRows = scaleLast && !zeros.empty();
    SmallVector<Value> sums(before);
    if (scaleLast)
      sums.assign(sources.size() * chunk.size(), splat(0.0f));
    size_t numSums = sums.size();
    if (countRows)
      sums.append(sources.size(), splat(0.0f));

    int64_t group = panels.group(), groups = length / group, rest = length % group;
    // A group of words is code enough; of single k more are written out for few rows.
    int64_t few = sources.size() <= 2 ? 2 : 1;
    int64_t unroll = std::min<int64_t>(groups, group == 1 ? 4 * few : few);
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

  /// One row of words (or bytes): `many` consecutive k from `k` on.
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

  /// The lines some kilobytes behind those of `at`, never beyond the banks.
  void emitPrefetch(Value at) {
    if (chunk.front() != 0)
      return;
    constexpr int64_t kAhead = 4096;
    Value limit = index(type.getNumElements() - panels.rowBytes());
    Value ahead = min(add(at, kAhead), limit);
    for (int64_t line = 0; line < panels.rowBytes(); line += 64)
      memref::PrefetchOp::create(b, loc, stream, ValueRange{add(ahead, line)}, /*isWrite=*/false, /*locality=*/2,
                                 /*isDataCache=*/true);
  }

  Value loadBytes(Value at, int64_t count) {
    return vector::LoadOp::create(b, loc, VectorType::get({count}, b.getI8Type()), stream, ValueRange{at});
  }

  /// A vector of scales or zero points.
  Value loadFloats(Value at, int64_t bytes) {
    Value raw = loadBytes(at, lanes * bytes);
    if (bytes == 4)
      return vector::BitCastOp::create(b, loc, floats, raw);
    if (bytes == 2) {
      Value half = vector::BitCastOp::create(b, loc, floats.clone(b.getF16Type()), raw);
      return arith::ExtFOp::create(b, loc, floats, half);
    }
    // e8m0: the exponent of an f32, but for 0 (2^-127) and 255 (NaN).
    Value code = arith::ExtUIOp::create(b, loc, words, raw);
    Value bits = arith::ShLIOp::create(b, loc, code, splat(23));
    auto select = [&](int32_t special, int32_t instead) {
      Value is = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, code, splat(special));
      bits = arith::SelectOp::create(b, loc, is, splat(instead), bits);
    };
    select(0, 0x00400000);
    select(255, 0x7fc00000);
    return vector::BitCastOp::create(b, loc, floats, bits);
  }

  /// A row's words of one vector of columns.
  Value loadCodes(Value codes, int64_t vector) {
    if (panels.storedBits() == 8)
      return arith::ExtSIOp::create(b, loc, words, loadBytes(add(codes, vector * lanes), lanes));
    return vector::BitCastOp::create(b, loc, words, loadBytes(add(codes, vector * lanes * 4), lanes * 4));
  }

  /// Code number j of the words, as a float.
  Value decode(Value raw, int64_t j) {
    int64_t bits = panels.storedBits();
    bool isFloat = panels.format.getKind() == QuantKind::E2M1;
    if (bits == 8)
      return arith::SIToFPOp::create(b, loc, floats, raw);
    if (lanes == 16) {
      // The permutation reads the four lowest bits of each word; codes of two bits have the next one there as well.
      Value at = j ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(j * bits))) : raw;
      return intrinsic("llvm.x86.avx512.permvar.sf.512", {getTable(), at});
    }
    if (!isFloat) {
      Value high = arith::ShLIOp::create(b, loc, raw, splat(int32_t(32 - bits * (j + 1))));
      return arith::SIToFPOp::create(b, loc, floats, arith::ShRSIOp::create(b, loc, high, splat(int32_t(32 - bits))));
    }
    // Twice the value, an integer: m for m < 2, else (2 + lowest bit) * 2^(m / 2 - 1). The scales are halved.
    Value code = j ? arith::ShRUIOp::create(b, loc, raw, splat(int32_t(j * bits))) : raw;
    auto bitAnd = [&](Value x, int32_t y) { return arith::AndIOp::create(b, loc, x, splat(y)); };
    Value m = bitAnd(code, 7), odd = bitAnd(code, 1);
    Value exponent = arith::SubIOp::create(b, loc, arith::ShRUIOp::create(b, loc, m, splat(1)), splat(1));
    Value isSmall = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, m, splat(2));
    exponent = arith::SelectOp::create(b, loc, isSmall, splat(0), exponent);
    Value large = arith::ShLIOp::create(b, loc, arith::OrIOp::create(b, loc, odd, splat(2)), exponent);
    Value value = arith::SIToFPOp::create(b, loc, floats, arith::SelectOp::create(b, loc, isSmall, m, large));
    Value sign = arith::ShLIOp::create(b, loc, bitAnd(code, 8), splat(28));
    Value signedBits = arith::OrIOp::create(b, loc, vector::BitCastOp::create(b, loc, words, value), sign);
    return vector::BitCastOp::create(b, loc, floats, signedBits);
  }

  Value intrinsic(StringRef name, ValueRange operands) {
    return LLVM::CallIntrinsicOp::create(b, loc, floats, b.getStringAttr(name), operands).getResult(0);
  }

  /// The values of the codes, a table that the lowest four bits of a word index.
  Value getTable() {
    static const float e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    SmallVector<float> values;
    for (int64_t i = 0; i < 16; ++i) {
      if (panels.format.getKind() == QuantKind::E2M1) {
        values.push_back(e2m1[i]);
        continue;
      }
      int64_t codes = int64_t(1) << panels.storedBits(), code = i % codes;
      values.push_back(code >= codes / 2 ? code - codes : code);
    }
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, ArrayRef<float>(values)));
  }

  MemRefType type;
  QuantPanels panels;
  VectorType floats, words;
  Value n, stream, base, column;
  // Of the tile that is being emitted.
  SmallVector<Value> sources;
  SmallVector<int64_t> chunk;
  bool perBlock = false;
};

} // namespace

void moe::emitQuantisedKernels(OpBuilder &b, GroupedMatmulOp op, int64_t lanes) {
  QuantisedEmitter(b, op, lanes).run();
}
