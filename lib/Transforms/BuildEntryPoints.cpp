//===- BuildEntryPoints.cpp - what the host calls, and calls to the host --===//
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/SymbolTable.h"
#include "moe/Transforms/Host.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEBUILDENTRYPOINTSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// Writes the functions of one module.
struct Writer {
  explicit Writer(ModuleOp module, StringRef suffix)
      : module(module), suffix(suffix), builder(module.getBodyRegion()), b(&builder), loc(module.getLoc()),
        pointer(LLVM::LLVMPointerType::get(module.getContext())), i64(builder.getI64Type()),
        voidType(LLVM::LLVMVoidType::get(module.getContext())) {}

  LogicalResult run() {
    SmallVector<LLVM::LLVMFuncOp> entries;
    for (auto func : module.getOps<LLVM::LLVMFuncOp>()) {
      if (!func.isExternal())
        func.setLinkage(LLVM::Linkage::Internal);
      if (func->hasAttr("moe.entry"))
        entries.push_back(func);
    }
    createHostVariable();
    defineHostFunctions();
    for (LLVM::LLVMFuncOp entry : entries)
      if (failed(createWrapper(entry)))
        return failure();
    return success();
  }

  Value constant(int64_t value) { return LLVM::ConstantOp::create(*b, loc, i64, b->getI64IntegerAttr(value)); }

  Value offsetPointer(Value base, int64_t bytes) {
    return LLVM::GEPOp::create(*b, loc, pointer, b->getI8Type(), base, ArrayRef<LLVM::GEPArg>{int32_t(bytes)});
  }

  Value loadAt(Type type, Value base, int64_t bytes) {
    return LLVM::LoadOp::create(*b, loc, type, bytes ? offsetPointer(base, bytes) : base);
  }

  void createHostVariable() {
    b->setInsertionPointToStart(module.getBody());
    auto global = LLVM::GlobalOp::create(*b, loc, pointer, /*isConstant=*/false, LLVM::Linkage::External, kHostVariable,
                                         Attribute());
    // The loader stores to this module's own variable; nobody else's symbol may take its place.
    global.setDsoLocal(true);
    if (!suffix.empty())
      return;
    Block *body = b->createBlock(&global.getInitializerRegion());
    b->setInsertionPointToStart(body);
    LLVM::ReturnOp::create(*b, loc, LLVM::ZeroOp::create(*b, loc, pointer));
  }

  /// Finds or declares `name`, and opens its body if the module uses it.
  LLVM::LLVMFuncOp define(StringRef name, Type result, ArrayRef<Type> arguments) {
    auto func = module.lookupSymbol<LLVM::LLVMFuncOp>(name);
    if (!func || !func.isExternal())
      return {};
    func.setLinkage(LLVM::Linkage::Internal);
    b->setInsertionPointToStart(func.addEntryBlock(*b));
    return func;
  }

  /// Calls the function at `offset` of the host table; its first argument is the table's context.
  Value callHost(int64_t offset, Type result, ArrayRef<Value> arguments) {
    Value table = LLVM::LoadOp::create(*b, loc, pointer, LLVM::AddressOfOp::create(*b, loc, pointer, kHostVariable));
    SmallVector<Type> types{pointer};
    SmallVector<Value> operands{loadAt(pointer, table, offset), loadAt(pointer, table, kHostContext)};
    for (Value v : arguments) {
      types.push_back(v.getType());
      operands.push_back(v);
    }
    auto call = LLVM::CallOp::create(*b, loc, LLVM::LLVMFunctionType::get(result, types), operands);
    return call.getNumResults() ? call.getResult() : Value();
  }

  void defineHostFunctions() {
    if (auto func = define(kAllocFunction, pointer, {i64})) {
      Value buffer = callHost(kHostAlloc, pointer, {func.getArgument(0), constant(kBufferAlignment)});
      LLVM::ReturnOp::create(*b, loc, buffer);
      // Nothing else points into a new buffer: this is what lets LLVM vectorise loops over it without checks.
      func.setResultAttr(0, LLVM::LLVMDialect::getNoAliasAttrName(), b->getUnitAttr());
      func.setNoInline(true);
    }
    if (auto func = define(kFreeFunction, voidType, {pointer})) {
      callHost(kHostFree, voidType, {func.getArgument(0)});
      LLVM::ReturnOp::create(*b, loc, ValueRange());
      func.setNoInline(true);
    }
    if (auto func = define(kHostFailFunction, voidType, {pointer, i64})) {
      callHost(kHostFail, voidType, {func.getArgument(0), func.getArgument(1)});
      LLVM::ReturnOp::create(*b, loc, ValueRange());
      func.setNoInline(true);
    }
    if (auto func = define(kHostThreadsFunction, i64, {})) {
      LLVM::ReturnOp::create(*b, loc, callHost(kHostThreads, i64, {}));
      func.setNoInline(true);
    }
    if (auto func = define(kHostParallelForFunction, voidType, {pointer, pointer, i64})) {
      callHost(kHostParallelFor, voidType, {func.getArgument(0), func.getArgument(1), func.getArgument(2)});
      LLVM::ReturnOp::create(*b, loc, ValueRange());
      func.setNoInline(true);
    }
  }

  /// void moe_call_F(void *const *arguments, void *results)
  LogicalResult createWrapper(LLVM::LLVMFuncOp entry) {
    auto ranks = entry->getAttrOfType<ArrayAttr>("moe.entry");
    ArrayRef<int64_t> arguments = cast<DenseI64ArrayAttr>(ranks[0]);
    ArrayRef<int64_t> results = cast<DenseI64ArrayAttr>(ranks[1]);
    std::string name = entry.getName().str();
    // The plain name belongs to the user's program; LLVM also treats some names ("main") as special.
    std::string inner = "moe_function_" + name;
    if (failed(SymbolTable::replaceAllSymbolUses(entry, b->getStringAttr(inner), module)))
      return failure();
    entry.setName(inner);
    entry->removeAttr("moe.entry");
    // Names of arguments stand in the signature; LLVM IR has no place for them.
    entry.removeArgAttrsAttr();
    entry.removeResAttrsAttr();

    b->setInsertionPointToEnd(module.getBody());
    auto wrapper = LLVM::LLVMFuncOp::create(*b, loc, (kEntryPrefix + name + suffix).str(),
                                            LLVM::LLVMFunctionType::get(voidType, {pointer, pointer}));
    b->setInsertionPointToStart(wrapper.addEntryBlock(*b));
    SmallVector<Value> operands;
    for (auto [i, rank] : llvm::enumerate(arguments)) {
      Value descriptor = loadAt(pointer, wrapper.getArgument(0), 8 * i);
      operands.push_back(loadAt(pointer, descriptor, 0));
      operands.push_back(loadAt(pointer, descriptor, 8));
      for (int64_t field = 2; field < 3 + 2 * rank; ++field)
        operands.push_back(loadAt(i64, descriptor, 8 * field));
    }
    auto call = LLVM::CallOp::create(*b, loc, entry, operands);
    int64_t offset = 0;
    for (auto [i, rank] : llvm::enumerate(results)) {
      Value descriptor = call.getResult();
      if (results.size() > 1)
        descriptor = LLVM::ExtractValueOp::create(*b, loc, descriptor, ArrayRef<int64_t>{int64_t(i)});
      LLVM::StoreOp::create(*b, loc, descriptor, offsetPointer(wrapper.getArgument(1), offset));
      offset += 8 * (3 + 2 * rank);
    }
    LLVM::ReturnOp::create(*b, loc, ValueRange());
    return success();
  }

  ModuleOp module;
  StringRef suffix;
  OpBuilder builder;
  OpBuilder *b;
  Location loc;
  Type pointer, i64, voidType;
};

struct BuildEntryPoints : impl::MoeBuildEntryPointsPassBase<BuildEntryPoints> {
  using MoeBuildEntryPointsPassBase::MoeBuildEntryPointsPassBase;
  void runOnOperation() override {
    if (failed(Writer(getOperation(), suffix).run()))
      signalPassFailure();
  }
};
} // namespace
} // namespace mlir::moe
