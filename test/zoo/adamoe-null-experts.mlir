// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// AdaMoE: Token-Adaptive Routing with Null Experts for Mixture-of-Experts Language Models
//
// Null experts, which cost nothing, compete with the true ones for the K places of a token; null picks are dropped and
// the rest is renormalised, so that a token runs between none and K true experts.
//
// Ops: top_k, to_slots and from_slots (an expert number behind the bank is an empty slot), normalize, counts, apply.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !up = tensor<24x30xf32>   !down = tensor<30x24xf32>
!k = tensor<?x3xf32>   !r = !moe.routing<?x5xf32, max_per_row = 3>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x9xf32> {moe.name = "wr"},
    %wg: tensor<5x24x30xf32> {moe.name = "wg"}, %wu: tensor<5x24x30xf32> {moe.name = "wu"},
    %wd: tensor<5x30x24xf32> {moe.name = "wd"})
    -> (!x {moe.name = "y"}, tensor<?x5xf32> {moe.name = "routing"}, tensor<?xi32> {moe.name = "used"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : tensor<?x9xf32>
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x9xf32>) outs(%ze : tensor<?x9xf32>) -> tensor<?x9xf32>
  %all = moe.route %logits : tensor<?x9xf32>   %probs = moe.normalize %all by(softmax) : !moe.routing<?x9xf32>
  %top = moe.top_k %probs k(3) : !moe.routing<?x9xf32>
  %idx, %w = moe.to_slots %top : !moe.routing<?x9xf32, max_per_row = 3>
  %true = moe.from_slots %idx, %w experts(5) : tensor<?x3xi32>, !k
  %gates = moe.normalize %true by(sum) : !r
  %y = moe.apply %gates rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum)
      : !r, !x, tensor<5x24x30xf32>, tensor<5x24x30xf32>, tensor<5x30x24xf32> -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %g = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %m = arith.negf %g : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %h = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %gates : !r
  %used = moe.counts %gates per(row) : !r
  return %y, %routing, %used : !x, tensor<?x5xf32>, tensor<?xi32>
}
