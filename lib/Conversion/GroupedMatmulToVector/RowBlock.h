//===- RowBlock.h - some rows of an expert against panels --------*- C++ -*-===//
//
// What kernels of several rows have in common: the numbers of the rows of a block, their sums in a tile, the call of
// the inner kernel for as many rows as a pass takes, and the epilogue from the tile.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_ROWBLOCK_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_ROWBLOCK_H

#include "GroupedKernel.h"
#include "KernelFunctions.h"

namespace mlir::moe {

class WidenedBlock;

class RowBlock : protected GroupedKernel {
public:
  /// `rowsOfA`: the rows, perhaps wider than those of `op`.
  RowBlock(OpBuilder &b, GroupedMatmulOp op, Value rowsOfA, const KernelFunctionForm &form, KernelFunctions &functions)
      : GroupedKernel(b, op, form.lanes), form(form), functions(functions), rowsOfA(rowsOfA) {}

  /// In front of the tasks.
  void prepare();
  /// Scratch for the task of `expert`, in the current block.
  void beginTask(Value expertOfTask);
  /// The rows of `a` that the `count` pairs from `pair` on read.
  void emitSources(Value pair, Value count);
  void clearTile(Value count);
  /// The kernel among `variants` for `rows` rows (and for what it fetches, where they differ in that): adds the
  /// products of rows `from` on with the weights. The rest of the arguments is that of KernelFunctions::call.
  struct Pass {
    /// Which of the variants for so many rows, as kindOf gives it.
    Value kind;
    Value lines, rows, from, weights, at, window, stream, steps, firstK, k, parts, distance, beside, windowBeside;
  };
  int64_t numberOf(Fetch fetch, Reads reads) {
    int64_t mostRows = std::max(form.schedule.maxRows, form.schedule.widenedMaxRows);
    return (static_cast<int64_t>(fetch) + 3 * static_cast<int64_t>(reads)) * (mostRows + 1);
  }
  Value kindOf(Fetch fetch, Reads reads = Reads::Parts) { return index(numberOf(fetch, reads)); }
  /// Variants of what has been widened read that instead of the weights.
  void emitPass(ArrayRef<KernelVariant> variants, const Pass &pass, const WidenedBlock *widened = nullptr);
  /// The lines of a result that is written some rows later are fetched meanwhile: a store would fetch them as well, but
  /// only few at a time. Measured on Sapphire Rapids, 512 rows: integer products with 4 bits 1.04, f32 1.01 times as
  /// fast.
  static constexpr int64_t kResultsAhead = 8;
  /// From row `r` of the tile to that of pair `p` in the result; the sums of `panel` begin in `column` of the tile.
  void emitEpilogue(Value p, Value panel, Value r, Value column);
  void emitEpilogue(Value p, Value panel, Value r) { emitEpilogue(p, panel, r, zero); }

  Value equal(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, x, y); }
  Value less(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, x, y); }
  Value select(Value c, Value x, Value y) { return b.createOrFold<arith::SelectOp>(loc, c, x, y); }
  /// Where number `i` of `parts` nearly equal parts of `total` begins.
  Value split(Value total, Value parts, Value i) { return arith::DivUIOp::create(b, loc, mul(i, total), parts); }

  /// `rows` rows in as few passes as there can be, of nearly equal size: the first `larger` ones have `size` + 1 rows.
  struct Passes {
    Value count, size, larger;
  };
  Passes divide(Value rows, Value mostRowsOfPass);

  /// Some of an expert's rows: their number, the pair of the first one, how many blocks came before this one and how
  /// many come behind it, and the passes over them. Their sources are there.
  struct Rows {
    Value count, pair, block, left;
    Passes passes;
  };
  /// Calls `body` with the expert's `count` pairs from `begin` on, in blocks of nearly equal size, `most` at most, and
  /// the passes over them of `mostOfPass` rows at most.
  void forEachRowBlock(Value begin, Value count, int64_t most, Value mostOfPass, function_ref<void(const Rows &)> body);
  void forEachRowBlock(Value begin, Value count, int64_t most, function_ref<void(const Rows &)> body) {
    forEachRowBlock(begin, count, most, index(form.schedule.maxRows), body);
  }

  /// Calls `body` with the number of each pass, the first of its rows, and how many these are.
  template <typename Fn> void forEachPass(const Passes &passes, const Fn &body) {
    forEach(zero, passes.count, 1, [&](Value pass) {
      Value isLarger = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, pass, passes.larger);
      Value from = sum(mul(pass, passes.size), b.createOrFold<arith::MinUIOp>(loc, pass, passes.larger));
      body(pass, from, select(isLarger, add(passes.size, 1), passes.size));
    });
  }

protected:
  KernelFunctionForm form;
  KernelFunctions &functions;
  Value rowsOfA, n, tile, sources;
};

/// The rows of `op` in the type of its sums, for kernels that read each element as often as there are panels: a copy
/// that is made before `op` and freed behind it, or `op`'s own rows where they are as wide.
Value widenRows(OpBuilder &b, GroupedMatmulOp op, int64_t lanes);

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_ROWBLOCK_H
