//===- FusedMoe.h - what com.microsoft.MoE and QMoE share --------*- C++ -*-===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_FUSEDMOE_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_FUSEDMOE_H

#include "RaiseUtils.h"

namespace mlir::moe {

/// The attributes and sizes of a fused layer.
struct FusedMoe {
  int64_t tokensRank, hidden, inner, experts, k;
  StringRef activation;
  bool normalize;
  bool interleaved = false, concatenated = false; // swiglu with gate and up in fc1
  double alpha, beta;
  std::optional<double> limit;

  /// Gate and up are two halves of fc1.
  bool isFused() const { return interleaved || concatenated; }
};

/// The matrices [experts, out, in] of a projection, and its bias. Quantised ones have a format and scales.
struct ExpertLinear {
  Value matrices, scales, zeroPoints, bias;
  QuantAttr format;
  int64_t columns = 0; // in
  bool integerRows = false;

  explicit operator bool() const { return bool(matrices); }
};

/// An error that names the node.
LogicalResult refuse(OnnxNodeOp node, const Twine &why);
/// The attributes; `fc3` is the input with the up projection.
LogicalResult readAttributes(OnnxNodeOp node, FusedMoe &moe, unsigned fc3);
/// Checks k, the rows and the logits; needs the sizes of the experts.
LogicalResult checkRows(OnnxNodeOp node, FusedMoe &moe);
/// The routing of the node's logits, with their softmax as weights.
Value buildFusedRouting(OnnxNodeOp node, const FusedMoe &moe, NodeBuilder &nodes);
/// Replaces the node by an apply; `up` is empty where the activation has no gate.
void buildExperts(OnnxNodeOp node, const FusedMoe &moe, NodeBuilder &nodes, Value routing, ExpertLinear gate,
                  ExpertLinear up, ExpertLinear down);
/// Every part of `whole`, cut into the rows of the gate and of the up projection.
std::pair<ExpertLinear, ExpertLinear> cutGateUp(const FusedMoe &moe, NodeBuilder &nodes, const ExpertLinear &whole);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_FUSEDMOE_H
