// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Sparse MoE as the New Dropout: Scaling Dense and Self-Slimmable Transformers
//
// The number of experts per token is an input of the call: training raises it from one to all, and a deployed model
// takes what the moment affords.
//
// Ops: top_k with a run-time k, normalize, apply.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x7xf32>   !all = !moe.routing<?x7xf32>

func.func @main(%x: !x {moe.name = "x"}, %k: tensor<i32> {moe.name = "k"},
    %w_router: tensor<24x7xf32> {moe.name = "w_router"}, %w1: tensor<7x24x40xf32> {moe.name = "w1"},
    %w2: tensor<7x40x24xf32> {moe.name = "w2"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_router : !x, tensor<24x7xf32>) outs(%ze : !e) -> !e
  %k32 = tensor.extract %k[] : tensor<i32>   %kindex = arith.index_cast %k32 : i32 to index
  %kk = arith.maxsi %kindex, %c1 : index
  %every = moe.route %logits : !e   %top = moe.top_k %every k(%kk : index) : !all
  %r = moe.normalize %top by(softmax) : !all
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !all, !x, tensor<7x24x40xf32>, tensor<7x40x24xf32> -> !x {
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
