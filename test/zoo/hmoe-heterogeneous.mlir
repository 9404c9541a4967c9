// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// HMoE: Heterogeneous Mixture of Experts for Language Modeling
//
// Experts of different widths are slices of one dense bank. Top-p routing takes experts until their probabilities
// reach P, so that both the number of experts and the work of each vary.
//
// Ops: route, normalize, select (top-p), apply with ragged expert slices, counts, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x?xf32>   !s = tensor<?x5xf32>   !r = !moe.routing<?x5xf32>
!in = tensor<24x?xf32>   !out = tensor<?x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x5xf32> {moe.name = "w_gate"},
    %wg: tensor<24x104xf32> {moe.name = "w_g"}, %wu: tensor<24x104xf32> {moe.name = "w_u"},
    %wd: tensor<104x24xf32> {moe.name = "w_d"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %enough = arith.constant 0.6 : f32
  %t = tensor.dim %x, %c0 : !x   %z = tensor.splat %f0[%t] : !s
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x5xf32>) outs(%z : !s) -> !s
  %all = moe.route %logits : !s   %p = moe.normalize %all by(softmax) : !r
  %r = moe.select %p {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %more = arith.cmpf olt, %before, %enough : f32
    moe.yield %more : i1
  } : !r
  %y = moe.apply %r rows(%x) experts(%wg along 1 ragged([0, 8, 20, 40, 68, 104]),
      %wu along 1 ragged([0, 8, 20, 40, 68, 104]),
      %wd along 0 ragged([0, 8, 20, 40, 68, 104])) weighted(after) out(sum)
      : !r, !x, tensor<24x104xf32>, tensor<24x104xf32>, tensor<104x24xf32> -> !x {
  ^bb0(%v: !x, %gate: !in, %up: !in, %down: !out):
    %n = tensor.dim %v, %c0 : !x   %w = tensor.dim %gate, %c1 : !in
    %zh = tensor.splat %f0[%n, %w] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n, %w] : !h
    %g = linalg.matmul ins(%v, %gate : !x, !in) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %up : !x, !in) outs(%zh : !h) -> !h
    %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%a, %down : !h, !out) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  %count = moe.counts %r per(row) : !r
  return %y, %routing, %count : !x, !s, tensor<?xi32>
}
