// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Harder Tasks Need More Experts: Dynamic Routing in MoE Models
//
// Experts are taken in the order of their probability until these sum to more than 0.4, so that a token that is hard to
// place gets more experts. The weights are the probabilities themselves.
//
// Ops: select (an expert stays while the better ones sum to at most 0.4), counts, apply.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>
!e = tensor<?x8xf32>   !r = !moe.routing<?x8xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x8xf32> {moe.name = "wr"},
    %w1: tensor<8x24x40xf32> {moe.name = "w1"}, %w3: tensor<8x24x40xf32> {moe.name = "w3"},
    %w2: tensor<8x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %p = arith.constant 0.4 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !r
  %kept = moe.select %probs {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %in = arith.cmpf ole, %before, %p : f32
    moe.yield %in : i1
  } : !r
  %y = moe.apply %kept rows(%x) experts(%w1, %w3, %w2) weighted(after) out(sum)
      : !r, !x, tensor<8x24x40xf32>, tensor<8x24x40xf32>, tensor<8x40x24xf32> -> !x {
  ^bb0(%v: !x, %gate: !up, %lift: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %g = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %lift : !x, !up) outs(%zh : !h) -> !h
    %m = arith.negf %g : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %h = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %kept : !r
  %count = moe.counts %kept per(row) : !r
  return %y, %routing, %count : !x, !e, tensor<?xi32>
}
