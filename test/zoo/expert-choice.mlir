// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Mixture-of-Experts with Expert Choice Routing
//
// The experts choose: each takes its k best tokens of the group by softmax score, so that the load is balanced by
// construction and a token may be used by any number of experts.
//
// Ops: route, normalize, top_k along the tokens with a run-time k, apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !s = tensor<?x6xf32>   !r = !moe.routing<?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x6xf32> {moe.name = "w_gate"},
    %w1: tensor<6x24x40xf32> {moe.name = "w1"}, %w2: tensor<6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c6 = arith.constant 6 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %z = tensor.splat %f0[%t] : !s
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%z : !s) -> !s
  %all = moe.route %logits : !s   %p = moe.normalize %all by(softmax) : !r
  // k = ceil(T / E), which is at most T
  %k = arith.ceildivui %t, %c6 : index
  %chosen = moe.top_k %p k(%k : index) axis(token) : !r
  %y = moe.apply %chosen rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %ones = tensor.splat %f1[%n] : !h
    %halves = tensor.splat %half[%n] : !h   %scale = tensor.splat %rsqrt2[%n] : !h
    // gelu(a) = a / 2 (1 + erf(a / sqrt 2))
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %b = arith.mulf %a, %scale : !h   %erf = math.erf %b : !h   %c = arith.addf %erf, %ones : !h
    %d = arith.mulf %a, %halves : !h   %g = arith.mulf %c, %d : !h
    %o = linalg.matmul ins(%g, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %chosen : !r
  return %y, %routing : !x, !s
}
