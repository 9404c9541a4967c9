//===- KernelFunctions.cpp - the inner kernels, as functions --------------===//
//
//   acc[r][c] = 0
//   for step = 0 to steps, four at a time
//     fetch some lines of the window
//     for each of the four: acc[r][c] += rows[sources[r]][step] * weights[start + step][c]
//   tile[r][c] = acc[r][c]
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

namespace {

class KernelEmitter : KernelTiles {
public:
  KernelEmitter(OpBuilder &b, Location loc, const KernelFunctionForm &form, const KernelVariant &variant, Block &block)
      : KernelTiles(b, loc), form(form), variant(variant), a(block.getArgument(0)), numbers(block.getArgument(1)),
        weights(block.getArgument(2)), start(block.getArgument(3)), window(block.getArgument(4)),
        stream(block.getArgument(5)), steps(block.getArgument(6)), tile(block.getArgument(7)), k(block.getArgument(8)) {
  }

  void run() {
    for (int64_t r = 0; r < variant.rows; ++r)
      sources.push_back(memref::LoadOp::create(b, loc, numbers, index(r)));
    int64_t vectors = form.layout.width() / form.lanes, together = form.schedule.vectorsTogether(variant.rows);
    for (int64_t v = 0; v < vectors; v += together) {
      SmallVector<int64_t> columns;
      for (int64_t i = v; i < std::min(v + together, vectors); ++i)
        columns.push_back(i * form.lanes);
      emitSums(columns, /*fetches=*/v == 0);
    }
  }

private:
  Value mul(Value x, int64_t y) { return b.createOrFold<arith::MulIOp>(loc, x, index(y)); }
  Value sum(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
  VectorType accType() { return VectorType::get({form.lanes}, form.accumulator); }

  /// The weights of a step (`group` consecutive k, at element `at` of the packed banks) for vectors of columns:
  /// [k in group][vector]. Other ways to store an element are decoded here.
  SmallVector<SmallVector<Value>> loadWeights(Value at, ArrayRef<int64_t> columns) {
    int64_t group = form.layout.group, lanes = form.lanes;
    SmallVector<SmallVector<Value>> result(group);
    for (int64_t column : columns) {
      auto type = VectorType::get({lanes * group}, form.stored);
      Value raw = vector::LoadOp::create(b, loc, type, weights, add(at, column * group));
      if (group == 1) {
        result[0].push_back(widen(raw, form.accumulator));
        continue;
      }
      // Pairs of bf16 in 32 bits: the upper one is an f32 but for the lower half, the lower one after a shift.
      auto words = VectorType::get({lanes}, b.getI32Type()), floats = VectorType::get({lanes}, b.getF32Type());
      auto splat = [&](uint32_t value) {
        return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(words, APInt(32, value)));
      };
      Value bits = vector::BitCastOp::create(b, loc, words, raw);
      Value even = arith::ShLIOp::create(b, loc, bits, splat(16));
      Value odd = arith::AndIOp::create(b, loc, bits, splat(0xffff0000u));
      result[0].push_back(vector::BitCastOp::create(b, loc, floats, even));
      result[1].push_back(vector::BitCastOp::create(b, loc, floats, odd));
    }
    return result;
  }

  /// One step for all rows; `many` of the group's k count.
  SmallVector<Value> emitStep(Value step, int64_t many, ArrayRef<int64_t> columns, ValueRange old) {
    SmallVector<Value> next(old);
    SmallVector<SmallVector<Value>> weight = loadWeights(sum(start, mul(step, form.stepElements())), columns);
    for (int64_t g = 0; g < many; ++g) {
      Value column = add(form.layout.group == 1 ? step : mul(step, form.layout.group), g);
      for (auto [r, source] : llvm::enumerate(sources)) {
        Value x = memref::LoadOp::create(b, loc, a, ValueRange{source, column});
        Value broadcast = vector::BroadcastOp::create(b, loc, accType(), widen(x, form.accumulator));
        for (size_t c = 0; c < columns.size(); ++c) {
          Value &acc = next[r * columns.size() + c];
          acc = vector::FMAOp::create(b, loc, broadcast, weight[g][c], acc);
        }
      }
    }
    return next;
  }

  /// Lines of the window, in iteration `step / kUnroll`. A pass of its own stream takes them as they come. Shares come
  /// from places far apart: the processor follows each of them for itself, and so runs further ahead in all.
  void emitFetches(Value step, ArrayRef<Value> streams) {
    int64_t line = 64 * 8 / form.stored.getIntOrFloatBitWidth(), all = form.schedule.linesPerStep(variant.fetch);
    auto fetch = [&](Value at) {
      memref::PrefetchOp::create(b, loc, weights, ValueRange{at}, /*isWrite=*/false, /*localityHint=*/2,
                                 /*isDataCache=*/true);
    };
    if (variant.fetch == Fetch::Own) {
      Value at = sum(window, mul(step, form.stepElements()));
      for (int64_t i = 0; i < all; ++i)
        fetch(add(at, i * line));
      return;
    }
    Value progress = mul(step, line / KernelSchedule::kUnroll);
    for (Value start : streams)
      fetch(sum(start, progress));
  }

  /// Where the streams of a share begin: the window has as many streams as an iteration has lines.
  SmallVector<Value> emitStreams() {
    SmallVector<Value> streams;
    if (variant.fetch == Fetch::Own)
      return streams;
    int64_t line = 64 * 8 / form.stored.getIntOrFloatBitWidth();
    Value most = index(form.schedule.linesPerStep(Fetch::Own) - 1);
    Value length = mul(b.createOrFold<arith::DivUIOp>(loc, steps, index(KernelSchedule::kUnroll)), line);
    for (int64_t i = 0; i < form.schedule.linesPerStep(variant.fetch); ++i) {
      Value which = min(add(stream, i), most);
      streams.push_back(sum(window, arith::MulIOp::create(b, loc, which, length)));
    }
    return streams;
  }

  void emitSums(ArrayRef<int64_t> columns, bool fetches) {
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(accType()));
    SmallVector<Value> acc(sources.size() * columns.size(), zeros);
    SmallVector<Value> streams;
    if (fetches)
      streams = emitStreams();
    // Whole steps, four at a time, then one at a time; then the rest of a group.
    int64_t group = form.layout.group, unroll = KernelSchedule::kUnroll;
    Value whole = group == 1 ? k : b.createOrFold<arith::DivUIOp>(loc, k, index(group));
    Value main = sub(whole, b.createOrFold<arith::RemUIOp>(loc, whole, index(unroll)));
    auto loopOver = [&](Value from, Value to, int64_t by) {
      auto loop = scf::ForOp::create(b, loc, from, to, index(by), acc);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      SmallVector<Value> sums(loop.getRegionIterArgs());
      if (fetches && by > 1)
        emitFetches(loop.getInductionVar(), streams);
      for (int64_t u = 0; u < by; ++u)
        sums = emitStep(add(loop.getInductionVar(), u), group, columns, sums);
      scf::YieldOp::create(b, loc, sums);
      acc.assign(loop.getResults().begin(), loop.getResults().end());
    };
    loopOver(zero, main, unroll);
    if (!form.wholeSteps)
      loopOver(main, whole, 1);
    if (group > 1 && !form.wholeSteps) {
      Value rest = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, mul(whole, group), k);
      auto branch = scf::IfOp::create(b, loc, ValueRange(acc).getTypes(), rest, /*withElse=*/true);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      SmallVector<Value> sums = emitStep(whole, 1, columns, acc);
      scf::YieldOp::create(b, loc, sums);
      b.setInsertionPointToStart(branch.elseBlock());
      scf::YieldOp::create(b, loc, acc);
      acc.assign(branch.getResults().begin(), branch.getResults().end());
    }
    for (size_t r = 0; r < sources.size(); ++r)
      for (auto [c, column] : llvm::enumerate(columns))
        vector::StoreOp::create(b, loc, acc[r * columns.size() + c], tile, ValueRange{index(r), index(column)});
  }

  const KernelFunctionForm &form;
  const KernelVariant &variant;
  Value a, numbers, weights, start, window, stream, steps, tile, k;
  SmallVector<Value> sources;
};

} // namespace

void KernelFunctions::call(OpBuilder &b, Location loc, const KernelFunctionForm &form, const KernelVariant &variant,
                           ValueRange arguments) {
  std::string name;
  llvm::raw_string_ostream os(name);
  os << "moe_kernel_" << form.rows << "_" << form.stored << "_" << form.layout.width() << "_" << variant.rows << "_"
     << int(variant.fetch) << (form.wholeSteps ? "" : "_any");
  auto function = module.lookupSymbol<func::FuncOp>(name);
  if (!function)
    function = create(name, form, variant, arguments.getTypes());
  func::CallOp::create(b, loc, function, arguments);
}

func::FuncOp KernelFunctions::create(StringRef name, const KernelFunctionForm &form, const KernelVariant &variant,
                                     TypeRange types) {
  OpBuilder b = OpBuilder::atBlockEnd(module.getBody());
  Location loc = module.getLoc();
  auto function = func::FuncOp::create(b, loc, name, b.getFunctionType(types, {}));
  function.setPrivate();
  // Inlined, each of them would be compiled once per use. (An attribute of LLVM's: func's own is not passed on.)
  function->setAttr("passthrough", b.getStrArrayAttr({"noinline"}));
  Block *block = function.addEntryBlock();
  b.setInsertionPointToStart(block);
  KernelEmitter(b, loc, form, variant, *block).run();
  func::ReturnOp::create(b, loc);
  return function;
}
