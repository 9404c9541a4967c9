//===- KernelFunctions.cpp - the inner kernels, as functions --------------===//
//
//   acc[r][c] = tile[first + r][c]
//   for step = 0 to steps, a few at a time
//     for each part
//       fetch some lines of the window
//       for each of the few, in this part: acc[r][c] += rows[numbers[first + r]][k + step] * weights[start + step][c]
//   tile[first + r][c] = acc[r][c]
//
// Sums pass from block to block of k through the tile, so that their order is the same for any number of rows.
//
//===----------------------------------------------------------------------===//
#include "KernelFunctions.h"

#include "../Support/KernelTiles.h"

using namespace mlir;
using namespace mlir::moe;

MemRefType KernelFunctionForm::rowsType() const {
  constexpr int64_t any = ShapedType::kDynamic;
  return MemRefType::get({any, any}, rows, StridedLayoutAttr::get(rows.getContext(), any, {any, 1}));
}

Value moe::loadStored(OpBuilder &b, Location loc, const KernelFunctionForm &form, Value weights, Value at, int64_t v) {
  int64_t width = form.lanes * form.layout.group;
  return vector::LoadOp::create(b, loc, VectorType::get({width}, form.stored), weights,
                                ValueRange{KernelTiles(b, loc).add(at, v * width)});
}

Value moe::widenStored(OpBuilder &b, Location loc, const KernelFunctionForm &form, Value raw, int64_t g) {
  if (form.layout.group == 1)
    return KernelTiles(b, loc).widen(raw, form.accumulator);
  // Pairs of bf16 in 32 bits: the upper one is an f32 but for the lower half, the lower one after a shift.
  auto words = VectorType::get({form.lanes}, b.getI32Type()), floats = VectorType::get({form.lanes}, b.getF32Type());
  auto splat = [&](uint32_t value) {
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, APInt(32, value)));
  };
  Value bits = vector::BitCastOp::create(b, loc, words, raw);
  bits = g == 0 ? arith::ShLIOp::create(b, loc, bits, splat(16)).getResult()
                : arith::AndIOp::create(b, loc, bits, splat(0xffff0000u)).getResult();
  return vector::BitCastOp::create(b, loc, floats, bits);
}

namespace {

class KernelEmitter : KernelTiles {
public:
  KernelEmitter(OpBuilder &b, Location loc, const KernelFunctionForm &form, const KernelVariant &variant, Block &block)
      : KernelTiles(b, loc), form(form), variant(variant), a(block.getArgument(0)), numbers(block.getArgument(1)),
        first(block.getArgument(2)), weights(block.getArgument(3)), start(block.getArgument(4)),
        packed(block.getArgument(5)), window(block.getArgument(6)), stream(block.getArgument(7)),
        steps(block.getArgument(8)), tile(block.getArgument(9)), firstK(block.getArgument(10)),
        k(block.getArgument(11)), lines(block.getArgument(12)), parts(block.getArgument(13)),
        distance(block.getArgument(14)), beside(block.getArgument(15)), windowBeside(block.getArgument(16)) {}

  void run() {
    for (int64_t r = 0; r < variant.rows; ++r)
      sources.push_back(memref::LoadOp::create(b, loc, numbers, add(first, r)));
    emitSums();
  }

private:
  VectorType accType() { return VectorType::get({form.lanes}, form.accumulator); }

  /// Vectors of columns in all panels.
  int64_t vectors() { return form.schedule.vectors * form.schedule.panelsTogether; }

  Value broadcast(Value source, Value column) {
    Value x = memref::LoadOp::create(b, loc, a, ValueRange{source, column});
    return vector::BroadcastOp::create(b, loc, accType(), widen(x, form.accumulator));
  }

  /// One step of a panel for all rows; `many` of the group's k count. LLVM keeps the order of this code: with the rows'
  /// elements first, a vector of weights needs one register for as long as it takes to use it.
  void emitStep(Value step, int64_t many, MutableArrayRef<Value> sums) {
    int64_t rows = sources.size();
    Value at = sum(start, mul(step, form.stepElements()));
    SmallVector<Value> raw;
    for (int64_t panel = 0; panel < form.schedule.panelsTogether; ++panel)
      for (int64_t v = 0; v < form.schedule.vectors; ++v)
        raw.push_back(loadStored(b, loc, form, weights, panel == 0 ? at : sum(at, beside), v));
    Value column = sum(firstK, form.layout.group == 1 ? step : mul(step, form.layout.group));
    for (int64_t g = 0; g < many; ++g) {
      auto accumulate = [&](int64_t r, int64_t v, Value x, Value weight) {
        Value &acc = sums[r * vectors() + v];
        acc = vector::FMAOp::create(b, loc, x, weight, acc);
      };
      if (form.schedule.rowsInRegisters) {
        SmallVector<Value> x;
        for (Value source : sources)
          x.push_back(broadcast(source, add(column, g)));
        for (int64_t v = 0; v < vectors(); ++v) {
          Value weight = widenStored(b, loc, form, raw[v], g);
          for (int64_t r = 0; r < rows; ++r)
            accumulate(r, v, x[r], weight);
        }
        continue;
      }
      SmallVector<Value> weight;
      for (int64_t v = 0; v < vectors(); ++v)
        weight.push_back(widenStored(b, loc, form, raw[v], g));
      for (int64_t r = 0; r < rows; ++r) {
        Value x = broadcast(sources[r], add(column, g));
        for (int64_t v = 0; v < vectors(); ++v)
          accumulate(r, v, x, weight[v]);
      }
    }
  }

  static constexpr int64_t kManySums = 14;

  /// Whether a block is made of parts, which this kernel reads in turn.
  bool inParts() { return form.schedule.parts > 1 && variant.reads == Reads::Parts; }

  int64_t lineElements() { return 64 * 8 / form.packed.getIntOrFloatBitWidth(); }

  /// Lines of the window, when `steps` of this block are done. They come from places far apart: the processor follows
  /// each of them for itself, and so runs further ahead in all.
  void emitFetches(Value steps, ArrayRef<Value> streams) {
    auto fetch = [&](Value at) {
      memref::PrefetchOp::create(b, loc, packed, ValueRange{at}, /*isWrite=*/false, form.schedule.fetchLocality,
                                 /*isDataCache=*/true);
    };
    if (streams.empty())
      return;
    Value progress = mul(steps, lineElements() / KernelSchedule::kUnroll);
    for (Value start : streams)
      fetch(sum(start, progress));
  }

  /// Lines of the part that a visit from `step` on reads, for one of the next visits.
  void emitPartFetches(Value step) {
    if (variant.fetch != Fetch::Nothing || !form.schedule.partAheadElements)
      return;
    int64_t lines = form.schedule.visitSteps * form.schedule.lines;
    Value limit = sub(memref::DimOp::create(b, loc, packed, zero), index(lines * lineElements()));
    Value ahead = min(add(sum(start, mul(step, form.stepElements())), form.schedule.partAheadElements), limit);
    for (int64_t i = 0; i < lines; ++i)
      memref::PrefetchOp::create(b, loc, packed, ValueRange{add(ahead, i * lineElements())}, /*isWrite=*/false,
                                 /*localityHint=*/3, /*isDataCache=*/true);
  }

  /// Where the streams of a share begin: the window has as many streams as kUnroll steps have lines, in turn from each
  /// of its parts and panels. Those that are too many are the last one again.
  SmallVector<Value> emitStreams() {
    SmallVector<Value> streams;
    if (variant.fetch == Fetch::Nothing)
      return streams;
    bool isAll = variant.fetch == Fetch::All;
    int64_t parts = inParts() ? form.schedule.parts : 1, panels = form.schedule.panelsTogether;
    Value length =
        mul(b.createOrFold<arith::DivUIOp>(loc, mul(steps, parts), index(KernelSchedule::kUnroll)), lineElements());
    // Lines that come at once shall not be of one set of a first-level cache, as those at powers of two would be.
    if (form.schedule.fetchesAll)
      length = add(length, lineElements());
    Value last = sub(lines, one);
    for (int64_t i = 0; i < (isAll ? form.schedule.allLines() : form.schedule.shareLines()); ++i) {
      Value number = isAll ? index(i) : sum(stream, min(index(i), last)), at = window;
      // In turn from each of so many, which are so many elements apart.
      auto takeTurns = [&](int64_t count, Value apart) {
        Value turn = b.createOrFold<arith::RemUIOp>(loc, number, index(count));
        at = sum(at, b.createOrFold<arith::MulIOp>(loc, turn, apart));
        number = b.createOrFold<arith::DivUIOp>(loc, number, index(count));
      };
      if (panels > 1)
        takeTurns(panels, windowBeside);
      if (parts > 1)
        takeTurns(parts, mul(distance, form.stepElements()));
      streams.push_back(sum(at, b.createOrFold<arith::MulIOp>(loc, number, length)));
    }
    return streams;
  }

  void emitSums() {
    int64_t rows = sources.size();
    SmallVector<Value> acc; // [row][vector]
    auto element = [&](int64_t i) {
      return SmallVector<Value>{add(first, i / vectors()), index(i % vectors() * form.lanes)};
    };
    for (int64_t i = 0; i < rows * vectors(); ++i)
      acc.push_back(vector::LoadOp::create(b, loc, accType(), tile, element(i)));
    SmallVector<Value> streams = emitStreams();
    // Whole steps, a few at a time, then one at a time; then the rest of a group.
    int64_t group = form.layout.group, unroll = KernelSchedule::kUnroll;
    Value whole = group == 1 ? k : b.createOrFold<arith::DivUIOp>(loc, k, index(group));
    Value main = sub(whole, b.createOrFold<arith::RemUIOp>(loc, whole, index(unroll)));
    auto emitSteps = [&](Value step, int64_t count, int64_t many, MutableArrayRef<Value> sums) {
      for (int64_t u = 0; u < count; ++u)
        emitStep(add(step, u), many, sums);
    };
    auto oneStep = [&](Value step, SmallVector<Value> &sums) { emitSteps(step, 1, group, sums); };
    // A step of many rows is long enough to be a loop's body: four copies of it would only take time to compile.
    bool longSteps = rows * vectors() >= kManySums;
    auto iteration = [&](Value step, SmallVector<Value> &sums) {
      if (longSteps)
        sums = loopOver(step, add(step, unroll), 1, sums, oneStep);
      else
        emitSteps(step, unroll, group, sums);
    };
    acc = loopOver(zero, main, unroll, acc, [&](Value step, SmallVector<Value> &sums) {
      if (!inParts()) {
        emitFetches(step, streams);
        return iteration(step, sums);
      }
      Value done = b.createOrFold<arith::MulIOp>(loc, step, parts);
      int64_t visit = form.schedule.visitSteps, visits = unroll / visit, lines = streams.size();
      for (int64_t i = 0; i < visits; ++i)
        sums = loopOver(zero, parts, 1, sums, [&](Value part, SmallVector<Value> &inner) {
          emitFetches(sum(done, mul(part, unroll)),
                      ArrayRef(streams).slice(i * lines / visits, (i + 1) * lines / visits - i * lines / visits));
          Value at = sum(add(step, i * visit), b.createOrFold<arith::MulIOp>(loc, part, distance));
          emitPartFetches(at);
          if (visits == 1)
            iteration(at, inner);
          else
            emitSteps(at, visit, group, inner);
        });
    });
    if (!form.wholeSteps)
      acc = loopOver(main, whole, 1, acc, oneStep);
    if (group > 1 && !form.wholeSteps) {
      Value rest = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, mul(whole, group), k);
      auto branch = scf::IfOp::create(b, loc, ValueRange(acc).getTypes(), rest, /*withElse=*/true);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      SmallVector<Value> sums(acc);
      emitSteps(whole, 1, 1, sums);
      scf::YieldOp::create(b, loc, sums);
      b.setInsertionPointToStart(branch.elseBlock());
      scf::YieldOp::create(b, loc, acc);
      acc.assign(branch.getResults().begin(), branch.getResults().end());
    }
    for (auto [i, value] : llvm::enumerate(acc))
      vector::StoreOp::create(b, loc, value, tile, element(i));
  }

  const KernelFunctionForm &form;
  const KernelVariant &variant;
  Value a, numbers, first, weights, start, packed, window, stream, steps, tile, firstK, k, lines, parts, distance;
  Value beside, windowBeside;
  SmallVector<Value> sources;
};

} // namespace

void KernelFunctions::call(OpBuilder &b, Location loc, const KernelFunctionForm &form, const KernelVariant &variant,
                           ValueRange arguments) {
  std::string name;
  llvm::raw_string_ostream os(name);
  os << "moe_kernel_" << form.rows << "_" << form.stored << "_" << form.layout.width()
     << (form.schedule.panelsTogether > 1 ? "x" + std::to_string(form.schedule.panelsTogether) : "") << "_"
     << variant.rows << "_";
  if (form.packed != form.stored)
    os << form.packed << "_";
  os << (variant.fetch == Fetch::All       ? "all"
         : variant.fetch == Fetch::Nothing ? "near"
                                           : "share")
     << (form.schedule.parts > 1 && variant.reads == Reads::Parts ? "_parts" : "") << (form.wholeSteps ? "" : "_any");
  func::FuncOp function = get(name, arguments.getTypes(), [&](OpBuilder &inner, Block &block) {
    KernelEmitter(inner, module.getLoc(), form, variant, block).run();
  });
  func::CallOp::create(b, loc, function, arguments);
}

func::FuncOp KernelFunctions::get(StringRef name, TypeRange types, function_ref<void(OpBuilder &, Block &)> body) {
  if (auto known = module.lookupSymbol<func::FuncOp>(name))
    return known;
  OpBuilder b = OpBuilder::atBlockEnd(module.getBody());
  Location loc = module.getLoc();
  auto function = func::FuncOp::create(b, loc, name, b.getFunctionType(types, {}));
  function.setPrivate();
  // Inlined, each of them would be compiled once per use. (An attribute of LLVM's: func's own is not passed on.)
  function->setAttr("passthrough", b.getStrArrayAttr({"noinline"}));
  Block *block = function.addEntryBlock();
  b.setInsertionPointToStart(block);
  body(b, *block);
  func::ReturnOp::create(b, loc);
  return function;
}
