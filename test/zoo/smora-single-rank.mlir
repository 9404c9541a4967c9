// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Each Rank Could be an Expert: Single-Ranked Mixture of Experts LoRA for Multi-Task Learning
//
// Every rank of a LoRA pair is an expert: a token keeps its best ranks by a biased score, or the best blocks of ranks.
// Both forms share the factors.
//
// Ops: top_k by another key, normalize, to_dense; a rank's expert is one column and one row, so that its gate scales
// the narrow product.

!x = tensor<?x24xf32>   !y = tensor<?x20xf32>   !e = tensor<?x12xf32>   !b = tensor<?x3xf32>
!r = !moe.routing<?x12xf32>   !rk = !moe.routing<?x12xf32, max_per_row = 5>
!q = !moe.routing<?x3xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w0: tensor<24x20xf32> {moe.name = "w0"},
    %wg: tensor<24x12xf32> {moe.name = "wg"}, %bias: tensor<12xf32> {moe.name = "bias"},
    %a: tensor<24x12xf32> {moe.name = "a"}, %b: tensor<12x20xf32> {moe.name = "b"},
    %wgb: tensor<24x3xf32> {moe.name = "wgb"})
    -> (!y {moe.name = "y"}, !e {moe.name = "routing"}, !y {moe.name = "y_block"}, !b {moe.name = "routing_block"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zb = tensor.splat %f0[%t] : !b
  %zy = tensor.splat %f0[%t] : !y
  %low = linalg.matmul ins(%x, %a : !x, tensor<24x12xf32>) outs(%ze : !e) -> !e
  %base = linalg.matmul ins(%x, %w0 : !x, tensor<24x20xf32>) outs(%zy : !y) -> !y
  %logits = linalg.matmul ins(%x, %wg : !x, tensor<24x12xf32>) outs(%ze : !e) -> !e
  %s = linalg.softmax dimension(1) ins(%logits : !e) outs(%ze : !e) -> !e
  %biases = linalg.broadcast ins(%bias : tensor<12xf32>) outs(%ze : !e) dimensions = [0]
  %key = arith.addf %s, %biases : !e
  %all = moe.route %s : !e
  %top = moe.top_k %all by(%key : !e) k(5) : !r
  %routing = moe.to_dense %top : !rk   %gated = arith.mulf %low, %routing : !e
  %y = linalg.matmul ins(%gated, %b : !e, tensor<12x20xf32>) outs(%base : !y) -> !y
  %blogits = linalg.matmul ins(%x, %wgb : !x, tensor<24x3xf32>) outs(%zb : !b) -> !b
  %blocks = moe.route %blogits : !b   %bp = moe.normalize %blocks by(softmax) : !moe.routing<?x3xf32>
  %bt = moe.top_k %bp k(2) : !moe.routing<?x3xf32>   %br = moe.normalize %bt by(sum) : !q
  %routing_block = moe.to_dense %br : !q
  %e3 = tensor.empty(%t) : tensor<?x3x4xf32>
  %spread = linalg.broadcast ins(%routing_block : !b) outs(%e3 : tensor<?x3x4xf32>) dimensions = [2]
  %per_rank = tensor.collapse_shape %spread [[0], [1, 2]] : tensor<?x3x4xf32> into !e
  %gated_block = arith.mulf %low, %per_rank : !e
  %y_block = linalg.matmul ins(%gated_block, %b : !e, tensor<12x20xf32>) outs(%base : !y) -> !y
  return %y, %routing, %y_block, %routing_block : !y, !e, !y, !b
}
