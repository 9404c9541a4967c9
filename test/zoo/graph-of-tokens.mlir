// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Improving Routing in Sparse Mixture of Experts with Graph of Tokens
//
// A token's routing probabilities are mixed with those of the tokens that resemble it: by a learned similarity, or by
// the attention in front of the layer.
//
// Ops: route, top_k, apply, to_dense; probabilities are mixed by a product before the choice.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x5xf32>   !tt = tensor<?x?xf32>   !ht = tensor<3x?x8xf32>
!htt = tensor<3x?x?xf32>   !w = tensor<24x24xf32>   !w1 = tensor<5x24x40xf32>   !w2 = tensor<5x40x24xf32>
!up = tensor<24x40xf32>   !down = tensor<40x24xf32>   !r = !moe.routing<?x5xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x5xf32> {moe.name = "wr"}, %m: !w {moe.name = "m"},
    %wq: !w {moe.name = "wq"}, %wk: !w {moe.name = "wk"}, %wv: !w {moe.name = "wv"}, %wo: !w {moe.name = "wo"},
    %w1: !w1 {moe.name = "w1"}, %w2: !w2 {moe.name = "w2"})
    -> (!x {moe.name = "y_sim"}, !e {moe.name = "routing_sim"}, !x {moe.name = "y_attn"},
        !e {moe.name = "routing_attn"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f2 = arith.constant 2.0 : f32
  %f3 = arith.constant 3.0 : f32   %scale = arith.constant 0.35355339059327376 : f32
  %t = tensor.dim %x, %c0 : !x   %zx = tensor.splat %f0[%t] : !x   %ztt = tensor.splat %f0[%t, %t] : !tt
  %zhtt = tensor.splat %f0[%t, %t] : !htt   %zht = tensor.splat %f0[%t] : !ht
  %xm = linalg.matmul ins(%x, %m : !x, !w) outs(%zx : !x) -> !x
  %sim = linalg.contract indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>,
      affine_map<(i, j, d) -> (i, j)>] ins(%xm, %x : !x, !x) outs(%ztt : !tt) -> !tt
  %twos = tensor.splat %f2[%t, %t] : !tt   %sharp = arith.mulf %sim, %twos : !tt
  %s = linalg.softmax dimension(1) ins(%sharp : !tt) outs(%ztt : !tt) -> !tt
  %y_sim, %routing_sim = func.call @layer(%x, %s, %wr, %w1, %w2) : (!x, !tt, tensor<24x5xf32>, !w1, !w2) -> (!x, !e)
  // Attention of three heads.
  %q0 = linalg.matmul ins(%x, %wq : !x, !w) outs(%zx : !x) -> !x
  %k0 = linalg.matmul ins(%x, %wk : !x, !w) outs(%zx : !x) -> !x
  %v0 = linalg.matmul ins(%x, %wv : !x, !w) outs(%zx : !x) -> !x
  %q = tensor.expand_shape %q0 [[0], [1, 2]] output_shape [%t, 3, 8] : !x into tensor<?x3x8xf32>
  %k = tensor.expand_shape %k0 [[0], [1, 2]] output_shape [%t, 3, 8] : !x into tensor<?x3x8xf32>
  %v = tensor.expand_shape %v0 [[0], [1, 2]] output_shape [%t, 3, 8] : !x into tensor<?x3x8xf32>
  %dots = linalg.contract indexing_maps = [affine_map<(h, i, j, d) -> (i, h, d)>, affine_map<(h, i, j, d) -> (j, h, d)>,
      affine_map<(h, i, j, d) -> (h, i, j)>] ins(%q, %k : tensor<?x3x8xf32>, tensor<?x3x8xf32>) outs(%zhtt
          : !htt) -> !htt
  %scaled = linalg.map ins(%dots : !htt) outs(%zhtt : !htt) (%d: f32, %init: f32) {
    %o = arith.mulf %d, %scale : f32
    linalg.yield %o : f32
  }
  %p = linalg.softmax dimension(2) ins(%scaled : !htt) outs(%zhtt : !htt) -> !htt
  %z3 = tensor.splat %f0[%t] : tensor<?x3x8xf32>
  %heads = linalg.contract indexing_maps = [affine_map<(i, h, d, j) -> (h, i, j)>,
      affine_map<(i, h, d, j) -> (j, h, d)>, affine_map<(i, h, d, j) -> (i, h, d)>] ins(%p, %v
          : !htt, tensor<?x3x8xf32>) outs(%z3 : tensor<?x3x8xf32>) -> tensor<?x3x8xf32>
  %c = tensor.collapse_shape %heads [[0], [1, 2]] : tensor<?x3x8xf32> into !x
  %u = linalg.matmul ins(%c, %wo : !x, !w) outs(%x : !x) -> !x
  %total = linalg.reduce {arith.addf} ins(%p : !htt) outs(%ztt : !tt) dimensions = [0]
  %threes = tensor.splat %f3[%t, %t] : !tt   %mean = arith.divf %total, %threes : !tt
  %y_attn, %routing_attn = func.call @layer(%u, %mean, %wr, %w1, %w2) : (!x, !tt, tensor<24x5xf32>, !w1, !w2)
      -> (!x, !e)
  return %y_sim, %routing_sim, %y_attn, %routing_attn : !x, !e, !x, !e
}

// The layer on v whose probabilities are mixed by `mix`.
func.func private @layer(%v: !x, %mix: !tt, %wr: tensor<24x5xf32>, %w1: !w1, %w2: !w2) -> (!x, !e) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %v, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%v, %wr : !x, tensor<24x5xf32>) outs(%ze : !e) -> !e
  %p = linalg.softmax dimension(1) ins(%logits : !e) outs(%ze : !e) -> !e
  %mixed = linalg.matmul ins(%mix, %p : !tt, !e) outs(%ze : !e) -> !e
  %all = moe.route %mixed : !e   %r = moe.top_k %all k(2) : !moe.routing<?x5xf32>   %routing = moe.to_dense %r : !r
  %o = moe.apply %r rows(%v) experts(%w1, %w2) weighted(after) out(sum) : !r, !x, !w1, !w2 -> !x {
  ^bb0(%rows: !x, %up: !up, %down: !down):
    %n = tensor.dim %rows, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%rows, %up : !x, !up) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %f = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %f : !x
  }
  %y = arith.addf %v, %o : !x
  return %y, %routing : !x, !e
}
