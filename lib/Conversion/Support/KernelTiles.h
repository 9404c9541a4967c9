//===- KernelTiles.h - pieces of the register-blocked kernels ----*- C++ -*-===//
//
// What the emitters of contraction kernels share: splitting a range into tiles
// of exact sizes, and vector loads and stores with optional masks.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_SUPPORT_KERNELTILES_H
#define LIB_CONVERSION_SUPPORT_KERNELTILES_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

namespace mlir::moe {

/// The tile of a kernel: rows by vectors (columns form), or rows by columns of
/// vector sums (dots form).
struct TileShape {
  int64_t rows;
  int64_t columns;
};

class KernelTiles {
public:
  KernelTiles(OpBuilder &b, Location loc) : b(b), loc(loc), zero(index(0)), one(index(1)) {}

  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }
  Value add(Value x, int64_t y) { return y == 0 ? x : b.createOrFold<arith::AddIOp>(loc, x, index(y)); }
  Value sub(Value x, Value y) { return b.createOrFold<arith::SubIOp>(loc, x, y); }
  Value min(Value x, Value y) { return b.createOrFold<arith::MinSIOp>(loc, x, y); }
  Value sum(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  Value mul(Value x, Value y) { return b.createOrFold<arith::MulIOp>(loc, x, y); }
  Value mul(Value x, int64_t y) { return b.createOrFold<arith::MulIOp>(loc, x, index(y)); }
  Value div(Value x, int64_t y) { return b.createOrFold<arith::DivUIOp>(loc, x, index(y)); }
  Value ceilDiv(Value x, int64_t y) { return b.createOrFold<arith::CeilDivUIOp>(loc, x, index(y)); }

  /// Emits `body` in a loop, with its induction variable.
  template <typename Fn> void forEach(Value from, Value to, int64_t step, const Fn &body) {
    auto loop = scf::ForOp::create(b, loc, from, to, index(step));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    body(loop.getInductionVar());
  }

  /// Emits `body` in a loop that carries values, `init` at first: with its induction variable and the values, which it
  /// replaces by those of the next iteration. Those behind the last one.
  template <typename Fn>
  SmallVector<Value> loopOver(Value from, Value to, int64_t step, ValueRange init, const Fn &body) {
    auto loop = scf::ForOp::create(b, loc, from, to, index(step), init);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    SmallVector<Value> carried(loop.getRegionIterArgs());
    body(loop.getInductionVar(), carried);
    scf::YieldOp::create(b, loc, carried);
    return SmallVector<Value>(loop.getResults());
  }

  /// Emits `body(pass, many)` for `count` things, `together` of them (1 or 2) in each pass, and one in the last pass if
  /// one is left.
  template <typename Fn> void forEachTogether(Value count, int64_t together, const Fn &body) {
    assert(together == 1 || together == 2);
    Value whole = div(count, together);
    forEach(zero, whole, 1, [&](Value pass) { body(pass, together); });
    if (together == 1)
      return;
    Value odd = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, whole, ceilDiv(count, together));
    auto branch = scf::IfOp::create(b, loc, odd, /*withElse=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    body(whole, 1);
  }

  /// Widens a float scalar or vector to `element`.
  Value widen(Value v, FloatType element) {
    if (getElementTypeOrSelf(v.getType()) == element)
      return v;
    Type to = element;
    if (auto vector = dyn_cast<VectorType>(v.getType()))
      to = vector.clone(element);
    return arith::ExtFOp::create(b, loc, to, v);
  }

  Value load(Value memref, ValueRange indices, VectorType type, Value mask) {
    if (!mask)
      return vector::LoadOp::create(b, loc, type, memref, indices);
    Value pass = arith::ConstantOp::create(b, loc, b.getZeroAttr(type));
    return vector::MaskedLoadOp::create(b, loc, type, memref, indices, mask, pass);
  }
  void store(Value value, Value memref, ValueRange indices, Value mask) {
    if (mask)
      vector::MaskedStoreOp::create(b, loc, memref, indices, mask, value);
    else
      vector::StoreOp::create(b, loc, value, memref, indices);
  }
  /// The mask of the lanes below `count`.
  Value mask(int64_t lanes, Value count) {
    return vector::CreateMaskOp::create(b, loc, VectorType::get({lanes}, b.getI1Type()), ValueRange{count});
  }

  using TileFn = llvm::function_ref<void(Value begin, int64_t size)>;

  /// Tiles of `most` from begin to end; unless the span is known to be a
  /// multiple of it (`exact`), the rest in tiles of the powers of two below it,
  /// each at most once.
  void steps(Value begin, Value end, int64_t most, bool exact, TileFn tile) {
    OpBuilder::InsertionGuard guard(b);
    Value tail = exact ? zero : b.createOrFold<arith::RemSIOp>(loc, sub(end, begin), index(most));
    Value mainEnd = sub(end, tail);
    auto loop = scf::ForOp::create(b, loc, begin, mainEnd, index(most));
    b.setInsertionPointToStart(loop.getBody());
    tile(loop.getInductionVar(), most);
    if (exact || most == 1)
      return;
    b.setInsertionPointAfter(loop);
    int64_t size = 1;
    while (size * 2 < most)
      size *= 2;
    Value position = mainEnd;
    for (; size >= 1; size /= 2) {
      Value fits = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, sub(end, position), index(size));
      auto branch = scf::IfOp::create(b, loc, TypeRange(b.getIndexType()), fits,
                                      /*withElse=*/true);
      b.setInsertionPointToStart(branch.thenBlock());
      tile(position, size);
      b.setInsertionPointToEnd(branch.thenBlock());
      scf::YieldOp::create(b, loc, ValueRange{add(position, size)});
      b.setInsertionPointToEnd(branch.elseBlock());
      scf::YieldOp::create(b, loc, ValueRange{position});
      b.setInsertionPointAfter(branch);
      position = branch.getResult(0);
    }
  }

  OpBuilder &b;
  Location loc;
  Value zero, one;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_SUPPORT_KERNELTILES_H
