// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Multi-Head Mixture-of-Experts
//
// A projection spreads each token into H sub-tokens, each of which is routed on its own to experts of its width; the
// results are put side by side again and merged by a second projection.
//
// Ops: route, top_k and apply over T*H rows (a reshape on either side).

!x = tensor<?x24xf32>   !s = tensor<?x8xf32>   !h = tensor<?x20xf32>   !e = tensor<?x5xf32>
!r = !moe.routing<?x5xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_head: tensor<24x24xf32> {moe.name = "w_head"},
    %w_gate: tensor<8x5xf32> {moe.name = "w_gate"}, %w1: tensor<5x8x20xf32> {moe.name = "w1"},
    %w2: tensor<5x20x8xf32> {moe.name = "w2"}, %w_merge: tensor<24x24xf32> {moe.name = "w_merge"})
    -> (!x {moe.name = "y"}, tensor<?x3x5xf32> {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x
  %th = arith.muli %t, %c3 : index
  %zx = tensor.splat %f0[%t] : !x   %ze = tensor.splat %f0[%th] : !e
  %u = linalg.matmul ins(%x, %w_head : !x, tensor<24x24xf32>) outs(%zx : !x) -> !x
  %heads = tensor.expand_shape %u [[0], [1, 2]] output_shape [%t, 3, 8] : !x into tensor<?x3x8xf32>
  %s = tensor.collapse_shape %heads [[0, 1], [2]] : tensor<?x3x8xf32> into !s
  %logits = linalg.matmul ins(%s, %w_gate : !s, tensor<8x5xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x5xf32>
  %gates = moe.top_k %probs k(2) : !moe.routing<?x5xf32>
  %o = moe.apply %gates rows(%s) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !s, tensor<5x8x20xf32>, tensor<5x20x8xf32> -> !s {
  ^bb0(%v: !s, %up: tensor<8x20xf32>, %down: tensor<20x8xf32>):
    %n = tensor.dim %v, %c0 : !s   %zh = tensor.splat %f0[%n] : !h   %zs = tensor.splat %f0[%n] : !s
    %a = linalg.matmul ins(%v, %up : !s, tensor<8x20xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %out = linalg.matmul ins(%h, %down : !h, tensor<20x8xf32>) outs(%zs : !s) -> !s
    moe.yield %out : !s
  }
  %oh = tensor.expand_shape %o [[0, 1], [2]] output_shape [%t, 3, 8] : !s into tensor<?x3x8xf32>
  %side = tensor.collapse_shape %oh [[0], [1, 2]] : tensor<?x3x8xf32> into !x
  %y = linalg.matmul ins(%side, %w_merge : !x, tensor<24x24xf32>) outs(%zx : !x) -> !x
  %dense = moe.to_dense %gates : !r
  %routing = tensor.expand_shape %dense [[0, 1], [2]] output_shape [%t, 3, 5] : !e into tensor<?x3x5xf32>
  return %y, %routing : !x, tensor<?x3x5xf32>
}
