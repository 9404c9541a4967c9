//===- GroupedMatmulToVector.cpp - the expert kernels ---------------------===//
//
// A grouped matmul on buffers becomes one parallel loop over (expert, panel of
// columns). A task runs over the expert's rows in register tiles: it gathers
// the rows through the plan, multiplies them with every bank in one pass, and
// applies the epilogue (activation, bias, gate times up, row weight) while the
// tile is still in registers. Nothing but the result goes to memory.
//
//   columns form   banks contiguous along the result's columns ([E, K, N]):
//                  a step loads vectors of each bank's row k and multiplies
//                  them with one broadcast element per tile row;
//   dots form      banks contiguous along the reduction ([E, N, K]): rows and
//                  banks are read as vectors along k; each tile's sums are
//                  added across lanes and become a vector of columns for the
//                  epilogue.
//
//   panels         banks packed at compile time ([E, N/32, K, 32]): see
//                  PanelKernels.cpp.
//
//===----------------------------------------------------------------------===//
#include "GroupedKernel.h"
#include "IntegerDot.h"
#include "KernelFunctions.h"
#include "moe/Conversion/GroupedMatmulKernels.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/Analysis/PanelLayout.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/Dialect/AMX/AMXDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/Statistic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTGROUPEDMATMULTOVECTORPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "convert-grouped-matmul-to-vector"
static llvm::TrackingStatistic numQuantised(DEBUG_TYPE, "num-quantised-kernels",
                                            "Grouped matmuls with quantised banks");
static llvm::TrackingStatistic numPanels(DEBUG_TYPE, "num-panel-kernels", "Grouped matmuls with banks in panels");
static llvm::TrackingStatistic numTiles(DEBUG_TYPE, "num-tile-kernels",
                                        "Grouped matmuls whose experts of many rows use tile instructions");
static llvm::TrackingStatistic numCopied(DEBUG_TYPE, "num-copied", "Strided operands that are copied in each call");
static llvm::TrackingStatistic numColumns(DEBUG_TYPE, "num-columns-kernels", "Grouped matmuls in columns form");
static llvm::TrackingStatistic numDots(DEBUG_TYPE, "num-dots-kernels", "Grouped matmuls in dots form");

//===----------------------------------------------------------------------===//
// What the kernels cover
//===----------------------------------------------------------------------===//

static bool isStatic(Type type, int64_t dim) { return !cast<ShapedType>(type).isDynamicDim(dim); }

/// Unit stride along the last dimension; tensors become row-major buffers.
static bool lastIsContiguous(Type type) {
  auto memref = dyn_cast<MemRefType>(type);
  if (!memref)
    return true;
  SmallVector<int64_t> strides;
  int64_t offset;
  return succeeded(memref.getStridesAndOffset(strides, offset)) && !strides.empty() && strides.back() == 1;
}

/// All banks in one operand of panels.
static bool isPacked(GroupedMatmulOp op) {
  SmallVector<AffineMap> maps;
  for (auto [i, bank] : llvm::enumerate(op.getBanks())) {
    if (bank != op.getBanks().front())
      return false;
    maps.push_back(op.getBankMap(i));
  }
  auto type = cast<ShapedType>(op.getBanks().front().getType());
  auto memref = dyn_cast<MemRefType>(type);
  return matchPanelMaps(type, maps) && type.hasStaticShape() && (!memref || memref.getLayout().isIdentity());
}

std::optional<KernelForm> moe::getKernelForm(GroupedMatmulOp op, std::string &why) {
  std::optional<KernelForm> form;
  auto element = dyn_cast<FloatType>(getElementTypeOrSelf(op.getInit()));
  auto no = [&](const Twine &reason) {
    why = reason.str();
    return std::nullopt;
  };
  if (!element)
    return no("its result is not of floats");
  if (op.hasQuantisedBanks() && !op.getPanels())
    return no("its banks are quantised and not packed");
  if (op.getPanels())
    form = KernelForm::Quantised;
  else if (isPacked(op))
    form = KernelForm::Panels;
  for (auto [i, bank] : llvm::enumerate(op.getBanks())) {
    if (form == KernelForm::Panels || form == KernelForm::Quantised)
      break;
    AffineMap map = op.getBankMap(i);
    int64_t last = map.getNumResults() - 1;
    if (!map.isProjectedPermutation())
      return no("the map of bank " + Twine(i) + " is not a projected permutation");
    KernelForm mine;
    if (last >= 0 && positionOf(map, 2) == last)
      mine = KernelForm::Columns;
    else if (last >= 0 && positionOf(map, 1) == last)
      mine = KernelForm::Dots;
    else
      return no("bank " + Twine(i) + " is contiguous along the experts");
    if (!lastIsContiguous(bank.getType()))
      return no("bank " + Twine(i) + " has no unit stride");
    if (form && *form != mine)
      return no("its banks are stored in different orders");
    form = mine;
  }
  if ((form == KernelForm::Dots || hasIntegerRows(op)) && !lastIsContiguous(op.getA().getType()))
    return no("the rows have no unit stride");
  for (auto [i, extra] : llvm::enumerate(op.getExtras())) {
    AffineMap map = op.getExtraMap(i);
    if (!map.isProjectedPermutation())
      return no("the map of extra operand " + Twine(i) + " is not a projected permutation");
    int64_t n = positionOf(map, 2);
    if (n >= 0 && (n != static_cast<int64_t>(map.getNumResults()) - 1 || !lastIsContiguous(extra.getType())))
      return no("extra operand " + Twine(i) + " has no unit stride");
  }
  for (Operation &inner : op.getEpilogue().front().without_terminator()) {
    if (isa<arith::ConstantOp>(inner))
      continue;
    if (!OpTrait::hasElementwiseMappableTraits(&inner))
      return no("its epilogue has '" + inner.getName().getStringRef() + "', which is not elementwise");
  }
  return form;
}

std::optional<StringRef> moe::getTileType(GroupedMatmulOp op, std::string &why) {
  auto no = [&](const Twine &reason) {
    why = reason.str();
    return std::nullopt;
  };
  if (op.getPanels()) {
    // Tiles of short blocks wait for the vectors that scale their integers: with blocks of 32 k, and 4 to 128 rows of
    // an expert, they took 1.05 to 1.5 times as long as vectors alone (Sapphire Rapids).
    constexpr int64_t kLeastBlock = 64;
    int64_t block = op.getFormat(0).getBlock();
    if (hasIntegerRows(op) && block > 0 && block < kLeastBlock)
      return no("its blocks are so short that scaling takes longer than products");
    if (hasIntegerRows(op))
      return StringRef("int8");
    return no("its quantised weights are multiplied with floats: --numerics=fast allows integers");
  }
  if (!isPacked(op))
    return no("its banks are not packed");
  Type stored = getElementTypeOrSelf(op.getBanks().front()), rows = getElementTypeOrSelf(op.getA());
  if (!stored.isBF16())
    return no("its weights are not bf16");
  if (getElementTypeOrSelf(op.getInit()).getIntOrFloatBitWidth() > 32 || !lastIsContiguous(op.getA().getType()))
    return no("its rows or results have another form");
  if (!rows.isBF16() && !rows.isF32())
    return no("its rows are neither bf16 nor f32");
  return StringRef("bf16");
}

//===----------------------------------------------------------------------===//
// Emission
//===----------------------------------------------------------------------===//

namespace {

class Emitter : GroupedKernel {
public:
  Emitter(OpBuilder &b, GroupedMatmulOp op, KernelForm form, int64_t lanes) : GroupedKernel(b, op, lanes), form(form) {
    // Twelve accumulators of AVX2's sixteen registers, 24 of AVX-512's 32.
    bool wide = lanes >= 16;
    if (form == KernelForm::Columns) {
      int64_t vectors = std::max<int64_t>(1, 2 / banks);
      tile = {std::max<int64_t>(1, (wide ? 24 : 12) / (vectors * banks)), vectors};
    } else {
      int64_t columns = std::max<int64_t>(1, 4 / banks);
      tile = {wide ? 4 : 2, columns};
    }
  }

  void run() {
    Value init = op.getInit();
    n = extent(init, 1);
    k = extent(op.getA(), 1);
    panel = form == KernelForm::Columns ? tile.columns * lanes : tile.columns * 8;
    OpBuilder::InsertionGuard guard(b);
    TaskRange task = emitTaskLoops(n, {panel, /*adapts=*/false});
    expert = task.expert;
    Value column = task.first;
    Value begin = memref::LoadOp::create(b, loc, op.getOffsets(), expert);
    Value end = memref::LoadOp::create(b, loc, op.getOffsets(), ValueRange{add(expert, 1)});
    if (form == KernelForm::Dots) {
      steps(begin, end, tile.rows, /*exact=*/false, [&](Value p, int64_t rows) {
        steps(column, min(add(column, panel), n), tile.columns, columnsDivideBy(tile.columns),
              [&](Value c, int64_t columns) { dots(p, rows, c, columns); });
      });
      return;
    }
    sums = memref::AllocaOp::create(b, loc, MemRefType::get({kBlockTiles * tile.rows, banks * panel}, accumulator),
                                    b.getI64IntegerAttr(64));
    // Sums of a block of rows, by tiles of several sizes; the epilogue, which may be long, is there once for all of
    // them.
    auto rowsOf = [&](bool masked) {
      Value size = index(kBlockTiles * tile.rows);
      auto blocks = scf::ForOp::create(b, loc, begin, end, size);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(blocks.getBody());
      Value from = blocks.getInductionVar(), to = min(b.createOrFold<arith::AddIOp>(loc, from, size), end);
      steps(from, to, tile.rows, /*exact=*/false,
            [&](Value p, int64_t rows) { columns(p, sub(p, from), rows, column, masked); });
      auto pairs = scf::ForOp::create(b, loc, from, to, one);
      b.setInsertionPointToStart(pairs.getBody());
      finishColumns(pairs.getInductionVar(), sub(pairs.getInductionVar(), from), column, masked);
    };
    if (columnsDivideBy(panel))
      return rowsOf(/*masked=*/false);
    Value whole = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, add(column, panel), n);
    auto choice = scf::IfOp::create(b, loc, whole, /*withElse=*/true);
    b.setInsertionPointToStart(choice.thenBlock());
    rowsOf(false);
    b.setInsertionPointToStart(choice.elseBlock());
    rowsOf(true);
  }

private:
  /// The mask of vector `v` of the panel at `column`.
  Value maskOf(Value column, int64_t v, bool masked) {
    return masked ? mask(lanes, sub(n, add(column, v * lanes))) : Value();
  }

  /// The sums of `rows` pairs from `pair` on, to the rows of `sums` from `first` on.
  void columns(Value pair, Value first, int64_t rows, Value column, bool masked) {
    auto accType = VectorType::get({lanes}, accumulator);
    SmallVector<Value> starts, masks;
    for (int64_t v = 0; v < tile.columns; ++v) {
      starts.push_back(add(column, v * lanes));
      masks.push_back(maskOf(column, v, masked));
    }
    SmallVector<Value> sources = gather(pair, rows);
    // acc[(row * banks + bank) * vectors + v]
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType));
    SmallVector<Value> acc(rows * banks * tile.columns, zeros);
    auto loop = scf::ForOp::create(b, loc, zero, k, one, acc);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value step = loop.getInductionVar();
      SmallVector<Value> weights, next;
      for (unsigned bank = 0; bank < banks; ++bank)
        for (int64_t v = 0; v < tile.columns; ++v) {
          Value source = op.getBanks()[bank];
          auto type = VectorType::get({lanes}, getElementTypeOrSelf(source.getType()));
          weights.push_back(widen(load(source, at(op.getBankMap(bank), step, starts[v]), type, masks[v]), accumulator));
        }
      for (int64_t r = 0; r < rows; ++r) {
        Value x = memref::LoadOp::create(b, loc, op.getA(), ValueRange{sources[r], step});
        Value broadcast = vector::BroadcastOp::create(b, loc, accType, widen(x, accumulator));
        for (auto [i, weight] : llvm::enumerate(weights))
          next.push_back(
              vector::FMAOp::create(b, loc, broadcast, weight, loop.getRegionIterArgs()[r * weights.size() + i]));
      }
      scf::YieldOp::create(b, loc, next);
    }
    for (auto [i, value] : llvm::enumerate(loop.getResults())) {
      int64_t perRow = banks * tile.columns;
      vector::StoreOp::create(b, loc, value, sums, {add(first, i / perRow), index(i % perRow * lanes)});
    }
  }

  /// From row `row` of `sums` to that of pair `p` in the result.
  void finishColumns(Value p, Value row, Value column, bool masked) {
    for (int64_t v = 0; v < tile.columns; ++v) {
      SmallVector<Value> values;
      for (unsigned bank = 0; bank < banks; ++bank)
        values.push_back(vector::LoadOp::create(b, loc, VectorType::get({lanes}, accumulator), sums,
                                                {row, index((bank * tile.columns + v) * lanes)}));
      finish(p, add(column, v * lanes), values, maskOf(column, v, masked));
    }
  }

  void dots(Value pair, int64_t rows, Value column, int64_t columns) {
    auto accType = VectorType::get({lanes}, accumulator);
    SmallVector<Value> sources = gather(pair, rows);
    auto typeOf = [&](Value operand) { return VectorType::get({lanes}, getElementTypeOrSelf(operand.getType())); };
    // acc[(row * banks + bank) * columns + c]
    auto step = [&](Value at0, ValueRange acc, Value mask) {
      SmallVector<Value> weights, next;
      for (unsigned bank = 0; bank < banks; ++bank)
        for (int64_t c = 0; c < columns; ++c) {
          Value source = op.getBanks()[bank];
          weights.push_back(
              widen(load(source, at(op.getBankMap(bank), at0, add(column, c)), typeOf(source), mask), accumulator));
        }
      for (int64_t r = 0; r < rows; ++r) {
        Value x = widen(load(op.getA(), ValueRange{sources[r], at0}, typeOf(op.getA()), mask), accumulator);
        for (auto [i, weight] : llvm::enumerate(weights))
          next.push_back(vector::FMAOp::create(b, loc, x, weight, acc[r * weights.size() + i]));
      }
      return next;
    };
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType));
    SmallVector<Value> acc(rows * banks * columns, zeros);
    Value tail = b.createOrFold<arith::RemSIOp>(loc, k, index(lanes));
    Value mainEnd = sub(k, tail);
    auto loop = scf::ForOp::create(b, loc, zero, mainEnd, index(lanes), acc);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      scf::YieldOp::create(b, loc, step(loop.getInductionVar(), loop.getRegionIterArgs(), Value()));
    }
    acc.assign(loop.getResults().begin(), loop.getResults().end());
    auto aType = cast<ShapedType>(op.getA().getType());
    if (!isStatic(aType, 1) || aType.getDimSize(1) % lanes != 0)
      acc = step(mainEnd, acc, mask(lanes, tail));
    for (int64_t r = 0; r < rows; ++r) {
      SmallVector<Value> sums;
      for (unsigned bank = 0; bank < banks; ++bank) {
        SmallVector<Value> elements;
        for (int64_t c = 0; c < columns; ++c)
          // Across the lanes the order is the hardware's shuffle tree: fixed,
          // and not that of the source.
          elements.push_back(vector::ReductionOp::create(b, loc, vector::CombiningKind::ADD,
                                                         acc[(r * banks + bank) * columns + c],
                                                         arith::FastMathFlags::reassoc));
        sums.push_back(vector::FromElementsOp::create(b, loc, VectorType::get({columns}, accumulator), elements));
      }
      finish(add(pair, r), column, sums, Value());
    }
  }

  /// Rows whose sums wait for the epilogue, in tiles of rows: few enough for the first-level cache.
  static constexpr int64_t kBlockTiles = 4;

  KernelForm form;
  TileShape tile;
  int64_t panel = 0;
  Value n, k, sums;
};

/// Bufferisation may turn a slice into a view whose last dimension has a stride, which no kernel reads: such operands
/// are copied. Returns whether there were any.
static bool copyStrided(OpBuilder &b, GroupedMatmulOp op, StringRef why) {
  bool found = false;
  for (OpOperand &operand : op->getOpOperands()) {
    Value view = operand.get();
    auto type = cast<MemRefType>(view.getType());
    if (view == op.getInit() || type.getRank() == 0 || lastIsContiguous(type))
      continue;
    if (!found)
      remark::missed(op.getLoc(), remark::RemarkOpts::name("GroupedMatmulKernel").category(DEBUG_TYPE))
          << ("operands are copied in each call: " + why).str();
    found = true;
    SmallVector<Value> sizes;
    for (int64_t d = 0; d < type.getRank(); ++d)
      if (type.isDynamicDim(d))
        sizes.push_back(memref::DimOp::create(b, op.getLoc(), view, d));
    auto contiguous = MemRefType::get(type.getShape(), type.getElementType());
    Value copy = memref::AllocOp::create(b, op.getLoc(), contiguous, sizes);
    memref::CopyOp::create(b, op.getLoc(), view, copy);
    operand.set(copy);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointAfter(op);
    memref::DeallocOp::create(b, op.getLoc(), copy);
    ++numCopied;
  }
  return found;
}

struct ConvertGroupedMatmulToVectorPass
    : public moe::impl::ConvertGroupedMatmulToVectorPassBase<ConvertGroupedMatmulToVectorPass> {
  using Base::Base;

  void getDependentDialects(DialectRegistry &registry) const override {
    Base::getDependentDialects(registry);
    registry.insert<math::MathDialect>();
  }

  void runOnOperation() override {
    SmallVector<GroupedMatmulOp> ops;
    getOperation()->walk([&](GroupedMatmulOp op) { ops.push_back(op); });
    OpBuilder b(&getContext());
    KernelFunctions functions(getOperation());
    auto name = getOperation()->getAttrOfType<StringAttr>(kIntegerDot);
    std::optional<IntegerDot> dot = IntegerDot::parse(name ? name.getValue() : "avx2");
    if (!dot) {
      getOperation().emitError() << "expected '" << kIntegerDot << "' to be avx2, avxvnni, avx512bw or avx512vnni, got "
                                 << name;
      return signalPassFailure();
    }
    auto tileTypes = getOperation()->getAttrOfType<ArrayAttr>(kTileTypes);
    auto usesTiles = [&](GroupedMatmulOp op) {
      std::string why;
      // Sums of floats would have another order with more rows; those of integers are the same in any.
      if (!tileTypes || (batchInvariant && !hasIntegerRows(op)) ||
          !(op.getPanels() || getElementTypeOrSelf(op.getBanks().front()).isBF16()))
        return false;
      if (std::optional<StringRef> type = getTileType(op, why))
        return llvm::is_contained(tileTypes, b.getStringAttr(*type));
      remark::missed(op.getLoc(), remark::RemarkOpts::name("GroupedMatmulTiles").category(DEBUG_TYPE))
          << ("no tile instructions: " + why);
      return false;
    };
    for (GroupedMatmulOp op : ops) {
      if (!isa<MemRefType>(op.getInit().getType())) {
        op.emitError("expected buffers: run bufferisation first");
        return signalPassFailure();
      }
      std::string why;
      std::optional<KernelForm> form = getKernelForm(op, why);
      b.setInsertionPoint(op);
      if (!form && copyStrided(b, op, why))
        form = getKernelForm(op, why);
      if (!form) {
        op.emitError() << "cannot become a kernel: " << why
                       << "; lower it with convert-moe-planned-to-linalg before "
                          "bufferisation";
        return signalPassFailure();
      }
      if (*form == KernelForm::Quantised) {
        ++numQuantised;
        if (hasIntegerRows(op))
          emitIntegerKernels(b, op, *dot, functions, usesTiles(op));
        else
          emitExactKernels(b, op, lanes, functions, batchInvariant);
      } else if (*form == KernelForm::Panels) {
        bool byTiles = usesTiles(op);
        ++numPanels;
        numTiles += byTiles;
        emitPanelKernels(b, op, lanes, functions, byTiles, roundRows, batchInvariant);
      } else {
        ++(*form == KernelForm::Columns ? numColumns : numDots);
        Emitter(b, op, *form, lanes).run();
      }
      op.erase();
    }
  }
};

} // namespace
