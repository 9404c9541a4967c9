//===- Passes.td - passes on the onnx level -----------------*- tablegen -*-===//
#ifndef ONNX_TRANSFORMS_PASSES_TD
#define ONNX_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

#endif // ONNX_TRANSFORMS_PASSES_TD
