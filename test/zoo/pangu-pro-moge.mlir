// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Pangu Pro MoE: Mixture of Grouped Experts for Efficient Sparsity
//
// Experts are cut into equal groups, one per device, and a token takes the same number of experts from every group, so
// that the load of each group is known beforehand. A shared expert sees every token.
//
// Ops: top_k with groups, apply; the shared expert is dense upstream code.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !hs = tensor<?x20xf32>   !e = tensor<?x12xf32>
!r = !moe.routing<?x12xf32, max_per_row = 8>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x12xf32> {moe.name = "wr"},
    %wg: tensor<12x24x30xf32> {moe.name = "wg"}, %wu: tensor<12x24x30xf32> {moe.name = "wu"},
    %wd: tensor<12x30x24xf32> {moe.name = "wd"}, %sg: tensor<24x20xf32> {moe.name = "sg"},
    %su: tensor<24x20xf32> {moe.name = "su"}, %sd: tensor<20x24xf32> {moe.name = "sd"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x12xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x12xf32>
  %gates = moe.top_k %probs k(2) groups(4) : !moe.routing<?x12xf32>
  %routed = moe.apply %gates rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum)
      : !r, !x, tensor<12x24x30xf32>, tensor<12x24x30xf32>, tensor<12x30x24xf32> -> !x {
  ^bb0(%v: !x, %gate: tensor<24x30xf32>, %up: tensor<24x30xf32>, %down: tensor<30x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %a = linalg.matmul ins(%v, %gate : !x, tensor<24x30xf32>) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, tensor<24x30xf32>) outs(%zh : !h) -> !h
    %m = arith.negf %a : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %a, %den : !h   %h = arith.mulf %silu, %b : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<30x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %zs = tensor.splat %f0[%t] : !hs   %ones = tensor.splat %f1[%t] : !hs
  %a = linalg.matmul ins(%x, %sg : !x, tensor<24x20xf32>) outs(%zs : !hs) -> !hs
  %b = linalg.matmul ins(%x, %su : !x, tensor<24x20xf32>) outs(%zs : !hs) -> !hs
  %m = arith.negf %a : !hs   %exp = math.exp %m : !hs   %den = arith.addf %exp, %ones : !hs
  %silu = arith.divf %a, %den : !hs   %h = arith.mulf %silu, %b : !hs
  %y = linalg.matmul ins(%h, %sd : !hs, tensor<20x24xf32>) outs(%routed : !x) -> !x
  %routing = moe.to_dense %gates : !r
  return %y, %routing : !x, !e
}
