// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// M6-T: Exploring Sparse Expert Models and Beyond
//
// Experts stand in prototypes; a token takes the best expert of every prototype, each by its own router, and an expert
// serves the first C of its tokens.
//
// Ops: route, normalize, top_k per prototype; concat puts the prototypes' experts side by side; limit with a run-time
// capacity, apply with banks [Z, M, ..] reached through an affine map, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !m = tensor<?x3xf32>   !e = tensor<?x6xf32>   !g = tensor<24x3xf32>
!w1 = tensor<2x3x24x40xf32>   !w2 = tensor<2x3x40x24xf32>   !one = !moe.routing<?x3xf32, max_per_row = 1>
!r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<2x24x3xf32> {moe.name = "w_gate"}, %w1: !w1 {moe.name = "w1"},
    %w2: !w2 {moe.name = "w2"}) -> (!x {moe.name = "y"}, tensor<?x2x3xf32> {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c5 = arith.constant 5 : index   %c12 = arith.constant 12 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %root2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %zm = tensor.splat %f0[%t] : !m
  %wa, %wb = func.call @prototypes(%w_gate) : (tensor<2x24x3xf32>) -> (!g, !g)
  %la = linalg.matmul ins(%x, %wa : !x, !g) outs(%zm : !m) -> !m
  %lb = linalg.matmul ins(%x, %wb : !x, !g) outs(%zm : !m) -> !m
  %ea = moe.route %la : !m   %pa = moe.normalize %ea by(softmax) : !moe.routing<?x3xf32>
  %ba = moe.top_k %pa k(1) : !moe.routing<?x3xf32>
  %eb = moe.route %lb : !m   %pb = moe.normalize %eb by(softmax) : !moe.routing<?x3xf32>
  %bb = moe.top_k %pb k(1) : !moe.routing<?x3xf32>
  %both = moe.concat %ba, %bb : !one, !one
  // C = ceil(5 T / (4 M))
  %t5 = arith.muli %t, %c5 : index   %cap = arith.ceildivui %t5, %c12 : index
  %r = moe.limit %both cap(%cap : index) order(row) : !r
  %y = moe.apply %r rows(%x) experts(%w1 by (e) -> (e floordiv 3, e mod 3), %w2 by (e) -> (e floordiv 3, e mod 3))
      weighted(after) out(sum) : !r, !x, !w1, !w2 -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %o = linalg.matmul ins(%g, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %flat = moe.to_dense %r : !r
  %routing = tensor.expand_shape %flat [[0], [1, 2]] output_shape [%t, 2, 3] : !e into tensor<?x2x3xf32>
  return %y, %routing : !x, tensor<?x2x3xf32>
}

func.func private @prototypes(%w: tensor<2x24x3xf32>) -> (!g, !g) {
  %a = tensor.extract_slice %w[0, 0, 0] [1, 24, 3] [1, 1, 1] : tensor<2x24x3xf32> to !g
  %b = tensor.extract_slice %w[1, 0, 0] [1, 24, 3] [1, 1, 1] : tensor<2x24x3xf32> to !g
  return %a, %b : !g, !g
}
