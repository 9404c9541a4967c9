//===- Passes.td - passes on the onnx level -----------------*- tablegen -*-===//
#ifndef ONNX_TRANSFORMS_PASSES_TD
#define ONNX_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def OnnxRaiseMoePass : Pass<"onnx-raise-moe", "::mlir::func::FuncOp"> {
  let summary = "raises MoE layers of an ONNX graph to the routed level";
  let description = [{
    `com.microsoft.MoE` becomes `moe.route`, `moe.top_k`, `moe.normalize` and `moe.apply`. So do the decomposed forms: a
    sum over the slots of a token (weights gathered per pair) or over the experts (all computed, gates zero where not
    chosen). The graph is read backwards from the sum under a layout that says which axes of the layer each dimension
    runs over, so that neither names, the order of nodes and operands, nor the way in which pairs are spread over
    dimensions matter.

    What cannot be proved is not raised: the graph stays as it is, which is correct and slower, and a remark
    (`MoeNotRaised`) says what was missing. A fused node that the operator's specification does not allow is an error.
  }];
  let dependentDialects = ["::mlir::moe::MoeDialect", "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::math::MathDialect", "::mlir::tensor::TensorDialect"];
}

#endif // ONNX_TRANSFORMS_PASSES_TD
