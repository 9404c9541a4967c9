//===- IntegerBlockKernel.cpp - some rows of bytes against panels ---------===//
#include "IntegerBlockKernel.h"
#include "IntegerWeights.h"
#include "QuantDecoder.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class Emitter : KernelTiles {
public:
  Emitter(OpBuilder &b, Location loc, const IntegerBlockKernel &kernel, int64_t rows,
          const IntegerBlockKernel::Arguments &args)
      : KernelTiles(b, loc), kernel(kernel), panels(kernel.panels), dot(kernel.dot), rows(rows),
        lanes(kernel.dot.lanes()), args(args), bytes(b, loc, kernel.panels, kernel.dot) {}

  void run() {
    for (int64_t r = 0; r < rows; ++r)
      sources.push_back(memref::LoadOp::create(b, loc, args.sources, add(args.from, r)));
    // One address for all sums of the tile.
    SmallVector<ReassociationIndices> all{{0, 1}};
    tile = memref::CollapseShapeOp::create(b, loc, args.tile, all);
    firstOfTile = mul(args.from, tileWidth());
    int64_t ofPanel = panels.width() / lanes, vectors = std::min<int64_t>(2, ofPanel);
    for (int64_t vector = 0; vector < ofPanel; vector += vectors) {
      columns.clear();
      for (int64_t panel = 0; panel < kernel.panelsTogether; ++panel)
        for (int64_t v = vector; v < std::min(vector + vectors, ofPanel); ++v)
          columns.push_back({panel, v});
      auto loop = scf::ForOp::create(b, loc, zero, args.blocks, one);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      emitBlock(loop.getInductionVar(), /*isFirst=*/vector == 0);
    }
  }

private:
  using Sums = SmallVector<IntegerDot::Sum>;

  int64_t tileWidth() const { return panels.width() * kernel.panelsTogether; }
  int64_t numSums() const { return rows * columns.size(); }

  /// Block number `number` of those of the call.
  void emitBlock(Value number, bool isFirst) {
    fetchesHere = isFirst && kernel.fetchesWindow;
    bool mayFetch = isFirst && !kernel.fetchesWindow && !kernel.decoded;
    int64_t length = panels.blockLength(), words = panels.byteWords(length);
    int64_t together = dot.addsHalves(bytes.most) ? IntegerDot::fitInHalves(bytes.most) : words;
    firstSegment = mul(number, kernel.segments());
    block = sum(args.firstBlock, number);
    wordOfRow = mul(block, words);
    weightsOfBlock = sum(args.weightsAt, mul(number, kernel.weightDistance));
    // An iteration is two words, one behind the other: LLVM would bring all rows' words of both into registers first,
    // and there are not as many.
    unroll = !panels.hasRest() && words % 2 == 0 && together % 2 == 0 ? 2 : 1;
    SmallVector<Value> integers;
    Value end = panels.hasRest() ? args.words : index(words);
    if (kernel.segments() == 1)
      emitWindowFetch(zero);
    if (!dot.addsHalves(bytes.most)) {
      integers = addWords(end, mayFetch);
    } else if (words <= together) {
      // What the sums begin with comes last: the registers are full before.
      SmallVector<Value> halves = sumHalves(zero, end);
      integers = loadStarts();
      addHalves(integers, halves);
    } else {
      integers = loopOver(zero, end, together, loadStarts(), [&](Value word, MutableArrayRef<Value> all) {
        emitWindowFetch(word);
        addHalves(all, sumHalves(word, min(add(word, together), end)));
      });
    }
    addScaled(sum(args.scalesAt, mul(number, panels.blockBytes(length))), integers);
    // Only the compiler sees it: what is in the tile is read there again, as an operand of the addition. Kept from
    // block to block, it would be spilled to other places of the same cache and stored in both.
    emitFence();
  }

  void emitFence() { LLVM::FenceOp::create(b, loc, LLVM::AtomicOrdering::acq_rel, "singlethread"); }

  /// What the sums of a block begin with.
  SmallVector<Value> loadStarts() {
    SmallVector<Value> all;
    starts.clear();
    for (Value source : sources) {
      starts.push_back(memref::LoadOp::create(b, loc, args.starts, ValueRange{source, block}));
      all.append(columns.size(), bytes.start(starts.back()));
    }
    return all;
  }

  /// All words, added to the sums of 32 bits.
  SmallVector<Value> addWords(Value end, bool mayFetch) {
    SmallVector<Value> before = loadStarts();
    auto addSome = [&](Value from, Value to, ValueRange before, bool fetches) {
      return loopOver(from, to, unroll, before, [&](Value word, MutableArrayRef<Value> all) {
        Sums partial;
        for (Value sum : all)
          partial.push_back({sum});
        emitWords(word, partial, fetches);
        for (auto [sum, part] : llvm::zip(all, partial))
          sum = part.words;
      });
    };
    if (kernel.fetchesWindow && kernel.segments() > 1)
      return loopOver(zero, end, kernel.segmentWords(), before, [&](Value word, MutableArrayRef<Value> all) {
        emitWindowFetch(word);
        llvm::copy(addSome(word, min(add(word, kernel.segmentWords()), end), all, /*fetches=*/false), all.begin());
      });
    if (!mayFetch)
      return addSome(zero, end, before, /*fetches=*/false);
    // The first pass brings the lines for all; the others are spared what that takes.
    Value isFirst = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, args.ahead, zero);
    auto choice = scf::IfOp::create(b, loc, ValueRange(before).getTypes(), isFirst, /*withElse=*/true);
    for (Block *branch : {choice.thenBlock(), choice.elseBlock()}) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch);
      scf::YieldOp::create(b, loc, addSome(zero, end, before, /*fetches=*/branch == choice.thenBlock()));
    }
    return SmallVector<Value>(choice.getResults());
  }

  /// Words from `begin` to `end`, in sums of 16 bits.
  SmallVector<Value> sumHalves(Value begin, Value end) {
    Value none = arith::ConstantOp::create(b, loc, b.getZeroAttr(VectorType::get({2 * lanes}, b.getI16Type())));
    SmallVector<Value> halves(numSums(), none);
    return loopOver(begin, end, unroll, halves, [&](Value word, MutableArrayRef<Value> sums16) {
      Sums partial;
      for (Value half : sums16)
        partial.push_back({Value(), half});
      emitWords(word, partial, /*fetches=*/false);
      for (auto [half, part] : llvm::zip(sums16, partial))
        half = part.halves;
    });
  }

  void addHalves(MutableArrayRef<Value> all, ArrayRef<Value> halves) {
    for (auto [sum, half] : llvm::zip(all, halves))
      sum = dot.finish(b, loc, {sum, half});
  }

  void emitWords(Value word, MutableArrayRef<IntegerDot::Sum> partial, bool fetches) {
    for (int64_t i = 0; i < unroll; ++i) {
      if (i)
        emitFence();
      emitWord(add(word, i), partial, fetches);
    }
  }

  /// One word of each row and column.
  void emitWord(Value word, MutableArrayRef<IntegerDot::Sum> partial, bool fetches) {
    SmallVector<Value> weights;
    Value at = sum(weightsOfBlock, mul(word, panels.rowBytes()));
    if (fetches)
      emitFetch(at);
    for (auto [panel, v] : columns) {
      Value place = add(panel == 0 ? at : sum(at, args.weightsBeside), v * lanes * 4);
      Value loaded = vector::LoadOp::create(b, loc, bytes.bytes, args.weights, place);
      if (kernel.decoded)
        weights.push_back(loaded);
      else
        bytes.decode(Value(vector::BitCastOp::create(b, loc, bytes.words, loaded)), weights);
    }
    for (auto [r, source] : llvm::enumerate(sources)) {
      Value four = memref::LoadOp::create(b, loc, args.codes, {source, sum(wordOfRow, word)});
      Value row = vector::BroadcastOp::create(b, loc, bytes.words, four);
      row = vector::BitCastOp::create(b, loc, bytes.bytes, row);
      for (auto [c, weight] : llvm::enumerate(weights))
        dot.add(b, loc, partial[r * columns.size() + c], weight, row, bytes.most);
    }
  }

  /// The lines that are read some way behind `at`.
  void emitFetch(Value at) {
    Value size = memref::DimOp::create(b, loc, args.stream, zero), limit = sub(size, index(panels.rowBytes()));
    Value from = min(sum(at, args.ahead), limit);
    for (int64_t line = 0; line < panels.rowBytes(); line += 64)
      memref::PrefetchOp::create(b, loc, args.weights, ValueRange{add(from, line)}, /*isWrite=*/false,
                                 /*localityHint=*/2, /*isDataCache=*/true);
  }

  /// At word `word` of a block: the lines of the window that are its segment's.
  void emitWindowFetch(Value word) {
    if (!fetchesHere)
      return;
    Value segment = div(word, kernel.segmentWords());
    Value from = sum(args.window, mul(sum(firstSegment, segment), 64));
    forEach(zero, args.places, 1, [&](Value place) {
      Value at = sum(from, mul(place, args.placeBytes));
      for (int64_t panel = 0; panel < kernel.panelsTogether; ++panel)
        memref::PrefetchOp::create(b, loc, args.stream, ValueRange{add(at, panel * panels.panelBytes())},
                                   /*isWrite=*/false, /*localityHint=*/3, /*isDataCache=*/true);
    });
  }

  /// A block's integers, scaled, to the tile; the scales of its first panel begin at `scalesAt`.
  void addScaled(Value scalesAt, ArrayRef<Value> integers) {
    QuantDecoder decoder(b, loc, panels, lanes, args.stream);
    SmallVector<std::pair<Value, Value>> scales;
    for (auto [panel, v] : columns)
      scales.push_back(decoder.loadScales(panel == 0 ? scalesAt : sum(scalesAt, args.scalesBeside), v, bytes.factor()));
    for (auto [r, source] : llvm::enumerate(sources)) {
      Value step = memref::LoadOp::create(b, loc, args.steps, ValueRange{source, block});
      for (auto [c, column] : llvm::enumerate(columns)) {
        auto [panel, v] = column;
        Value place = add(firstOfTile, r * tileWidth() + panel * panels.width() + v * lanes);
        Value before = vector::LoadOp::create(b, loc, bytes.floats, tile, place);
        Value sum =
            bytes.scale(integers[r * columns.size() + c], scales[c].first, scales[c].second, step, starts[r], before);
        vector::StoreOp::create(b, loc, sum, tile, place);
      }
    }
  }

  const IntegerBlockKernel &kernel;
  const QuantPanels &panels;
  const IntegerDot &dot;
  int64_t rows, lanes, unroll = 1;
  IntegerBlockKernel::Arguments args;
  IntegerWeights bytes;
  Value tile, firstOfTile;
  SmallVector<Value> sources;
  /// The vectors of columns at hand: their panel, and their number in it.
  SmallVector<std::pair<int64_t, int64_t>> columns;
  /// Of the block that is being emitted: its number, its first word in a row, its weights, the rows' starts.
  Value block, wordOfRow, weightsOfBlock, firstSegment;
  bool fetchesHere = false;
  SmallVector<Value> starts;
};

} // namespace

int64_t IntegerBlockKernel::segmentWords() const {
  // Those of a block of 32 k; where sums have 16 bits, as many as fit in them.
  int64_t most = IntegerWeights::getMost(panels, dot);
  return dot.addsHalves(most) ? IntegerDot::fitInHalves(most) : 8;
}

void IntegerBlockKernel::call(OpBuilder &b, Location loc, KernelFunctions &functions, int64_t rows,
                              Arguments &args) const {
  std::string name;
  llvm::raw_string_ostream os(name);
  os << "moe_integer_" << format << (panelsTogether > 1 ? "x" + std::to_string(panelsTogether) : "") << "_scale"
     << 8 * panels.scaleBytes << (panels.format.getZeroPoints() ? "_zero" : "") << "_block" << panels.blockLength()
     << (panels.hasRest() ? "_rest" : "") << "_" << rows;
  SmallVector<Value> values = llvm::map_to_vector(args.all(), [](Value *v) { return *v; });
  func::FuncOp function = functions.get(name, ValueRange(values).getTypes(), [&](OpBuilder &inner, Block &block) {
    Arguments parameters;
    for (auto [value, argument] : llvm::zip(parameters.all(), block.getArguments()))
      *value = argument;
    Emitter(inner, loc, *this, rows, parameters).run();
  });
  func::CallOp::create(b, loc, function, values);
}
