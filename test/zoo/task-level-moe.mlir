// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Eliciting and Understanding Cross-Task Skills with Task-Level Mixture-of-Experts
//
// A whole request takes one copy of every layer, chosen by its task before anything runs: the routing has one row per
// layer, and the layer runs with the slices of the chosen copy.
//
// Ops: route, normalize, top_k, to_slots (the copies' numbers index the weights), map and to_dense (one-hot and
// probabilities). No apply: nothing depends on the token.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !z = tensor<2x3xf32>   !w5 = tensor<2x3x24x24xf32>
!g = tensor<2x3x24xf32>   !v = tensor<24xf32>   !w = tensor<24x24xf32>   !q = tensor<?x3x8xf32>
!sc = tensor<3x?x?xf32>   !one = !moe.routing<2x3xf32, max_per_row = 1>   !rz = !moe.routing<2x3xf32>

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

func.func @main(%x: !x {moe.name = "x"}, %task: tensor<16xf32> {moe.name = "task"},
    %ra: tensor<16x20xf32> {moe.name = "ra"}, %rb: tensor<20xf32> {moe.name = "rb"},
    %rc: tensor<2x20x3xf32> {moe.name = "rc"}, %wq: !w5 {moe.name = "wq"}, %wk: !w5 {moe.name = "wk"},
    %wv: !w5 {moe.name = "wv"}, %wo: !w5 {moe.name = "wo"}, %g1: !g {moe.name = "g1"}, %b1: !g {moe.name = "b1"},
    %w1: tensor<2x3x24x40xf32> {moe.name = "w1"}, %w2: tensor<2x3x40x24xf32> {moe.name = "w2"},
    %g2: !g {moe.name = "g2"}, %b2: !g {moe.name = "b2"})
    -> (!x {moe.name = "y"}, !z {moe.name = "routing"}, !z {moe.name = "prob"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %root2 = arith.constant 0.70710678118654752 : f32   %scale = arith.constant 0.35355339059327376 : f32
  %t = tensor.dim %x, %c0 : !x   %zz = tensor.splat %f0 : !z   %z20 = tensor.splat %f0 : tensor<20xf32>
  %zx = tensor.splat %f0[%t] : !x   %zh = tensor.splat %f0[%t] : !h   %zq = tensor.splat %f0[%t] : !q
  %zsc = tensor.splat %f0[%t, %t] : !sc
  %task1 = tensor.expand_shape %task [[0, 1]] output_shape [1, 16] : tensor<16xf32> into tensor<1x16xf32>
  %rb1 = tensor.expand_shape %rb [[0, 1]] output_shape [1, 20] : tensor<20xf32> into tensor<1x20xf32>
  %z120 = tensor.splat %f0 : tensor<1x20xf32>
  %r0 = linalg.matmul ins(%task1, %ra : tensor<1x16xf32>, tensor<16x20xf32>)
      outs(%rb1 : tensor<1x20xf32>) -> tensor<1x20xf32>
  %r1 = arith.maximumf %r0, %z120 : tensor<1x20xf32>
  %r = tensor.collapse_shape %r1 [[0, 1]] : tensor<1x20xf32> into tensor<20xf32>
  %logits = linalg.contract indexing_maps = [affine_map<(l, m, r) -> (l, r, m)>, affine_map<(l, m, r) -> (r)>,
      affine_map<(l, m, r) -> (l, m)>] ins(%rc, %r : tensor<2x20x3xf32>, tensor<20xf32>) outs(%zz : !z) -> !z
  %prob = linalg.softmax dimension(1) ins(%logits : !z) outs(%zz : !z) -> !z
  %all = moe.route %logits : !z   %best = moe.top_k %all k(1) : !rz   %copy, %w = moe.to_slots %best : !one
  %taken = moe.map %best {
  ^bb0(%v: f32, %row: index, %expert: index):
    moe.yield %f1 : f32
  } : !one
  %routing = moe.to_dense %taken : !one
  %y = scf.for %l = %c0 to %c2 step %c1 iter_args(%h = %x) -> !x {
    %m32 = tensor.extract %copy[%l, %c0] : tensor<2x1xi32>   %m = arith.index_cast %m32 : i32 to index
    %wql = tensor.extract_slice %wq[%l, %m, 0, 0] [1, 1, 24, 24] [1, 1, 1, 1] : !w5 to !w
    %wkl = tensor.extract_slice %wk[%l, %m, 0, 0] [1, 1, 24, 24] [1, 1, 1, 1] : !w5 to !w
    %wvl = tensor.extract_slice %wv[%l, %m, 0, 0] [1, 1, 24, 24] [1, 1, 1, 1] : !w5 to !w
    %wol = tensor.extract_slice %wo[%l, %m, 0, 0] [1, 1, 24, 24] [1, 1, 1, 1] : !w5 to !w
    %g1l = tensor.extract_slice %g1[%l, %m, 0] [1, 1, 24] [1, 1, 1] : !g to !v
    %b1l = tensor.extract_slice %b1[%l, %m, 0] [1, 1, 24] [1, 1, 1] : !g to !v
    %g2l = tensor.extract_slice %g2[%l, %m, 0] [1, 1, 24] [1, 1, 1] : !g to !v
    %b2l = tensor.extract_slice %b2[%l, %m, 0] [1, 1, 24] [1, 1, 1] : !g to !v
    %up = tensor.extract_slice %w1[%l, %m, 0, 0] [1, 1, 24, 40] [1, 1, 1, 1] : tensor<2x3x24x40xf32>
        to tensor<24x40xf32>
    %down = tensor.extract_slice %w2[%l, %m, 0, 0] [1, 1, 40, 24] [1, 1, 1, 1] : tensor<2x3x40x24xf32>
        to tensor<40x24xf32>
    %q0 = linalg.matmul ins(%h, %wql : !x, !w) outs(%zx : !x) -> !x
    %k0 = linalg.matmul ins(%h, %wkl : !x, !w) outs(%zx : !x) -> !x
    %v0 = linalg.matmul ins(%h, %wvl : !x, !w) outs(%zx : !x) -> !x
    %q = tensor.expand_shape %q0 [[0], [1, 2]] output_shape [%t, 3, 8] : !x into !q
    %k = tensor.expand_shape %k0 [[0], [1, 2]] output_shape [%t, 3, 8] : !x into !q
    %v = tensor.expand_shape %v0 [[0], [1, 2]] output_shape [%t, 3, 8] : !x into !q
    %dots = linalg.contract indexing_maps = [affine_map<(h, t, j, i) -> (t, h, i)>,
        affine_map<(h, t, j, i) -> (j, h, i)>, affine_map<(h, t, j, i) -> (h, t, j)>] ins(%q, %k : !q, !q) outs(%zsc
            : !sc) -> !sc
    %scales = tensor.splat %scale[%t, %t] : !sc   %scaled = arith.mulf %dots, %scales : !sc
    %p = linalg.softmax dimension(2) ins(%scaled : !sc) outs(%zsc : !sc) -> !sc
    %ctx = linalg.contract indexing_maps = [affine_map<(t, h, i, j) -> (h, t, j)>,
        affine_map<(t, h, i, j) -> (j, h, i)>, affine_map<(t, h, i, j) -> (t, h, i)>] ins(%p, %v : !sc, !q) outs(%zq
            : !q) -> !q
    %c = tensor.collapse_shape %ctx [[0], [1, 2]] : !q into !x
    %ho = linalg.matmul ins(%c, %wol : !x, !w) outs(%h : !x) -> !x
    %a = func.call @norm(%ho, %g1l, %b1l) : (!x, !v, !v) -> !x
    %u = linalg.matmul ins(%a, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%t] : !h   %hf = tensor.splat %half[%t] : !h   %rt = tensor.splat %root2[%t] : !h
    %g_s = arith.mulf %u, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %u, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %af = linalg.matmul ins(%g, %down : !h, tensor<40x24xf32>) outs(%a : !x) -> !x
    %next = func.call @norm(%af, %g2l, %b2l) : (!x, !v, !v) -> !x
    scf.yield %next : !x
  }
  return %y, %routing, %prob : !x, !z, !z
}

func.func private @norm(%v: !x, %g: !v, %b: !v) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %v, %c0 : !x   %zx = tensor.splat %f0[%t] : !x   %n = func.call @layer_norm(%v) : (!x) -> !x
  %gs = linalg.broadcast ins(%g : !v) outs(%zx : !x) dimensions = [0]
  %bs = linalg.broadcast ins(%b : !v) outs(%zx : !x) dimensions = [0]   %scaled = arith.mulf %n, %gs : !x
  %o = arith.addf %scaled, %bs : !x
  return %o : !x
}
