// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Cross-token Modeling with Conditional Computation
//
// MLP-mixer layers with experts along both axes of an image's patches: the columns of all images are units, routed to
// their best expert with a capacity that the most important units get; then the rows.
//
// Ops: normalize, top_k, limit by key with a run-time capacity, apply, to_dense; one function per width.

!x = tensor<?x8x12xf32>   !a = tensor<?x6x10xf32>   !at = tensor<?x10x6xf32>   !v = tensor<?x6xf32>
!w = tensor<?x10xf32>   !hs = tensor<?x14xf32>   !hc = tensor<?x20xf32>   !e = tensor<?x3xf32>
!r = !moe.routing<?x3xf32, max_per_row = 1>   !ws1 = tensor<3x6x14xf32>   !ws2 = tensor<3x14x6xf32>
!wc1 = tensor<3x10x20xf32>   !wc2 = tensor<3x20x10xf32>

// (v - mean) / sqrt(variance + 1.0e-5) over each row.
func.func private @ln_stage_s(%v: !v) -> !v {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 6.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %v, %c0 : !v   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !v
  %sum = linalg.reduce {arith.addf} ins(%v : !v) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>
  %means = linalg.broadcast ins(%mean : tensor<?xf32>) outs(%zx : !v) dimensions = [1]
  %d = arith.subf %v, %means : !v   %dd = arith.mulf %d, %d : !v
  %sq = linalg.reduce {arith.addf} ins(%dd : !v) outs(%zt : tensor<?xf32>) dimensions = [1]
  %var = arith.divf %sq, %widths : tensor<?xf32>   %safe = arith.addf %var, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !v) dimensions = [1]
  %o = arith.divf %d, %roots : !v
  return %o : !v
}

// (v - mean) / sqrt(variance + 1.0e-5) over each row.
func.func private @ln_stage_c(%v: !w) -> !w {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 10.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %v, %c0 : !w   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !w
  %sum = linalg.reduce {arith.addf} ins(%v : !w) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>
  %means = linalg.broadcast ins(%mean : tensor<?xf32>) outs(%zx : !w) dimensions = [1]
  %d = arith.subf %v, %means : !w   %dd = arith.mulf %d, %d : !w
  %sq = linalg.reduce {arith.addf} ins(%dd : !w) outs(%zt : tensor<?xf32>) dimensions = [1]
  %var = arith.divf %sq, %widths : tensor<?xf32>   %safe = arith.addf %var, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !w) dimensions = [1]
  %o = arith.divf %d, %roots : !w
  return %o : !w
}

func.func @main(%x: !x {moe.name = "x"}, %rp_in: tensor<8x6xf32> {moe.name = "rp_in"},
    %rc_in: tensor<12x10xf32> {moe.name = "rc_in"}, %wrs: tensor<6x3xf32> {moe.name = "wrs"},
    %ws1: !ws1 {moe.name = "ws1"}, %ws2: !ws2 {moe.name = "ws2"}, %wrc: tensor<10x3xf32> {moe.name = "wrc"},
    %wc1: !wc1 {moe.name = "wc1"}, %wc2: !wc2 {moe.name = "wc2"}, %rp_out: tensor<6x8xf32> {moe.name = "rp_out"},
    %rc_out: tensor<10x12xf32> {moe.name = "rc_out"})
    -> (!x {moe.name = "y"}, tensor<?x10x3xf32> {moe.name = "routing_s"}, tensor<?x6x3xf32> {moe.name = "routing_c"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %z1 = tensor.splat %f0[%t] : tensor<?x6x12xf32>   %za = tensor.splat %f0[%t] : !a
  %zb = tensor.splat %f0[%t] : tensor<?x8x10xf32>   %zx = tensor.splat %f0[%t] : !x   %et = tensor.empty(%t) : !at
  %ea = tensor.empty(%t) : !a
  %a1 = linalg.contract indexing_maps = [affine_map<(n, q, c, p) -> (p, q)>, affine_map<(n, q, c, p) -> (n, p, c)>,
      affine_map<(n, q, c, p) -> (n, q, c)>] ins(%rp_in, %x : tensor<8x6xf32>, !x) outs(%z1
          : tensor<?x6x12xf32>) -> tensor<?x6x12xf32>
  %a = linalg.contract indexing_maps = [affine_map<(n, q, d, c) -> (n, q, c)>, affine_map<(n, q, d, c) -> (c, d)>,
      affine_map<(n, q, d, c) -> (n, q, d)>] ins(%a1, %rc_in : tensor<?x6x12xf32>, tensor<12x10xf32>) outs(%za
          : !a) -> !a
  %cols = linalg.transpose ins(%a : !a) outs(%et : !at) permutation = [0, 2, 1]
  %units = tensor.collapse_shape %cols [[0, 1], [2]] : !at into !v
  %s1, %r1 = func.call @stage_s(%units, %wrs, %ws1, %ws2) : (!v, tensor<6x3xf32>, !ws1, !ws2) -> (!v, !e)
  %back = tensor.expand_shape %s1 [[0, 1], [2]] output_shape [%t, 10, 6] : !v into !at
  %routing_s = tensor.expand_shape %r1 [[0, 1], [2]] output_shape [%t, 10, 3] : !e into tensor<?x10x3xf32>
  %a2 = linalg.transpose ins(%back : !at) outs(%ea : !a) permutation = [0, 2, 1]
  %rows = tensor.collapse_shape %a2 [[0, 1], [2]] : !a into !w
  %s2, %r2 = func.call @stage_c(%rows, %wrc, %wc1, %wc2) : (!w, tensor<10x3xf32>, !wc1, !wc2) -> (!w, !e)
  %a3 = tensor.expand_shape %s2 [[0, 1], [2]] output_shape [%t, 6, 10] : !w into !a
  %routing_c = tensor.expand_shape %r2 [[0, 1], [2]] output_shape [%t, 6, 3] : !e into tensor<?x6x3xf32>
  %y1 = linalg.contract indexing_maps = [affine_map<(n, p, d, q) -> (q, p)>, affine_map<(n, p, d, q) -> (n, q, d)>,
      affine_map<(n, p, d, q) -> (n, p, d)>] ins(%rp_out, %a3 : tensor<6x8xf32>, !a) outs(%zb
          : tensor<?x8x10xf32>) -> tensor<?x8x10xf32>
  %y = linalg.contract indexing_maps = [affine_map<(n, p, c, d) -> (n, p, d)>, affine_map<(n, p, c, d) -> (d, c)>,
      affine_map<(n, p, c, d) -> (n, p, c)>] ins(%y1, %rc_out : tensor<?x8x10xf32>, tensor<10x12xf32>) outs(%zx
          : !x) -> !x
  return %y, %routing_s, %routing_c : !x, tensor<?x10x3xf32>, tensor<?x6x3xf32>
}

// One stage on units of width 6: the best expert of each, the most important units first, and the residual.
func.func private @stage_s(%u: !v, %w: tensor<6x3xf32>, %w1: !ws1, %w2: !ws2) -> (!v, !e) {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %n = tensor.dim %u, %c0 : !v   %ze = tensor.splat %f0[%n] : !e   %cap = arith.ceildivui %n, %c3 : index
  %v = func.call @ln_stage_s(%u) : (!v) -> !v
  %logits = linalg.matmul ins(%v, %w : !v, tensor<6x3xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x3xf32>
  %best = moe.top_k %p k(1) : !moe.routing<?x3xf32>
  %kept = moe.limit %best cap(%cap : index) order(key) : !r   %routing = moe.to_dense %kept : !r
  %o = moe.apply %kept rows(%v) experts(%w1, %w2) weighted(after) out(sum) : !r, !v, !ws1, !ws2 -> !v {
  ^bb0(%rows: !v, %up: tensor<6x14xf32>, %down: tensor<14x6xf32>):
    %m = tensor.dim %rows, %c0 : !v   %zh = tensor.splat %f0[%m] : !hs   %zo = tensor.splat %f0[%m] : !v
    %a = linalg.matmul ins(%rows, %up : !v, tensor<6x14xf32>) outs(%zh : !hs) -> !hs
    %one = tensor.splat %f1[%m] : !hs   %hf = tensor.splat %half[%m] : !hs   %rt = tensor.splat %root2[%m] : !hs
    %g_s = arith.mulf %a, %rt : !hs   %g_f = math.erf %g_s : !hs   %g_c = arith.addf %g_f, %one : !hs
    %g_h = arith.mulf %a, %hf : !hs   %g = arith.mulf %g_h, %g_c : !hs
    %f = linalg.matmul ins(%g, %down : !hs, tensor<14x6xf32>) outs(%zo : !v) -> !v
    moe.yield %f : !v
  }
  %y = arith.addf %u, %o : !v
  return %y, %routing : !v, !e
}

// One stage on units of width 10: the best expert of each, the most important units first, and the residual.
func.func private @stage_c(%u: !w, %w: tensor<10x3xf32>, %w1: !wc1, %w2: !wc2) -> (!w, !e) {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %n = tensor.dim %u, %c0 : !w   %ze = tensor.splat %f0[%n] : !e   %cap = arith.ceildivui %n, %c3 : index
  %v = func.call @ln_stage_c(%u) : (!w) -> !w
  %logits = linalg.matmul ins(%v, %w : !w, tensor<10x3xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x3xf32>
  %best = moe.top_k %p k(1) : !moe.routing<?x3xf32>
  %kept = moe.limit %best cap(%cap : index) order(key) : !r   %routing = moe.to_dense %kept : !r
  %o = moe.apply %kept rows(%v) experts(%w1, %w2) weighted(after) out(sum) : !r, !w, !wc1, !wc2 -> !w {
  ^bb0(%rows: !w, %up: tensor<10x20xf32>, %down: tensor<20x10xf32>):
    %m = tensor.dim %rows, %c0 : !w   %zh = tensor.splat %f0[%m] : !hc   %zo = tensor.splat %f0[%m] : !w
    %a = linalg.matmul ins(%rows, %up : !w, tensor<10x20xf32>) outs(%zh : !hc) -> !hc
    %one = tensor.splat %f1[%m] : !hc   %hf = tensor.splat %half[%m] : !hc   %rt = tensor.splat %root2[%m] : !hc
    %g_s = arith.mulf %a, %rt : !hc   %g_f = math.erf %g_s : !hc   %g_c = arith.addf %g_f, %one : !hc
    %g_h = arith.mulf %a, %hf : !hc   %g = arith.mulf %g_h, %g_c : !hc
    %f = linalg.matmul ins(%g, %down : !hc, tensor<20x10xf32>) outs(%zo : !w) -> !w
    moe.yield %f : !w
  }
  %y = arith.addf %u, %o : !w
  return %y, %routing : !w, !e
}
