//===- IntegerTiles.cpp - rows of bytes by tile instructions --------------===//
//
// The kernel, for any number of tiles of rows:
//
//   the scales of the blocks as floats
//   for each two tiles of rows                     (one, if the panel has more than two tiles of columns)
//     for some blocks of k
//       for each of them: tiles of integers = 0; for each step: load and multiply tiles; store the integers
//       for each row and vector of columns: the integers of these blocks, scaled, added to the row's sum
//
// Codes of 8 bits are multiplied with their sign, as they lie. Others become bytes without one (IntegerWeights.h) once
// for all rows. A step beyond a block's end has zeros in the rows, so that what the weights have there does not count.
//
//===----------------------------------------------------------------------===//
#include "IntegerTiles.h"
#include "QuantDecoder.h"

#include "mlir/Dialect/AMX/AMXDialect.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

constexpr int64_t kRows = TileSchedule::kRows, kColumns = TileSchedule::kColumns;

/// Weights keep their sign where they have one.
const IntegerDot &signedDot(const IntegerDot &dot) {
  static const IntegerDot narrow{IntegerDot::Avx2}, wide{IntegerDot::Avx512Bw};
  return dot.isWide() ? wide : narrow;
}

/// What the kernel gets. `blocks` blocks from number `firstBlock` on; their scales from byte `scalesAt` of the stream
/// on; the rows' tiles, with `rowSteps` steps in all, that of the first block being number `firstStep`; the weights,
/// which have `wholeSteps` steps of each block, and one more in `rest` if `restSteps` is 1; how far ahead lines of the
/// weights are fetched (0: not).
struct Arguments {
  Value stream, scalesAt, steps, starts, sources, rowTiles, weights, weightsAt, rest, tile, firstBlock, blocks,
      firstStep, wholeSteps, restSteps, rowSteps, rows, ahead;

  SmallVector<Value *> all() {
    return {&stream, &scalesAt,   &steps,  &starts,    &sources,    &rowTiles,  &weights,  &weightsAt, &rest,
            &tile,   &firstBlock, &blocks, &firstStep, &wholeSteps, &restSteps, &rowSteps, &rows,      &ahead};
  }
};

class TileEmitter : KernelTiles {
public:
  TileEmitter(OpBuilder &b, Location loc, const QuantPanels &panels, const IntegerDot &dot, StepsOfBlock steps,
              const TileSchedule &schedule, int64_t mostBlocks, int64_t weightDistance, const Arguments &args)
      : KernelTiles(b, loc), panels(panels), steps(steps), schedule(schedule), lanes(dot.lanes()),
        mostBlocks(mostBlocks), weightDistance(weightDistance), args(args), bytes(b, loc, panels, dot) {}

  void run() {
    auto scratch = [&](ArrayRef<int64_t> shape, Type element) -> Value {
      return memref::AllocaOp::create(b, loc, MemRefType::get(shape, element), b.getI64IntegerAttr(64));
    };
    int64_t width = panels.width(), together = schedule.rowTiles;
    scales = scratch({mostBlocks, width}, b.getF32Type());
    if (panels.format.getZeroPoints())
      negativeZeros = scratch({mostBlocks, width}, b.getF32Type());
    integers = scratch({kWaiting * together * kRows, width}, b.getI32Type());
    // A register of zeros for each tile of sums would be one for all, which LLVM copies through memory.
    auto row = VectorType::get({kColumns}, b.getI32Type());
    zeros = scratch({together * width}, b.getI32Type());
    for (int64_t at = 0; at < together * width; at += kColumns)
      vector::StoreOp::create(b, loc, arith::ConstantOp::create(b, loc, b.getZeroAttr(row)), zeros,
                              ValueRange{index(at)});
    emitScales();
    forEachTogether(ceilDiv(args.rows, kRows), together, [&](Value pass, int64_t count) { emitPass(pass, count); });
  }

private:
  /// Blocks whose integers wait for their scales together: 16 KB of them.
  static constexpr int64_t kWaiting = 4;

  void emitScales() {
    forEach(zero, args.blocks, 1, [&](Value block) {
      Value at = sum(args.scalesAt, mul(block, panels.blockBytes(panels.blockLength())));
      QuantDecoder decoder(b, loc, panels, lanes, args.stream);
      for (int64_t v = 0; v < panels.width() / lanes; ++v) {
        auto [scale, negativeZero] = decoder.loadScales(at, v, bytes.factor());
        SmallVector<Value> place{block, index(v * lanes)};
        vector::StoreOp::create(b, loc, scale, scales, place);
        if (negativeZero)
          vector::StoreOp::create(b, loc, negativeZero, negativeZeros, place);
      }
    });
  }

  /// `count` tiles of rows, the pass's. The first pass brings what the others find.
  void emitPass(Value pass, int64_t count) {
    Value firstTile = mul(pass, schedule.rowTiles), firstRow = mul(firstTile, kRows);
    Value isFirst = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, pass, zero);
    Value ahead = arith::SelectOp::create(b, loc, isFirst, args.ahead, zero);
    Value rowsOfPass = min(sub(args.rows, firstRow), index(count * kRows));
    forEach(zero, args.blocks, kWaiting, [&](Value block) {
      Value some = min(sub(args.blocks, block), index(kWaiting));
      forEach(zero, some, 1,
              [&](Value i) { emitIntegers(sum(block, i), mul(i, count * kRows), firstTile, count, ahead); });
      forEach(zero, rowsOfPass, 1, [&](Value row) { emitRow(sum(firstRow, row), row, block, some, count); });
    });
  }

  amx::TileType sumsType() { return amx::TileType::get({kRows, kColumns}, b.getI32Type()); }

  /// The products of a block, to the rows of `integers` from `to` on.
  void emitIntegers(Value block, Value to, Value firstTile, int64_t count, Value ahead) {
    int64_t columnTiles = panels.width() / kColumns;
    SmallVector<Value> sums;
    for (int64_t i = 0; i < count * columnTiles; ++i)
      sums.push_back(
          amx::TileLoadOp::create(b, loc, sumsType(), zeros, ValueRange{index(i * kColumns)}, /*stride=*/zero));
    Value stepsOfBlock = sum(args.wholeSteps, args.restSteps);
    Value first = sum(args.firstStep, mul(block, stepsOfBlock));
    SmallVector<Value> tiles;
    for (int64_t r = 0; r < count; ++r)
      tiles.push_back(mul(sum(mul(add(firstTile, r), args.rowSteps), first), tileBytes()));
    Value at = sum(args.weightsAt, mul(block, weightDistance));
    auto loopOver = [&](Value number, Value from, Value weights, Value weightsAt, bool fetches) {
      auto loop = scf::ForOp::create(b, loc, zero, number, one, sums);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value step = loop.getInductionVar(), here = sum(weightsAt, mul(step, stepBytes()));
      if (fetches)
        emitPrefetch(here, ahead);
      scf::YieldOp::create(b, loc,
                           emitStep(mul(sum(from, step), tileBytes()), tiles, weights, here, loop.getRegionIterArgs()));
      sums.assign(loop.getResults().begin(), loop.getResults().end());
    };
    loopOver(args.wholeSteps, zero, args.weights, at, /*fetches=*/panels.storedBits() == 8);
    if (panels.storedBits() == 8)
      loopOver(args.restSteps, args.wholeSteps, args.rest, zero, /*fetches=*/false);
    for (auto [i, value] : llvm::enumerate(sums))
      amx::TileStoreOp::create(b, loc, integers,
                               ValueRange{add(to, i / columnTiles * kRows), index(i % columnTiles * kColumns)}, value);
  }

  /// Each tile is loaded right before it is needed, so that no more than seven registers are in use.
  SmallVector<Value> emitStep(Value rowOffset, ArrayRef<Value> tiles, Value weights, Value at, ValueRange sums) {
    auto rowType = amx::TileType::get({kRows, 4 * steps.words}, b.getI8Type());
    auto weightType = amx::TileType::get({steps.words, 4 * kColumns}, b.getI8Type());
    SmallVector<Value> columns, next;
    for (auto [r, first] : llvm::enumerate(tiles)) {
      Value a = amx::TileLoadOp::create(b, loc, rowType, args.rowTiles, ValueRange{sum(first, rowOffset)},
                                        index(4 * steps.words));
      for (int64_t n = 0; n < panels.width() / kColumns; ++n) {
        if (r == 0)
          columns.push_back(amx::TileLoadOp::create(b, loc, weightType, weights, ValueRange{add(at, n * 4 * kColumns)},
                                                    index(panels.rowBytes())));
        next.push_back(amx::TileMulIOp::create(b, loc, sumsType(), a, columns[n], sums[next.size()],
                                               /*isZextLhs=*/false, /*isZextRhs=*/bytes.noSign));
      }
    }
    return next;
  }

  void emitPrefetch(Value at, Value ahead) {
    Value wanted = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, ahead, zero);
    Value size = memref::DimOp::create(b, loc, args.weights, zero);
    Value from = min(sum(at, ahead), sub(size, index(stepBytes())));
    Value lines = arith::SelectOp::create(b, loc, wanted, index(stepBytes() / 64), zero);
    forEach(zero, lines, 1, [&](Value line) {
      memref::PrefetchOp::create(b, loc, args.weights, ValueRange{sum(from, mul(line, 64))}, /*isWrite=*/false,
                                 /*localityHint=*/2, /*isDataCache=*/true);
    });
  }

  /// Adds `some` blocks from `block` on to the sums of a row, which is number `inPass` in this pass.
  void emitRow(Value row, Value inPass, Value block, Value some, int64_t count) {
    Value source = memref::LoadOp::create(b, loc, args.sources, row);
    int64_t vectors = panels.width() / lanes;
    SmallVector<Value> before;
    for (int64_t v = 0; v < vectors; ++v)
      before.push_back(vector::LoadOp::create(b, loc, bytes.floats, args.tile, ValueRange{row, index(v * lanes)}));
    auto loop = scf::ForOp::create(b, loc, zero, some, one, before);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value each = sum(block, loop.getInductionVar()), number = sum(args.firstBlock, each);
      Value place = sum(mul(loop.getInductionVar(), count * kRows), inPass);
      Value step = memref::LoadOp::create(b, loc, args.steps, ValueRange{source, number});
      Value startOfRow = memref::LoadOp::create(b, loc, args.starts, ValueRange{source, number});
      Value start = bytes.start(startOfRow);
      SmallVector<Value> next;
      for (int64_t v = 0; v < vectors; ++v) {
        auto loadFloats = [&](Value from) -> Value {
          return from ? vector::LoadOp::create(b, loc, bytes.floats, from, ValueRange{each, index(v * lanes)})
                            .getResult()
                      : Value();
        };
        Value products = vector::LoadOp::create(b, loc, bytes.words, integers, ValueRange{place, index(v * lanes)});
        next.push_back(bytes.scale(arith::AddIOp::create(b, loc, start, products), loadFloats(scales),
                                   loadFloats(negativeZeros), step, startOfRow, loop.getRegionIterArgs()[v]));
      }
      scf::YieldOp::create(b, loc, next);
    }
    for (int64_t v = 0; v < vectors; ++v)
      vector::StoreOp::create(b, loc, loop.getResult(v), args.tile, ValueRange{row, index(v * lanes)});
  }

  int64_t tileBytes() const { return kRows * steps.words * 4; }
  int64_t stepBytes() const { return steps.words * panels.rowBytes(); }

  const QuantPanels &panels;
  StepsOfBlock steps;
  const TileSchedule &schedule;
  int64_t lanes, mostBlocks, weightDistance;
  Arguments args;
  IntegerWeights bytes;
  Value scales, negativeZeros, integers, zeros;
};

} // namespace

IntegerTiles::IntegerTiles(OpBuilder &b, GroupedMatmulOp op, const QuantisedRows &rowCodes, const QuantPanels &panels,
                           const IntegerDot &dot, KernelFunctions &functions)
    : IntegerBlocks(b, op, rowCodes, panels, signedDot(dot), functions, /*panelsTogether=*/1),
      steps(StepsOfBlock::divide(panels.byteWords(panels.blockLength()))),
      schedule(getTileSchedule(panels.width(), allSteps() * steps.words)) {
  form.schedule.maxBlockRows = schedule.maxBlockRows;
}

int64_t IntegerTiles::allSteps() const {
  int64_t length = panels.blockLength(), whole = panels.wholeBlocks(), rest = panels.k - whole * length;
  return whole * stepsOf(length) + (rest ? stepsOf(rest) : 0);
}

void IntegerTiles::emit(const PanelTask &task, Value streamOfTask, function_ref<Value(Value)> startOf) {
  auto flat = MemRefType::get({ShapedType::kDynamic}, b.getI8Type());
  auto allocated =
      MemRefType::get({schedule.maxBlockRows / TileSchedule::kRows * allSteps() * tileBytes()}, b.getI8Type());
  Value buffer = memref::AllocOp::create(b, loc, allocated, b.getI64IntegerAttr(64));
  rowTiles = memref::CastOp::create(b, loc, flat, buffer);
  auto restType = MemRefType::get({decodes() ? 1 : steps.words * panels.rowBytes()}, b.getI8Type());
  rest = memref::CastOp::create(b, loc, flat, memref::AllocaOp::create(b, loc, restType, b.getI64IntegerAttr(64)));
  IntegerBlocks::emit(task, streamOfTask, startOf);
  memref::DeallocOp::create(b, loc, rowTiles);
}

void IntegerTiles::beginRows(const Rows &rows) {
  int64_t length = panels.blockLength(), whole = panels.wholeBlocks(), left = panels.k - whole * length;
  auto words = VectorType::get({steps.words}, b.getI32Type());
  auto flat = VectorType::get({4 * steps.words}, b.getI8Type());
  forEach(zero, rows.count, 1, [&](Value r) {
    Value source = memref::LoadOp::create(b, loc, sources, r);
    Value tileOfRow = b.createOrFold<arith::DivUIOp>(loc, r, index(TileSchedule::kRows));
    Value inTile = sub(r, mul(tileOfRow, index(TileSchedule::kRows)));
    Value to = sum(mul(tileOfRow, index(allSteps() * tileBytes())), mul(inTile, index(4 * steps.words)));
    // A block's words from `word` on, whose first step is number `step`.
    auto copyBlock = [&](Value word, Value step, int64_t lengthOfBlock) {
      auto copy = [&](Value i, Value some) {
        Value from = sum(word, mul(i, index(steps.words)));
        Value values =
            vector::BitCastOp::create(b, loc, flat, load(rowCodes.codes, ValueRange{source, from}, words, some));
        vector::StoreOp::create(b, loc, values, rowTiles, ValueRange{sum(to, mul(sum(step, i), index(tileBytes())))});
      };
      int64_t last = restWords(lengthOfBlock), full = stepsOf(lengthOfBlock) - (last != 0);
      if (full)
        forEach(zero, index(full), 1, [&](Value i) { copy(i, Value()); });
      if (last)
        copy(index(full), mask(steps.words, index(last)));
    };
    forEach(zero, index(whole), 1, [&](Value block) {
      copyBlock(mul(block, index(panels.byteWords(length))), mul(block, index(stepsOf(length))), length);
    });
    if (left)
      copyBlock(index(whole * panels.byteWords(length)), index(whole * stepsOf(length)), left);
  });
}

void IntegerTiles::emitProducts(Value, Value at, Value, Value first, Value count, int64_t length, const Rows &rows) {
  // What is decoded has room for whole steps.
  int64_t last = decodes() ? 0 : restWords(length), whole = stepsOf(length) - (last != 0);
  if (last) {
    auto type = VectorType::get({panels.rowBytes()}, b.getI8Type());
    Value from = add(at, whole * steps.words * panels.rowBytes());
    forEach(zero, index(last * panels.rowBytes()), panels.rowBytes(), [&](Value place) {
      Value values = vector::LoadOp::create(b, loc, type, stream, ValueRange{sum(from, place)});
      vector::StoreOp::create(b, loc, values, rest, ValueRange{place});
    });
  }
  Arguments args;
  args.stream = stream;
  args.scalesAt = add(at, panels.codeBytes(length));
  args.steps = rowCodes.steps;
  args.starts = rowCodes.starts;
  args.sources = sources;
  args.rowTiles = rowTiles;
  args.weights = decodes() ? scratch : stream;
  args.weightsAt = decodes() ? zero : at;
  args.rest = rest;
  args.tile = tile;
  args.firstBlock = first;
  args.blocks = count;
  args.firstStep = mul(first, index(stepsOf(panels.blockLength())));
  args.wholeSteps = index(whole);
  args.restSteps = index(last != 0);
  args.rowSteps = index(allSteps());
  args.rows = rows.count;
  args.ahead = index(decodes() ? 0 : kAhead);
  SmallVector<Value> values = llvm::map_to_vector(args.all(), [](Value *v) { return *v; });
  func::CallOp::create(b, loc, getTileKernel(ValueRange(values).getTypes()), values);
}

func::FuncOp IntegerTiles::getTileKernel(TypeRange types) {
  std::string name;
  llvm::raw_string_ostream os(name);
  os << "moe_integer_tiles_" << suffix() << "_scale" << 8 * panels.scaleBytes
     << (panels.format.getZeroPoints() ? "_zero" : "") << "_block" << panels.blockLength();
  return functions.get(name, types, [&](OpBuilder &inner, Block &block) {
    Arguments args;
    for (auto [value, argument] : llvm::zip(args.all(), block.getArguments()))
      *value = argument;
    TileEmitter(inner, loc, panels, dot, steps, schedule, blocksTogether(), weightDistance(), args).run();
  });
}
