//===- DescribeLayers.h - what is known of each MoE layer --------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_COMPILE_DESCRIBELAYERS_H
#define MOE_TOOLS_MOE_COMPILE_DESCRIBELAYERS_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/JSON.h"

namespace mlir::moe {

/// One object per moe.apply, as docs/onnx-support.md describes the report.
llvm::json::Array describeLayers(ModuleOp module);
/// What raising left as it was written, and why; removes the attributes that say so.
llvm::json::Array takeNotRaised(ModuleOp module);

} // namespace mlir::moe

#endif // MOE_TOOLS_MOE_COMPILE_DESCRIBELAYERS_H
