//===- ContractionToVector.cpp - matmul-like ops on buffers to register-blocked
// kernels -------------------------------===//
//
// A contraction (matmul, batched matmul, any linalg op that multiplies and adds
// over projected permutations) is cut into outer parallel loops, blocks of
// rows, and a kernel that keeps a tile of the result in vector registers while
// it runs over the reduction:
//
//   columns form   the right operand is contiguous along the result's columns
//   (weights [in, out]): each step loads NV
//                  vectors of a row of it and multiplies them with one
//                  broadcast element per tile row;
//   dots form      the right operand is contiguous along the reduction (weights
//   [out, in]): both operands are read as
//                  vectors along the reduction, a tile of vector sums is added
//                  up across lanes at the end.
//
// The sums of one result element run over the reduction in the same order
// whatever tile it falls into, so results depend neither on the number of
// threads nor on the other rows of the call.
//
//===------------------------------------------------------------------------------------------------------------------===//
#include "../Support/KernelTiles.h"
#include "moe/Conversion/Passes.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/IR/LinalgInterfaces.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/Statistic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTCONTRACTIONTOVECTORPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "convert-contraction-to-vector"
static llvm::TrackingStatistic numColumns(DEBUG_TYPE, "num-columns-kernels", "Contractions in the columns form");
static llvm::TrackingStatistic numDots(DEBUG_TYPE, "num-dots-kernels", "Contractions in the dots form");
static llvm::TrackingStatistic numLeft(DEBUG_TYPE, "num-left", "Contractions left to scalar loops");

namespace {

/// A contraction with its loops sorted by role. `m`, `n`, `k` are the loops
/// that the kernel tiles, `outer` the other parallel loops, `outerReductions`
/// the other reductions.
struct Contraction {
  linalg::LinalgOp op;
  Value lhs, rhs, out;
  AffineMap lhsMap, rhsMap, outMap;
  int64_t m = -1, n = -1, k = -1;
  SmallVector<unsigned> outer, outerReductions;
  bool dots = false;
  FloatType accumulator;
};

/// The loop along which `memref` is contiguous when it is indexed by `map`, or
/// -1.
int64_t contiguousLoop(Value memref, AffineMap map) {
  auto type = cast<MemRefType>(memref.getType());
  if (type.getRank() == 0)
    return -1;
  SmallVector<int64_t> strides;
  int64_t offset;
  if (failed(type.getStridesAndOffset(strides, offset)) || strides.back() != 1)
    return -1;
  auto dim = dyn_cast<AffineDimExpr>(map.getResults().back());
  return dim ? dim.getPosition() : -1;
}

bool uses(AffineMap map, unsigned loop) { return map.isFunctionOfDim(loop); }

/// The body is acc + ext(a) * ext(b) in a float type.
bool isMultiplyAdd(linalg::LinalgOp op) {
  Block *body = op.getBlock();
  if (body->getNumArguments() != 3)
    return false;
  auto yield = dyn_cast<linalg::YieldOp>(body->getTerminator());
  if (!yield || yield.getNumOperands() != 1)
    return false;
  auto add = yield.getOperand(0).getDefiningOp<arith::AddFOp>();
  if (!add)
    return false;
  Value acc = body->getArgument(2);
  Value product = add.getLhs() == acc ? add.getRhs() : add.getRhs() == acc ? add.getLhs() : Value();
  auto mul = product ? product.getDefiningOp<arith::MulFOp>() : nullptr;
  if (!mul)
    return false;
  auto source = [](Value v) {
    if (auto ext = v.getDefiningOp<arith::ExtFOp>())
      return ext.getIn();
    return v;
  };
  Value a = source(mul.getLhs()), b = source(mul.getRhs());
  Value x = body->getArgument(0), y = body->getArgument(1);
  return (a == x && b == y) || (a == y && b == x);
}

/// Analyses `op`; a reason why not in `why` on failure.
std::optional<Contraction> analyse(linalg::LinalgOp op, StringRef &why) {
  if (!op.hasPureBufferSemantics() || op.getNumDpsInputs() != 2 || op.getNumDpsInits() != 1)
    return why = "it is not a two-operand op on buffers", std::nullopt;
  if (!isMultiplyAdd(op))
    return why = "its body is not a float multiply-add", std::nullopt;
  Contraction c;
  c.op = op;
  c.lhs = op.getDpsInputOperand(0)->get();
  c.rhs = op.getDpsInputOperand(1)->get();
  c.out = op.getDpsInitOperand(0)->get();
  c.lhsMap = op.getMatchingIndexingMap(op.getDpsInputOperand(0));
  c.rhsMap = op.getMatchingIndexingMap(op.getDpsInputOperand(1));
  c.outMap = op.getMatchingIndexingMap(op.getDpsInitOperand(0));
  for (AffineMap map : {c.lhsMap, c.rhsMap, c.outMap})
    if (!map.isProjectedPermutation())
      return why = "its indexing maps are not projected permutations", std::nullopt;
  c.accumulator = dyn_cast<FloatType>(getElementTypeOrSelf(c.out.getType()));
  if (!c.accumulator || c.accumulator.getWidth() < 32)
    return why = "its accumulator is narrower than f32", std::nullopt;

  // The operand that is contiguous along a column loop becomes the right one.
  auto classify = [&]() {
    SmallVector<unsigned> ms, ns, ks, batch;
    for (unsigned d = 0, e = op.getNumLoops(); d < e; ++d) {
      bool l = uses(c.lhsMap, d), r = uses(c.rhsMap, d), o = uses(c.outMap, d);
      (l && r && o ? batch : l && o ? ms : r && o ? ns : ks).push_back(d);
    }
    int64_t columns = contiguousLoop(c.rhs, c.rhsMap), out = contiguousLoop(c.out, c.outMap);
    int64_t leftRun = contiguousLoop(c.lhs, c.lhsMap);
    c.dots = false;
    c.m = c.n = c.k = -1;
    if (llvm::is_contained(ns, columns) && columns == out) {
      c.n = columns;
    } else if (llvm::is_contained(ks, columns) && columns == leftRun) {
      c.dots = true;
      c.k = columns;
    } else {
      return false;
    }
    // The innermost loop of each kind gives the most regular accesses.
    if (c.n < 0 && !ns.empty())
      c.n = ns.back();
    if (c.k < 0 && !ks.empty())
      c.k = llvm::is_contained(ks, leftRun) ? leftRun : ks.back();
    if (!ms.empty())
      c.m = ms.back();
    if (c.k < 0 || (c.n < 0 && !c.dots))
      return false;
    c.outer.clear();
    c.outerReductions.clear();
    for (ArrayRef<unsigned> kind : {ArrayRef<unsigned>(batch), ArrayRef<unsigned>(ms), ArrayRef<unsigned>(ns)})
      for (unsigned d : kind)
        if (static_cast<int64_t>(d) != c.m && static_cast<int64_t>(d) != c.n)
          c.outer.push_back(d);
    for (unsigned d : ks)
      if (static_cast<int64_t>(d) != c.k)
        c.outerReductions.push_back(d);
    return true;
  };
  if (!classify()) {
    std::swap(c.lhs, c.rhs);
    std::swap(c.lhsMap, c.rhsMap);
    if (!classify())
      return why = "no operand is contiguous along the columns or the reduction", std::nullopt;
  }
  return c;
}

/// Emits the loops and kernels of one contraction.
class Emitter : KernelTiles {
public:
  Emitter(RewriterBase &b, Contraction &c, int64_t lanes, TileShape columns, TileShape dots)
      : KernelTiles(b, c.op.getLoc()), rewriter(b), c(c), lanes(lanes), columnsTile(columns), dotsTile(dots),
        ivs(c.op.getNumLoops()) {}

  void run() {
    for (Range range : c.op.createLoopRanges(b, loc))
      extents.push_back(range.size);

    // Outer parallel loops, blocks of rows, panels of columns: all of one
    // scf.parallel.
    TileShape tile = c.dots ? dotsTile : columnsTile;
    int64_t panel = c.dots ? tile.columns * 4 : tile.columns * lanes;
    int64_t rowBlock = tile.rows * 8;
    SmallVector<Value> lower, upper, step;
    auto add = [&](OpFoldResult extent, int64_t by) {
      lower.push_back(zero);
      upper.push_back(getValueOrCreateConstantIndexOp(b, loc, extent));
      step.push_back(index(by));
    };
    for (unsigned d : c.outer)
      add(extents[d], 1);
    if (c.m >= 0)
      add(extents[c.m], rowBlock);
    if (c.n >= 0)
      add(extents[c.n], panel);
    auto body = [&](OpBuilder &, Location, ValueRange outer) {
      OpBuilder::InsertionGuard guard(b);
      for (auto [d, iv] : llvm::zip(c.outer, outer))
        ivs[d] = iv;
      size_t at = c.outer.size();
      Value rowBegin = c.m >= 0 ? outer[at++] : zero;
      Value columnBegin = c.n >= 0 ? outer[at++] : zero;
      emitReductions(0, rowBegin, rowBlock, columnBegin, panel);
    };
    if (lower.empty()) {
      body(b, loc, {});
    } else {
      auto loop = scf::ParallelOp::create(b, loc, lower, upper, step);
      b.setInsertionPointToStart(loop.getBody());
      body(b, loc, loop.getInductionVars());
    }
    rewriter.eraseOp(c.op);
  }

private:
  Value extent(int64_t loop) { return loop < 0 ? one : getValueOrCreateConstantIndexOp(b, loc, extents[loop]); }
  /// Whether extent(loop) is known to be a multiple of `by`.
  bool divides(int64_t loop, int64_t by) {
    if (loop < 0)
      return by == 1;
    std::optional<int64_t> value = getConstantIntValue(extents[loop]);
    return value && *value % by == 0;
  }

  SmallVector<Value> at(AffineMap map) {
    SmallVector<Value> indices;
    for (AffineExpr e : map.getResults())
      indices.push_back(ivs[cast<AffineDimExpr>(e).getPosition()]);
    return indices;
  }
  Value widen(Value v) { return KernelTiles::widen(v, c.accumulator); }

  void emitReductions(unsigned level, Value rowBegin, int64_t rowBlock, Value columnBegin, int64_t panel) {
    if (level < c.outerReductions.size()) {
      unsigned d = c.outerReductions[level];
      auto loop = scf::ForOp::create(b, loc, zero, extent(d), one);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      ivs[d] = loop.getInductionVar();
      return emitReductions(level + 1, rowBegin, rowBlock, columnBegin, panel);
    }
    Value rowEnd = c.m >= 0 ? min(add(rowBegin, rowBlock), extent(c.m)) : one;
    if (c.dots)
      return emitRows(rowBegin, rowEnd, dotsTile.rows, [&](Value row, int64_t rows) {
        Value columnEnd = c.n >= 0 ? min(add(columnBegin, panel), extent(c.n)) : one;
        steps(columnBegin, columnEnd, c.n >= 0 ? dotsTile.columns : 1, divides(c.n, c.n >= 0 ? dotsTile.columns : 1),
              [&](Value column, int64_t columns) { emitDots(row, rows, column, columns); });
      });
    auto rowsOfPanel = [&](bool masked) {
      emitRows(rowBegin, rowEnd, columnsTile.rows,
               [&](Value row, int64_t rows) { emitColumns(row, rows, columnBegin, masked); });
    };
    if (divides(c.n, panel))
      return rowsOfPanel(/*masked=*/false);
    Value whole = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, add(columnBegin, panel), extent(c.n));
    auto choice = scf::IfOp::create(b, loc, whole, /*withElse=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(choice.thenBlock());
    rowsOfPanel(false);
    b.setInsertionPointToStart(choice.elseBlock());
    rowsOfPanel(true);
  }

  void emitRows(Value begin, Value end, int64_t most, TileFn tile) {
    if (c.m < 0)
      return tile(zero, 1);
    steps(begin, end, most, divides(c.m, most), tile);
  }

  Value load(Value memref, AffineMap map, VectorType type, Value mask) {
    return KernelTiles::load(memref, at(map), type, mask);
  }

  void emitColumns(Value row, int64_t rows, Value column, bool masked) {
    int64_t vectors = columnsTile.columns;
    auto accType = VectorType::get({lanes}, c.accumulator);
    auto rhsType = VectorType::get({lanes}, getElementTypeOrSelf(c.rhs.getType()));
    SmallVector<Value> columns, masks(vectors);
    for (int64_t v = 0; v < vectors; ++v) {
      columns.push_back(add(column, v * lanes));
      if (masked)
        masks[v] = mask(lanes, sub(extent(c.n), columns[v]));
    }
    SmallVector<Value> acc;
    for (int64_t r = 0; r < rows; ++r) {
      setRow(add(row, r));
      for (int64_t v = 0; v < vectors; ++v) {
        ivs[c.n] = columns[v];
        acc.push_back(load(c.out, c.outMap, accType, masks[v]));
      }
    }
    auto loop = scf::ForOp::create(b, loc, zero, extent(c.k), one, acc);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      ivs[c.k] = loop.getInductionVar();
      SmallVector<Value> weights, next;
      for (int64_t v = 0; v < vectors; ++v) {
        ivs[c.n] = columns[v];
        weights.push_back(widen(load(c.rhs, c.rhsMap, rhsType, masks[v])));
      }
      for (int64_t r = 0; r < rows; ++r) {
        setRow(add(row, r));
        Value x = widen(memref::LoadOp::create(b, loc, c.lhs, at(c.lhsMap)));
        Value broadcast = vector::BroadcastOp::create(b, loc, accType, x);
        for (int64_t v = 0; v < vectors; ++v)
          next.push_back(
              vector::FMAOp::create(b, loc, broadcast, weights[v], loop.getRegionIterArgs()[r * vectors + v]));
      }
      scf::YieldOp::create(b, loc, next);
    }
    for (int64_t r = 0; r < rows; ++r) {
      setRow(add(row, r));
      for (int64_t v = 0; v < vectors; ++v) {
        ivs[c.n] = columns[v];
        store(loop.getResult(r * vectors + v), c.out, at(c.outMap), masks[v]);
      }
    }
  }

  void emitDots(Value row, int64_t rows, Value column, int64_t columns) {
    auto accType = VectorType::get({lanes}, c.accumulator);
    auto typeOf = [&](Value operand) { return VectorType::get({lanes}, getElementTypeOrSelf(operand.getType())); };
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType));
    auto step = [&](Value k, ValueRange acc, Value mask) {
      ivs[c.k] = k;
      SmallVector<Value> weights, next;
      for (int64_t n = 0; n < columns; ++n) {
        setColumn(add(column, n));
        weights.push_back(widen(load(c.rhs, c.rhsMap, typeOf(c.rhs), mask)));
      }
      for (int64_t r = 0; r < rows; ++r) {
        setRow(add(row, r));
        Value x = widen(load(c.lhs, c.lhsMap, typeOf(c.lhs), mask));
        for (int64_t n = 0; n < columns; ++n)
          next.push_back(vector::FMAOp::create(b, loc, x, weights[n], acc[r * columns + n]));
      }
      return next;
    };
    Value tail = b.createOrFold<arith::RemSIOp>(loc, extent(c.k), index(lanes));
    Value mainEnd = b.createOrFold<arith::SubIOp>(loc, extent(c.k), tail);
    SmallVector<Value> acc(rows * columns, zeros);
    auto loop = scf::ForOp::create(b, loc, zero, mainEnd, index(lanes), acc);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      scf::YieldOp::create(b, loc, step(loop.getInductionVar(), loop.getRegionIterArgs(), Value()));
    }
    acc.assign(loop.getResults().begin(), loop.getResults().end());
    if (!divides(c.k, lanes))
      acc = step(mainEnd, acc, mask(lanes, tail));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t n = 0; n < columns; ++n) {
        setRow(add(row, r));
        setColumn(add(column, n));
        // Across the lanes the order is the hardware's shuffle tree: fixed, and
        // not that of the source.
        Value sum = vector::ReductionOp::create(b, loc, vector::CombiningKind::ADD, acc[r * columns + n],
                                                arith::FastMathFlags::reassoc);
        Value old = memref::LoadOp::create(b, loc, c.out, at(c.outMap));
        memref::StoreOp::create(b, loc, arith::AddFOp::create(b, loc, old, sum), c.out, at(c.outMap));
      }
  }

  void setRow(Value row) {
    if (c.m >= 0)
      ivs[c.m] = row;
  }
  void setColumn(Value column) {
    if (c.n >= 0)
      ivs[c.n] = column;
  }

  RewriterBase &rewriter;
  Contraction &c;
  int64_t lanes;
  TileShape columnsTile, dotsTile;
  SmallVector<Value> ivs;
  SmallVector<OpFoldResult> extents;
};

struct ConvertContractionToVectorPass
    : public moe::impl::ConvertContractionToVectorPassBase<ConvertContractionToVectorPass> {
  using Base::Base;

  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    SmallVector<linalg::LinalgOp> ops;
    getOperation()->walk([&](linalg::LinalgOp op) {
      if (op.getNumReductionLoops() > 0 && op.getNumDpsInputs() == 2)
        ops.push_back(op);
    });
    // Half of the registers of AVX2, three quarters of those of AVX-512, hold
    // the tile.
    bool wide = lanes >= 16;
    TileShape columns{wide ? 12 : 6, 2}, dots{wide ? 4 : 2, 4};
    for (linalg::LinalgOp op : ops) {
      StringRef why;
      std::optional<Contraction> contraction = analyse(op, why);
      if (!contraction) {
        ++numLeft;
        remark::missed(op.getLoc(), remark::RemarkOpts::name("ContractionLeft").category("moe-kernels"))
            << ("left to scalar loops: " + why).str();
        continue;
      }
      ++(contraction->dots ? numDots : numColumns);
      rewriter.setInsertionPoint(op);
      Emitter(rewriter, *contraction, lanes, columns, dots).run();
    }
  }
};

} // namespace
