//===- Passes.td - passes on the onnx level -----------------*- tablegen -*-===//
#ifndef ONNX_TRANSFORMS_PASSES_TD
#define ONNX_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def OnnxRefuseTracedExpertsPass : Pass<"onnx-refuse-traced-experts", "::mlir::func::FuncOp"> {
  let summary = "refuses files that hold only the experts that were hit while tracing";
  let description = [{
    A trace of a loop over the experts that were chosen unrolls the loop as often as experts were chosen for the example
    input. The graph still lists the chosen experts at run time, but takes a fixed number of them from the list: any
    input that chooses another number fails, or gets a wrong result without a word.

    That is proved, not guessed: a list of a router's chosen experts (`NonZero` or `Unique` of what depends on the
    expert numbers of a `TopK` or `ArgMax`, over dimensions that are all known) whose length is not known, and that is
    split into a fixed number of pieces, or read at fixed positions. Then the pass fails, and names the nodes and the
    export that avoids it. A router with more columns than there are experts with weights (null experts) is not refused.
  }];
}

def OnnxRaiseMoePass : Pass<"onnx-raise-moe", "::mlir::func::FuncOp"> {
  let summary = "raises MoE layers of an ONNX graph to the routed level";
  let description = [{
    `com.microsoft.MoE` becomes `moe.route`, `moe.top_k`, `moe.normalize` and `moe.apply`. So do the decomposed forms: a
    sum over the slots of a token (weights gathered per pair) or over the experts (all computed, gates zero where not
    chosen). The graph is read backwards from the sum under a layout that says which axes of the layer each dimension
    runs over, so that neither names, the order of nodes and operands, nor the way in which pairs are spread over
    dimensions matter.

    Experts that have nodes of their own (an unrolled loop) are read one by one: the terms of the sum that they add to,
    over all tokens with gates that are zero where not chosen, or over the pairs that a `NonZero` of their mask lists.
    Experts that compute the same with weights of their own become one apply; their weights become one bank, an
    argument with the attribute `moe.weight_parts` (the keys of the parts). Terms without a gate stay.

    Tokens that are moved to the places of each expert and back by one-hot tensors are a routing with a limit: a token's
    place is the number of tokens before it that chose the expert, and places beyond the capacity do not exist.

    What cannot be proved is not raised: the graph stays as it is, which is correct and slower, and a remark
    (`MoeNotRaised`) says what was missing. A fused node that the operator's specification does not allow is an error.
  }];
  let options = [
    Option<"decomposed", "decomposed", "bool", /*default=*/"true",
           "Raise decomposed layers too, not only the operators that are a whole layer">,
    Option<"allowTracedExperts", "allow-traced-experts", "bool", /*default=*/"false",
           "Raise what the file holds, though it holds only the experts that were hit while tracing">
  ];
  let dependentDialects = ["::mlir::moe::MoeDialect", "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::math::MathDialect", "::mlir::tensor::TensorDialect"];
}

#endif // ONNX_TRANSFORMS_PASSES_TD
