//===- LowerGpuLaunches.cpp - launches as calls of the device table -------===//
#include "GpuBuilder.h"
#include "moe/Gpu/DeviceTable.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Pass/Pass.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOELOWERGPULAUNCHESPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The parameters that stand for one of a kernel's arguments, on both sides.
struct Flattened {
  /// On the host: appends the values.
  static void flatten(GpuBuilder &b, Value operand, SmallVectorImpl<Value> &values) {
    auto type = dyn_cast<MemRefType>(operand.getType());
    if (!type) {
      values.push_back(operand);
      return;
    }
    auto pointer = LLVM::LLVMPointerType::get(b.getContext());
    auto metadata = memref::ExtractStridedMetadataOp::create(b, operand);
    Value address = memref::ExtractAlignedPointerAsIndexOp::create(b, operand);
    auto [strides, offset] = type.getStridesAndOffset();
    if (ShapedType::isDynamic(offset)) {
      int64_t bits = type.getElementType().isIndex() ? 64 : type.getElementTypeBitWidth();
      address = b.add(address, b.mul(metadata.getOffset(), b.index((bits + 7) / 8)));
    }
    values.push_back(LLVM::IntToPtrOp::create(b, pointer, b.toI64(address)));
    for (int64_t d = 0; d < type.getRank(); ++d)
      if (type.isDynamicDim(d))
        values.push_back(metadata.getSizes()[d]);
    for (int64_t d = 0; d < type.getRank(); ++d)
      if (ShapedType::isDynamic(strides[d]))
        values.push_back(metadata.getStrides()[d]);
  }

  static void appendTypes(Builder &b, Type type, SmallVectorImpl<Type> &types) {
    auto memref = dyn_cast<MemRefType>(type);
    if (!memref) {
      types.push_back(type);
      return;
    }
    types.push_back(LLVM::LLVMPointerType::get(b.getContext()));
    auto [strides, offset] = memref.getStridesAndOffset();
    types.append(memref.getNumDynamicDims(), b.getIndexType());
    types.append(llvm::count_if(strides, ShapedType::isDynamic), b.getIndexType());
  }

  /// On the device: the argument again, from `parameters` on.
  static Value rebuild(GpuBuilder &b, const LLVMTypeConverter &converter, Type type, ValueRange parameters) {
    auto memref = dyn_cast<MemRefType>(type);
    if (!memref)
      return parameters.front();
    auto [strides, offset] = memref.getStridesAndOffset();
    unsigned next = 1;
    SmallVector<Value> fields;
    auto field = [&](int64_t known) -> Value {
      return ShapedType::isDynamic(known) ? b.toI64(parameters[next++]) : b.i64(known);
    };
    for (int64_t size : memref.getShape())
      fields.push_back(field(size));
    for (int64_t stride : strides)
      fields.push_back(field(stride));
    Value descriptor = LLVM::UndefOp::create(b, converter.convertType(memref));
    auto set = [&](Value v, ArrayRef<int64_t> at) { descriptor = LLVM::InsertValueOp::create(b, descriptor, v, at); };
    set(parameters.front(), {0});
    set(parameters.front(), {1});
    set(b.i64(ShapedType::isDynamic(offset) ? 0 : offset), {2});
    int64_t rank = memref.getRank();
    for (int64_t d = 0; d < rank; ++d) {
      set(fields[d], {3, d});
      set(fields[rank + d], {4, d});
    }
    return UnrealizedConversionCastOp::create(b, TypeRange{memref}, descriptor).getResult(0);
  }
};

struct MoeLowerGpuLaunchesPass : moe::impl::MoeLowerGpuLaunchesPassBase<MoeLowerGpuLaunchesPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    pointer = LLVM::LLVMPointerType::get(&getContext());
    declareDeviceTable(module);
    LLVMTypeConverter converter(&getContext());
    module.walk([&](gpu::GPUFuncOp kernel) { flattenKernel(kernel, converter); });
    gatherKernels();
    SmallVector<gpu::LaunchFuncOp> launches;
    module.walk([&](gpu::LaunchFuncOp op) { launches.push_back(op); });
    for (gpu::LaunchFuncOp launch : launches)
      lowerLaunch(launch);
    SmallVector<memref::GetGlobalOp> constants;
    for (auto function : module.getOps<func::FuncOp>())
      function.walk([&](memref::GetGlobalOp op) { constants.push_back(op); });
    for (memref::GetGlobalOp op : constants)
      if (failed(fetchConstant(op, converter)))
        return signalPassFailure();
  }

  /// Outlining makes a module per launch; the device gets one, in which equal kernels (of layers of one shape) are one.
  void gatherKernels() {
    gpu::GPUModuleOp all;
    SmallVector<gpu::GPUFuncOp> distinct;
    for (auto kernels : llvm::make_early_inc_range(getOperation().getOps<gpu::GPUModuleOp>())) {
      std::string name = kernels.getName().str();
      auto kernel = *kernels.getOps<gpu::GPUFuncOp>().begin();
      auto same = llvm::find_if(distinct, [&](gpu::GPUFuncOp other) {
        return other.getFunctionType() == kernel.getFunctionType() &&
               other.getKnownBlockSizeAttr() == kernel.getKnownBlockSizeAttr() &&
               OperationEquivalence::isRegionEquivalentTo(&other.getBody(), &kernel.getBody(),
                                                          OperationEquivalence::IgnoreLocations);
      });
      if (same != distinct.end()) {
        names[name] = same->getName().str();
        kernels.erase();
        continue;
      }
      names[name] = name;
      kernel.setName(name);
      distinct.push_back(kernel);
      if (!all) {
        all = kernels;
        continue;
      }
      kernel->moveBefore(all.getBody(), all.getBody()->end());
      kernels.erase();
    }
    if (all)
      all.setName("kernels");
  }

  void flattenKernel(gpu::GPUFuncOp kernel, const LLVMTypeConverter &converter) {
    OpBuilder builder(kernel.getBody());
    GpuBuilder b(kernel.getLoc(), builder);
    Block &entry = kernel.getBody().front();
    b.setInsertionPointToStart(&entry);
    SmallVector<Type> types;
    unsigned old = entry.getNumArguments();
    for (unsigned i = 0; i < old; ++i) {
      Type type = entry.getArgument(i).getType();
      unsigned first = types.size();
      Flattened::appendTypes(b, type, types);
      SmallVector<Value> parameters;
      for (Type parameter : ArrayRef<Type>(types).drop_front(first))
        parameters.push_back(entry.addArgument(parameter, kernel.getLoc()));
      entry.getArgument(i).replaceAllUsesWith(Flattened::rebuild(b, converter, type, parameters));
    }
    entry.eraseArguments(0, old);
    kernel.setFunctionType(b.getFunctionType(types, {}));
  }

  void lowerLaunch(gpu::LaunchFuncOp launch) {
    OpBuilder builder(launch);
    GpuBuilder b(launch.getLoc(), builder);
    b.setInsertionPoint(launch);
    SmallVector<Value> parameters;
    for (Value operand : launch.getKernelOperands())
      Flattened::flatten(b, operand, parameters);
    // Parameters in memory, each in its own eight bytes.
    Value slots;
    {
      OpBuilder::InsertionGuard guard(b);
      auto function = launch->getParentOfType<func::FuncOp>();
      b.setInsertionPointToStart(&function.getBody().front());
      slots = LLVM::AllocaOp::create(b, pointer, b.getI64Type(), b.i64(std::max<size_t>(parameters.size(), 1)));
    }
    for (auto [i, value] : llvm::enumerate(parameters)) {
      Value stored = value.getType().isIndex() ? b.toI64(value) : value;
      if (stored.getType().isInteger(1))
        stored = arith::ExtUIOp::create(b, b.getI8Type(), stored);
      Value at = LLVM::GEPOp::create(b, pointer, b.getI64Type(), slots, ArrayRef<LLVM::GEPArg>{int32_t(i)});
      b.store(stored, at);
    }
    gpu::KernelDim3 grid = launch.getGridSizeOperandValues(), block = launch.getBlockSizeOperandValues();
    Value shared = launch.getDynamicSharedMemorySize() ? b.toI64(launch.getDynamicSharedMemorySize()) : b.i64(0);
    Value kernel = LLVM::AddressOfOp::create(b, getKernel(names[launch.getKernelModuleName()], parameters.size()));
    LLVM::CallOp::create(
        b, TypeRange(), kDeviceLaunchFunction,
        ValueRange{kernel, b.toI64(grid.x), b.toI64(grid.y), b.toI64(grid.z), b.toI64(block.x), shared, slots});
    launch.erase();
  }

  /// struct moe_kernel: the name, the number of parameters; of an emulated kernel (moe-emulate-gpu) the function of a
  /// thread, and whether its threads meet.
  LLVM::GlobalOp getKernel(StringRef name, int64_t parameters) {
    ModuleOp module = getOperation();
    std::string symbol = ("moe_kernel." + name).str();
    if (auto global = module.lookupSymbol<LLVM::GlobalOp>(symbol))
      return global;
    OpBuilder b(module.getBodyRegion());
    Location loc = module.getLoc();
    std::string text = name.str();
    text.push_back('\0');
    auto textType = LLVM::LLVMArrayType::get(b.getI8Type(), text.size());
    auto nameGlobal = LLVM::GlobalOp::create(b, loc, textType, /*isConstant=*/true, LLVM::Linkage::Internal,
                                             symbol + ".name", b.getStringAttr(text));
    auto type = LLVM::LLVMStructType::getLiteral(&getContext(), {pointer, b.getI64Type(), pointer, b.getI64Type()});
    auto global =
        LLVM::GlobalOp::create(b, loc, type, /*isConstant=*/true, LLVM::Linkage::Internal, symbol, Attribute());
    b.createBlock(&global.getInitializerRegion());
    Value value = LLVM::UndefOp::create(b, loc, type);
    value =
        LLVM::InsertValueOp::create(b, loc, value, LLVM::AddressOfOp::create(b, loc, nameGlobal), ArrayRef<int64_t>{0});
    Value count = LLVM::ConstantOp::create(b, loc, b.getI64Type(), b.getI64IntegerAttr(parameters));
    value = LLVM::InsertValueOp::create(b, loc, value, count, ArrayRef<int64_t>{1});
    value = LLVM::InsertValueOp::create(b, loc, value, LLVM::ZeroOp::create(b, loc, pointer), ArrayRef<int64_t>{2});
    Value no = LLVM::ConstantOp::create(b, loc, b.getI64Type(), b.getI64IntegerAttr(0));
    value = LLVM::InsertValueOp::create(b, loc, value, no, ArrayRef<int64_t>{3});
    LLVM::ReturnOp::create(b, loc, value);
    return global;
  }

  LogicalResult fetchConstant(memref::GetGlobalOp op, const LLVMTypeConverter &converter) {
    OpBuilder builder(op);
    GpuBuilder b(op.getLoc(), builder);
    b.setInsertionPointAfter(op);
    MemRefType type = op.getType();
    if (!type.hasStaticShape() || !type.getLayout().isIdentity())
      return op.emitError() << "a constant of type " << type << " cannot be copied to the device";
    int64_t bits = type.getElementType().isIndex() ? 64 : type.getElementTypeBitWidth();
    Value address = memref::ExtractAlignedPointerAsIndexOp::create(b, op);
    Operation *user = address.getDefiningOp();
    Value source = LLVM::IntToPtrOp::create(b, pointer, b.toI64(address));
    Value copy = LLVM::CallOp::create(b, TypeRange{pointer}, kDeviceConstantFunction,
                                      ValueRange{source, b.i64(type.getNumElements() * ((bits + 7) / 8))})
                     .getResult();
    Value there = Flattened::rebuild(b, converter, type, copy);
    op.getResult().replaceAllUsesExcept(there, user);
    return success();
  }

  Type pointer;
  /// The kernel that stands for the one in each module that outlining made.
  llvm::StringMap<std::string> names;
};
} // namespace
