// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Soft Merging of Experts with Adaptive Routing
//
// The router's distribution averages the parameters of the adapters, not their outputs: every example gets one merged
// adapter, which runs once on all its positions.
//
// Ops: route and normalize (the distribution); merging is a plain contraction of weights by parameters.

!x = tensor<?x5x24xf32>   !h = tensor<?x5x10xf32>   !p = tensor<?x5xf32>   !d = tensor<?x24xf32>   !f = tensor<?x10xf32>
!flat = tensor<?x240xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_router: tensor<24x5xf32> {moe.name = "w_router"},
    %w_down: tensor<5x24x10xf32> {moe.name = "w_down"}, %b_down: tensor<5x10xf32> {moe.name = "b_down"},
    %w_up: tensor<5x10x24xf32> {moe.name = "w_up"}, %b_up: tensor<5x24xf32> {moe.name = "b_up"})
    -> (!x {moe.name = "y"}, !p {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %fifth = arith.constant 0.2 : f32
  %n = tensor.dim %x, %c0 : !x   %zd = tensor.splat %f0[%n] : !d   %zf = tensor.splat %f0[%n] : !f
  %zp = tensor.splat %f0[%n] : !p   %zm = tensor.splat %f0[%n] : !flat   %zx = tensor.splat %f0[%n] : !x
  %zh = tensor.splat %f0[%n] : !h   %fifths = tensor.splat %fifth[%n] : !d
  %sum = linalg.reduce { arith.addf } ins(%x : !x) outs(%zd : !d) dimensions = [1]
  %mean = arith.mulf %sum, %fifths : !d
  %logits = linalg.matmul ins(%mean, %w_router : !d, tensor<24x5xf32>) outs(%zp : !p) -> !p
  %all = moe.route %logits : !p   %probs = moe.normalize %all by(softmax) : !moe.routing<?x5xf32>
  %p = moe.to_dense %probs : !moe.routing<?x5xf32>

  %downs = tensor.collapse_shape %w_down [[0], [1, 2]] : tensor<5x24x10xf32> into tensor<5x240xf32>
  %ups = tensor.collapse_shape %w_up [[0], [1, 2]] : tensor<5x10x24xf32> into tensor<5x240xf32>
  %wd_flat = linalg.matmul ins(%p, %downs : !p, tensor<5x240xf32>) outs(%zm : !flat) -> !flat
  %wu_flat = linalg.matmul ins(%p, %ups : !p, tensor<5x240xf32>) outs(%zm : !flat) -> !flat
  %wd = tensor.expand_shape %wd_flat [[0], [1, 2]] output_shape [%n, 24, 10] : !flat into tensor<?x24x10xf32>
  %wu = tensor.expand_shape %wu_flat [[0], [1, 2]] output_shape [%n, 10, 24] : !flat into tensor<?x10x24xf32>
  %bd = linalg.matmul ins(%p, %b_down : !p, tensor<5x10xf32>) outs(%zf : !f) -> !f
  %bu = linalg.matmul ins(%p, %b_up : !p, tensor<5x24xf32>) outs(%zd : !d) -> !d

  %bds = linalg.broadcast ins(%bd : !f) outs(%zh : !h) dimensions = [1]
  %a = linalg.batch_matmul ins(%x, %wd : !x, tensor<?x24x10xf32>) outs(%bds : !h) -> !h
  %h = arith.maximumf %a, %zh : !h
  %bus = linalg.broadcast ins(%bu : !d) outs(%zx : !x) dimensions = [1]
  %o = linalg.batch_matmul ins(%h, %wu : !h, tensor<?x10x24xf32>) outs(%bus : !x) -> !x
  %y = arith.addf %x, %o : !x
  return %y, %p : !x, !p
}
