// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// BAM! Just Like That: Simple and Efficient Parameter Upcycling for Mixture of Experts
//
// Experts of attention and of feed-forward layers in parallel: all attention experts run and are mixed per token, in a
// full form and in one that shares keys and values; a token chooses its feed-forward experts.
//
// Ops: top_k, normalize, apply, to_dense for the feed-forward side; the attention experts all need all tokens and are
// linalg over the stacked weights.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x4xf32>   !q = tensor<4x?x24xf32>
!qh = tensor<4x?x2x12xf32>   !sc = tensor<4x2x?x?xf32>   !w = tensor<4x24x24xf32>   !ws = tensor<24x24xf32>
!g = tensor<24xf32>   !r = !moe.routing<?x4xf32, max_per_row = 2>   !up = tensor<24x32xf32>   !down = tensor<32x24xf32>
!ups = tensor<4x24x32xf32>   !downs = tensor<4x32x24xf32>

// (v - mean) / sqrt(variance + 1.0e-5) over each row.
func.func private @layer_norm(%v: !x) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !x
  %sum = linalg.reduce {arith.addf} ins(%v : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>
  %means = linalg.broadcast ins(%mean : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %d = arith.subf %v, %means : !x   %dd = arith.mulf %d, %d : !x
  %sq = linalg.reduce {arith.addf} ins(%dd : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %var = arith.divf %sq, %widths : tensor<?xf32>   %safe = arith.addf %var, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %o = arith.divf %d, %roots : !x
  return %o : !x
}

func.func @main(%x: !x {moe.name = "x"}, %gamma: !g {moe.name = "gamma"}, %beta: !g {moe.name = "beta"},
    %wga: tensor<24x4xf32> {moe.name = "wga"}, %wq: !w {moe.name = "wq"}, %wk: !w {moe.name = "wk"},
    %wv: !w {moe.name = "wv"}, %wo: !w {moe.name = "wo"}, %wk_s: !ws {moe.name = "wk_s"},
    %wv_s: !ws {moe.name = "wv_s"}, %wgf: tensor<24x4xf32> {moe.name = "wgf"}, %w1: !ups {moe.name = "w1"},
    %w3: !ups {moe.name = "w3"}, %w2: !downs {moe.name = "w2"})
    -> (!x {moe.name = "y_full"}, !x {moe.name = "y_kv"}, !e {moe.name = "soft"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zx = tensor.splat %f0[%t] : !x   %ze = tensor.splat %f0[%t] : !e
  %zw = tensor.splat %f0 : !w
  %unit = func.call @layer_norm(%x) : (!x) -> !x
  %gs = linalg.broadcast ins(%gamma : !g) outs(%zx : !x) dimensions = [0]
  %bs = linalg.broadcast ins(%beta : !g) outs(%zx : !x) dimensions = [0]   %scaled = arith.mulf %unit, %gs : !x
  %n = arith.addf %scaled, %bs : !x
  %lg = linalg.matmul ins(%n, %wga : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %soft = linalg.softmax dimension(1) ins(%lg : !e) outs(%ze : !e) -> !e
  %wks = linalg.broadcast ins(%wk_s : !ws) outs(%zw : !w) dimensions = [0]
  %wvs = linalg.broadcast ins(%wv_s : !ws) outs(%zw : !w) dimensions = [0]
  %full = func.call @attention(%n, %soft, %wq, %wk, %wv, %wo) : (!x, !e, !w, !w, !w, !w) -> !x
  %kv = func.call @attention(%n, %soft, %wq, %wks, %wvs, %wo) : (!x, !e, !w, !w, !w, !w) -> !x
  %z = linalg.matmul ins(%n, %wgf : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %all = moe.route %z : !e   %best = moe.top_k %all k(2) : !moe.routing<?x4xf32>
  %r = moe.normalize %best by(softmax) : !r   %routing = moe.to_dense %r : !r
  %ffn = moe.apply %r rows(%n) experts(%w1, %w3, %w2) weighted(after) out(sum) : !r, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %m = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%m] : !h   %zo = tensor.splat %f0[%m] : !x
    %one = tensor.splat %f1[%m] : !h
    %a = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %s_n = arith.negf %a : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %one : !h
    %s = arith.divf %a, %s_d : !h   %hidden = arith.mulf %s, %b : !h
    %o = linalg.matmul ins(%hidden, %down : !h, !down) outs(%zo : !x) -> !x
    moe.yield %o : !x
  }
  %xf = arith.addf %x, %full : !x   %y_full = arith.addf %xf, %ffn : !x   %xk = arith.addf %x, %kv : !x
  %y_kv = arith.addf %xk, %ffn : !x
  return %y_full, %y_kv, %soft, %routing : !x, !x, !e, !e
}

// All attention experts on n, mixed with the weights of the query's token.
func.func private @attention(%n: !x, %soft: !e, %wq: !w, %wk: !w, %wv: !w, %wo: !w) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %minf = arith.constant 0xFF800000 : f32
  %scale = arith.constant 0.28867513459481287 : f32
  %t = tensor.dim %n, %c0 : !x   %zq = tensor.splat %f0[%t] : !q   %zqh = tensor.splat %f0[%t] : !qh
  %zsc = tensor.splat %f0[%t, %t] : !sc   %zx = tensor.splat %f0[%t] : !x
  %q = linalg.contract indexing_maps = [affine_map<(e, t, c, d) -> (t, d)>, affine_map<(e, t, c, d) -> (e, d, c)>,
      affine_map<(e, t, c, d) -> (e, t, c)>] ins(%n, %wq : !x, !w) outs(%zq : !q) -> !q
  %k = linalg.contract indexing_maps = [affine_map<(e, t, c, d) -> (t, d)>, affine_map<(e, t, c, d) -> (e, d, c)>,
      affine_map<(e, t, c, d) -> (e, t, c)>] ins(%n, %wk : !x, !w) outs(%zq : !q) -> !q
  %v = linalg.contract indexing_maps = [affine_map<(e, t, c, d) -> (t, d)>, affine_map<(e, t, c, d) -> (e, d, c)>,
      affine_map<(e, t, c, d) -> (e, t, c)>] ins(%n, %wv : !x, !w) outs(%zq : !q) -> !q
  %qx = tensor.expand_shape %q [[0], [1], [2, 3]] output_shape [4, %t, 2, 12] : !q into !qh
  %kx = tensor.expand_shape %k [[0], [1], [2, 3]] output_shape [4, %t, 2, 12] : !q into !qh
  %vx = tensor.expand_shape %v [[0], [1], [2, 3]] output_shape [4, %t, 2, 12] : !q into !qh
  %dots = linalg.contract indexing_maps = [affine_map<(e, h, t, j, i) -> (e, t, h, i)>,
      affine_map<(e, h, t, j, i) -> (e, j, h, i)>, affine_map<(e, h, t, j, i) -> (e, h, t, j)>] ins(%qx, %kx
          : !qh, !qh) outs(%zsc : !sc) -> !sc
  %causal = linalg.map ins(%dots : !sc) outs(%zsc : !sc) (%s: f32, %init: f32) {
    %i = linalg.index 2 : index   %j = linalg.index 3 : index   %past = arith.cmpi ule, %j, %i : index
    %sv = arith.mulf %s, %scale : f32   %o = arith.select %past, %sv, %minf : f32
    linalg.yield %o : f32
  }
  %p = linalg.softmax dimension(3) ins(%causal : !sc) outs(%zsc : !sc) -> !sc
  %ctx = linalg.contract indexing_maps = [affine_map<(e, t, h, i, j) -> (e, h, t, j)>,
      affine_map<(e, t, h, i, j) -> (e, j, h, i)>, affine_map<(e, t, h, i, j) -> (e, t, h, i)>] ins(%p, %vx
          : !sc, !qh) outs(%zqh : !qh) -> !qh
  %c = tensor.collapse_shape %ctx [[0], [1], [2, 3]] : !qh into !q
  %et = tensor.empty(%t) : tensor<4x?xf32>
  %weights = linalg.transpose ins(%soft : !e) outs(%et : tensor<4x?xf32>) permutation = [1, 0]
  %wide = linalg.broadcast ins(%weights : tensor<4x?xf32>) outs(%zq : !q) dimensions = [2]
  %gated = arith.mulf %c, %wide : !q
  %y = linalg.contract indexing_maps = [affine_map<(t, d, e, c) -> (e, t, c)>, affine_map<(t, d, e, c) -> (e, c, d)>,
      affine_map<(t, d, e, c) -> (t, d)>] ins(%gated, %wo : !q, !w) outs(%zx : !x) -> !x
  return %y : !x
}
