// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// EvoMoE: An Evolutional Mixture-of-Experts Training Framework via Dense-To-Sparse Gate
//
// Dense-to-sparse gating: with a falling temperature the softmax concentrates, and a token runs every expert whose gate
// exceeds a fixed threshold, so that the number of experts falls by itself.
//
// Ops: route, normalize, select by threshold, counts, apply.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %noise: !e {moe.name = "noise"}, %temp: tensor<1xf32> {moe.name = "temp"},
    %wr: tensor<24x6xf32> {moe.name = "wr"}, %w1: tensor<6x24x32xf32> {moe.name = "w1"},
    %b1: tensor<6x32xf32> {moe.name = "b1"}, %w2: tensor<6x32x24xf32> {moe.name = "w2"},
    %b2: tensor<6x24xf32> {moe.name = "b2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %threshold = arith.constant 0.15 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %clean = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %kelvin = tensor.extract %temp[%c0] : tensor<1xf32>
  %temps = tensor.splat %kelvin[%t] : !e
  %noisy = arith.addf %clean, %noise : !e   %logits = arith.divf %noisy, %temps : !e
  %every = moe.route %logits : !e   %probs = moe.normalize %every by(softmax) : !all
  %r = moe.select %probs {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %in = arith.cmpf ogt, %key, %threshold : f32
    moe.yield %in : i1
  } : !all
  %y = moe.apply %r rows(%x) experts(%w1, %b1, %w2, %b2) weighted(after) out(sum)
      : !all, !x, tensor<6x24x32xf32>, tensor<6x32xf32>, tensor<6x32x24xf32>, tensor<6x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x32xf32>, %bias: tensor<32xf32>, %down: tensor<32x24xf32>, %shift: tensor<24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %bh = linalg.broadcast ins(%bias : tensor<32xf32>) outs(%zh : !h) dimensions = [0]
    %bx = linalg.broadcast ins(%shift : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x32xf32>) outs(%bh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<32x24xf32>) outs(%bx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !all
  %count = moe.counts %r per(row) : !all
  return %y, %routing, %count : !x, !e, tensor<?xi32>
}
