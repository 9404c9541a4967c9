//===- DeviceTable.cpp - the module's side of the device table ------------===//
#include "moe/Gpu/DeviceTable.h"

using namespace mlir;
using namespace mlir::moe;

LLVM::LLVMFuncOp moe::getTableFunction(ModuleOp module, StringRef name, int32_t offset, Type result,
                                       ArrayRef<Type> arguments) {
  if (auto function = module.lookupSymbol<LLVM::LLVMFuncOp>(name))
    return function;
  OpBuilder b(module.getBodyRegion());
  Location loc = module.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  auto function = LLVM::LLVMFuncOp::create(b, loc, name, LLVM::LLVMFunctionType::get(result, arguments));
  function.setLinkage(LLVM::Linkage::Internal);
  function.setNoInline(true);
  b.setInsertionPointToStart(function.addEntryBlock(b));
  auto loadAt = [&](Value base, int32_t at) -> Value {
    Value place = LLVM::GEPOp::create(b, loc, pointer, b.getI8Type(), base, ArrayRef<LLVM::GEPArg>{at});
    return LLVM::LoadOp::create(b, loc, pointer, place);
  };
  Value table = LLVM::LoadOp::create(b, loc, pointer, LLVM::AddressOfOp::create(b, loc, pointer, kDeviceVariable));
  SmallVector<Value> operands{loadAt(table, offset), loadAt(table, kDeviceContext)};
  SmallVector<Type> types{pointer};
  for (BlockArgument argument : function.getBody().getArguments()) {
    operands.push_back(argument);
    types.push_back(argument.getType());
  }
  auto call = LLVM::CallOp::create(b, loc, LLVM::LLVMFunctionType::get(result, types), operands);
  LLVM::ReturnOp::create(b, loc, call.getResults());
  return function;
}

void moe::declareDeviceTable(ModuleOp module) {
  if (module.lookupSymbol(kDeviceVariable))
    return;
  OpBuilder b(module.getBodyRegion());
  Location loc = module.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  Type i64 = b.getI64Type(), none = LLVM::LLVMVoidType::get(module.getContext());
  auto variable = LLVM::GlobalOp::create(b, loc, pointer, /*isConstant=*/false, LLVM::Linkage::External,
                                         kDeviceVariable, Attribute());
  variable.setDsoLocal(true);
  b.createBlock(&variable.getInitializerRegion());
  LLVM::ReturnOp::create(b, loc, LLVM::ZeroOp::create(b, loc, pointer));
  getTableFunction(module, kDeviceLaunchFunction, kDeviceLaunch, none, {pointer, i64, i64, i64, i64, i64, pointer});
  getTableFunction(module, kDeviceReadFunction, kDeviceRead, none, {pointer, pointer, i64});
  getTableFunction(module, kDeviceConstantFunction, kDeviceConstant, pointer, {pointer, i64});
}
