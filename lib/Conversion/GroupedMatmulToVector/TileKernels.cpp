//===- TileKernels.cpp - panels by tile instructions ----------------------===//
//
// The kernel, for any number of tiles of rows; on AMX all of it works with one configuration:
//
//   for each block of k
//     for each two tiles of rows                              (one, if the panel has more than two tiles of columns)
//       load their sums
//       for each step: load and multiply tiles                (2 x 2: four loads, four products)
//         fetch a share of the next block
//       store their sums
//
// Every tile has 16 rows of 64 bytes: rows and k beyond the edge are zeros, those of the weights in a copy of the last
// step. What lies behind a panel is never multiplied, since zero times infinity is no zero.
//
//===----------------------------------------------------------------------===//
#include "TileKernels.h"

#include "mlir/Dialect/AMX/AMXDialect.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

constexpr int64_t kRows = TileSchedule::kRows, kColumns = TileSchedule::kColumns;

class TileEmitter : KernelTiles {
public:
  TileEmitter(OpBuilder &b, Location loc, const TileForm &form, Block &block)
      : KernelTiles(b, loc), form(form), rows(block.getArgument(0)), weights(block.getArgument(1)),
        start(block.getArgument(2)), behind(block.getArgument(3)), firstStep(block.getArgument(4)),
        steps(block.getArgument(5)), rowSteps(block.getArgument(6)), rowTiles(block.getArgument(7)),
        tile(block.getArgument(8)) {}

  void run() {
    int64_t together = form.schedule.rowTiles;
    Value share = arith::CeilDivUIOp::create(b, loc, index(stepLines()), ceilDiv(rowTiles, together));
    // Blocks of nearly equal size.
    Value blocks = ceilDiv(steps, TileSchedule::kBlockSteps);
    auto boundary = [&](Value block) -> Value {
      return arith::DivUIOp::create(b, loc, arith::MulIOp::create(b, loc, block, steps), blocks);
    };
    forEach(zero, blocks, 1, [&](Value block) {
      from = boundary(block);
      to = boundary(add(block, 1));
      Value isLast = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, to, steps);
      Value next = arith::SelectOp::create(b, loc, isLast, behind, stepAt(to));
      forEachTogether(rowTiles, together, [&](Value pass, int64_t count) {
        Value firstTile = mul(pass, together), lines = mul(pass, share);
        emitTiles(firstTile, count, sum(next, mul(lines, lineElements())), share);
      });
    });
  }

private:
  Value stepAt(Value step) { return sum(start, mul(step, form.stepElements())); }

  int64_t lineElements() { return 64 * 8 / form.stored.getIntOrFloatBitWidth(); }
  int64_t stepLines() { return form.stepElements() / lineElements(); }

  amx::TileType tileOf(int64_t columns, Type element) { return amx::TileType::get({kRows, columns}, element); }

  /// `count` tiles of rows from `firstTile` on, over the steps of the block. In each step the pass fetches `share`
  /// lines of the weights that are as far behind `window` as the step is behind the block's first one.
  void emitTiles(Value firstTile, int64_t count, Value window, Value share) {
    amx::TileType sumsType = tileOf(kColumns, form.sums);
    auto place = [&](int64_t r, int64_t n) {
      return SmallVector<Value>{mul(add(firstTile, r), kRows), index(n * kColumns)};
    };
    SmallVector<Value> sums;
    for (int64_t r = 0; r < count; ++r)
      for (int64_t n = 0; n < form.schedule.columnTiles; ++n)
        sums.push_back(amx::TileLoadOp::create(b, loc, sumsType, tile, place(r, n)));
    SmallVector<Value> tiles;
    for (int64_t r = 0; r < count; ++r)
      tiles.push_back(mul(sum(mul(add(firstTile, r), rowSteps), firstStep), form.rowStepElements()));
    auto loop = scf::ForOp::create(b, loc, from, to, one, sums);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value step = loop.getInductionVar();
      Value ahead = sum(window, mul(sub(step, from), form.stepElements()));
      forEach(zero, share, 1, [&](Value line) {
        memref::PrefetchOp::create(b, loc, weights, ValueRange{sum(ahead, mul(line, lineElements()))},
                                   /*isWrite=*/false, /*localityHint=*/2, /*isDataCache=*/true);
      });
      scf::YieldOp::create(b, loc, emitStep(step, tiles, loop.getRegionIterArgs()));
    }
    for (auto [i, value] : llvm::enumerate(loop.getResults()))
      amx::TileStoreOp::create(b, loc, tile, place(i / form.schedule.columnTiles, i % form.schedule.columnTiles),
                               value);
  }

  /// Each tile is loaded right before it is needed, so that no more than seven registers are in use.
  SmallVector<Value> emitStep(Value step, ArrayRef<Value> tiles, ValueRange sums) {
    amx::TileType rowType = tileOf(form.stepLength(), form.stored);
    // A row of a tile of weights has the groups of 16 columns.
    amx::TileType weightType = tileOf(kColumns * form.group, form.stored);
    Value at = stepAt(step);
    SmallVector<Value> columns, next;
    for (auto [r, first] : llvm::enumerate(tiles)) {
      Value place = sum(first, mul(step, form.rowStepElements()));
      ValueRange before = sums.slice(r * form.schedule.columnTiles, form.schedule.columnTiles);
      SmallVector<Value> mine(before);
      for (int64_t part = 0; part < form.rowParts; ++part) {
        Value a = amx::TileLoadOp::create(b, loc, rowType, rows, ValueRange{add(place, part * form.rowTileElements())},
                                          index(form.stepLength()));
        for (auto [n, acc] : llvm::enumerate(mine)) {
          if (r == 0 && part == 0)
            columns.push_back(amx::TileLoadOp::create(b, loc, weightType, weights,
                                                      ValueRange{add(at, n * kColumns * form.group)},
                                                      index(form.width * form.group)));
          if (form.stored.isInteger())
            acc = amx::TileMulIOp::create(b, loc, acc.getType(), a, columns[n], acc, /*isZextLhs=*/false,
                                          /*isZextRhs=*/false);
          else
            acc = amx::TileMulFOp::create(b, loc, acc.getType(), a, columns[n], acc);
        }
      }
      llvm::append_range(next, mine);
    }
    return next;
  }

  const TileForm &form;
  Value rows, weights, start, behind, firstStep, steps, rowSteps, rowTiles, tile;
  /// The block of steps.
  Value from, to;
};

} // namespace

Value TileBlocks::padded(Value count) {
  return mul(b.createOrFold<arith::CeilDivUIOp>(loc, count, index(kRows)), kRows);
}

void TileBlocks::beginTask(Value needed) {
  auto allocate = [&](int64_t elements) -> Value {
    auto type = MemRefType::get({elements}, form.stored);
    return memref::AllocaOp::create(b, loc, type, b.getI64IntegerAttr(64));
  };
  rest = allocate(form.schedule.restGroups ? form.stepElements() : 1);
  rest = memref::CastOp::create(b, loc, form.flatType(), rest);
  auto branch = scf::IfOp::create(b, loc, TypeRange(form.flatType()), needed, /*withElse=*/true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, loc, rest);
    b.setInsertionPointToStart(branch.thenBlock());
    if (form.schedule.restGroups) {
      auto type = VectorType::get({form.stepLength()}, form.stored);
      Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(type));
      forEach(zero, index(form.stepElements()), form.stepLength(),
              [&](Value at) { vector::StoreOp::create(b, loc, zeros, rest, ValueRange{at}); });
    }
    int64_t elements = form.schedule.maxBlockRows * form.schedule.steps * form.stepLength() * form.rowParts;
    Value buffer = memref::AllocOp::create(b, loc, MemRefType::get({elements}, form.stored), b.getI64IntegerAttr(64));
    scf::YieldOp::create(b, loc, memref::CastOp::create(b, loc, form.flatType(), buffer).getResult());
  }
  rowTiles = branch.getResult(0);
}

void TileBlocks::endTask(Value needed) {
  auto branch = scf::IfOp::create(b, loc, needed, /*withElse=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  memref::DeallocOp::create(b, loc, rowTiles);
}

/// A bf16 is the upper half of an f32, so that each part is cut off what the others left, and three of them are all 24
/// bits. (Rounding would take more instructions, and makes infinities of the largest numbers.) What an infinity leaves
/// is zero; what NaN leaves is NaN, even if the part that was cut off looks like an infinity.
void TileBlocks::emitParts(Value values, Value at) {
  auto floats = cast<VectorType>(values.getType());
  auto words = floats.clone(b.getI32Type());
  auto splat = [&](uint32_t bits) {
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, APInt(32, bits)));
  };
  for (int64_t part = 0; part < form.rowParts; ++part) {
    Value bits = vector::BitCastOp::create(b, loc, words, values);
    Value upper = arith::ShRUIOp::create(b, loc, bits, splat(16));
    upper = arith::TruncIOp::create(b, loc, floats.clone(b.getI16Type()), upper);
    upper = vector::BitCastOp::create(b, loc, floats.clone(form.stored), upper);
    vector::StoreOp::create(b, loc, upper, rowTiles, ValueRange{add(at, part * form.rowTileElements())});
    if (part + 1 == form.rowParts)
      return;
    Value cut = arith::AndIOp::create(b, loc, bits, splat(0xffff0000u));
    Value left = arith::SubFOp::create(b, loc, values, vector::BitCastOp::create(b, loc, floats, cut));
    Value size = arith::AndIOp::create(b, loc, bits, splat(0x7fffffffu));
    Value isInfinite = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, size, splat(0x7f800000u));
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(floats));
    values = arith::SelectOp::create(b, loc, isInfinite, zeros, left);
  }
}

Value TileBlocks::emitHasNaN(Value tile, Value count) {
  auto floats = VectorType::get({kColumns}, form.sums), flags = floats.clone(b.getI1Type());
  Value none = arith::ConstantOp::create(b, loc, b.getZeroAttr(flags));
  auto loop = scf::ForOp::create(b, loc, zero, count, one, none);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value any = loop.getRegionIterArgs().front();
    for (int64_t n = 0; n < form.width; n += kColumns) {
      Value sums = vector::LoadOp::create(b, loc, floats, tile, ValueRange{loop.getInductionVar(), index(n)});
      Value isNaN = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, sums, sums);
      any = arith::OrIOp::create(b, loc, any, isNaN);
    }
    scf::YieldOp::create(b, loc, any);
  }
  return vector::ReductionOp::create(b, loc, vector::CombiningKind::OR, loop.getResult(0));
}

void TileBlocks::emitRows(Value a, int64_t k, Value sources, Value count) {
  int64_t length = form.stepLength(), whole = k / length, last = k % length;
  auto type = VectorType::get({length}, getElementTypeOrSelf(a));
  Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(type.clone(form.stored)));
  // Where row r of step 0 is: tile after tile, step after step in it.
  auto startOf = [&](Value r) {
    Value tile = div(r, kRows), row = sub(r, mul(tile, kRows));
    return sum(mul(tile, form.schedule.steps * form.rowStepElements()), mul(row, length));
  };
  forEach(zero, count, 1, [&](Value r) {
    Value source = memref::LoadOp::create(b, loc, sources, r), to = startOf(r);
    auto copy = [&](Value step, Value some) {
      Value values = load(a, ValueRange{source, mul(step, length)}, type, some);
      Value at = sum(to, mul(step, form.rowStepElements()));
      if (form.rowParts > 1)
        return emitParts(values, at);
      if (type.getElementType() != form.stored)
        values = arith::TruncFOp::create(b, loc, type.clone(form.stored), values);
      vector::StoreOp::create(b, loc, values, rowTiles, ValueRange{at});
    };
    if (whole)
      forEach(zero, index(whole), 1, [&](Value step) { copy(step, Value()); });
    if (last)
      copy(index(whole), mask(length, index(last)));
  });
  forEach(count, padded(count), 1, [&](Value r) {
    Value to = startOf(r);
    forEach(zero, index(form.schedule.steps * form.rowParts), 1, [&](Value step) {
      vector::StoreOp::create(b, loc, zeros, rowTiles, ValueRange{sum(to, mul(step, form.rowTileElements()))});
    });
  });
}

void TileBlocks::emitPanel(Value weights, Value start, Value behind, Value tile, Value count) {
  const TileSchedule &schedule = form.schedule;
  int64_t whole = schedule.steps - (schedule.restGroups != 0);
  Value tiles = b.createOrFold<arith::CeilDivUIOp>(loc, count, index(kRows));
  if (whole)
    callKernel(weights, start, behind, /*firstStep=*/0, whole, tiles, tile);
  if (!schedule.restGroups)
    return;
  int64_t group = form.width * form.group;
  auto type = VectorType::get({group}, form.stored);
  Value from = add(start, whole * form.stepElements());
  forEach(zero, index(schedule.restGroups * group), group, [&](Value at) {
    Value values = vector::LoadOp::create(b, loc, type, weights, sum(from, at));
    vector::StoreOp::create(b, loc, values, rest, ValueRange{at});
  });
  callKernel(rest, zero, zero, /*firstStep=*/whole, 1, tiles, tile);
}

void TileBlocks::callKernel(Value weights, Value start, Value behind, int64_t firstStep, int64_t steps, Value tiles,
                            Value tile) {
  std::string name;
  llvm::raw_string_ostream os(name);
  os << "moe_tiles_" << form.stored << "_" << form.width;
  if (form.rowParts > 1)
    os << "_" << form.rowParts << "parts";
  SmallVector<Value> arguments{
      rowTiles, weights, start, behind, index(firstStep), index(steps), index(form.schedule.steps), tiles, tile};
  func::FuncOp function = functions.get(name, ValueRange(arguments).getTypes(), [&](OpBuilder &inner, Block &block) {
    TileEmitter(inner, loc, form, block).run();
  });
  func::CallOp::create(b, loc, function, arguments);
}
