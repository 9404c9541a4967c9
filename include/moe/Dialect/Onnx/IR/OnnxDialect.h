//===- OnnxDialect.h - the onnx level ----------------------------*- C++ -*-===//
#ifndef MOE_DIALECT_ONNX_IR_ONNXDIALECT_H
#define MOE_DIALECT_ONNX_IR_ONNXDIALECT_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "moe/Dialect/Onnx/IR/OnnxDialect.h.inc"

#define GET_OP_CLASSES
#include "moe/Dialect/Onnx/IR/OnnxOps.h.inc"

#endif // MOE_DIALECT_ONNX_IR_ONNXDIALECT_H
