//===- EmulateGpu.cpp - kernels as functions of the processor -------------===//
#include "GpuBuilder.h"
#include "moe/Gpu/DeviceTable.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Pass/Pass.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEEMULATEGPUPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Numbers of the special registers: 4 * (thread 0, block 1, threads of a block 2, blocks 3) + dimension.
constexpr std::pair<StringLiteral, int64_t> kRegisters[] = {
    {"nvvm.read.ptx.sreg.tid.x", 0},     {"nvvm.read.ptx.sreg.tid.y", 1},     {"nvvm.read.ptx.sreg.tid.z", 2},
    {"nvvm.read.ptx.sreg.ctaid.x", 4},   {"nvvm.read.ptx.sreg.ctaid.y", 5},   {"nvvm.read.ptx.sreg.ctaid.z", 6},
    {"nvvm.read.ptx.sreg.ntid.x", 8},    {"nvvm.read.ptx.sreg.ntid.y", 9},    {"nvvm.read.ptx.sreg.ntid.z", 10},
    {"nvvm.read.ptx.sreg.nctaid.x", 12}, {"nvvm.read.ptx.sreg.nctaid.y", 13}, {"nvvm.read.ptx.sreg.nctaid.z", 14},
};

struct MoeEmulateGpuPass : moe::impl::MoeEmulateGpuPassBase<MoeEmulateGpuPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    pointer = LLVM::LLVMPointerType::get(&getContext());
    Builder b(&getContext());
    i32 = b.getI32Type();
    i64 = b.getI64Type();
    none = LLVM::LLVMVoidType::get(&getContext());
    sites = accesses = 0;
    for (auto kernels : llvm::make_early_inc_range(module.getOps<gpu::GPUModuleOp>())) {
      for (auto kernel : llvm::make_early_inc_range(kernels.getOps<LLVM::LLVMFuncOp>()))
        if (failed(emulate(kernel)))
          return signalPassFailure();
      kernels.erase();
    }
  }

  LogicalResult emulate(LLVM::LLVMFuncOp kernel) {
    ModuleOp module = getOperation();
    std::string name = kernel.getName().str();
    kernel->moveBefore(module.getBody(), module.getBody()->end());
    kernel.setName("moe_thread." + name);
    kernel->setDiscardableAttrs(DictionaryAttr::get(&getContext()));
    kernel.setLinkage(LLVM::Linkage::Internal);
    kernel.setCConv(LLVM::CConv::C);
    SmallVector<Operation *> ops;
    kernel.walk([&](Operation *op) { ops.push_back(op); });
    bool meets = false;
    for (Operation *op : ops)
      if (failed(replace(op, meets)))
        return failure();
    buildEntry(kernel, name, meets);
    return success();
  }

  Value call(GpuBuilder &b, StringRef name, int32_t offset, Type result, ValueRange arguments) {
    auto function = getTableFunction(getOperation(), ("moe_emulate." + name).str(), offset, result,
                                     llvm::to_vector(arguments.getTypes()));
    auto op = LLVM::CallOp::create(b, function, arguments);
    return op.getNumResults() ? op.getResult() : Value();
  }

  Value number(GpuBuilder &b, int64_t v) { return LLVM::ConstantOp::create(b, i32, b.getI32IntegerAttr(v)); }
  Value wide(GpuBuilder &b, int64_t v) { return LLVM::ConstantOp::create(b, i64, b.getI64IntegerAttr(v)); }
  Value generic(GpuBuilder &b, Value address) {
    return address.getType() == pointer ? address : LLVM::AddrSpaceCastOp::create(b, pointer, address).getResult();
  }
  /// Room for `words` words on the thread's stack, made once per function.
  Value room(GpuBuilder &b, Operation *op, int64_t words) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&op->getParentOfType<LLVM::LLVMFuncOp>().getBody().front());
    return LLVM::AllocaOp::create(b, pointer, i32, number(b, words), /*alignment=*/16);
  }
  Value wordAt(GpuBuilder &b, Value base, int64_t i) {
    return LLVM::GEPOp::create(b, pointer, i32, base, ArrayRef<LLVM::GEPArg>{int32_t(i)});
  }

  bool isShared(Value address) {
    return cast<LLVM::LLVMPointerType>(address.getType()).getAddressSpace() == kSharedSpace;
  }

  int64_t sizeOf(Type type) {
    if (auto vector = dyn_cast<VectorType>(type))
      return vector.getNumElements() * sizeOf(vector.getElementType());
    if (isa<LLVM::LLVMPointerType>(type))
      return 8;
    return (type.getIntOrFloatBitWidth() + 7) / 8;
  }

  LogicalResult replace(Operation *op, bool &meets) {
    OpBuilder builder(op);
    GpuBuilder b(op->getLoc(), builder);
    b.setInsertionPoint(op);
    auto with = [&](Value v) {
      op->getResult(0).replaceAllUsesWith(v);
      op->erase();
      return success();
    };
    auto gone = [&] {
      op->erase();
      return success();
    };
    for (auto [name, number_] : kRegisters)
      if (op->getName().getStringRef() == name)
        return with(call(b, "register", kEmulatorRegister, i32, {number(b, number_)}));
    if (isa<NVVM::Barrier0Op, NVVM::BarrierOp>(op)) {
      meets = true;
      if (auto barrier = dyn_cast<NVVM::BarrierOp>(op); barrier && op->getNumOperands())
        return op->emitError() << "the emulator has no barriers with operands";
      call(b, "barrier", kEmulatorBarrier, none, {number(b, sites++)});
      return gone();
    }
    if (auto address = dyn_cast<LLVM::AddressOfOp>(op); address && isShared(address)) {
      meets = true; // threads that share memory are a block, even if none waits for another one
      Value base = call(b, "shared_memory", kEmulatorSharedMemory, pointer, {});
      return with(LLVM::AddrSpaceCastOp::create(b, address.getType(), base));
    }
    if (auto copy = dyn_cast<NVVM::CpAsyncOp>(op)) {
      Value size = number(b, copy.getSize());
      call(b, "copy", kEmulatorCopy, none,
           {generic(b, copy.getDst()), generic(b, copy.getSrc()), size, copy.getCpSize() ? copy.getCpSize() : size});
      return gone();
    }
    if (isa<NVVM::CpAsyncCommitGroupOp>(op)) {
      call(b, "commit", kEmulatorCommit, none, {});
      return gone();
    }
    if (auto wait = dyn_cast<NVVM::CpAsyncWaitGroupOp>(op)) {
      call(b, "wait", kEmulatorWait, none, {number(b, wait.getN()), number(b, sites++)});
      return gone();
    }
    if (auto load = dyn_cast<NVVM::LdMatrixOp>(op)) {
      meets = true;
      int64_t count = load.getNum();
      Value out = room(b, op, count);
      call(b, "load_matrix", kEmulatorLoadMatrix, none,
           {generic(b, load.getPtr()), number(b, count), number(b, load.getLayout() == NVVM::MMALayout::col), out});
      return with(LLVM::LoadOp::create(b, load.getType(), out));
    }
    if (auto convert = dyn_cast<NVVM::ConvertFloatToTF32Op>(op)) {
      if (convert.getRnd() != NVVM::FPRoundingMode::RNA)
        return op->emitError() << "the emulator rounds to tf32 to nearest, ties away, only";
      // Ten bits of fraction stay. Half of the last one is added to the magnitude; NaN is left alone.
      Value bits = LLVM::BitcastOp::create(b, i32, convert.getSrc());
      Value rounded = LLVM::AndOp::create(b, LLVM::AddOp::create(b, bits, number(b, 0x1000)), number(b, ~0x1fff));
      Value isNan = LLVM::FCmpOp::create(b, LLVM::FCmpPredicate::uno, convert.getSrc(), convert.getSrc());
      return with(LLVM::SelectOp::create(b, isNan, bits, rounded));
    }
    if (auto mma = dyn_cast<NVVM::MmaOp>(op)) {
      meets = true;
      return replaceMma(b, mma);
    }
    if (auto shuffle = dyn_cast<NVVM::ShflOp>(op)) {
      meets = true;
      Value word = shuffle.getVal();
      if (!word.getType().isInteger(32))
        word = LLVM::BitcastOp::create(b, i32, word);
      Value inside = room(b, op, 1);
      Value got = call(b, "shuffle", kEmulatorShuffle, i32,
                       {number(b, static_cast<int64_t>(shuffle.getKind())), word, shuffle.getOffset(),
                        shuffle.getMaskAndClamp(), inside});
      if (!shuffle.getVal().getType().isInteger(32))
        got = LLVM::BitcastOp::create(b, shuffle.getVal().getType(), got);
      auto both = dyn_cast<LLVM::LLVMStructType>(shuffle.getType());
      if (!both)
        return with(got);
      Value pair = LLVM::UndefOp::create(b, both);
      pair = LLVM::InsertValueOp::create(b, pair, got, ArrayRef<int64_t>{0});
      Value valid = LLVM::TruncOp::create(b, b.getI1Type(), LLVM::LoadOp::create(b, i32, inside));
      return with(LLVM::InsertValueOp::create(b, pair, valid, ArrayRef<int64_t>{1}));
    }
    if (auto vote = dyn_cast<NVVM::VoteSyncOp>(op); vote && vote.getKind() == NVVM::VoteSyncKind::ballot) {
      meets = true;
      Value yes = LLVM::ZExtOp::create(b, i32, vote.getPred());
      return with(call(b, "ballot", kEmulatorBallot, i32, {yes}));
    }
    if (auto load = dyn_cast<LLVM::LoadOp>(op); load && isShared(load.getAddr())) {
      call(b, "access", kEmulatorAccess, none,
           {generic(b, load.getAddr()), wide(b, sizeOf(load.getType())), number(b, 2 * accesses++)});
      return success();
    }
    if (auto store = dyn_cast<LLVM::StoreOp>(op); store && isShared(store.getAddr())) {
      call(b, "access", kEmulatorAccess, none,
           {generic(b, store.getAddr()), wide(b, sizeOf(store.getValue().getType())), number(b, 2 * accesses++ + 1)});
      return success();
    }
    if (isa_and_present<NVVM::NVVMDialect>(op->getDialect()))
      return op->emitError() << "the emulator does not know '" << op->getName() << "'";
    return success();
  }

  LogicalResult replaceMma(GpuBuilder &b, NVVM::MmaOp mma) {
    auto shape = mma.getShape();
    auto type = mma.getMultiplicandAPtxType();
    bool isHalf = type == NVVM::MMATypes::f16 || (!type && isa<VectorType>(mma.getOperandA()[0].getType()));
    bool isTf32 = type == NVVM::MMATypes::tf32;
    if (shape.getM() != 16 || shape.getN() != 8 || shape.getK() != (isTf32 ? 8 : 16) ||
        (!isHalf && !isTf32 && type != NVVM::MMATypes::bf16))
      return mma.emitError() << "the emulator knows mma.m16n8k16 of f16 and bf16 and mma.m16n8k8 of tf32 only";
    // The operands one after the other: 4 + 2 words of multiplicands, 4 of sums, 4 of results.
    Value words = room(b, mma, 14);
    int64_t next = 0;
    for (ValueRange operands :
         {ValueRange(mma.getOperandA()), ValueRange(mma.getOperandB()), ValueRange(mma.getOperandC())})
      for (Value operand : operands)
        LLVM::StoreOp::create(b, operand, wordAt(b, words, next++));
    call(b, "multiply", kEmulatorMultiply, none, {number(b, isHalf ? 0 : isTf32 ? 2 : 1), words});
    Value result = LLVM::LoadOp::create(b, mma.getType(), wordAt(b, words, 10));
    mma.getResult().replaceAllUsesWith(result);
    mma.erase();
    return success();
  }

  /// void moe_emulated.NAME(parameters): one thread of the kernel; and its place in the kernel's description.
  void buildEntry(LLVM::LLVMFuncOp kernel, StringRef name, bool meets) {
    ModuleOp module = getOperation();
    OpBuilder builder(&getContext());
    GpuBuilder b(kernel.getLoc(), builder);
    b.setInsertionPointToEnd(module.getBody());
    auto entry =
        LLVM::LLVMFuncOp::create(b, ("moe_emulated." + name).str(), LLVM::LLVMFunctionType::get(none, {pointer}));
    entry.setLinkage(LLVM::Linkage::Internal);
    b.setInsertionPointToStart(entry.addEntryBlock(b));
    SmallVector<Value> arguments;
    for (auto [i, type] : llvm::enumerate(kernel.getArgumentTypes())) {
      Value slot = LLVM::GEPOp::create(b, pointer, i64, entry.getArgument(0), ArrayRef<LLVM::GEPArg>{int32_t(i)});
      if (type.isInteger(1))
        arguments.push_back(LLVM::TruncOp::create(b, type, LLVM::LoadOp::create(b, b.getI8Type(), slot)));
      else
        arguments.push_back(LLVM::LoadOp::create(b, type, slot));
    }
    LLVM::CallOp::create(b, kernel, arguments);
    LLVM::ReturnOp::create(b, ValueRange());
    auto description = module.lookupSymbol<LLVM::GlobalOp>(("moe_kernel." + name).str());
    if (!description)
      return;
    // Exported: a stand-in for the driver (test/lib/fake-cuda) finds kernels by name.
    description.setLinkage(LLVM::Linkage::External);
    description.setDsoLocal(true);
    Operation *result = description.getInitializerRegion().front().getTerminator();
    b.setInsertionPoint(result);
    Value value = result->getOperand(0);
    value = LLVM::InsertValueOp::create(b, value, LLVM::AddressOfOp::create(b, entry), ArrayRef<int64_t>{2});
    value = LLVM::InsertValueOp::create(b, value, wide(b, meets), ArrayRef<int64_t>{3});
    result->setOperand(0, value);
  }

  Type pointer, i32, i64, none;
  /// Barriers and waits so far, and accesses to shared memory.
  int64_t sites = 0, accesses = 0;
};
} // namespace
