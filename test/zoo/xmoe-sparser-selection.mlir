// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Enhancing Efficiency in Sparse Models with Sparser Selection
//
// Many small experts; a token takes them in the order of their probability until these sum to the threshold, but at
// most K. The weights are the probabilities.
//
// Ops: top_k, select by the sum of the better ones, counts, apply.

!x = tensor<?x24xf32>   !h = tensor<?x10xf32>   !e = tensor<?x11xf32>   !all = !moe.routing<?x11xf32>
!r = !moe.routing<?x11xf32, max_per_row = 5>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x11xf32> {moe.name = "w_gate"},
    %w1: tensor<11x24x10xf32> {moe.name = "w1"}, %w2: tensor<11x10x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %threshold = arith.constant 0.6 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<24x11xf32>) outs(%ze : !e) -> !e
  %every = moe.route %logits : !e   %probs = moe.normalize %every by(softmax) : !all
  %top = moe.top_k %probs k(5) : !all
  %r = moe.select %top {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %in = arith.cmpf olt, %before, %threshold : f32
    moe.yield %in : i1
  } : !r
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<11x24x10xf32>, tensor<11x10x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x10xf32>, %down: tensor<10x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x10xf32>) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<10x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  %count = moe.counts %r per(row) : !r
  return %y, %routing, %count : !x, !e, tensor<?xi32>
}
