//===- IntegerBlocks.cpp - many rows of bytes against quantised panels ----===//
#include "IntegerBlocks.h"
#include "QuantDecoder.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

static KernelFunctionForm getForm(GroupedMatmulOp op, const QuantPanels &panels, const IntegerDot &dot) {
  PanelLayout layout{panels.columns(), panels.banks, /*group=*/1};
  auto banks = cast<ShapedType>(op.getBanks().front().getType());
  KernelSchedule schedule = getKernelSchedule(
      layout, {banks.getDimSize(0), banks.getDimSize(1), panels.k, panels.width()}, /*elementBytes=*/1, dot.lanes());
  // Two vectors of sums for each row, in 12 of 16 registers or 24 of 32; weights with a sign need more of the others.
  // Rows are bytes.
  bool withSign = panels.storedBits() == 8 && !dot.takesUnsignedBytes();
  schedule.maxRows = (dot.isWide() ? 12 : 6) - (withSign ? 2 : 0);
  schedule.maxBlockRows = dot.isWide() ? 192 : 96;
  Type rows = getElementTypeOrSelf(op.getA());
  return {layout, schedule, dot.lanes(), rows, rows, Float32Type::get(op.getContext()), /*wholeSteps=*/true};
}

IntegerBlocks::IntegerBlocks(OpBuilder &b, GroupedMatmulOp op, const QuantisedRows &rowCodes, const QuantPanels &panels,
                             const IntegerDot &dot, KernelFunctions &functions)
    : RowBlock(b, op, op.getA(), getForm(op, panels, dot), functions), panels(panels), dot(dot), rowCodes(rowCodes) {}

void IntegerBlocks::prepare() {
  RowBlock::prepare();
  constexpr int64_t any = ShapedType::kDynamic;
  for (Value *buffer : {&rowCodes.codes, &rowCodes.steps, &rowCodes.starts})
    *buffer =
        memref::CastOp::create(b, loc, MemRefType::get({any, any}, getElementTypeOrSelf(buffer->getType())), *buffer);
}

void IntegerBlocks::emit(Value expertOfTask, Value begin, Value count, Value first, Value last, Value streamOfTask,
                         function_ref<Value(Value)> startOf) {
  OpBuilder::InsertionGuard guard(b);
  beginTask(expertOfTask);
  constexpr int64_t any = ShapedType::kDynamic;
  stream = memref::CastOp::create(b, loc, MemRefType::get({any}, b.getI8Type()), streamOfTask);
  if (decodes()) {
    int64_t blocks = std::min(panels.wholeBlocks(), blocksTogether());
    auto type = MemRefType::get({blocks * weightBytes(panels.blockLength())}, b.getI8Type());
    Value buffer = memref::AllocaOp::create(b, loc, type, b.getI64IntegerAttr(64));
    scratch = memref::CastOp::create(b, loc, MemRefType::get({any}, b.getI8Type()), buffer);
  }
  forEachRowBlock(begin, count, form.schedule.maxBlockRows, [&](const Rows &rows) {
    beginRows(rows);
    forEach(first, last, 1, [&](Value panel) { emitPanel(panel, startOf(panel), rows); });
  });
}

void IntegerBlocks::emitPanel(Value panel, Value base, const Rows &rows) {
  clearTile(rows.count);
  int64_t length = panels.blockLength(), whole = panels.wholeBlocks(), together = blocksTogether();
  forEach(zero, index(whole), together, [&](Value block) {
    Value at = sum(base, mul(block, index(panels.blockBytes(length))));
    emitBlocks(at, block, min(index(together), sub(index(whole), block)), length, rows);
  });
  if (hasRest())
    emitBlocks(add(base, whole * panels.blockBytes(length)), index(whole), one, panels.k - whole * length, rows);
  forEach(zero, rows.count, 1, [&](Value r) { emitEpilogue(sum(rows.pair, r), panel, r); });
}

void IntegerBlocks::emitBlocks(Value at, Value first, Value count, int64_t length, const Rows &rows) {
  if (decodes()) {
    func::FuncOp decode = getDecodeFunction();
    forEach(zero, count, 1, [&](Value block) {
      func::CallOp::create(b, loc, decode,
                           ValueRange{stream, sum(at, mul(block, index(panels.blockBytes(length)))),
                                      index(wordsOf(length) / panels.bytesPerGroup()), scratch,
                                      mul(block, index(weightBytes(length)))});
    });
  }
  emitProducts(at, first, count, length, rows);
}

void IntegerBlocks::emitProducts(Value at, Value first, Value count, int64_t length, const Rows &rows) {
  forEachPass(rows.passes, [&](Value pass, Value from, Value rowsOfPass) {
    // The first pass brings what the others find; codes that are decoded are fetched by what decodes them.
    Value ahead = select(equal(pass, zero), index(kAhead), zero);
    SmallVector<int64_t> cases;
    for (int64_t r = 1; r <= form.schedule.maxRows; ++r)
      cases.push_back(r);
    auto choice = scf::IndexSwitchOp::create(b, loc, TypeRange(), rowsOfPass, cases, cases.size());
    OpBuilder::InsertionGuard guard(b);
    for (auto [r, region] : llvm::zip(cases, choice.getCaseRegions())) {
      b.createBlock(&region);
      func::CallOp::create(b, loc, getKernel(r),
                           ValueRange{stream, add(at, panels.codeBytes(length)), rowCodes.codes, rowCodes.steps,
                                      rowCodes.starts, sources, from, decodes() ? scratch : stream,
                                      decodes() ? zero : at, ahead, tile, first, count, index(wordsOf(length))});
      scf::YieldOp::create(b, loc);
    }
    // There is a kernel for every number of rows. Should there ever not be, no sum may be missing in silence.
    b.createBlock(&choice.getDefaultRegion());
    LLVM::Trap::create(b, loc);
    scf::YieldOp::create(b, loc);
  });
}

std::string IntegerBlocks::suffix() const {
  std::string text;
  llvm::raw_string_ostream os(text);
  bool isFloat = panels.format.getKind() == QuantKind::E2M1;
  os << (isFloat ? "float" : "int") << panels.storedBits() << "_" << panels.width();
  return text;
}

/// The stream; where the codes begin in it; how many rows of words; where the bytes go.
func::FuncOp IntegerBlocks::getDecodeFunction() {
  Type position = b.getIndexType();
  return functions.get("moe_bytes_" + suffix(), {stream.getType(), position, position, stream.getType(), position},
                       [&](OpBuilder &inner, Block &block) {
                         KernelTiles tiles(inner, loc);
                         QuantDecoder decoder(inner, loc, panels, lanes, block.getArgument(0));
                         IntegerWeights bytes(inner, loc, panels, dot);
                         Value codes = block.getArgument(1), out = block.getArgument(3), to = block.getArgument(4);
                         Value size = memref::DimOp::create(inner, loc, block.getArgument(0), tiles.zero);
                         Value limit = tiles.sub(size, tiles.index(panels.groupBytes()));
                         auto loop = scf::ForOp::create(inner, loc, tiles.zero, block.getArgument(2), tiles.one);
                         OpBuilder::InsertionGuard guard(inner);
                         inner.setInsertionPointToStart(loop.getBody());
                         auto place = [&](Value from, int64_t distance) -> Value {
                           Value far = arith::MulIOp::create(inner, loc, loop.getInductionVar(), tiles.index(distance));
                           return arith::AddIOp::create(inner, loc, from, far);
                         };
                         int64_t perGroup = panels.bytesPerGroup() * panels.rowBytes();
                         Value at = place(codes, panels.groupBytes()), word = place(to, perGroup);
                         decoder.emitPrefetch(at, kAhead, limit);
                         for (int64_t v = 0; v < panels.width() / lanes; ++v) {
                           SmallVector<Value> weights;
                           bytes.decode(decoder.loadCodes(at, v), weights);
                           for (auto [i, weight] : llvm::enumerate(weights))
                             vector::StoreOp::create(
                                 inner, loc, weight, out,
                                 ValueRange{tiles.add(word, i * panels.rowBytes() + v * lanes * 4)});
                         }
                       });
}

/// The stream; where the scales of the first block begin; codes, steps and starts of rows; the numbers of the rows of
/// the block, and the first of them; the weights as bytes; the tile; the first block, how many there are, and how many
/// words of a row each of them has.
func::FuncOp IntegerBlocks::getKernel(int64_t rows) {
  std::string name;
  llvm::raw_string_ostream os(name);
  os << "moe_integer_" << suffix() << "_scale" << 8 * panels.scaleBytes
     << (panels.format.getZeroPoints() ? "_zero" : "") << "_block" << panels.blockLength() << (hasRest() ? "_rest" : "")
     << "_" << rows;
  Type position = b.getIndexType();
  return functions.get(name,
                       {stream.getType(), position, rowCodes.codes.getType(), rowCodes.steps.getType(),
                        rowCodes.starts.getType(), sources.getType(), position, stream.getType(), position, position,
                        tile.getType(), position, position, position},
                       [&](OpBuilder &inner, Block &block) { emitKernel(inner, block, rows); });
}

void IntegerBlocks::emitKernel(OpBuilder &inner, Block &block, int64_t rows) {
  KernelTiles tiles(inner, loc);
  Value streamOf = block.getArgument(0), scalesAt = block.getArgument(1), codes = block.getArgument(2);
  Value steps = block.getArgument(3), startsOfRows = block.getArgument(4), numbers = block.getArgument(5);
  Value from = block.getArgument(6), weights = block.getArgument(7), weightsAt = block.getArgument(8);
  Value ahead = block.getArgument(9), sumsOf = block.getArgument(10), firstBlock = block.getArgument(11);
  Value blocks = block.getArgument(12), wordsOfBlock = block.getArgument(13);
  QuantDecoder decoder(inner, loc, panels, lanes, streamOf);
  IntegerWeights bytes(inner, loc, panels, dot);
  SmallVector<Value> sources;
  for (int64_t r = 0; r < rows; ++r)
    sources.push_back(memref::LoadOp::create(inner, loc, numbers, tiles.add(from, r)));
  auto times = [&](Value x, int64_t y) { return inner.createOrFold<arith::MulIOp>(loc, x, tiles.index(y)); };
  auto plus = [&](Value x, Value y) { return inner.createOrFold<arith::AddIOp>(loc, x, y); };

  // One address for all sums of the tile.
  SmallVector<ReassociationIndices> all{{0, 1}};
  sumsOf = memref::CollapseShapeOp::create(inner, loc, sumsOf, all);
  Value firstOfTile = times(from, panels.width());

  Value size = memref::DimOp::create(inner, loc, streamOf, tiles.zero);
  Value limit = tiles.sub(size, tiles.index(panels.rowBytes()));
  auto fetch = [&](Value at) {
    Value from = tiles.min(plus(at, ahead), limit);
    for (int64_t line = 0; line < panels.rowBytes(); line += 64)
      memref::PrefetchOp::create(inner, loc, weights, ValueRange{tiles.add(from, line)}, /*isWrite=*/false,
                                 /*localityHint=*/2, /*isDataCache=*/true);
  };

  int64_t length = panels.blockLength(), words = wordsOf(length),
          vectors = std::min<int64_t>(2, panels.width() / lanes);
  int64_t together = dot.addsHalves(bytes.most) ? dot.fitInHalves(bytes.most) : words;
  bool fetches = false;
  for (int64_t vector = 0; vector < panels.width() / lanes; vector += vectors) {
    auto loop = scf::ForOp::create(inner, loc, tiles.zero, blocks, tiles.one);
    OpBuilder::InsertionGuard guard(inner);
    inner.setInsertionPointToStart(loop.getBody());
    Value number = plus(firstBlock, loop.getInductionVar());
    // Words of a row, and rows of words.
    Value wordOfRow = times(number, words);
    int64_t distance = decodes() ? weightBytes(length) : panels.blockBytes(length);
    Value weightsOfBlock = plus(weightsAt, times(loop.getInductionVar(), distance));
    SmallVector<Value> starts;
    auto loadStarts = [&] {
      SmallVector<Value> all;
      for (Value source : sources) {
        starts.push_back(memref::LoadOp::create(inner, loc, startsOfRows, ValueRange{source, number}));
        all.append(vectors, bytes.start(starts.back()));
      }
      return all;
    };
    // One word of each row and column.
    auto emitWord = [&](Value word, MutableArrayRef<IntegerDot::Sum> partial) {
      SmallVector<Value> weight;
      Value at = plus(weightsOfBlock, times(word, panels.rowBytes()));
      if (fetches)
        fetch(at);
      for (int64_t v = 0; v < vectors; ++v) {
        Value loaded = vector::LoadOp::create(inner, loc, bytes.bytes, weights,
                                              ValueRange{tiles.add(at, (vector + v) * lanes * 4)});
        if (decodes())
          weight.push_back(loaded);
        else
          bytes.decode(Value(vector::BitCastOp::create(inner, loc, bytes.words, loaded)), weight);
      }
      for (auto [r, source] : llvm::enumerate(sources)) {
        Value four = memref::LoadOp::create(inner, loc, codes, {source, plus(wordOfRow, word)});
        Value row = vector::BroadcastOp::create(inner, loc, bytes.words, four);
        row = vector::BitCastOp::create(inner, loc, bytes.bytes, row);
        for (int64_t v = 0; v < vectors; ++v)
          dot.add(inner, loc, partial[r * vectors + v], weight[v], row, bytes.most);
      }
    };
    // An iteration is two words, one behind the other: LLVM would bring all rows' words of both into registers first,
    // and there are not as many.
    int64_t unroll = !hasRest() && words % 2 == 0 && together % 2 == 0 ? 2 : 1;
    auto emitWords = [&](Value word, MutableArrayRef<IntegerDot::Sum> partial) {
      for (int64_t i = 0; i < unroll; ++i) {
        if (i)
          LLVM::FenceOp::create(inner, loc, LLVM::AtomicOrdering::acq_rel, "singlethread");
        emitWord(tiles.add(word, i), partial);
      }
    };
    auto loopOver = [&](Value begin, Value end, int64_t step, ValueRange before,
                        function_ref<void(Value, MutableArrayRef<Value>)> body) {
      auto inside = scf::ForOp::create(inner, loc, begin, end, tiles.index(step), before);
      OpBuilder::InsertionGuard guardInside(inner);
      inner.setInsertionPointToStart(inside.getBody());
      SmallVector<Value> all(inside.getRegionIterArgs());
      body(inside.getInductionVar(), all);
      scf::YieldOp::create(inner, loc, all);
      return SmallVector<Value>(inside.getResults());
    };
    auto sumHalves = [&](Value begin, Value end) {
      Value none =
          arith::ConstantOp::create(inner, loc, inner.getZeroAttr(VectorType::get({2 * lanes}, b.getI16Type())));
      SmallVector<Value> halves(rows * vectors, none);
      return loopOver(begin, end, unroll, halves, [&](Value word, MutableArrayRef<Value> sums16) {
        SmallVector<IntegerDot::Sum> partial;
        for (Value half : sums16)
          partial.push_back({Value(), half});
        emitWords(word, partial);
        for (auto [half, part] : llvm::zip(sums16, partial))
          half = part.halves;
      });
    };
    auto addHalves = [&](MutableArrayRef<Value> all, ArrayRef<Value> halves) {
      for (auto [sum, half] : llvm::zip(all, halves))
        sum = dot.finish(inner, loc, {sum, half});
    };
    SmallVector<Value> integers;
    Value end = hasRest() ? wordsOfBlock : tiles.index(words);
    if (!dot.addsHalves(bytes.most)) {
      SmallVector<Value> before = loadStarts();
      auto addWords = [&] {
        return loopOver(tiles.zero, end, unroll, before, [&](Value word, MutableArrayRef<Value> all) {
          SmallVector<IntegerDot::Sum> partial;
          for (Value sum : all)
            partial.push_back({sum});
          emitWords(word, partial);
          for (auto [sum, part] : llvm::zip(all, partial))
            sum = part.words;
        });
      };
      if (!decodes() && vector == 0) {
        // The first pass brings the lines for all; the others are spared what that takes.
        Value isFirst = arith::CmpIOp::create(inner, loc, arith::CmpIPredicate::ne, ahead, tiles.zero);
        auto choice = scf::IfOp::create(inner, loc, ValueRange(before).getTypes(), isFirst, /*withElse=*/true);
        for (Block *block : {choice.thenBlock(), choice.elseBlock()}) {
          OpBuilder::InsertionGuard guardChoice(inner);
          inner.setInsertionPointToStart(block);
          fetches = block == choice.thenBlock();
          scf::YieldOp::create(inner, loc, addWords());
        }
        fetches = false;
        integers.assign(choice.getResults().begin(), choice.getResults().end());
      } else {
        integers = addWords();
      }
    } else if (words <= together) {
      // What the sums begin with comes last: the registers are full before.
      SmallVector<Value> halves = sumHalves(tiles.zero, end);
      integers = loadStarts();
      addHalves(integers, halves);
    } else {
      integers = loopOver(tiles.zero, end, together, loadStarts(), [&](Value word, MutableArrayRef<Value> all) {
        addHalves(all, sumHalves(word, tiles.min(tiles.add(word, together), end)));
      });
    }
    Value scalesOfBlock = plus(scalesAt, times(loop.getInductionVar(), panels.blockBytes(length)));
    for (int64_t v = 0; v < vectors; ++v) {
      auto [scale, negativeZero] = decoder.loadScales(scalesOfBlock, vector + v, bytes.factor());
      for (auto [r, source] : llvm::enumerate(sources)) {
        Value place = tiles.add(firstOfTile, r * panels.width() + (vector + v) * lanes);
        Value step = memref::LoadOp::create(inner, loc, steps, ValueRange{source, number});
        Value before = vector::LoadOp::create(inner, loc, bytes.floats, sumsOf, place);
        Value sum = bytes.scale(integers[r * vectors + v], scale, negativeZero, step, starts[r], before);
        vector::StoreOp::create(inner, loc, sum, sumsOf, place);
      }
    }
    // Only the compiler sees it: what is in the tile is read there again, as an operand of the addition. Kept from
    // block to block, it would be spilled to other places of the same cache and stored in both.
    LLVM::FenceOp::create(inner, loc, LLVM::AtomicOrdering::acq_rel, "singlethread");
  }
}
