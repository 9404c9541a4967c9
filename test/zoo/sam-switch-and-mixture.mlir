// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Towards More Effective and Economic Sparsely-Activated Model
//
// Two levels: a switch picks one group of experts for a token, and a mixture inside the group picks the experts. A
// pair's weight is the product of both probabilities.
//
// Ops: top_k over G groups and over the M experts of T*G rows, normalize, route of the products with a mask, apply.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !e = tensor<?x12xf32>   !all = !moe.routing<?x12xf32>
!g = tensor<?x3xf32>   !m = tensor<?x4xf32>   !gm = tensor<?x3x4xf32>   !rg = !moe.routing<?x3xf32, max_per_row = 1>
!rm = !moe.routing<?x4xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_switch: tensor<24x3xf32> {moe.name = "w_switch"},
    %w_mix: tensor<3x24x4xf32> {moe.name = "w_mix"}, %w1: tensor<3x4x24x36xf32> {moe.name = "w1"},
    %w2: tensor<3x4x36x24xf32> {moe.name = "w2"}) -> (!x {moe.name = "y"}, !gm {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zg = tensor.splat %f0[%t] : !g   %ze = tensor.splat %f0[%t] : !e
  %zgm = tensor.splat %f0[%t] : !gm
  %s = linalg.matmul ins(%x, %w_switch : !x, tensor<24x3xf32>) outs(%zg : !g) -> !g
  %switches = moe.route %s : !g   %q_all = moe.normalize %switches by(softmax) : !moe.routing<?x3xf32>
  %q_top = moe.top_k %q_all k(1) : !moe.routing<?x3xf32>
  %q = moe.to_dense %q_top : !rg
  %mix = linalg.contract indexing_maps = [affine_map<(t, g, m, d) -> (t, d)>, affine_map<(t, g, m, d) -> (g, d, m)>,
      affine_map<(t, g, m, d) -> (t, g, m)>]
      ins(%x, %w_mix : !x, tensor<3x24x4xf32>) outs(%zgm : !gm) -> !gm
  %rows = tensor.collapse_shape %mix [[0, 1], [2]] : !gm into !m
  %mixtures = moe.route %rows : !m   %p_all = moe.normalize %mixtures by(softmax) : !moe.routing<?x4xf32>
  %p_top = moe.top_k %p_all k(2) : !moe.routing<?x4xf32>
  %p_rows = moe.to_dense %p_top : !rm
  %p = tensor.expand_shape %p_rows [[0, 1], [2]] output_shape [%t, 3, 4] : !m into !gm
  %qs = linalg.broadcast ins(%q : !g) outs(%zgm : !gm) dimensions = [2]
  %routing = arith.mulf %qs, %p : !gm
  %products = tensor.collapse_shape %routing [[0], [1, 2]] : !gm into !e
  %chosen = arith.cmpf ogt, %products, %ze : !e
  %r = moe.route %products mask(%chosen : tensor<?x12xi1>) : !e
  %y = moe.apply %r rows(%x) experts(%w1 by (e) -> (e floordiv 4, e mod 4), %w2 by (e) -> (e floordiv 4, e mod 4))
      weighted(after) out(sum)
      : !all, !x, tensor<3x4x24x36xf32>, tensor<3x4x36x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x36xf32>, %down: tensor<36x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x36xf32>) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<36x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  return %y, %routing : !x, !gm
}
