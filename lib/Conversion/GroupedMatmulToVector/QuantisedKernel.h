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

  /// A block of a panel: number `number`, of `length` k from `k` on, whose bytes begin at `at`.
  struct PanelBlock {
    Value at, number, k;
    int64_t length;
  };

  /// One parallel loop over experts and groups of panels; in a panel, tiles of `mostRows` rows and of the powers of two
  /// below. From `manyRows` rows of an expert on (0: never), emitManyRows says what is done; with `mostRows` 0 that is
  /// all. A single row reads several panels side by side where the processor likes that (SideBySide.cpp). Many rows
  /// multiply `panelsTogether` of them side by side.
  void emitTasks(int64_t mostRows, int64_t manyRows = 0, int64_t panelsTogether = 1);
  virtual void emitManyRows(const PanelTask &task) {}
  /// The byte at which a panel begins.
  Value startOf(Value expertOfTask, Value panel);

  /// How many vectors of sums the registers hold beside what a kernel of `rows` rows needs.
  virtual int64_t sumsInRegisters(int64_t rows) = 0;
  /// The products of a block, added to the sums `before`, as [row][vector of the chunk]: what a block's sums begin
  /// with; those of some rows of words, the last of which counts `inLast` k; the sums with the block in them.
  virtual SmallVector<Value> beginBlock(const PanelBlock &block, ValueRange before) = 0;
  virtual void emitGroups(Value at, Value k, int64_t many, int64_t inLast, SmallVectorImpl<Value> &sums) = 0;
  virtual SmallVector<Value> endBlock(const PanelBlock &block, ValueRange sums, ValueRange before) = 0;
  /// Whether a single row reads several panels side by side: on processors with AVX2 (Zen stands for them here), which
  /// get more from several streams, unless decoding takes longer than memory.
  virtual bool readsSideBySide() const { return lanes < 16; }
  /// Rows of words of a step, where panels are read side by side.
  virtual int64_t groupsInTurn() const { return 1; }
  /// `many` rows of words of a block, of which `from` come before them; the last one counts `inLast` k.
  struct Step {
    int64_t from, many, inLast;
    bool isLast;
  };
  /// The products of a step, where all steps of a block are written out. `begin` are the sums that the block begins
  /// with; `kept` is what the step before left (nothing at first), and becomes what the next one needs, at most numKept
  /// registers, or, behind the last one, the block's sums.
  virtual void emitStep(Value at, Value k, const Step &step, ValueRange begin, SmallVectorImpl<Value> &kept);
  /// Sums of blocks may be more than there are vectors of columns (a sum of the row's elements).
  virtual int64_t numKept() const { return chunk.size() + 1; }
  /// Rows of words that are written out, of `groups` in a block, and how many may be without a loop around them.
  struct Unrolling {
    int64_t groups, withoutLoop;
  };
  virtual Unrolling getUnrolling(int64_t groups) = 0;

  Value plus(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  Value times(Value x, int64_t y) { return y == 1 ? x : b.createOrFold<arith::MulIOp>(loc, x, index(y)); }
  Value splat(float value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(floats, value)); }
  Value splat(int32_t value) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, value)); }
  Value fma(Value x, Value y, Value z) { return vector::FMAOp::create(b, loc, x, y, z); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
  Value intrinsic(StringRef name, Type type, ValueRange operands);

  QuantDecoder decoder() { return QuantDecoder(b, loc, panels, lanes, stream); }
  /// The words of a group for one vector of columns.
  SmallVector<Value> loadCodes(Value codes, int64_t vector) { return decoder().loadCodes(codes, vector); }
  /// The scales of a block, for the vectors of the chunk, times `factor`; and -zero point times scale if there are zero
  /// points.
  void loadScales(const PanelBlock &block, float factor, SmallVectorImpl<Value> &scales,
                  SmallVectorImpl<Value> &negativeZeros);
  /// The lines some way behind the row of words at `at`, never beyond the banks; once for all chunks of a panel. Where
  /// windows are fetched, this does nothing.
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
  /// How far ahead of its reads a panel's lines are fetched, and how near.
  int64_t ahead = kFarAhead;
  int32_t locality = 2;

private:
  static constexpr int64_t kFarAhead = 4096;

  /// Whether, while some panels are read (a window), the next ones are fetched from several places: what AVX-512's
  /// processors read fastest (Xeon stands for them; KernelSchedule.cpp).
  bool fetchesWindows() const { return lanes >= 16; }
  /// The panels of a window: 36 KB at least, so that each place is a page or more.
  int64_t windowPanels() const { return llvm::divideCeil(kWindowBytes, panels.panelBytes()); }
  static constexpr int64_t kWindowBytes = 36 << 10;
  /// A block of so many bytes is fetched for at its begin, a longer one row by row.
  static constexpr int64_t kShortBlock = 1024;
  bool hasShortBlocks() const { return panels.blockBytes(panels.blockLength()) <= kShortBlock; }
  /// Begins the panel at `base`, which is number `panel` of an expert. Behind the task come the panels at `following`.
  void beginWindow(Value panel, const TaskRange &task, Value following);
  /// The lines of the next window that stand for the `bytes` bytes from `at` on in this one: one of each place.
  void emitWindowFetch(Value at, int64_t bytes);
  Value window, nextWindow;

  void emitTile(Value pair, int64_t rows);
  /// The sums over all k of the panel at `base`.
  SmallVector<Value> emitSums();
  SmallVector<Value> emitBlock(const PanelBlock &block, ValueRange before);
  /// `groups` rows of words from byte `at` on, all of whose k count.
  SmallVector<Value> emitWhole(Value at, Value k, int64_t groups, Unrolling unrolling, ValueRange before);

  // A single row: SideBySide.cpp.
  void emitOneRow(Value pair, Value first, Value last);
  struct Abreast;
  void emitInTurn(const Abreast &abreast, const PanelBlock &first);
  SmallVector<Value> loadSums(Value from, Value panel, TypeRange types);
  void storeSums(ValueRange sums, Value to, Value panel);
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_QUANTISEDKERNEL_H
