//===- QuantisedRows.cpp - activations as bytes ---------------------------===//
//
//   for each row, in parallel
//     for each block
//       m = max |a|                       (on the bits: those of NaN and infinity are larger than all others)
//       step = m / 127, or NaN            codes = round(a * (127 / m)), or 0 for all
//
//===----------------------------------------------------------------------===//
#include "QuantisedRows.h"

#include "../Support/KernelTiles.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Elements that are quantised together; blocks are multiples of it.
int64_t chunkOf(const QuantPanels &panels) { return std::max<int64_t>(16, panels.group()); }
/// Chunks of a block that are written out, not looped over.
constexpr int64_t kUnrolled = 4;

class RowQuantiser : KernelTiles {
public:
  RowQuantiser(OpBuilder &b, Location loc, Value a, const QuantPanels &panels, const QuantisedRows &out)
      : KernelTiles(b, loc), a(a), panels(panels), out(out), chunk(chunkOf(panels)),
        floats(VectorType::get({chunk}, b.getF32Type())), words(VectorType::get({chunk}, b.getI32Type())) {}

  void run(Value count) {
    auto loop = scf::ParallelOp::create(b, loc, ValueRange{zero}, ValueRange{count}, ValueRange{one});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    row = loop.getInductionVars()[0];
    int64_t length = panels.blockLength(), whole = panels.wholeBlocks();
    if (whole > 1) {
      auto blocks = scf::ForOp::create(b, loc, zero, index(whole), one);
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(blocks.getBody());
      Value block = blocks.getInductionVar();
      emitBlock(block, b.createOrFold<arith::MulIOp>(loc, block, index(length)), length);
    } else {
      emitBlock(zero, zero, length);
    }
    if (int64_t rest = panels.k - whole * length)
      emitBlock(index(whole), index(whole * length), rest);
  }

private:
  Value constant(VectorType type, int32_t value) {
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, value));
  }
  Value constant(int32_t value) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value)); }
  Value constant(float value) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(value)); }
  Value splat(Value scalar) {
    return vector::BroadcastOp::create(b, loc, VectorType::get({chunk}, scalar.getType()), scalar);
  }

  /// Calls `body` for the chunks from `k` on; `state` goes from one to the next.
  Value forChunks(Value k, int64_t length, Value state, function_ref<Value(Value k, int64_t elements, Value)> body) {
    int64_t chunks = length / chunk;
    if (chunks > kUnrolled) {
      auto loop = scf::ForOp::create(b, loc, k, add(k, chunks * chunk), index(chunk), state);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      scf::YieldOp::create(b, loc, body(loop.getInductionVar(), chunk, loop.getRegionIterArgs()[0]));
      state = loop.getResult(0);
    } else {
      for (int64_t i = 0; i < chunks; ++i)
        state = body(add(k, i * chunk), chunk, state);
    }
    if (int64_t rest = length % chunk)
      state = body(add(k, chunks * chunk), rest, state);
    return state;
  }

  Value loadChunk(Value k, int64_t elements) {
    auto type = floats.clone(getElementTypeOrSelf(a));
    Value some = elements < chunk ? mask(chunk, index(elements)) : Value();
    return widen(load(a, ValueRange{row, k}, type, some), b.getF32Type());
  }

  void emitBlock(Value block, Value k, int64_t length) {
    Value largest = forChunks(k, length, constant(words, 0), [&](Value at, int64_t elements, Value before) -> Value {
      Value bits = vector::BitCastOp::create(b, loc, words, loadChunk(at, elements));
      bits = arith::AndIOp::create(b, loc, bits, constant(words, 0x7fffffff));
      return arith::MaxSIOp::create(b, loc, before, bits);
    });
    Value bits = vector::ReductionOp::create(b, loc, vector::CombiningKind::MAXSI, largest);
    Value magnitude = arith::BitcastOp::create(b, loc, b.getF32Type(), bits);
    auto less = arith::CmpIPredicate::slt;
    Value finite = arith::CmpIOp::create(b, loc, less, bits, constant(0x7f800000));
    // 2^-100: far below everything that counts, and far above what has no reciprocal.
    Value counts = arith::CmpIOp::create(b, loc, less, constant((127 - 100) << 23), bits);
    Value usable = arith::AndIOp::create(b, loc, finite, counts);
    Value step = arith::DivFOp::create(b, loc, magnitude, constant(127.0f));
    Value nan =
        arith::ConstantOp::create(b, loc, b.getF32FloatAttr(APFloat::getQNaN(APFloat::IEEEsingle()).convertToFloat()));
    step = arith::SelectOp::create(b, loc, finite, step, nan);
    memref::StoreOp::create(b, loc, step, out.steps, ValueRange{row, block});
    Value divisor = arith::SelectOp::create(b, loc, usable, magnitude, constant(1.0f));
    Value factor = splat(arith::DivFOp::create(b, loc, constant(127.0f), divisor));
    // Elements of a block that does not count are zeros: their bits are masked out.
    Value kept = splat(arith::SelectOp::create(b, loc, usable, constant(-1), constant(0)));

    Value sums = forChunks(k, length, constant(words, 0), [&](Value at, int64_t elements, Value before) -> Value {
      Value x = vector::BitCastOp::create(b, loc, words, loadChunk(at, elements));
      x = vector::BitCastOp::create(b, loc, floats, arith::AndIOp::create(b, loc, x, kept));
      Value rounded = math::RoundEvenOp::create(b, loc, arith::MulFOp::create(b, loc, x, factor));
      Value codes = arith::FPToSIOp::create(b, loc, words, rounded);
      storeChunk(at, codes);
      return arith::AddIOp::create(b, loc, before, codes);
    });
    Value sum = vector::ReductionOp::create(b, loc, vector::CombiningKind::ADD, sums);
    // At most 127 * 128 * 2^16.
    Value times = arith::ShLIOp::create(b, loc, sum, constant(int32_t(getMiddleExponent(panels))));
    memref::StoreOp::create(b, loc, arith::SubIOp::create(b, loc, constant(0), times), out.starts,
                            ValueRange{row, block});
  }

  void storeChunk(Value k, Value codes) {
    int64_t c = panels.bytesPerGroup();
    Value bytes = arith::TruncIOp::create(b, loc, words.clone(b.getI8Type()), codes);
    if (c > 1) {
      SmallVector<int64_t> order;
      for (int64_t group = 0; group < chunk; group += 4 * c)
        for (int64_t i = 0; i < c; ++i)
          for (int64_t m = 0; m < 4; ++m)
            order.push_back(group + c * m + i);
      bytes = vector::ShuffleOp::create(b, loc, bytes, bytes, order);
    }
    Value packed = vector::BitCastOp::create(b, loc, VectorType::get({chunk / 4}, b.getI32Type()), bytes);
    vector::StoreOp::create(b, loc, packed, out.codes,
                            ValueRange{row, b.createOrFold<arith::DivUIOp>(loc, k, index(4))});
  }

  Value a, row;
  const QuantPanels &panels;
  const QuantisedRows &out;
  int64_t chunk;
  VectorType floats, words;
};

} // namespace

QuantisedRows mlir::moe::quantiseRows(OpBuilder &b, Operation *user, Value a, const QuantPanels &panels) {
  Location loc = user->getLoc();
  Value count = b.createOrFold<memref::DimOp>(loc, a, 0);
  std::optional<int64_t> known = getConstantIntValue(count);
  int64_t rows = known.value_or(ShapedType::kDynamic), blocks = llvm::divideCeilSigned(panels.k, panels.blockLength());
  auto allocate = [&](int64_t columns, Type element) -> Value {
    Value buffer = memref::AllocOp::create(b, loc, MemRefType::get({rows, columns}, element),
                                           known ? ValueRange() : ValueRange(count));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointAfter(user);
    memref::DeallocOp::create(b, loc, buffer);
    return buffer;
  };
  QuantisedRows result;
  result.codes = allocate(llvm::alignTo(panels.k, chunkOf(panels)) / 4, b.getI32Type());
  result.steps = allocate(blocks, b.getF32Type());
  result.starts = allocate(blocks, b.getI32Type());
  RowQuantiser(b, loc, a, panels, result).run(count);
  return result;
}
