//===- GroupedMatmulKernel.cpp - emission of one expert kernel ------------===//
//
// A block finds its expert and rows from the offsets, so nothing about the routing has to be known at the launch: the
// grid is an upper limit, and blocks without work end at once. The operands come through a ring of stages in shared
// memory: while one is multiplied, the others are on their way (cp.async). Rows of `a` are gathered by the copies
// themselves, and what lies outside (the last rows of an expert, the ends of K and N) is filled with zeros by them.
//
//===----------------------------------------------------------------------===//
#include "GroupedMatmulKernel.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

Value SharedTile::offset(GpuBuilder &b, Value row, Value column) const {
  int64_t perChunk = 16 / elementBytes, chunks = columns / perChunk;
  Value start = b.mul(row, columns * elementBytes);
  if (!swizzled || chunks < 2)
    return b.add(start, b.mul(column, elementBytes));
  // Rows that share a 128-byte line of banks get different permutations.
  Value key = chunks >= 8 ? b.modulo(b.mul(row, keyStep), 8) : b.modulo(b.divide(row, 8 / chunks), chunks);
  Value chunk = b.lxor(b.divide(column, perChunk), key);
  Value inside = b.mul(b.modulo(column, perChunk), elementBytes);
  return b.add(start, b.add(b.mul(chunk, 16), inside));
}

GroupedMatmulKernel::GroupedMatmulKernel(GpuBuilder &b, GroupedMatmulOp op, KernelForm form, GpuTile tile, GpuMath math)
    : b(b), op(op), form(form), tile(tile), banks(op.getBanks().size()), tensorCores(math != GpuMath::Float) {
  element = getElementTypeOrSelf(op.getA());
  bytes = element.getIntOrFloatBitWidth() / 8;
  n = cast<ShapedType>(op.getInit().getType()).getDimSize(1);
  k = cast<ShapedType>(op.getA().getType()).getDimSize(1);
  bankColumns = tile.columns / banks;
  // Chunks are read from several rows at once, but for banks [K, N] in f32 without tensor cores, which are read along
  // their rows.
  aTile = {tile.rows, tile.depth, bytes, /*swizzled=*/true};
  bTile = form == KernelForm::Columns ? SharedTile{tile.depth, bankColumns, bytes, tensorCores, bytes == 4 ? 2 : 1}
                                      : SharedTile{bankColumns, tile.depth, bytes, /*swizzled=*/true};
}

void GroupedMatmulKernel::emit() {
  a = GpuView::of(b, op.getA());
  offsetsView = GpuView::of(b, op.getOffsets());
  initView = GpuView::of(b, op.getInit());
  if (op.getRows())
    rowsView = GpuView::of(b, op.getRows());
  for (Value bank : op.getBanks())
    bankViews.push_back(GpuView::of(b, bank));
  for (Value extra : op.getExtras())
    extraViews.push_back(GpuView::of(b, extra));

  // Every expert has at most one tile that is not full.
  Value pairs = b.createOrFold<memref::DimOp>(b.getLoc(), op.getInit(), 0);
  Value experts = b.index(op.getNumExperts());
  Value rowTiles = b.add(Value(arith::DivUIOp::create(b, pairs, b.index(tile.rows))), b.minimum(pairs, experts));
  Value one = b.index(1);
  Value columnTiles = b.index(llvm::divideCeil(n, bankColumns));
  int64_t shared = tile.stages * (aTile.bytes() + banks * bTile.bytes());
  // Rows along x: the other dimensions of a grid end at 65535.
  auto launch = gpu::LaunchOp::create(b, rowTiles, columnTiles, one, b.index(tile.threads()), one, one, b.i32(shared));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(&launch.getBody().front());
  emitBlock();
  gpu::TerminatorOp::create(b);
}

Value GroupedMatmulKernel::bankStride(unsigned bank, unsigned loop) {
  for (auto [i, e] : llvm::enumerate(op.getBankMap(bank).getResults()))
    if (cast<AffineDimExpr>(e).getPosition() == loop)
      return b.toI64(bankViews[bank].strides[i]);
  return b.i64(0);
}

/// The widest copy that keeps every chunk inside a row and aligned.
static int64_t chunkBytesOf(const GpuView &view, int64_t rowElements, int64_t bytes) {
  if (!view.isDense)
    return bytes;
  for (int64_t chunk : {16, 8, 4})
    if (chunk >= bytes && rowElements * bytes % chunk == 0)
      return chunk;
  return bytes;
}

/// `source` gives for (row, column) of the tile the pointer at depth 0 and whether there is anything to copy.
GroupedMatmulKernel::Copy GroupedMatmulKernel::planCopy(const SharedTile &shape, int64_t chunkBytes,
                                                        function_ref<std::pair<Value, Value>(Value, Value)> source) {
  Copy copy;
  copy.tile = shape;
  copy.chunk = chunkBytes / bytes;
  bool depthIsColumn = &shape == &aTile || form == KernelForm::Dots;
  int64_t perRow = shape.columns / copy.chunk, chunks = shape.rows * perRow;
  for (int64_t first = 0; first < chunks; first += tile.threads()) {
    Value id = b.add(thread, first);
    Value row = b.divide(id, perRow), column = b.mul(b.modulo(id, perRow), copy.chunk);
    auto [pointer, valid] = source(row, column);
    copy.sources.push_back(pointer);
    copy.valid.push_back(valid);
    copy.depths.push_back(depthIsColumn ? column : row);
    copy.destinations.push_back(shape.offset(b, row, column));
    copy.mine.push_back(first + tile.threads() > chunks ? b.less(id, b.i32(chunks)) : Value());
  }
  return copy;
}

/// Starts this thread's copies of one stage.
void GroupedMatmulKernel::issue(const Copy &copy, Value slotBase, Value depthStart, Value depthStride) {
  Value distance = b.mul(b.toI64(depthStart), depthStride);
  for (size_t i = 0; i < copy.sources.size(); ++i) {
    OpBuilder::InsertionGuard guard(b);
    if (copy.mine[i]) {
      auto mine = scf::IfOp::create(b, copy.mine[i], /*withElseRegion=*/false);
      b.setInsertionPointToStart(mine.thenBlock());
    }
    Value valid = copy.valid[i];
    if (k % tile.depth != 0) {
      Value inside = b.less(b.add(depthStart, copy.depths[i]), b.i32(k));
      valid = valid ? b.land(valid, inside) : inside;
    }
    Value from = b.advance(copy.sources[i], distance, bytes);
    Value to = b.advance(slotBase, copy.destinations[i], 1);
    int64_t size = copy.chunk * bytes;
    if (size >= 4) {
      Value there = valid ? b.select(valid, b.i32(size), b.i32(0)) : Value();
      NVVM::CpAsyncOp::create(b, to, from, size,
                              size == 16 ? NVVM::LoadCacheModifierKind::CG : NVVM::LoadCacheModifierKind::CA, there);
      continue;
    }
    // Rows of an odd number of 16-bit elements: through registers.
    Value zero = arith::ConstantOp::create(b, cast<TypedAttr>(b.getZeroAttr(element)));
    Value loaded;
    if (valid) {
      auto some = scf::IfOp::create(b, TypeRange{element}, valid, /*withElseRegion=*/true);
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(some.thenBlock());
      scf::YieldOp::create(b, b.load(element, from));
      b.setInsertionPointToStart(some.elseBlock());
      scf::YieldOp::create(b, zero);
      loaded = some.getResult(0);
    } else {
      loaded = b.load(element, from);
    }
    b.store(loaded, to);
  }
}

Value GroupedMatmulKernel::slotOf(Value step) {
  return b.advance(shared, b.modulo(step, tile.stages), aTile.bytes() + banks * bTile.bytes());
}

void GroupedMatmulKernel::issueAll(Value step, Value slot) {
  Value depth = b.mul(step, tile.depth);
  issue(aCopy, slot, depth, b.toI64(a.strides[1]));
  for (unsigned bank = 0; bank < banks; ++bank)
    issue(bankCopies[bank], b.advance(slot, b.i32(aTile.bytes() + bank * bTile.bytes()), 1), depth,
          bankStride(bank, 1));
}

void GroupedMatmulKernel::emitBlock() {
  thread = b.thread();
  Value warp = b.divide(thread, 32);
  lane = b.modulo(thread, 32);
  warpRow = b.divide(warp, tile.warpColumns);
  warpColumn = b.modulo(warp, tile.warpColumns);
  shared = b.sharedMemory();
  columnBegin = b.mul(b.block(gpu::Dimension::y), bankColumns);

  findWork();
  auto hasWork = scf::IfOp::create(b, b.notLess(expert, b.i64(0)), /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(hasWork.thenBlock());
  emitStages();
}

/// Which rows of which expert: the tiles of the experts before it are counted. `expert` is -1 if there are none.
void GroupedMatmulKernel::findWork() {
  Value offsets = b.global(offsetsView.address);
  auto offsetAt = [&](Value i) { return b.load(b.getI64Type(), b.advance(offsets, b.toI64(i), 8)); };
  auto tilesOf = [&](Value i) {
    Value count = b.sub(offsetAt(b.add(i, 1)), offsetAt(i));
    return b.toI32(b.divide(b.add(count, tile.rows - 1), tile.rows));
  };
  Value wanted = b.block(gpu::Dimension::x);
  int64_t experts = op.getNumExperts();
  // State: the tiles so far, the expert, and which of its tiles.
  Values found;
  if (experts <= 8) {
    // Their offsets are loaded at once.
    found = b.loop(b.index(experts), {b.i32(0), b.i32(-1), b.i32(0)}, [&](Value e, ValueRange state) -> Values {
      Value i = b.toI32(e), next = b.add(state[0], tilesOf(i));
      Value hit = b.land(b.notLess(wanted, state[0]), b.less(wanted, next));
      return {next, b.select(hit, i, state[1]), b.select(hit, b.sub(wanted, state[0]), state[2])};
    });
  } else {
    // 32 experts at a time, one per lane; every warp does the same.
    auto shuffle = [&](Value v, Value from, gpu::ShuffleMode mode) -> Value {
      return gpu::ShuffleOp::create(b, v, from, b.i32(32), mode).getShuffleResult();
    };
    Value chunks = b.index(llvm::divideCeil(experts, 32));
    found = b.loop(chunks, {b.i32(0), b.i32(-1), b.i32(0)}, [&](Value chunk, ValueRange state) -> Values {
      Value first = b.mul(b.toI32(chunk), 32), i = b.add(first, lane);
      Value inside = b.less(i, b.i32(experts));
      Value own = b.select(inside, tilesOf(b.select(inside, i, b.i32(0))), b.i32(0));
      Value upTo = own;
      for (int64_t distance = 1; distance < 32; distance *= 2) {
        Value before = shuffle(upTo, b.i32(distance), gpu::ShuffleMode::UP);
        upTo = b.select(b.notLess(lane, b.i32(distance)), b.add(upTo, before), upTo);
      }
      Value begin = b.sub(b.add(state[0], upTo), own);
      Value hit = b.land(b.notLess(wanted, begin), b.less(wanted, b.add(begin, own)));
      Value votes = NVVM::VoteSyncOp::create(b, b.getI32Type(), b.i32(-1), hit, NVVM::VoteSyncKind::ballot);
      Value any = b.cmp(arith::CmpIPredicate::ne, votes, b.i32(0));
      Value hitLane = math::CountTrailingZerosOp::create(b, b.select(any, votes, b.i32(1)));
      Value number = shuffle(b.sub(wanted, begin), hitLane, gpu::ShuffleMode::IDX);
      return {b.add(state[0], shuffle(upTo, b.i32(31), gpu::ShuffleMode::IDX)),
              b.select(any, b.add(first, hitLane), state[1]), b.select(any, number, state[2])};
    });
  }
  expert = b.toI64(found[1]);
  Value known = b.maximum(found[1], b.i32(0));
  pairBegin = b.add(offsetAt(known), b.mul(b.toI64(found[2]), tile.rows));
  pairEnd = offsetAt(b.add(known, 1));
}

/// The copies and products of a block that has work.
void GroupedMatmulKernel::emitStages() {
  Value aBase = b.global(a.address);
  Value rows = op.getRows() ? b.global(rowsView.address) : Value();
  aCopy = planCopy(aTile, chunkBytesOf(a, k, bytes), [&](Value row, Value column) -> std::pair<Value, Value> {
    Value pair = b.add(pairBegin, b.toI64(row));
    Value valid = b.less(pair, pairEnd);
    // The row of a pair that is not there is not read; its number must be one that can be looked up.
    Value safe = b.select(valid, pair, pairBegin);
    Value source = rows ? b.load(b.getI64Type(), b.advance(rows, safe, 8)) : safe;
    Value at = b.add(b.mul(source, b.toI64(a.strides[0])), b.mul(b.toI64(column), b.toI64(a.strides[1])));
    return {b.advance(aBase, at, bytes), valid};
  });
  for (unsigned bank = 0; bank < banks; ++bank) {
    Value base = b.advance(b.global(bankViews[bank].address), b.mul(expert, bankStride(bank, 0)), bytes);
    int64_t rowElements = form == KernelForm::Columns ? n : k;
    bankCopies.push_back(planCopy(bTile, chunkBytesOf(bankViews[bank], rowElements, bytes),
                                  [&](Value row, Value column) -> std::pair<Value, Value> {
                                    bool columnsForm = form == KernelForm::Columns;
                                    Value nIndex = b.add(columnBegin, columnsForm ? column : row);
                                    Value kIndex = columnsForm ? row : column;
                                    Value valid = n % bankColumns ? b.less(nIndex, b.i32(n)) : Value();
                                    Value at = b.add(b.mul(b.toI64(kIndex), bankStride(bank, 1)),
                                                     b.mul(b.toI64(nIndex), bankStride(bank, 2)));
                                    return {b.advance(base, at, bytes), valid};
                                  }));
  }

  // Fill all stages but one, then: wait for the oldest, start the copies of a later step into the stage that was
  // multiplied last (the barrier says that every warp is done with it), multiply.
  int64_t steps = llvm::divideCeil(k, tile.depth);
  for (int64_t step = 0; step < tile.stages - 1; ++step) {
    if (step < steps)
      issueAll(b.i32(step), slotOf(b.i32(step)));
    NVVM::CpAsyncCommitGroupOp::create(b);
  }
  int64_t fragments = tensorCores ? banks * (tile.rows / tile.warpRows / 16) * (bankColumns / tile.warpColumns / 8) * 4
                                  : banks * (tile.rows / tile.threadRows()) * (bankColumns / tile.threadColumns());
  Value zero = arith::ConstantOp::create(b, b.getF32FloatAttr(0));
  SmallVector<Value> sums(fragments, zero);
  auto loop = scf::ForOp::create(b, b.i32(0), b.i32(steps), b.i32(1), sums);
  {
    OpBuilder::InsertionGuard inner(b);
    b.setInsertionPointToStart(loop.getBody());
    Value step = loop.getInductionVar();
    NVVM::CpAsyncWaitGroupOp::create(b, tile.stages - 2);
    b.barrier();
    Value later = b.add(step, tile.stages - 1);
    auto more = scf::IfOp::create(b, b.less(later, b.i32(steps)), /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard then(b);
      b.setInsertionPointToStart(more.thenBlock());
      issueAll(later, slotOf(later));
    }
    NVVM::CpAsyncCommitGroupOp::create(b);
    Value slot = slotOf(step);
    SmallVector<Value> next = tensorCores ? multiplyFragments(slot, loop.getRegionIterArgs())
                                          : multiplyScalars(slot, loop.getRegionIterArgs());
    scf::YieldOp::create(b, next);
  }
  if (tensorCores)
    storeFragments(loop.getResults());
  else
    storeScalars(loop.getResults());
}

//===----------------------------------------------------------------------===//
// Tensor cores: mma.sync m16n8k16 of 16-bit types, m16n8k8 of tf32, with f32 sums
//===----------------------------------------------------------------------===//

/// One ldmatrix: four 8 x 8 matrices, whose rows begin where the lanes say.
static SmallVector<Value> loadFragments(GpuBuilder &b, Value address, bool transposed) {
  auto words = LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, b.getI32Type()));
  Value loaded =
      NVVM::LdMatrixOp::create(b, words, address, 4, transposed ? NVVM::MMALayout::col : NVVM::MMALayout::row,
                               NVVM::LdStMatrixShapeAttr::get(b.getContext(), 8, 8), NVVM::LdStMatrixEltType::B16);
  SmallVector<Value> result;
  for (int64_t i = 0; i < 4; ++i)
    result.push_back(LLVM::ExtractValueOp::create(b, loaded, ArrayRef<int64_t>{i}));
  return result;
}

/// Of tf32 banks that are stored [k][n], which ldmatrix cannot transpose: two fragments of 8 x 8 word by word.
SmallVector<Value> GroupedMatmulKernel::loadColumns(Value base, Value depth, Value column) {
  SmallVector<Value> words;
  for (int64_t half = 0; half < 2; ++half)
    for (int64_t upper = 0; upper < 2; ++upper) {
      Value row = b.add(b.add(depth, b.modulo(lane, 4)), upper * 4);
      Value at = bTile.offset(b, row, b.add(b.add(column, b.divide(lane, 4)), half * 8));
      words.push_back(b.load(b.getI32Type(), b.advance(base, at, 1)));
    }
  return words;
}

SmallVector<Value> GroupedMatmulKernel::multiplyFragments(Value slot, ValueRange sums) {
  int64_t warpRows = tile.rows / tile.warpRows, warpColumns = bankColumns / tile.warpColumns;
  int64_t rowFragments = warpRows / 16, columnFragments = warpColumns / 8;
  bool isHalf = element.isF16(), isTf32 = bytes == 4;
  // The inner extent of a fragment, and the elements of 16 bytes of it.
  int64_t inner = isTf32 ? 8 : 16, chunk = 16 / bytes;
  Type pair = isHalf ? Type(VectorType::get({2}, element)) : Type(b.getI32Type());
  auto typed = [&](ArrayRef<Value> words) {
    SmallVector<Value> result;
    for (Value word : words)
      if (isHalf)
        result.push_back(LLVM::BitcastOp::create(b, pair, word));
      else if (isTf32)
        result.push_back(NVVM::ConvertFloatToTF32Op::create(
            b, b.getI32Type(), LLVM::BitcastOp::create(b, b.getF32Type(), word), NVVM::FPRoundingMode::RNA));
      else
        result.push_back(word);
    return result;
  };
  auto four = LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, b.getF32Type()));
  auto type = isHalf ? NVVM::MMATypes::f16 : isTf32 ? NVVM::MMATypes::tf32 : NVVM::MMATypes::bf16;

  SmallVector<Value> acc(sums);
  for (int64_t depth = 0; depth < tile.depth; depth += inner) {
    SmallVector<SmallVector<Value>> left;
    for (int64_t i = 0; i < rowFragments; ++i) {
      Value row = b.add(b.mul(warpRow, warpRows), b.add(b.modulo(lane, 16), i * 16));
      Value column = b.add(b.mul(b.divide(lane, 16), chunk), depth);
      left.push_back(typed(loadFragments(b, b.advance(slot, aTile.offset(b, row, column), 1), false)));
    }
    // The product of the rows with two fragments of columns from j on.
    auto multiply = [&](unsigned bank, int64_t j, const SmallVector<Value> &right) {
      for (int64_t i = 0; i < rowFragments; ++i)
        for (int64_t half = 0; half < 2; ++half) {
          int64_t at = ((bank * rowFragments + i) * columnFragments + j + half) * 4;
          Value product = NVVM::MmaOp::create(
              b, four, left[i], ArrayRef<Value>(right).slice(2 * half, 2), ArrayRef<Value>(acc).slice(at, 4),
              ArrayRef<int64_t>{16, 8, inner}, std::nullopt, std::nullopt, std::array<NVVM::MMATypes, 2>{type, type},
              std::array<NVVM::MMALayout, 2>{NVVM::MMALayout::row, NVVM::MMALayout::col});
          for (int64_t r = 0; r < 4; ++r)
            acc[at + r] = LLVM::ExtractValueOp::create(b, product, ArrayRef<int64_t>{r});
        }
    };
    for (unsigned bank = 0; bank < banks; ++bank) {
      Value base = b.advance(slot, b.i32(aTile.bytes() + bank * bTile.bytes()), 1);
      // Two fragments of eight columns at a time.
      for (int64_t j = 0; j < columnFragments; j += 2) {
        Value start = b.add(b.mul(warpColumn, warpColumns), j * 8);
        Value low = b.modulo(lane, 8), second = b.modulo(b.divide(lane, 8), 2), third = b.divide(lane, 16);
        if (isTf32 && form == KernelForm::Columns) {
          multiply(bank, j, typed(loadColumns(base, b.i32(depth), start)));
          continue;
        }
        Value address;
        if (form == KernelForm::Columns) // stored [k][n]: matrices are transposed on the way
          address = bTile.offset(b, b.add(b.add(low, b.mul(second, 8)), depth), b.add(start, b.mul(third, 8)));
        else // stored [n][k]
          address = bTile.offset(b, b.add(start, b.add(low, b.mul(third, 8))), b.add(b.mul(second, chunk), depth));
        multiply(bank, j, typed(loadFragments(b, b.advance(base, address, 1), form == KernelForm::Columns)));
      }
    }
  }
  return acc;
}

void GroupedMatmulKernel::storeFragments(ValueRange sums) {
  int64_t warpRows = tile.rows / tile.warpRows, warpColumns = bankColumns / tile.warpColumns;
  int64_t rowFragments = warpRows / 16, columnFragments = warpColumns / 8;
  Type stored = initView.element;
  int64_t storedBytes = stored.getIntOrFloatBitWidth() / 8;
  Value base = b.global(initView.address);
  // Lane 4 g + t holds columns 2 t and 2 t + 1 of rows g and g + 8 of a fragment.
  Value group = b.divide(lane, 4), within = b.mul(b.modulo(lane, 4), 2);
  for (int64_t i = 0; i < rowFragments; ++i)
    for (int64_t upper = 0; upper < 2; ++upper) {
      Value row = b.add(b.add(b.mul(warpRow, warpRows), group), i * 16 + upper * 8);
      Value p = b.add(pairBegin, b.toI64(row));
      auto there = scf::IfOp::create(b, b.less(p, pairEnd), /*withElseRegion=*/false);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(there.thenBlock());
      Value rowBase = b.advance(base, b.mul(p, b.toI64(initView.strides[0])), storedBytes);
      for (int64_t j = 0; j < columnFragments; ++j) {
        Value column = b.add(columnBegin, b.add(b.add(b.mul(warpColumn, warpColumns), within), j * 8));
        auto sumsOf = [&](int64_t c) {
          SmallVector<Value> result;
          for (unsigned bank = 0; bank < banks; ++bank)
            result.push_back(sums[((bank * rowFragments + i) * columnFragments + j) * 4 + upper * 2 + c]);
          return result;
        };
        auto whenInside = [&](Value c, function_ref<void()> body) {
          OpBuilder::InsertionGuard inner(b);
          if (n % bankColumns) {
            auto inside = scf::IfOp::create(b, b.less(c, b.i32(n)), /*withElseRegion=*/false);
            b.setInsertionPointToStart(inside.thenBlock());
          }
          body();
        };
        Value at = b.mul(b.toI64(column), b.toI64(initView.strides[1]));
        if (initView.isDense && n % 2 == 0 && storedBytes <= 4) {
          whenInside(column, [&] {
            // Both as one word: a vector of two elements would go through memory.
            Type one = b.getIntegerType(8 * storedBytes), both = b.getIntegerType(16 * storedBytes);
            Value two;
            for (int64_t c = 0; c < 2; ++c) {
              Value bits = arith::BitcastOp::create(b, one, applyEpilogue(p, b.add(column, c), sumsOf(c)));
              Value wide = arith::ExtUIOp::create(b, both, bits);
              two = c == 0 ? wide
                           : arith::OrIOp::create(b, two,
                                                  arith::ShLIOp::create(b, wide, b.constantLike(wide, 8 * storedBytes)))
                                 .getResult();
            }
            b.store(two, b.advance(rowBase, at, storedBytes), 2 * storedBytes);
          });
          continue;
        }
        for (int64_t c = 0; c < 2; ++c)
          whenInside(b.add(column, c), [&] {
            Value place = b.add(at, b.mul(b.toI64(initView.strides[1]), c));
            b.store(applyEpilogue(p, b.add(column, c), sumsOf(c)), b.advance(rowBase, place, storedBytes));
          });
      }
    }
}

//===----------------------------------------------------------------------===//
// f32: each thread has a few rows and columns
//===----------------------------------------------------------------------===//

/// A thread's rows are threadRows() apart. So are its columns (by threadColumns()) where the bank is read along the
/// reduction; otherwise up to four neighbours are read at once.
static int64_t neighbours(KernelForm form, int64_t columnCount) {
  return form == KernelForm::Columns ? std::min<int64_t>(columnCount, 4) : 1;
}

/// Column `j` of this thread in the tile.
Value GroupedMatmulKernel::scalarColumn(int64_t j) {
  int64_t count = neighbours(form, bankColumns / tile.threadColumns());
  Value tx = b.modulo(thread, tile.threadColumns());
  return b.add(b.mul(tx, count), j / count * count * tile.threadColumns() + j % count);
}

/// `count` neighbouring numbers in shared memory.
SmallVector<Value> GroupedMatmulKernel::loadWords(Value base, Value offset, int64_t count) {
  Value pointer = b.advance(base, offset, 1);
  if (count == 1)
    return {b.load(element, pointer)};
  Value all = LLVM::LoadOp::create(b, VectorType::get({count}, element), pointer, /*alignment=*/count * bytes);
  SmallVector<Value> result;
  for (int64_t i = 0; i < count; ++i)
    result.push_back(LLVM::ExtractElementOp::create(b, all, b.i32(i)));
  return result;
}

SmallVector<Value> GroupedMatmulKernel::multiplyScalars(Value slot, ValueRange sums) {
  int64_t rowCount = tile.rows / tile.threadRows(), columnCount = bankColumns / tile.threadColumns();
  int64_t side = neighbours(form, columnCount);
  // Four steps of the depth at a time: 16 bytes of a row.
  constexpr int64_t kSteps = 4;
  Value ty = b.divide(thread, tile.threadColumns());
  return b.loop(b.index(tile.depth / kSteps), sums, [&](Value step, ValueRange acc) -> Values {
    Value depth = b.mul(b.toI32(step), kSteps);
    SmallVector<SmallVector<Value>> left;
    for (int64_t i = 0; i < rowCount; ++i)
      left.push_back(loadWords(slot, aTile.offset(b, b.add(ty, i * tile.threadRows()), depth), kSteps));
    SmallVector<Value> next(acc);
    auto multiply = [&](unsigned bank, int64_t j, int64_t d, Value right) {
      for (int64_t i = 0; i < rowCount; ++i) {
        Value &sum = next[(bank * columnCount + j) * rowCount + i];
        sum = LLVM::FMAOp::create(b, left[i][d], right, sum);
      }
    };
    for (unsigned bank = 0; bank < banks; ++bank) {
      Value base = b.advance(slot, b.i32(aTile.bytes() + bank * bTile.bytes()), 1);
      if (form == KernelForm::Columns) {
        for (int64_t d = 0; d < kSteps; ++d)
          for (int64_t j = 0; j < columnCount; j += side)
            for (auto [c, right] :
                 llvm::enumerate(loadWords(base, bTile.offset(b, b.add(depth, d), scalarColumn(j)), side)))
              multiply(bank, j + c, d, right);
        continue;
      }
      for (int64_t j = 0; j < columnCount; ++j)
        for (auto [d, right] : llvm::enumerate(loadWords(base, bTile.offset(b, scalarColumn(j), depth), kSteps)))
          multiply(bank, j, d, right);
    }
    return next;
  });
}

void GroupedMatmulKernel::storeScalars(ValueRange sums) {
  int64_t rowCount = tile.rows / tile.threadRows(), columnCount = bankColumns / tile.threadColumns();
  Value ty = b.divide(thread, tile.threadColumns());
  Value base = b.global(initView.address);
  int64_t storedBytes = initView.element.getIntOrFloatBitWidth() / 8;
  for (int64_t i = 0; i < rowCount; ++i) {
    Value p = b.add(pairBegin, b.toI64(b.add(ty, i * tile.threadRows())));
    for (int64_t j = 0; j < columnCount; ++j) {
      Value column = b.add(columnBegin, scalarColumn(j));
      auto inside = scf::IfOp::create(b, b.land(b.less(p, pairEnd), b.less(column, b.i32(n))), false);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(inside.thenBlock());
      SmallVector<Value> mine;
      for (unsigned bank = 0; bank < banks; ++bank)
        mine.push_back(sums[(bank * columnCount + j) * rowCount + i]);
      Value at = b.add(b.mul(p, b.toI64(initView.strides[0])), b.mul(b.toI64(column), b.toI64(initView.strides[1])));
      b.store(applyEpilogue(p, column, mine), b.advance(base, at, storedBytes));
    }
  }
}

//===----------------------------------------------------------------------===//
// Epilogue
//===----------------------------------------------------------------------===//

Value GroupedMatmulKernel::applyEpilogue(Value pair, Value column, ArrayRef<Value> sums) {
  IRMapping map;
  Block &block = op.getEpilogue().front();
  for (auto [i, sum] : llvm::enumerate(sums))
    map.map(block.getArgument(i), b.toFloat(sum, block.getArgument(i).getType()));
  Value loops[] = {expert, pair, b.toI64(column)};
  for (auto [i, view] : llvm::enumerate(extraViews)) {
    Value at = b.i64(0);
    for (auto [d, e] : llvm::enumerate(op.getExtraMap(i).getResults()))
      at = b.add(at, b.mul(loops[cast<AffineDimExpr>(e).getPosition()], b.toI64(view.strides[d])));
    Type type = view.element;
    bool isIndex = type.isIndex();
    Type stored = isIndex ? b.getI64Type() : type.isInteger(1) ? b.getI8Type() : type;
    Value value =
        b.load(stored, b.advance(b.global(view.address), at, isIndex ? 8 : stored.getIntOrFloatBitWidth() / 8));
    if (stored != type)
      value = isIndex ? b.toIndex(value) : Value(arith::TruncIOp::create(b, type, value));
    map.map(block.getArgument(banks + i), value);
  }
  for (Operation &inner : block.without_terminator())
    b.clone(inner, map);
  return map.lookupOrDefault(op.getYield().getValues()[0]);
}
