//===- Raise.h - the families of patterns that onnx-raise-moe knows -------===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISE_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISE_H

#include "PairExpr.h"
#include "RaiseUtils.h"
#include "llvm/ADT/DenseSet.h"

namespace mlir::moe {

/// com.microsoft.MoE: raised, or an error that says why not. The node is gone afterwards.
LogicalResult raiseFusedMoe(OnnxNodeOp node, SymbolicShapes &shapes);
/// com.microsoft.QMoE, likewise.
LogicalResult raiseQMoe(OnnxNodeOp node, SymbolicShapes &shapes);
/// com.microsoft.MatMulNBits: a matmul with a quantised matrix, or an error that says why not.
LogicalResult raiseMatMulNBits(OnnxNodeOp node, SymbolicShapes &shapes);

/// A sum over slots (or experts) of gated expert outputs: gathered weights, batched products, einsum. Returns whether
/// it was raised; a remark says what was missing where expert weights were met but not all could be proved.
bool raisePairSum(OnnxNodeOp sum, SymbolicShapes &shapes);

/// A sum over experts that each have nodes of their own: over all tokens with gates, or over the pairs that a NonZero
/// lists. Nodes that were read as parts of the sum are added to `read`. Fails, with an error, if the file provably
/// holds only some of the experts that it should (see `onnx-refuse-traced-experts`) and that is not allowed.
LogicalResult raiseExpertSum(OnnxNodeOp root, SymbolicShapes &shapes, bool allowTraced,
                             llvm::DenseSet<Operation *> &read);

/// The routing that chooses `indices` with weights `gates`, both [tokens, slots]: top-k of what the indices were chosen
/// from, where the gates can be derived from it, otherwise by slots. Null (with `reason`) if the indices are not
/// provably within [0, experts).
Value buildRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value indices, Value gates, int64_t tokenDims,
                   int64_t experts, std::string &reason, std::string &router);
/// The routing of expert numbers [tokens..., slots] that every expert is compared with: any number may occur. Without
/// weights each chosen expert has weight 1; pairs for which keep[tokens..., expert] is false are dropped.
Value buildComparedRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value indices, Value weights, Value keep,
                           int64_t slots, int64_t experts, std::string &router);
/// Experts that tokens are moved to and from by one-hot tensors, up to a capacity. Returns whether it was raised.
bool raiseDispatch(OnnxNodeOp root, SymbolicShapes &shapes);

/// The scores that a TopK or ArgMax chose from, where `value` is their expert numbers or gates scattered by them.
Value scoresOf(Value value);
/// The routing of gates [tokens..., experts]: by slots where they are provably zero at all but a few experts.
Value buildDenseRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value gates, int64_t experts, std::string &router);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISE_H
