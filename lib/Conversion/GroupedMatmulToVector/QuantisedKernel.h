//===- QuantisedKernel.h - what kernels over quantised panels share -*- C++ -*-===//
//
// Tasks over experts and panels (QuantPanels.h), scales and zero points as vectors of floats, fetching ahead.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDKERNEL_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDKERNEL_H

#include "GroupedKernel.h"
#include "QuantDecoder.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

namespace mlir::moe {

class QuantisedKernel : protected GroupedKernel {
protected:
  QuantisedKernel(OpBuilder &b, GroupedMatmulOp op, int64_t lanes)
      : GroupedKernel(b, op, lanes), type(cast<MemRefType>(op.getBanks().front().getType())),
        panels{op.getFormat(0), int64_t(op.getBanks().size()), cast<ShapedType>(op.getA().getType()).getDimSize(1),
               int64_t(*op.getPanels())},
        floats(VectorType::get({lanes}, b.getF32Type())), words(VectorType::get({lanes}, b.getI32Type())) {}
  virtual ~QuantisedKernel() = default;

  struct Task {
    Value expert, begin, rows, first, last; // panels from `first` to `last`
  };
  /// One parallel loop over experts and groups of panels; in a panel, tiles of `mostRows` rows and of the powers of two
  /// below. From `manyRows` rows of an expert on (0: never), emitManyRows says what is done.
  void emitTasks(int64_t mostRows, int64_t manyRows = 0);
  virtual void emitManyRows(const Task &task) {}
  /// The byte at which a panel begins.
  Value startOf(Value expertOfTask, Value panel);
  /// The products of `rows` rows from `pair` on with the panel at byte `base`.
  virtual void emitTile(Value pair, int64_t rows) = 0;
  /// Adds the products of block number `block`, of `length` k from `k` on, whose bytes begin at `at`, to the sums
  /// `before`, as [row][vector of the chunk].
  virtual SmallVector<Value> emitBlock(Value at, Value block, Value k, int64_t length, ValueRange before) = 0;
  /// The sums over all k.
  SmallVector<Value> emitSums();

  Value plus(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  Value times(Value x, int64_t y) { return y == 1 ? x : b.createOrFold<arith::MulIOp>(loc, x, index(y)); }
  Value splat(float value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, value)); }
  Value splat(int32_t value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, value)); }
  Value fma(Value x, Value y, Value z) { return vector::FMAOp::create(b, loc, x, y, z); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
  Value intrinsic(StringRef name, Type type, ValueRange operands);

  QuantDecoder decoder() { return QuantDecoder(b, loc, panels, lanes, stream); }
  /// A row of words of one vector of columns.
  Value loadCodes(Value codes, int64_t vector) { return decoder().loadCodes(codes, vector); }
  /// The scales of the block of `length` k at byte `at`, for the vectors of the chunk, times `factor`; and -zero point
  /// times scale if there are zero points.
  void loadScales(Value at, int64_t length, float factor, SmallVectorImpl<Value> &scales,
                  SmallVectorImpl<Value> &negativeZeros);
  /// The lines some kilobytes behind the row of words at `at`, never beyond the banks; once for all chunks of a panel.
  void emitPrefetch(Value at);
  /// The epilogue of the chunk's vectors from `vector` of each bank on; `sums` as [row][bank][vector].
  void finishTile(Value pair, int64_t rows, int64_t vector, ArrayRef<Value> sums);
  /// The vectors `vector` and the next ones, `together` of each bank.
  void chooseChunk(int64_t vector, int64_t together);

  MemRefType type;
  QuantPanels panels;
  VectorType floats, words;
  Value n, stream, base, column;
  /// Of the tile that is being emitted: the rows of `a`, and vectors of the panel by number.
  SmallVector<Value> sources;
  SmallVector<int64_t> chunk;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDKERNEL_H
