//===- IntegerBlocks.cpp - many rows of bytes against quantised panels ----===//
#include "IntegerBlocks.h"
#include "IntegerBlockKernel.h"
#include "QuantDecoder.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

static KernelFunctionForm getForm(GroupedMatmulOp op, const QuantPanels &panels, const IntegerDot &dot,
                                  int64_t panelsTogether) {
  PanelLayout layout{panels.columns(), panels.banks, /*group=*/1};
  auto banks = cast<ShapedType>(op.getBanks().front().getType());
  KernelSchedule schedule = getKernelSchedule(
      layout, {banks.getDimSize(0), banks.getDimSize(1), panels.k, panels.width()}, /*elementBytes=*/1, dot.lanes());
  schedule.panelsTogether = panelsTogether;
  // Two vectors of sums of a panel for each row, in 12 of 16 registers or 24 of 32; weights with a sign need more of
  // the others. Rows are bytes.
  bool withSign = panels.storedBits() == 8 && !dot.takesUnsignedBytes();
  schedule.maxRows = (dot.isWide() ? 12 : 6) / panelsTogether - (withSign ? 2 : 0);
  schedule.maxBlockRows = dot.isWide() ? 192 : 96;
  Type rows = getElementTypeOrSelf(op.getA());
  return {layout, schedule, dot.lanes(), rows, rows, Float32Type::get(op.getContext()), /*wholeSteps=*/true};
}

IntegerBlocks::IntegerBlocks(OpBuilder &b, GroupedMatmulOp op, const QuantisedRows &rowCodes, const QuantPanels &panels,
                             const IntegerDot &dot, KernelFunctions &functions, int64_t panelsTogether)
    : RowBlock(b, op, op.getA(), getForm(op, panels, dot, panelsTogether), functions), panels(panels), dot(dot),
      rowCodes(rowCodes) {}

void IntegerBlocks::prepare() {
  RowBlock::prepare();
  constexpr int64_t any = ShapedType::kDynamic;
  for (Value *buffer : {&rowCodes.codes, &rowCodes.steps, &rowCodes.starts})
    *buffer =
        memref::CastOp::create(b, loc, MemRefType::get({any, any}, getElementTypeOrSelf(buffer->getType())), *buffer);
}

void IntegerBlocks::emit(const PanelTask &task, Value streamOfTask, function_ref<Value(Value)> startOf) {
  OpBuilder::InsertionGuard guard(b);
  beginTask(task.expert);
  constexpr int64_t any = ShapedType::kDynamic;
  stream = memref::CastOp::create(b, loc, MemRefType::get({any}, b.getI8Type()), streamOfTask);
  if (decodes()) {
    auto type = MemRefType::get({panelsTogether() * scratchBytes()}, b.getI8Type());
    Value buffer = memref::AllocaOp::create(b, loc, type, b.getI64IntegerAttr(64));
    scratch = memref::CastOp::create(b, loc, MemRefType::get({any}, b.getI8Type()), buffer);
  }
  forEachRowBlock(task.begin, task.rows, form.schedule.maxBlockRows, [&](const Rows &rows) {
    beginRows(rows);
    forEach(task.first, task.last, panelsTogether(), [&](Value panel) {
      // If the last panel is alone, it is beside itself, and what it gives there is not used.
      Value end = panelsTogether() == 1 ? add(panel, 1) : min(add(panel, panelsTogether()), task.last);
      Value base = startOf(panel), next = add(base, panelsTogether() * panels.panelBytes());
      if (fetchesWindows() && task.following)
        next = select(equal(end, task.last), select(equal(rows.left, zero), task.following, startOf(task.first)), next);
      emitPanels(panel, end, base, next, rows);
    });
  });
}

void IntegerBlocks::emitPanels(Value panel, Value end, Value base, Value next, const Rows &rows) {
  clearTile(rows.count);
  int64_t length = panels.blockLength(), whole = panels.wholeBlocks(), together = blocksTogether();
  Value count = sub(end, panel);
  forEach(zero, index(whole), together, [&](Value block) {
    Value at = sum(base, mul(block, index(panels.blockBytes(length)))), after = add(block, together);
    Value following = add(at, together * panels.blockBytes(length));
    if (!panels.hasRest())
      following = select(less(after, index(whole)), following, next);
    emitBlocks(count, at, following, block, min(index(together), sub(index(whole), block)), length, rows);
  });
  if (panels.hasRest())
    emitBlocks(count, add(base, whole * panels.blockBytes(length)), next, index(whole), one, panels.k - whole * length,
               rows);
  forEach(panel, end, 1, [&](Value each) {
    Value column = mul(sub(each, panel), index(panels.width()));
    forEach(zero, rows.count, 1, [&](Value r) { emitEpilogue(sum(rows.pair, r), each, r, column); });
  });
}

void IntegerBlocks::emitBlocks(Value panelsOfUnit, Value at, Value following, Value first, Value count, int64_t length,
                               const Rows &rows) {
  if (decodes()) {
    func::FuncOp decode = getDecodeFunction();
    forEach(zero, panelsOfUnit, 1, [&](Value panel) {
      Value from = sum(at, mul(panel, index(panels.panelBytes()))), to = mul(panel, index(scratchBytes()));
      forEach(zero, count, 1, [&](Value block) {
        func::CallOp::create(b, loc, decode,
                             ValueRange{stream, sum(from, mul(block, index(panels.blockBytes(length)))),
                                        index(panels.byteWords(length) / panels.bytesPerGroup()), scratch,
                                        sum(to, mul(block, index(weightBytes(length))))});
      });
    });
  }
  emitProducts(panelsOfUnit, at, following, first, count, length, rows);
}

void IntegerBlocks::emitProducts(Value panelsOfUnit, Value at, Value following, Value first, Value count,
                                 int64_t length, const Rows &rows) {
  IntegerBlockKernel kernel{panels, dot, suffix(), decodes(), weightDistance(), panelsTogether(), fetchesWindows()};
  IntegerBlockKernel::Arguments args;
  args.stream = stream;
  args.scalesAt = add(at, panels.codeBytes(length));
  args.codes = rowCodes.codes;
  args.steps = rowCodes.steps;
  args.starts = rowCodes.starts;
  args.sources = sources;
  args.weights = decodes() ? scratch : stream;
  args.weightsAt = decodes() ? zero : at;
  args.tile = tile;
  args.firstBlock = first;
  args.blocks = count;
  args.words = index(panels.byteWords(length));
  args.placeBytes = zero;
  if (panelsTogether() > 1) {
    Value others = sub(panelsOfUnit, one);
    args.scalesBeside = mul(others, index(panels.panelBytes()));
    args.weightsBeside = decodes() ? mul(others, index(scratchBytes())) : args.scalesBeside;
  } else {
    args.scalesBeside = args.weightsBeside = zero;
  }
  // Places of the window that have a line for each segment of these blocks. Lines that come at once shall not be of one
  // set of a first-level cache, as those at powers of two would be.
  int64_t places = 0;
  Value window = zero;
  if (fetchesWindows()) {
    places = llvm::divideCeil(panels.blockBytes(panels.blockLength()), 64 * kernel.segments());
    args.placeBytes = add(mul(count, index(64 * kernel.segments())), 64);
    int64_t most = places * 64 * (blocksTogether() * kernel.segments() + 1);
    int64_t bytes = (panelsTogether() - 1) * panels.panelBytes() + most;
    Value size = memref::DimOp::create(b, loc, stream, zero);
    window = b.createOrFold<arith::MaxSIOp>(loc, min(following, sub(size, index(bytes))), zero);
  }
  forEachPass(rows.passes, [&](Value pass, Value from, Value rowsOfPass) {
    // The first pass brings what the others find; codes that are decoded are fetched by what decodes them.
    args.ahead = decodes() || fetchesWindows() ? zero : select(equal(pass, zero), index(kAhead), zero);
    args.window = args.places = zero;
    if (fetchesWindows()) {
      Value firstPlace = split(index(places), rows.passes.count, pass);
      args.places = sub(split(index(places), rows.passes.count, add(pass, 1)), firstPlace);
      args.window = sum(window, mul(firstPlace, args.placeBytes));
    }
    args.from = from;
    SmallVector<int64_t> cases;
    for (int64_t r = 1; r <= form.schedule.maxRows; ++r)
      cases.push_back(r);
    auto choice = scf::IndexSwitchOp::create(b, loc, TypeRange(), rowsOfPass, cases, cases.size());
    OpBuilder::InsertionGuard guard(b);
    for (auto [r, region] : llvm::zip(cases, choice.getCaseRegions())) {
      b.createBlock(&region);
      kernel.call(b, loc, functions, r, args);
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
  // Where passes fetch codes, what decodes them does not: it would wait for lines of later blocks.
  return functions.get(
      "moe_bytes_" + suffix() + (fetchesWindows() ? "_near" : ""),
      {stream.getType(), position, position, stream.getType(), position}, [&](OpBuilder &inner, Block &block) {
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
        if (!fetchesWindows())
          decoder.emitPrefetch(at, kAhead, limit);
        for (int64_t v = 0; v < panels.width() / lanes; ++v) {
          SmallVector<Value> weights;
          bytes.decode(decoder.loadCodes(at, v), weights);
          for (auto [i, weight] : llvm::enumerate(weights))
            vector::StoreOp::create(inner, loc, weight, out,
                                    ValueRange{tiles.add(word, i * panels.rowBytes() + v * lanes * 4)});
        }
      });
}
