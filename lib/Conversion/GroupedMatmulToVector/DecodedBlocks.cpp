//===- DecodedBlocks.cpp - quantised panels that many rows read -----------===//
#include "DecodedBlocks.h"
#include "QuantDecoder.h"

using namespace mlir;
using namespace mlir::moe;

static KernelFunctionForm getForm(GroupedMatmulOp op, Value rowsOfA, const QuantPanels &panels,
                                  const DecodeSchedule &decode, int64_t lanes) {
  PanelLayout layout{panels.columns(), panels.banks, /*group=*/1};
  auto banks = cast<ShapedType>(op.getBanks().front().getType());
  auto element = cast<FloatType>(getElementTypeOrSelf(rowsOfA));
  KernelSchedule schedule = getKernelSchedule(
      layout, {banks.getDimSize(0), banks.getDimSize(1), panels.k, panels.width()}, /*elementBytes=*/4, lanes);
  schedule.parts = 1; // of what has been decoded
  bool wholeSteps = panels.k % KernelSchedule::kUnroll == 0 && decode.blockLength % KernelSchedule::kUnroll == 0;
  return {layout, schedule, lanes, element, element, element, wholeSteps};
}

DecodedBlocks::DecodedBlocks(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, const QuantPanels &panels,
                             const DecodeSchedule &decode, int64_t lanes, KernelFunctions &functions)
    : RowBlock(b, op, rowsOfA, getForm(op, rowsOfA, panels, decode, lanes), functions), panels(panels), decode(decode) {
  // The weights are near: nothing is fetched but codes, while others are decoded.
  for (int64_t rows = 1; rows <= form.schedule.maxRows; ++rows)
    variants.push_back({rows});
}

void DecodedBlocks::emit(const PanelTask &task, Value streamOfTask, function_ref<Value(Value)> startOf) {
  OpBuilder::InsertionGuard guard(b);
  beginTask(task.expert);
  stream = memref::CastOp::create(b, loc, MemRefType::get({ShapedType::kDynamic}, b.getI8Type()), streamOfTask);
  int64_t elements = llvm::alignTo(decode.blockLength, panels.group()) * panels.width();
  Value buffer = memref::AllocaOp::create(b, loc, MemRefType::get({elements}, b.getF32Type()), b.getI64IntegerAttr(64));
  scratch = memref::CastOp::create(b, loc, form.weightsType(), buffer);
  forEachRowBlock(task.begin, task.rows, form.schedule.maxBlockRows, [&](const Rows &rows) {
    forEach(task.first, task.last, 1,
            [&](Value panel) { emitPanel(panel, startOf(panel), rows.pair, rows.count, rows.passes); });
  });
}

void DecodedBlocks::emitPanel(Value panel, Value base, Value pair, Value count, const Passes &passes) {
  clearTile(count);
  forEach(zero, index(panels.k), decode.blockLength, [&](Value k) {
    Value length = min(index(decode.blockLength), sub(index(panels.k), k));
    emitDecode(base, k, length);
    forEachPass(passes, [&](Value, Value from, Value rows) {
      emitPass(variants,
               {kindOf(Fetch::Nothing), zero, rows, from, scratch, /*at=*/zero, /*window=*/zero, /*stream=*/zero,
                /*steps=*/length, /*firstK=*/k, /*k=*/length, /*parts=*/one, /*distance=*/zero, /*beside=*/zero,
                /*windowBeside=*/zero});
    });
  });
  forEach(zero, count, 1, [&](Value r) { emitEpilogue(sum(pair, r), panel, r); });
}

void DecodedBlocks::emitDecode(Value base, Value k, Value length) {
  func::FuncOp function = getDecodeFunction();
  int64_t block = panels.blockLength(), whole = panels.wholeBlocks(), rest = panels.k - whole * block;
  forEach(k, sum(k, length), decode.segmentLength, [&](Value from) {
    Value number = b.createOrFold<arith::DivUIOp>(loc, from, index(block));
    Value inside = sub(from, mul(number, index(block)));
    Value at = sum(base, mul(number, index(panels.blockBytes(block))));
    Value codes =
        sum(at, mul(b.createOrFold<arith::DivUIOp>(loc, inside, index(panels.group())), index(panels.groupBytes())));
    Value codeBytes = index(panels.codeBytes(block));
    if (rest)
      codeBytes = select(equal(number, index(whole)), index(panels.codeBytes(rest)), codeBytes);
    Value some = min(index(decode.segmentLength), sub(index(panels.k), from));
    Value groups = arith::CeilDivUIOp::create(b, loc, some, index(panels.group()));
    func::CallOp::create(
        b, loc, function,
        ValueRange{stream, codes, sum(at, codeBytes), groups, scratch, mul(sub(from, k), index(panels.width()))});
  });
}

/// The stream; where the codes begin in it, and their scales; how many rows of words; where the floats go, from which
/// element on.
func::FuncOp DecodedBlocks::getDecodeFunction() {
  std::string name;
  llvm::raw_string_ostream os(name);
  QuantAttr format = panels.format;
  bool isFloat = format.getKind() == QuantKind::E2M1;
  os << "moe_decode_" << (isFloat ? "float" : "int") << panels.storedBits() << "_scale" << 8 * panels.scaleBytes
     << (format.getZeroPoints() ? "_zero" : "") << "_" << panels.width();
  Type position = b.getIndexType();
  return functions.get(
      name, {stream.getType(), position, position, position, scratch.getType(), position},
      [&](OpBuilder &inner, Block &block) {
        KernelTiles tiles(inner, loc);
        QuantDecoder decoder(inner, loc, panels, lanes, block.getArgument(0));
        Value codes = block.getArgument(1), scalesAt = block.getArgument(2), groups = block.getArgument(3);
        Value out = block.getArgument(4), to = block.getArgument(5);
        int64_t vectors = panels.width() / lanes;
        SmallVector<std::pair<Value, Value>> scales;
        for (int64_t v = 0; v < vectors; ++v)
          scales.push_back(decoder.loadScales(scalesAt, v, decoder.codeFactor()));
        Value bytes = memref::DimOp::create(inner, loc, block.getArgument(0), tiles.zero);
        Value limit = tiles.sub(bytes, tiles.index(panels.groupBytes()));
        tiles.forEach(tiles.zero, groups, 1, [&](Value group) {
          Value at = tiles.sum(codes, tiles.mul(group, panels.groupBytes()));
          Value row = tiles.sum(to, tiles.mul(group, panels.group() * panels.width()));
          decoder.emitPrefetch(at, /*ahead=*/4096, limit);
          for (int64_t v = 0; v < vectors; ++v) {
            SmallVector<Value> raw = decoder.loadCodes(at, v);
            auto [scale, negativeZero] = scales[v];
            for (int64_t j : decoder.getOrder()) {
              Value weight = decoder.decode(raw, j);
              weight = negativeZero ? vector::FMAOp::create(inner, loc, weight, scale, negativeZero).getResult()
                                    : arith::MulFOp::create(inner, loc, weight, scale).getResult();
              vector::StoreOp::create(inner, loc, weight, out, tiles.add(row, j * panels.width() + v * lanes));
            }
          }
        });
      });
}
