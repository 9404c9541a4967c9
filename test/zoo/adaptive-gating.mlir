// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Adaptive Gating in Mixture-of-Experts based Language Models
//
// A token takes a second expert only if the two best probabilities are close: when the best one leads by more than a
// threshold, it works alone. The weights are the probabilities.
//
// Ops: top_k, select by rank and by the gap to the best, counts, apply.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x6xf32> {moe.name = "w_gate"},
    %w1: tensor<6x24x40xf32> {moe.name = "w1"}, %w2: tensor<6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %threshold = arith.constant 0.2 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %every = moe.route %logits : !e   %probs = moe.normalize %every by(softmax) : !all
  %top = moe.top_k %probs k(2) : !all
  %r = moe.select %top {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %first = arith.cmpi eq, %rank, %c0 : index   %gap = arith.subf %before, %key : f32
    %close = arith.cmpf ole, %gap, %threshold : f32   %in = arith.ori %first, %close : i1
    moe.yield %in : i1
  } : !r
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  %count = moe.counts %r per(row) : !r
  return %y, %routing, %count : !x, !e, tensor<?xi32>
}
