//===- GpuDialect.h - the moe_gpu dialect ------------------------*- C++ -*-===//
#ifndef MOE_GPU_GPUDIALECT_H
#define MOE_GPU_GPUDIALECT_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "moe/Gpu/GpuDialect.h.inc"

#define GET_OP_CLASSES
#include "moe/Gpu/GpuOps.h.inc"

namespace mlir::moe {
/// Lets one-shot bufferisation treat the dialect's ops.
void registerGpuBufferizableOpInterfaceExternalModels(DialectRegistry &registry);
} // namespace mlir::moe

#endif // MOE_GPU_GPUDIALECT_H
