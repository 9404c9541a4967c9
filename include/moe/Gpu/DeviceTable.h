//===- DeviceTable.h - the module's side of the device table -----*- C++ -*-===//
//
// The layout of `struct moe_device_v1` (docs/module-format.md) and the names of the functions through which compiled
// code reaches it.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_GPU_DEVICETABLE_H
#define MOE_GPU_DEVICETABLE_H

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {

/// The exported variable that points to the device table (modules for a GPU only), and byte offsets in it.
constexpr llvm::StringLiteral kDeviceVariable = "moe_device";
enum DeviceOffset { kDeviceContext = 8, kDeviceLaunch = 16, kDeviceRead = 24, kDeviceConstant = 32 };
/// Behind them what emulated kernels call.
enum EmulatorOffset {
  kEmulatorRegister = 40,
  kEmulatorBarrier = 48,
  kEmulatorSharedMemory = 56,
  kEmulatorCopy = 64,
  kEmulatorCommit = 72,
  kEmulatorWait = 80,
  kEmulatorLoadMatrix = 88,
  kEmulatorMultiply = 96,
  kEmulatorShuffle = 104,
  kEmulatorBallot = 112,
  kEmulatorAccess = 120
};

/// (kernel, grid x, y, z, threads, shared bytes, parameters): starts a kernel.
constexpr llvm::StringLiteral kDeviceLaunchFunction = "moe_device_launch";
/// (to, from, bytes): waits for the kernels started so far and copies to the host.
constexpr llvm::StringLiteral kDeviceReadFunction = "moe_device_read";
/// (data, bytes): the device's copy of a constant of the module.
constexpr llvm::StringLiteral kDeviceConstantFunction = "moe_device_constant";

/// Defines the variable `moe_device` and the functions that call through it, if `module` has none.
void declareDeviceTable(ModuleOp module);

/// Defines (once) the function `name` that calls the table's function at byte `offset`, the table's context in front of
/// its arguments.
LLVM::LLVMFuncOp getTableFunction(ModuleOp module, StringRef name, int32_t offset, Type result,
                                  ArrayRef<Type> arguments);

} // namespace mlir::moe

#endif // MOE_GPU_DEVICETABLE_H
