//===- Raise.h - the families of patterns that onnx-raise-moe knows -------===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISE_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISE_H

#include "PairExpr.h"
#include "RaiseUtils.h"

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

/// The routing that chooses `indices` with weights `gates`, both [tokens, slots]: top-k of what the indices were chosen
/// from, where the gates can be derived from it, otherwise by slots. Null (with `reason`) if the indices are not
/// provably within [0, experts).
Value buildRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value indices, Value gates, int64_t tokenDims,
                   int64_t experts, std::string &reason, std::string &router);
/// The routing of dense gates [tokens, experts].
Value buildDenseRouting(NodeBuilder &nodes, SymbolicShapes &shapes, Value gates, int64_t experts, std::string &router);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISE_H
