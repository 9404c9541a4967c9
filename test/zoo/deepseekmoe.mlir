// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models
//
// Many narrow experts: the best k of the softmax keep their probabilities as they are, and shared experts, which every
// token runs with weight one, stand beside them.
//
// Ops: route, normalize, top_k, apply (one for the routed bank, one for the shared bank), to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x12xf32>   !in = tensor<24x12xf32>   !out = tensor<12x24xf32>

// (silu(v gate) * (v up)) down
func.func private @ffn(%v: !x, %gate: !in, %up: !in, %down: !out) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %one = tensor.splat %f1[%n] : !h
  %g = linalg.matmul ins(%v, %gate : !x, !in) outs(%zh : !h) -> !h
  %u = linalg.matmul ins(%v, %up : !x, !in) outs(%zh : !h) -> !h
  %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
  %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
  %o = linalg.matmul ins(%a, %down : !h, !out) outs(%zx : !x) -> !x
  return %o : !x
}

func.func @main(%u: !x {moe.name = "u"}, %cent: tensor<10x24xf32> {moe.name = "cent"},
    %w1: tensor<10x24x12xf32> {moe.name = "w1"}, %w3: tensor<10x24x12xf32> {moe.name = "w3"},
    %w2: tensor<10x12x24xf32> {moe.name = "w2"}, %ws1: tensor<2x24x12xf32> {moe.name = "ws1"},
    %ws3: tensor<2x24x12xf32> {moe.name = "ws3"}, %ws2: tensor<2x12x24xf32> {moe.name = "ws2"})
    -> (!x {moe.name = "h"}, tensor<?x10xf32> {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %u, %c0 : !x   %z = tensor.splat %f0[%t] : tensor<?x10xf32>
  %logits = linalg.matmul indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>] ins(%u, %cent : !x, tensor<10x24xf32>) outs(%z
          : tensor<?x10xf32>) -> tensor<?x10xf32>
  %all = moe.route %logits : tensor<?x10xf32>   %p = moe.normalize %all by(softmax) : !moe.routing<?x10xf32>
  %r = moe.top_k %p k(4) : !moe.routing<?x10xf32>
  %routed = moe.apply %r rows(%u) experts(%w1, %w3, %w2) weighted(after) out(sum)
      : !moe.routing<?x10xf32, max_per_row = 4>,
      !x, tensor<10x24x12xf32>, tensor<10x24x12xf32>, tensor<10x12x24xf32> -> !x {
  ^bb0(%v: !x, %gate: !in, %up: !in, %down: !out):
    %o = func.call @ffn(%v, %gate, %up, %down) : (!x, !in, !in, !out) -> !x
    moe.yield %o : !x
  }
  %ones = tensor.splat %f1[%t] : tensor<?x2xf32>
  %s = moe.route %ones : tensor<?x2xf32>
  %shared = moe.apply %s rows(%u) experts(%ws1, %ws3, %ws2) out(sum) : !moe.routing<?x2xf32>,
      !x, tensor<2x24x12xf32>, tensor<2x24x12xf32>, tensor<2x12x24xf32> -> !x {
  ^bb0(%v: !x, %gate: !in, %up: !in, %down: !out):
    %o = func.call @ffn(%v, %gate, %up, %down) : (!x, !in, !in, !out) -> !x
    moe.yield %o : !x
  }
  %both = arith.addf %routed, %shared : !x   %h = arith.addf %u, %both : !x
  %routing = moe.to_dense %r : !moe.routing<?x10xf32, max_per_row = 4>
  return %h, %routing : !x, tensor<?x10xf32>
}
