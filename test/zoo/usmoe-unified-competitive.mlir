// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Sparse Mixture of Experts as Unified Competitive Learning
//
// Tokens and experts compete in one list: the T*K best pairs of the whole batch are kept, whichever token or expert
// they belong to. The score is half a softmax and half a scaled sigmoid of the logits.
//
// Ops: top_k over the whole matrix with a run-time k, apply.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x6xf32> {moe.name = "w_gate"},
    %w1: tensor<6x24x40xf32> {moe.name = "w1"}, %w2: tensor<6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c2 = arith.constant 2 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %third = arith.constant 0.16666666666666666 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %pairs = arith.muli %t, %c2 : index
  %zs = linalg.softmax dimension(1) ins(%logits : !e) outs(%ze : !e) -> !e
  %s = linalg.map ins(%logits, %zs : !e, !e) outs(%ze : !e) (%z: f32, %p: f32, %init: f32) {
    %m = arith.negf %z : f32   %exp = math.exp %m : f32   %den = arith.addf %exp, %f1 : f32
    %sigmoid = arith.divf %third, %den : f32   %ph = arith.mulf %p, %half : f32
    %score = arith.addf %ph, %sigmoid : f32
    linalg.yield %score : f32
  }
  %every = moe.route %s : !e   %r = moe.top_k %every k(%pairs : index) axis(all) : !all
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !all, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !x {
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
  %routing = moe.to_dense %r : !all
  return %y, %routing : !x, !e
}
