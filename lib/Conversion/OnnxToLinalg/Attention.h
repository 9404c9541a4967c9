//===- Attention.h - what the attention operators share --------*- C++ -*-===//
#ifndef MOE_LIB_CONVERSION_ONNXTOLINALG_ATTENTION_H
#define MOE_LIB_CONVERSION_ONNXTOLINALG_ATTENTION_H

#include "Lowering.h"

namespace mlir::moe {

/// What restricts the keys that a query may see, and how scores become weights.
struct Masking {
  double scale = 1.0, softcap = 0.0;
  /// Added to the scores, or (i1) says which are kept; broadcast to [B, H, S, T].
  SmallVector<Shaped> masks;
  bool causal = false;
  /// -1: no bound.
  int64_t left = -1, right = -1;
  /// The place of query 0 among the keys, and the number of keys that count: given the batch's index; null: 0 and all.
  std::function<Value(ImplicitLocOpBuilder &, Value)> offset, length;
};

struct Attended {
  Shaped output; ///< [B, H, S, V]
  Shaped scores, capped, masked, weights;
};

/// The computation that all have in common: queries [B, H, S, D], keys [B, G, T, D], values [B, G, T, V].
LogicalResult attend(OnnxNodeOp node, OnnxLowering &lower, Shaped q, Shaped k, Shaped v, const Masking &masking,
                     Attended &result);
/// [B, S, H * D] as [B, H, S, D].
FailureOr<Shaped> splitHeads(OnnxNodeOp node, OnnxLowering &lower, Shaped x, int64_t heads);
/// [B, H, S, D] as [B, S, H * D].
Shaped joinHeads(OnnxLowering &lower, Shaped x);
/// `first`, then `second` along dimension 2.
FailureOr<Shaped> appendKeys(OnnxNodeOp node, OnnxLowering &lower, Shaped first, Shaped second);
/// 1 / sqrt(size of a head) unless the node says otherwise; 0 if neither is known.
double scaleOf(OnnxNodeOp node, const DimExpr &headSize);
/// Turns pairs of the first `size` numbers of each row of [B, H, S, D]; `tables` gives cosine and sine of (b, s, i).
Shaped rotate(OnnxLowering &lower, Shaped x, int64_t size, bool interleaved,
              function_ref<std::pair<Value, Value>(ImplicitLocOpBuilder &, Value, Value, Value)> tables);

} // namespace mlir::moe

#endif // MOE_LIB_CONVERSION_ONNXTOLINALG_ATTENTION_H
