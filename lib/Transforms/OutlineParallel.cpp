//===- OutlineParallel.cpp - large parallel loops for the host's threads --===//
//
//   scf.parallel (%i, %j) = ... { body }
//
// becomes
//
//   store what the body uses from outside into a struct on the stack
//   tasks = work < min-work ? 1 : min(iterations, work / task-work)
//   if tasks == 1: task(struct, 0)   else: host's parallel_for(task, struct, tasks)
//
//   task(struct, t): for iteration = t * chunk to min((t + 1) * chunk, iterations): body
//
// Of a buffer, the struct holds what its type does not say: the pointer, and sizes that are not static.
//
//===----------------------------------------------------------------------===//
#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Transforms/Host.h"
#include "moe/Transforms/Passes.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-outline-parallel"
static llvm::TrackingStatistic numOutlined(DEBUG_TYPE, "num-outlined", "Parallel loops handed to the host's threads");
static llvm::TrackingStatistic numShared(DEBUG_TYPE, "num-shared", "Loops whose task is that of an equal loop");

namespace mlir::moe {
#define GEN_PASS_DEF_MOEOUTLINEPARALLELPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// What an unknown trip count inside a body is taken for.
constexpr int64_t kUnknownTrips = 16;

int64_t estimateWork(Region &region);

int64_t getTrips(OpFoldResult lower, OpFoldResult upper, OpFoldResult step) {
  auto l = getConstantIntValue(lower), u = getConstantIntValue(upper), s = getConstantIntValue(step);
  if (!l || !u || !s || *s <= 0)
    return kUnknownTrips;
  return std::max<int64_t>(0, llvm::divideCeil(*u - *l, *s));
}

/// Scalar operations that `op` stands for, roughly.
int64_t estimateWork(Operation *op) {
  if (auto loop = dyn_cast<scf::ForOp>(op))
    return getTrips(loop.getLowerBound(), loop.getUpperBound(), loop.getStep()) * estimateWork(loop.getRegion());
  if (auto loop = dyn_cast<scf::ParallelOp>(op)) {
    int64_t work = estimateWork(loop.getRegion());
    for (auto [lower, upper, step] : llvm::zip(loop.getLowerBound(), loop.getUpperBound(), loop.getStep()))
      work *= getTrips(lower, upper, step);
    return work;
  }
  int64_t work = 1;
  for (Type type : op->getResultTypes())
    if (auto vector = dyn_cast<VectorType>(type))
      work = std::max(work, vector.getNumElements() / 2);
  // Elementary functions are a polynomial each.
  if (op->getName().getDialectNamespace() == "math" && op->getName().getStringRef() != "math.fma")
    work *= 16;
  for (Region &inner : op->getRegions())
    work += estimateWork(inner) * (isa<scf::WhileOp>(op) ? kUnknownTrips : 1);
  return work;
}

int64_t estimateWork(Region &region) {
  int64_t work = 0;
  for (Operation &op : region.getOps())
    work += estimateWork(&op);
  return work;
}

/// A body with loops or vectors of its own gains nothing from a serial loop around it.
bool isHeavy(scf::ParallelOp loop) {
  return loop.getBody()
      ->walk([&](Operation *op) {
        bool vector = llvm::any_of(op->getResultTypes(), [](Type type) { return isa<VectorType>(type); });
        return isa<LoopLikeOpInterface>(op) || vector ? WalkResult::interrupt() : WalkResult::advance();
      })
      .wasInterrupted();
}

/// Cheaper to compute again than to pass on.
bool isRecomputed(Operation *op) {
  return op && (op->hasTrait<OpTrait::ConstantLike>() || isa<memref::GetGlobalOp>(op));
}

class Outliner {
public:
  Outliner(ModuleOp module, int64_t minWork, int64_t taskWork)
      : module(module), converter(module.getContext()), b(module.getContext()), minWork(minWork), taskWork(taskWork),
        pointer(LLVM::LLVMPointerType::get(module.getContext())) {}

  void outline(scf::ParallelOp loop) {
    func::FuncOp parent = loop->getParentOfType<func::FuncOp>();
    Location loc = loop.getLoc();
    unsigned split = loop.getNumLoops();
    if (split > 1 && !isHeavy(loop))
      --split; // the last dimension stays a serial loop in the body
    int64_t bodyWork = estimateWork(loop.getRegion());
    for (unsigned i = split; i < loop.getNumLoops(); ++i)
      bodyWork *= getTrips(loop.getLowerBound()[i], loop.getUpperBound()[i], loop.getStep()[i]);
    bodyWork = std::max<int64_t>(bodyWork, 1);
    // A step that is computed or large is a grain that somebody chose: one iteration is as much as a task should do.
    if (llvm::any_of(loop.getStep(), [](Value step) {
          std::optional<int64_t> size = getConstantIntValue(step);
          return !size || *size >= 1024;
        }))
      bodyWork = std::max(bodyWork, taskWork);
    int64_t knownTrips = 1;
    bool known = true;
    for (unsigned i = 0; i < split; ++i) {
      known &= getConstantIntValue(loop.getUpperBound()[i]).has_value();
      knownTrips *= getTrips(loop.getLowerBound()[i], loop.getUpperBound()[i], loop.getStep()[i]);
    }
    if (known && (knownTrips < 2 || knownTrips * bodyWork < minWork))
      return;
    Captures captures = findCaptures(loop);
    if (!captures.valid)
      return;

    // How much there is to do, and in how many tasks.
    b.setInsertionPoint(loop);
    Value iterations = constant(loc, 1);
    SmallVector<Value> trips;
    for (unsigned i = 0; i < split; ++i) {
      Value distance = arith::SubIOp::create(b, loc, loop.getUpperBound()[i], loop.getLowerBound()[i]);
      Value trip = arith::CeilDivSIOp::create(b, loc, distance, loop.getStep()[i]);
      trips.push_back(arith::MaxSIOp::create(b, loc, trip, constant(loc, 0)));
      iterations = arith::MulIOp::create(b, loc, iterations, trips.back());
    }
    Value perTask = constant(loc, std::max<int64_t>(1, taskWork / bodyWork));
    Value tasks = arith::CeilDivSIOp::create(b, loc, iterations, perTask);
    Value enough = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, iterations,
                                         constant(loc, llvm::divideCeil(minWork, bodyWork)));
    Value one = constant(loc, 1);
    // More tasks would only cost: threads take them one by one.
    tasks = arith::MinSIOp::create(b, loc, tasks, constant(loc, 256));
    tasks = arith::SelectOp::create(b, loc, enough, tasks, one);
    tasks = arith::MaxSIOp::create(b, loc, tasks, one);
    Value chunk = arith::CeilDivSIOp::create(b, loc, iterations, tasks);
    SmallVector<Value> stored;
    for (Value value : captures.values)
      decompose(loc, value, stored);
    for (Value value : {iterations, chunk})
      decompose(loc, value, stored);
    for (Value value : trips)
      decompose(loc, value, stored);

    Type contextType = LLVM::LLVMStructType::getLiteral(module.getContext(), to_vector(ValueRange(stored).getTypes()));
    Value context = storeContext(loc, parent, contextType, stored);
    func::FuncOp task = findEqual(createTask(loop, parent, contextType, captures, split));
    b.setInsertionPoint(loop);
    Value several = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt, tasks, one);
    auto branch = scf::IfOp::create(b, loc, several, /*withElseRegion=*/true);
    b.setInsertionPointToStart(branch.thenBlock());
    Value address = func::ConstantOp::create(b, loc, task.getFunctionType(), task.getName());
    address = UnrealizedConversionCastOp::create(b, loc, pointer, address).getResult(0);
    Value count = arith::IndexCastOp::create(b, loc, b.getI64Type(), tasks);
    LLVM::CallOp::create(b, loc, getParallelFor(), ValueRange{address, context, count});
    b.setInsertionPointToStart(branch.elseBlock());
    Value zero = arith::ConstantIntOp::create(b, loc, 0, 64);
    func::CallOp::create(b, loc, task, ValueRange{context, zero});
    loop.erase();
    ++numOutlined;
  }

private:
  struct Captures {
    SmallVector<Value> values;
    SmallVector<Operation *> recomputed;
    bool valid = true;
  };

  Value constant(Location loc, int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }

  Captures findCaptures(scf::ParallelOp loop) {
    Captures captures;
    llvm::SetVector<Value> used;
    getUsedValuesDefinedAbove(loop.getRegion(), used);
    used.insert(loop.getLowerBound().begin(), loop.getLowerBound().end());
    used.insert(loop.getUpperBound().begin(), loop.getUpperBound().end());
    used.insert(loop.getStep().begin(), loop.getStep().end());
    for (Value value : used) {
      if (isRecomputed(value.getDefiningOp())) {
        captures.recomputed.push_back(value.getDefiningOp());
        continue;
      }
      Type type = converter.convertType(value.getType());
      if (!type || !LLVM::isCompatibleType(type))
        captures.valid = false;
      captures.values.push_back(value);
    }
    return captures;
  }

  /// A buffer of which pointer, sizes and strides are enough to have it again.
  static MemRefType getStrided(Value value) {
    auto type = dyn_cast<MemRefType>(value.getType());
    return type && type.isStrided() ? type : MemRefType();
  }

  /// `value` in the types of the LLVM dialect; a buffer as its pointer and what its type leaves open.
  void decompose(Location loc, Value value, SmallVectorImpl<Value> &parts) {
    Type type = converter.convertType(value.getType());
    Value converted = value;
    if (type != value.getType())
      converted = UnrealizedConversionCastOp::create(b, loc, type, value).getResult(0);
    MemRefType buffer = getStrided(value);
    if (!buffer) {
      parts.push_back(converted);
      return;
    }
    MemRefDescriptor descriptor(converted);
    parts.push_back(descriptor.alignedPtr(b, loc));
    auto [strides, offset] = buffer.getStridesAndOffset();
    if (ShapedType::isDynamic(offset))
      parts.push_back(descriptor.offset(b, loc));
    for (int64_t d = 0; d < buffer.getRank(); ++d)
      if (buffer.isDynamicDim(d))
        parts.push_back(descriptor.size(b, loc, d));
    for (int64_t d = 0; d < buffer.getRank(); ++d)
      if (!buffer.getLayout().isIdentity() && ShapedType::isDynamic(strides[d]))
        parts.push_back(descriptor.stride(b, loc, d));
  }

  /// A value of type `original` from its parts, which are taken off the front of `parts`.
  Value compose(Location loc, Value original, ArrayRef<Value> &parts) {
    auto take = [&] {
      Value part = parts.front();
      parts = parts.drop_front();
      return part;
    };
    Type type = converter.convertType(original.getType());
    Value converted;
    if (MemRefType buffer = getStrided(original)) {
      auto descriptor = MemRefDescriptor::poison(b, loc, type);
      Value pointer = take();
      descriptor.setAllocatedPtr(b, loc, pointer);
      descriptor.setAlignedPtr(b, loc, pointer);
      auto [strides, offset] = buffer.getStridesAndOffset();
      if (ShapedType::isDynamic(offset))
        descriptor.setOffset(b, loc, take());
      else
        descriptor.setConstantOffset(b, loc, offset);
      int64_t rank = buffer.getRank();
      for (int64_t d = 0; d < rank; ++d)
        if (buffer.isDynamicDim(d))
          descriptor.setSize(b, loc, d, take());
        else
          descriptor.setConstantSize(b, loc, d, buffer.getDimSize(d));
      for (int64_t d = 0; d < rank; ++d)
        if (!buffer.getLayout().isIdentity() && ShapedType::isDynamic(strides[d]))
          descriptor.setStride(b, loc, d, take());
      // Row-major buffers: a stride is the product of the sizes behind it.
      for (int64_t d = rank - 1; d >= 0; --d)
        if (!ShapedType::isDynamic(strides[d]))
          descriptor.setConstantStride(b, loc, d, strides[d]);
        else if (buffer.getLayout().isIdentity())
          descriptor.setStride(
              b, loc, d, LLVM::MulOp::create(b, loc, descriptor.stride(b, loc, d + 1), descriptor.size(b, loc, d + 1)));
      converted = descriptor;
    } else {
      converted = take();
    }
    if (converted.getType() == original.getType())
      return converted;
    return UnrealizedConversionCastOp::create(b, loc, original.getType(), converted).getResult(0);
  }

  Value getField(Location loc, Type contextType, Value context, unsigned index) {
    return LLVM::GEPOp::create(b, loc, pointer, contextType, context, ArrayRef<LLVM::GEPArg>{0, int32_t(index)});
  }

  Value storeContext(Location loc, func::FuncOp parent, Type contextType, ArrayRef<Value> values) {
    Value context;
    {
      // In the entry block: an allocation inside a loop would grow the stack with every iteration.
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(&parent.front());
      Value one = LLVM::ConstantOp::create(b, loc, b.getI64Type(), b.getI64IntegerAttr(1));
      context = LLVM::AllocaOp::create(b, loc, pointer, contextType, one);
    }
    for (auto [i, value] : llvm::enumerate(values))
      LLVM::StoreOp::create(b, loc, value, getField(loc, contextType, context, i));
    return context;
  }

  func::FuncOp createTask(scf::ParallelOp loop, func::FuncOp parent, Type contextType, const Captures &captures,
                          unsigned split) {
    Location loc = loop.getLoc();
    b.setInsertionPoint(parent);
    std::string name = (parent.getName() + "_task_" + Twine(count++)).str();
    auto task = func::FuncOp::create(b, loc, name, b.getFunctionType({pointer, b.getI64Type()}, {}));
    task.setPrivate();
    // Inlined at its direct call, it would be compiled twice: its address is taken as well.
    task->setAttr("passthrough", b.getStrArrayAttr({"noinline"}));
    Block *entry = task.addEntryBlock();
    b.setInsertionPointToStart(entry);

    IRMapping mapping;
    for (Operation *op : captures.recomputed)
      b.clone(*op, mapping);
    SmallVector<Value> loaded;
    for (auto [i, type] : llvm::enumerate(cast<LLVM::LLVMStructType>(contextType).getBody()))
      loaded.push_back(LLVM::LoadOp::create(b, loc, type, getField(loc, contextType, entry->getArgument(0), i)));
    ArrayRef<Value> parts = loaded;
    for (Value value : captures.values)
      mapping.map(value, compose(loc, value, parts));
    SmallVector<Value> added;
    while (!parts.empty())
      added.push_back(compose(loc, loop.getStep()[0], parts)); // an index
    Value iterations = added[0], chunk = added[1];
    ArrayRef<Value> trips = ArrayRef(added).drop_front(2);

    Value number = arith::IndexCastOp::create(b, loc, b.getIndexType(), entry->getArgument(1));
    Value begin = arith::MulIOp::create(b, loc, number, chunk);
    Value end = arith::MinSIOp::create(b, loc, arith::AddIOp::create(b, loc, begin, chunk), iterations);
    auto outer = scf::ForOp::create(b, loc, begin, end, constant(loc, 1));
    func::ReturnOp::create(b, loc);

    // From the number of the iteration back to the loops' variables.
    b.setInsertionPointToStart(outer.getBody());
    Value rest = outer.getInductionVar();
    SmallVector<Value> ivs(loop.getNumLoops());
    for (int i = split - 1; i >= 0; --i) {
      Value digit = rest;
      if (i > 0) {
        digit = arith::RemUIOp::create(b, loc, rest, trips[i]);
        rest = arith::DivUIOp::create(b, loc, rest, trips[i]);
      }
      Value scaled = arith::MulIOp::create(b, loc, digit, mapping.lookup(loop.getStep()[i]));
      ivs[i] = arith::AddIOp::create(b, loc, scaled, mapping.lookup(loop.getLowerBound()[i]));
    }
    for (unsigned i = split; i < loop.getNumLoops(); ++i) {
      auto inner = scf::ForOp::create(b, loc, mapping.lookup(loop.getLowerBound()[i]),
                                      mapping.lookup(loop.getUpperBound()[i]), mapping.lookup(loop.getStep()[i]));
      ivs[i] = inner.getInductionVar();
      b.setInsertionPointToStart(inner.getBody());
    }
    for (auto [iv, value] : llvm::zip(loop.getInductionVars(), ivs))
      mapping.map(iv, value);
    for (Operation &op : loop.getBody()->without_terminator())
      b.clone(op, mapping);
    return task;
  }

  /// The task itself, or the equal one that there is already: layers of one shape share their code.
  func::FuncOp findEqual(func::FuncOp task) {
    for (func::FuncOp other : tasks)
      if (other.getFunctionType() == task.getFunctionType() &&
          OperationEquivalence::isRegionEquivalentTo(&other.getBody(), &task.getBody(),
                                                     OperationEquivalence::IgnoreLocations)) {
        task.erase();
        ++numShared;
        return other;
      }
    tasks.push_back(task);
    return task;
  }

  LLVM::LLVMFuncOp getParallelFor() {
    if (auto func = module.lookupSymbol<LLVM::LLVMFuncOp>(kHostParallelForFunction))
      return func;
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(module.getBody());
    return LLVM::LLVMFuncOp::create(
        b, module.getLoc(), kHostParallelForFunction,
        LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(module.getContext()), {pointer, pointer, b.getI64Type()}));
  }

  ModuleOp module;
  LLVMTypeConverter converter;
  OpBuilder b;
  int64_t minWork, taskWork;
  Type pointer;
  unsigned count = 0;
  SmallVector<func::FuncOp> tasks;
};

struct OutlineParallel : impl::MoeOutlineParallelPassBase<OutlineParallel> {
  using MoeOutlineParallelPassBase::MoeOutlineParallelPassBase;
  void runOnOperation() override {
    SmallVector<scf::ParallelOp> loops;
    getOperation().walk<WalkOrder::PreOrder>([&](scf::ParallelOp loop) {
      if (loop.getNumReductions() == 0)
        loops.push_back(loop);
      return WalkResult::skip();
    });
    Outliner outliner(getOperation(), minWork, taskWork);
    for (scf::ParallelOp loop : loops)
      outliner.outline(loop);
  }
};
} // namespace
} // namespace mlir::moe
