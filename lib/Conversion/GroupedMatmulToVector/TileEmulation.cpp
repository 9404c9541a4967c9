//===- TileEmulation.cpp - tile instructions on any processor -------------===//
//
// A tile register is a vector of its 256 words; those beyond the tile's shape are zero, as the processor keeps them.
// The products are written in MLIR, below, after the pseudo code of Intel's manual (TDPBF16PS, TDPBSSD and its like).
//
//===----------------------------------------------------------------------===//
#include "moe/Conversion/Passes.h"

#include "mlir/Dialect/AMX/AMXDialect.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Transforms/DialectConversion.h"
#include "llvm/ADT/Statistic.h"
#include "llvm/Support/FormatVariadic.h"
#include <set>

namespace mlir::moe {
#define GEN_PASS_DEF_MOEEMULATETILESPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "moe-emulate-tiles"
static llvm::TrackingStatistic numEmulated(DEBUG_TYPE, "num-emulated", "Tile ops that became ordinary code");

/// C[m, n] += A[m, k] * B[k, n]; sizes count words of 32 bits.
static constexpr llvm::StringLiteral kFloatProducts = R"mlir(
// Denormal numbers are zeros, as operands and as results.
func.func private @moe_tile_flush(%bits: vector<16xi32>) -> vector<16xf32> {
  %exponents = arith.constant dense<0x7f800000> : vector<16xi32>
  %signs = arith.constant dense<0x80000000> : vector<16xi32>
  %zeros = arith.constant dense<0> : vector<16xi32>
  %exponent = arith.andi %bits, %exponents : vector<16xi32>
  %sign = arith.andi %bits, %signs : vector<16xi32>
  %small = arith.cmpi eq, %exponent, %zeros : vector<16xi32>
  %kept = arith.select %small, %sign, %bits : vector<16xi1>, vector<16xi32>
  %x = vector.bitcast %kept : vector<16xi32> to vector<16xf32>
  return %x : vector<16xf32>
}
func.func private @moe_tile_fma(%x: vector<16xf32>, %y: vector<16xf32>, %z: vector<16xf32>) -> vector<16xf32> {
  %sum = vector.fma %x, %y, %z : vector<16xf32>
  %bits = vector.bitcast %sum : vector<16xf32> to vector<16xi32>
  %r = func.call @moe_tile_flush(%bits) : (vector<16xi32>) -> vector<16xf32>
  return %r : vector<16xf32>
}
func.func private @moe_tile_add(%x: vector<16xf32>, %y: vector<16xf32>) -> vector<16xf32> {
  %sum = arith.addf %x, %y : vector<16xf32>
  %bits = vector.bitcast %sum : vector<16xf32> to vector<16xi32>
  %r = func.call @moe_tile_flush(%bits) : (vector<16xi32>) -> vector<16xf32>
  return %r : vector<16xf32>
}
func.func private @moe_tile_tdpbf16ps(%c: memref<16x16xi32>, %a: memref<16x16xi32>, %b: memref<16x16xi32>, %rows: index,
                                      %columns: index, %pairs: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %half = arith.constant dense<16> : vector<16xi32>
  %upper = arith.constant dense<0xffff0000> : vector<16xi32>
  %none = arith.constant dense<0> : vector<16xi32>
  %zeros = arith.constant dense<0.0> : vector<16xf32>
  %inside = vector.create_mask %columns : vector<16xi1>
  scf.for %m = %c0 to %rows step %c1 {
    %sums:2 = scf.for %k = %c0 to %pairs step %c1 iter_args(%even = %zeros, %odd = %zeros)
        -> (vector<16xf32>, vector<16xf32>) {
      %word = memref.load %a[%m, %k] : memref<16x16xi32>
      %x = vector.broadcast %word : i32 to vector<16xi32>
      %y = vector.load %b[%k, %c0] : memref<16x16xi32>, vector<16xi32>
      %xl = arith.shli %x, %half : vector<16xi32>
      %yl = arith.shli %y, %half : vector<16xi32>
      %xh = arith.andi %x, %upper : vector<16xi32>
      %yh = arith.andi %y, %upper : vector<16xi32>
      %x0 = func.call @moe_tile_flush(%xl) : (vector<16xi32>) -> vector<16xf32>
      %y0 = func.call @moe_tile_flush(%yl) : (vector<16xi32>) -> vector<16xf32>
      %x1 = func.call @moe_tile_flush(%xh) : (vector<16xi32>) -> vector<16xf32>
      %y1 = func.call @moe_tile_flush(%yh) : (vector<16xi32>) -> vector<16xf32>
      %e = func.call @moe_tile_fma(%x0, %y0, %even) : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
      %o = func.call @moe_tile_fma(%x1, %y1, %odd) : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
      scf.yield %e, %o : vector<16xf32>, vector<16xf32>
    }
    %both = func.call @moe_tile_add(%sums#0, %sums#1) : (vector<16xf32>, vector<16xf32>) -> vector<16xf32>
    %bits = vector.load %c[%m, %c0] : memref<16x16xi32>, vector<16xi32>
    %before = func.call @moe_tile_flush(%bits) : (vector<16xi32>) -> vector<16xf32>
    %after = func.call @moe_tile_add(%before, %both) : (vector<16xf32>, vector<16xf32>) -> vector<16xf32>
    %words = vector.bitcast %after : vector<16xf32> to vector<16xi32>
    %kept = arith.select %inside, %words, %none : vector<16xi1>, vector<16xi32>
    vector.store %kept, %c[%m, %c0] : memref<16x16xi32>, vector<16xi32>
  }
  return
}
)mlir";

/// {0}: the name; {1} and {2}: how a byte of A and of B is widened.
static constexpr const char *kByteProducts = R"mlir(
func.func private @{0}(%c: memref<16x16xi32>, %a: memref<16x16xi32>, %b: memref<16x16xi32>, %rows: index,
                       %columns: index, %fours: index) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %down = arith.constant dense<24> : vector<16xi32>
  %none = arith.constant dense<0> : vector<16xi32>
  %inside = vector.create_mask %columns : vector<16xi1>
  scf.for %m = %c0 to %rows step %c1 {{
    %before = vector.load %c[%m, %c0] : memref<16x16xi32>, vector<16xi32>
    %after = scf.for %k = %c0 to %fours step %c1 iter_args(%outer = %before) -> (vector<16xi32>) {{
      %word = memref.load %a[%m, %k] : memref<16x16xi32>
      %x = vector.broadcast %word : i32 to vector<16xi32>
      %y = vector.load %b[%k, %c0] : memref<16x16xi32>, vector<16xi32>
      %next = scf.for %i = %c0 to %c4 step %c1 iter_args(%sum = %outer) -> (vector<16xi32>) {{
        %number = arith.index_cast %i : index to i32
        %eight = arith.constant 8 : i32
        %most = arith.constant 24 : i32
        %skipped = arith.muli %number, %eight : i32
        %shift = arith.subi %most, %skipped : i32
        %up = vector.broadcast %shift : i32 to vector<16xi32>
        %xu = arith.shli %x, %up : vector<16xi32>
        %yu = arith.shli %y, %up : vector<16xi32>
        %xi = {1} %xu, %down : vector<16xi32>
        %yi = {2} %yu, %down : vector<16xi32>
        %product = arith.muli %xi, %yi : vector<16xi32>
        %more = arith.addi %sum, %product : vector<16xi32>
        scf.yield %more : vector<16xi32>
      }
      scf.yield %next : vector<16xi32>
    }
    %kept = arith.select %inside, %after, %none : vector<16xi1>, vector<16xi32>
    vector.store %kept, %c[%m, %c0] : memref<16x16xi32>, vector<16xi32>
  }
  return
}
)mlir";

namespace {

constexpr int64_t kWords = 16, kTileRows = 16;

VectorType registerType(MLIRContext *context) {
  return VectorType::get({kTileRows * kWords}, IntegerType::get(context, 32));
}

/// The words of a row of a tile.
int64_t wordsOf(amx::TileType type) { return type.getDimSize(1) * type.getElementTypeBitWidth() / 32; }

/// What the lowerings of the ops share.
template <typename Op> struct TilePattern : OpConversionPattern<Op> {
  using OpConversionPattern<Op>::OpConversionPattern;

  static Value index(OpBuilder &b, Location loc, int64_t value) {
    return arith::ConstantIndexOp::create(b, loc, value);
  }
  static Value zeros(OpBuilder &b, Location loc) {
    return arith::ConstantOp::create(b, loc, b.getZeroAttr(registerType(b.getContext())));
  }
  /// A register in memory.
  static Value allocate(OpBuilder &b, Location loc) {
    auto type = MemRefType::get({kTileRows, kWords}, b.getI32Type());
    return memref::AllocaOp::create(b, loc, type, b.getI64IntegerAttr(64));
  }
  static Value flat(OpBuilder &b, Location loc, Value buffer) {
    return memref::CollapseShapeOp::create(b, loc, buffer, ArrayRef<ReassociationIndices>{{0, 1}});
  }
  static void write(OpBuilder &b, Location loc, Value tile, Value buffer) {
    vector::StoreOp::create(b, loc, tile, flat(b, loc, buffer), ValueRange{index(b, loc, 0)});
  }
  static Value read(OpBuilder &b, Location loc, Value buffer) {
    return vector::LoadOp::create(b, loc, registerType(b.getContext()), flat(b, loc, buffer),
                                  ValueRange{index(b, loc, 0)});
  }

  /// Calls `body` with the indices of each row of the tile, if all of them are in the buffer.
  static void forEachRow(OpBuilder &b, Location loc, Value base, ValueRange indices, Value stride, amx::TileType tile,
                         StringRef what, function_ref<void(Value row, ValueRange)> body) {
    auto type = cast<MemRefType>(base.getType());
    int64_t last = type.getRank() - 1;
    auto sum = [&](Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); };
    auto mul = [&](Value x, Value y) { return b.createOrFold<arith::MulIOp>(loc, x, y); };
    // Where row `row` begins.
    auto place = [&](Value row) {
      SmallVector<Value> at(indices);
      Value &moved = stride ? at[last] : at[last - 1];
      moved = sum(moved, stride ? mul(row, stride) : row);
      return at;
    };
    SmallVector<Value> end = place(index(b, loc, tile.getDimSize(0) - 1));
    end[last] = sum(end[last], index(b, loc, tile.getDimSize(1) - 1));
    Value fits = arith::ConstantIntOp::create(b, loc, 1, 1);
    for (auto [d, position] : llvm::enumerate(end)) {
      Value size = memref::DimOp::create(b, loc, base, d);
      Value inside = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, position, size);
      fits = arith::AndIOp::create(b, loc, fits, inside);
    }
    cf::AssertOp::create(b, loc, fits, b.getStringAttr(what + " goes beyond the end of its buffer"));
    auto branch = scf::IfOp::create(b, loc, fits, /*withElse=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    auto loop = scf::ForOp::create(b, loc, index(b, loc, 0), index(b, loc, tile.getDimSize(0)), index(b, loc, 1));
    b.setInsertionPointToStart(loop.getBody());
    body(loop.getInductionVar(), place(loop.getInductionVar()));
  }
};

struct ZeroPattern : TilePattern<amx::TileZeroOp> {
  using TilePattern::TilePattern;
  LogicalResult matchAndRewrite(amx::TileZeroOp op, OpAdaptor, ConversionPatternRewriter &b) const override {
    ++numEmulated;
    b.replaceOp(op, zeros(b, op.getLoc()));
    return success();
  }
};

struct LoadPattern : TilePattern<amx::TileLoadOp> {
  using TilePattern::TilePattern;
  LogicalResult matchAndRewrite(amx::TileLoadOp op, OpAdaptor adaptor, ConversionPatternRewriter &b) const override {
    ++numEmulated;
    Location loc = op.getLoc();
    amx::TileType tile = op.getTileType();
    Value buffer = allocate(b, loc);
    write(b, loc, zeros(b, loc), buffer);
    auto rowType = VectorType::get({tile.getDimSize(1)}, tile.getElementType());
    auto words = VectorType::get({wordsOf(tile)}, b.getI32Type());
    forEachRow(b, loc, adaptor.getBase(), adaptor.getIndices(), adaptor.getStride(), tile, "amx.tile_load",
               [&](Value row, ValueRange at) {
                 Value values = vector::LoadOp::create(b, loc, rowType, adaptor.getBase(), at);
                 values = vector::BitCastOp::create(b, loc, words, values);
                 vector::StoreOp::create(b, loc, values, buffer, ValueRange{row, index(b, loc, 0)});
               });
    b.replaceOp(op, read(b, loc, buffer));
    return success();
  }
};

struct StorePattern : TilePattern<amx::TileStoreOp> {
  using TilePattern::TilePattern;
  LogicalResult matchAndRewrite(amx::TileStoreOp op, OpAdaptor adaptor, ConversionPatternRewriter &b) const override {
    ++numEmulated;
    Location loc = op.getLoc();
    amx::TileType tile = op.getTileType();
    Value buffer = allocate(b, loc);
    write(b, loc, adaptor.getVal(), buffer);
    auto rowType = VectorType::get({tile.getDimSize(1)}, tile.getElementType());
    auto words = VectorType::get({wordsOf(tile)}, b.getI32Type());
    forEachRow(b, loc, adaptor.getBase(), adaptor.getIndices(), adaptor.getStride(), tile, "amx.tile_store",
               [&](Value row, ValueRange at) {
                 Value values = vector::LoadOp::create(b, loc, words, buffer, ValueRange{row, index(b, loc, 0)});
                 values = vector::BitCastOp::create(b, loc, rowType, values);
                 vector::StoreOp::create(b, loc, values, adaptor.getBase(), at);
               });
    b.eraseOp(op);
    return success();
  }
};

std::string nameOf(amx::TileMulFOp) { return "moe_tile_tdpbf16ps"; }
std::string nameOf(amx::TileMulIOp op) {
  return std::string("moe_tile_tdpb") + (op.getIsZextLhs() ? "u" : "s") + (op.getIsZextRhs() ? "u" : "s") + "d";
}

template <typename Op> struct ProductPattern : TilePattern<Op> {
  using TilePattern<Op>::TilePattern;
  LogicalResult matchAndRewrite(Op op, typename Op::Adaptor adaptor, ConversionPatternRewriter &b) const override {
    ++numEmulated;
    Location loc = op.getLoc();
    SmallVector<Value> arguments;
    for (Value tile : {adaptor.getAcc(), adaptor.getLhs(), adaptor.getRhs()}) {
      arguments.push_back(this->allocate(b, loc));
      this->write(b, loc, tile, arguments.back());
    }
    arguments.push_back(this->index(b, loc, op.getTileType().getDimSize(0)));
    arguments.push_back(this->index(b, loc, op.getTileType().getDimSize(1)));
    arguments.push_back(this->index(b, loc, wordsOf(op.getLhsTileType())));
    func::CallOp::create(b, loc, nameOf(op), TypeRange(), arguments);
    b.replaceOp(op, this->read(b, loc, arguments.front()));
    return success();
  }
};

struct EmulateTiles : moe::impl::MoeEmulateTilesPassBase<EmulateTiles> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    MLIRContext *context = &getContext();
    std::set<std::string> used;
    auto found = module.walk([&](Operation *op) {
      if (auto product = dyn_cast<amx::TileMulFOp>(op)) {
        if (!product.getLhsTileType().getElementType().isBF16()) {
          op->emitOpError("is emulated for bf16 only");
          return WalkResult::interrupt();
        }
        used.insert(nameOf(product));
      } else if (auto product = dyn_cast<amx::TileMulIOp>(op)) {
        used.insert(nameOf(product));
      }
      return WalkResult::advance();
    });
    if (found.wasInterrupted())
      return signalPassFailure();

    TypeConverter types;
    types.addConversion([](Type type) { return type; });
    types.addConversion([](amx::TileType type) -> Type { return registerType(type.getContext()); });
    RewritePatternSet patterns(context);
    patterns
        .add<ZeroPattern, LoadPattern, StorePattern, ProductPattern<amx::TileMulFOp>, ProductPattern<amx::TileMulIOp>>(
            types, context);
    ConversionTarget target(*context);
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    target.addIllegalDialect<amx::AMXDialect>();
    scf::populateSCFStructuralTypeConversionsAndLegality(types, patterns, target);
    if (failed(applyPartialConversion(module, target, std::move(patterns))))
      return signalPassFailure();

    std::string library;
    for (const std::string &name : used) {
      StringRef signs = StringRef(name).drop_front(strlen("moe_tile_tdpb"));
      if (signs == "f16ps") {
        library += kFloatProducts;
        continue;
      }
      auto widening = [&](char sign) { return sign == 'u' ? "arith.shrui" : "arith.shrsi"; };
      library += llvm::formatv(kByteProducts, name, widening(signs[0]), widening(signs[1])).str();
    }
    OwningOpRef<ModuleOp> parsed = parseSourceString<ModuleOp>(library, context);
    if (!parsed) {
      module.emitError("the emulation of tile instructions does not parse");
      return signalPassFailure();
    }
    for (auto function : llvm::make_early_inc_range(parsed->getOps<func::FuncOp>())) {
      function->remove();
      module.push_back(function);
    }
  }
};

} // namespace
