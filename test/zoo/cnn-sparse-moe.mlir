// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Sparsely-gated Mixture-of-Expert Layers for CNN Interpretability
//
// Convolutional experts: an image is a row, gated by its channel means; experts that were used too much so far are
// blocked, and the running importance is state.
//
// Ops: route with a mask over the experts, top_k, normalize, apply whose rows are images (a body with a convolution),
// to_dense, in whose sum the state goes on.

!x = tensor<?x3x7x6xf32>   !y = tensor<?x4x7x6xf32>   !c = tensor<?x3xf32>   !e = tensor<?x5xf32>   !u = tensor<5xf32>
!r = !moe.routing<?x5xf32, max_per_row = 2>   !w = tensor<5x4x3x3x3xf32>   !b = tensor<5x4xf32>
!k = tensor<4x3x3x3xf32>

func.func @main(%x: !x {moe.name = "x"}, %usage: !u {moe.name = "usage"},
    %w_gate: tensor<3x5xf32> {moe.name = "w_gate"}, %b_gate: !u {moe.name = "b_gate"},
    %w_conv: !w {moe.name = "w_conv"}, %b_conv: !b {moe.name = "b_conv"})
    -> (!y {moe.name = "y"}, !e {moe.name = "routing"}, !u {moe.name = "usage_out"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f5 = arith.constant 5.0 : f32
  %limit = arith.constant 1.4 : f32   %count = arith.constant 42.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zc = tensor.splat %f0[%t] : !c   %ze = tensor.splat %f0[%t] : !e
  %z0 = tensor.splat %f0 : tensor<f32>
  %total = linalg.reduce {arith.addf} ins(%usage : !u) outs(%z0 : tensor<f32>) dimensions = [0]
  %sum = tensor.extract %total[] : tensor<f32>   %mean = arith.divf %sum, %f5 : f32
  %most = arith.mulf %mean, %limit : f32   %mosts = tensor.splat %most : !u
  %usable = arith.cmpf ule, %usage, %mosts : !u
  %sums = linalg.reduce {arith.addf} ins(%x : !x) outs(%zc : !c) dimensions = [2,3]
  %counts = tensor.splat %count[%t] : !c   %vm = arith.divf %sums, %counts : !c
  %bias = linalg.broadcast ins(%b_gate : !u) outs(%ze : !e) dimensions = [0]
  %logits = linalg.matmul ins(%vm, %w_gate : !c, tensor<3x5xf32>) outs(%bias : !e) -> !e
  %p = linalg.softmax dimension(1) ins(%logits : !e) outs(%ze : !e) -> !e
  %open = moe.route %p mask(%usable : tensor<5xi1>) : !e   %best = moe.top_k %open k(2) : !moe.routing<?x5xf32>
  %r = moe.normalize %best by(sum) : !r
  %y = moe.apply %r rows(%x) experts(%w_conv, %b_conv) weighted(after) out(sum) : !r, !x, !w, !b -> !y {
  ^bb0(%v: !x, %k: !k, %bc: tensor<4xf32>):
    %n = tensor.dim %v, %c0 : !x   %zy = tensor.splat %f0[%n] : !y   %z9 = tensor.splat %f0[%n] : tensor<?x3x9x8xf32>
    %start = linalg.broadcast ins(%bc : tensor<4xf32>) outs(%zy : !y) dimensions = [0,2,3]
    %padded = tensor.insert_slice %v into %z9[0, 0, 1, 1] [%n, 3, 7, 6] [1, 1, 1, 1] : !x into tensor<?x3x9x8xf32>
    %conv = linalg.conv_2d_nchw_fchw ins(%padded, %k : tensor<?x3x9x8xf32>, !k) outs(%start : !y) -> !y
    %o = arith.maximumf %conv, %zy : !y
    moe.yield %o : !y
  }
  %routing = moe.to_dense %r : !r
  %usage_out = linalg.reduce {arith.addf} ins(%routing : !e) outs(%usage : !u) dimensions = [0]
  return %y, %routing, %usage_out : !y, !e, !u
}
