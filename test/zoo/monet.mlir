// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Monet: Mixture of Monosemantic Experts for Transformers
//
// N * N experts are composed of N bottom and N top parts; thresholded gates of both sides multiply to the experts'
// weights. Sums over all (i, j) factor into contractions over i and j, so that no expert is ever formed.
//
// Ops: route, select (threshold on batch-normalised logits), normalize over the kept, to_dense. The rest is
// linalg.contract.

!x = tensor<?x24xf32>   !t = tensor<?xf32>   !z = tensor<?x3x5xf32>   !zr = tensor<?x5xf32>   !a = tensor<?x5x5xf32>
!m = tensor<?x5x8xf32>   !q = tensor<?x5x4xf32>   !d = tensor<?x12xf32>   !r = !moe.routing<?x5xf32>
!side = tensor<5x24x4xf32>   !block = tensor<5x4x12xf32>
#td = affine_map<(t, i, m, d) -> (t, d)>
#idm = affine_map<(t, i, m, d) -> (i, d, m)>
#tim = affine_map<(t, i, m, d) -> (t, i, m)>
#in = [#td, #idm, #tim]
#out = [#tim, affine_map<(t, i, m, d) -> (i, m, d)>, #td]
#norm = {indexing_maps = [affine_map<(t, h, i) -> (t, h, i)>, affine_map<(t, h, i) -> (h)>,
    affine_map<(t, h, i) -> (h)>,
  affine_map<(t, h, i) -> (t, h, i)>], iterator_types = ["parallel", "parallel", "parallel"]}

// One side's gates: per (token, head) a softmax of the raw logits over those whose normalised logit reaches the
// threshold.
func.func private @gates(%x: !x, %w: tensor<24x3x5xf32>, %mean: tensor<3xf32>, %var: tensor<3xf32>) -> !z {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32
  %eps = arith.constant 1.0e-5 : f32   %sigma = arith.constant 0.2533471031357997 : f32
  %minf = arith.constant 0xFF800000 : f32
  %t = tensor.dim %x, %c0 : !x
  %rows = arith.muli %t, %c3 : index
  %zz = tensor.splat %f0[%t] : !z   %low = tensor.splat %minf[%rows] : !t   %top = tensor.splat %sigma[%rows] : !t
  %z = linalg.contract indexing_maps = [affine_map<(t, h, i, d) -> (t, d)>, affine_map<(t, h, i, d) -> (d, h, i)>,
      affine_map<(t, h, i, d) -> (t, h, i)>]
      ins(%x, %w : !x, tensor<24x3x5xf32>) outs(%zz : !z) -> !z
  %n = linalg.generic #norm ins(%z, %mean, %var : !z, tensor<3xf32>, tensor<3xf32>) outs(%zz : !z) {
  ^bb0(%v: f32, %m: f32, %s: f32, %init: f32):
    %centred = arith.subf %v, %m : f32   %se = arith.addf %s, %eps : f32   %root = math.sqrt %se : f32
    %normed = arith.divf %centred, %root : f32
    linalg.yield %normed : f32
  } -> !z
  %zr = tensor.collapse_shape %z [[0, 1], [2]] : !z into !zr
  %nr = tensor.collapse_shape %n [[0, 1], [2]] : !z into !zr
  %max = linalg.reduce {arith.maximumf} ins(%nr : !zr) outs(%low : !t) dimensions = [1]
  %thresholds = arith.minimumf %max, %top : !t
  %all = moe.route %zr : !zr
  %kept = moe.select %all by(%nr : !zr) {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %i: index):
    %threshold = tensor.extract %thresholds[%row] : !t   %keep = arith.cmpf oge, %key, %threshold : f32
    moe.yield %keep : i1
  } : !r
  %p = moe.normalize %kept by(softmax) : !r
  %g = moe.to_dense %p : !r
  %g3 = tensor.expand_shape %g [[0, 1], [2]] output_shape [%t, 3, 5] : !zr into !z
  return %g3 : !z
}

// relu(x w[i] + b[i])^2 for every part i of the vertical layer.
func.func private @relu2(%x: !x, %w: !side, %b: tensor<5x4xf32>) -> !q {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zero = tensor.splat %f0[%t] : !q
  %bias = linalg.broadcast ins(%b : tensor<5x4xf32>) outs(%zero : !q) dimensions = [0]
  %v = linalg.contract indexing_maps = #in ins(%x, %w : !x, !side) outs(%bias : !q) -> !q
  %relu = arith.maximumf %v, %zero : !q   %o = arith.mulf %relu, %relu : !q
  return %o : !q
}

func.func @main(%x: !x {moe.name = "x"}, %w1r: tensor<24x3x5xf32> {moe.name = "w1r"},
    %w2r: tensor<24x3x5xf32> {moe.name = "w2r"}, %mean: tensor<2x3xf32> {moe.name = "bn_mean"},
    %var: tensor<2x3xf32> {moe.name = "bn_var"}, %keep: tensor<5x5xi1> {moe.name = "keep"},
    %u: tensor<5x24x8xf32> {moe.name = "u"}, %bu: tensor<5x8xf32> {moe.name = "bu"},
    %v_top: tensor<5x8x24xf32> {moe.name = "v_top"}, %b: tensor<5x24xf32> {moe.name = "b"},
    %u1: !side {moe.name = "u1"}, %c1: tensor<5x4xf32> {moe.name = "c1"}, %u2: !side {moe.name = "u2"},
    %c2: tensor<5x4xf32> {moe.name = "c2"}, %v11: !block {moe.name = "v11"}, %v12: !block {moe.name = "v12"},
    %v21: !block {moe.name = "v21"}, %v22: !block {moe.name = "v22"}, %b1: tensor<5x12xf32> {moe.name = "b1"},
    %b2: tensor<5x12xf32> {moe.name = "b2"}) -> (!x {moe.name = "y"}, !z {moe.name = "g1"}, !z {moe.name = "g2"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %za = tensor.splat %f0[%t] : !a   %zm = tensor.splat %f0[%t] : !m
  %zq = tensor.splat %f0[%t] : !q   %zt = tensor.splat %f0[%t] : !zr   %zd = tensor.splat %f0[%t] : !d
  %mean1 = tensor.extract_slice %mean[0, 0] [1, 3] [1, 1] : tensor<2x3xf32> to tensor<3xf32>
  %mean2 = tensor.extract_slice %mean[1, 0] [1, 3] [1, 1] : tensor<2x3xf32> to tensor<3xf32>
  %var1 = tensor.extract_slice %var[0, 0] [1, 3] [1, 1] : tensor<2x3xf32> to tensor<3xf32>
  %var2 = tensor.extract_slice %var[1, 0] [1, 3] [1, 1] : tensor<2x3xf32> to tensor<3xf32>
  %g1 = call @gates(%x, %w1r, %mean1, %var1) : (!x, tensor<24x3x5xf32>, tensor<3xf32>, tensor<3xf32>) -> !z
  %g2 = call @gates(%x, %w2r, %mean2, %var2) : (!x, tensor<24x3x5xf32>, tensor<3xf32>, tensor<3xf32>) -> !z
  // A[i, j] = keep[i, j] sum_h g1[h, i] g2[h, j], and its sums over j and over i.
  %a0 = linalg.contract indexing_maps = [affine_map<(t, i, j, h) -> (t, h, i)>, affine_map<(t, i, j, h) -> (t, h, j)>,
      affine_map<(t, i, j, h) -> (t, i, j)>]
      ins(%g1, %g2 : !z, !z) outs(%za : !a) -> !a
  %k = arith.uitofp %keep : tensor<5x5xi1> to tensor<5x5xf32>
  %kb = linalg.broadcast ins(%k : tensor<5x5xf32>) outs(%za : !a) dimensions = [0]
  %a = arith.mulf %a0, %kb : !a
  %ai = linalg.reduce {arith.addf} ins(%a : !a) outs(%zt : !zr) dimensions = [2]
  %aj = linalg.reduce {arith.addf} ins(%a : !a) outs(%zt : !zr) dimensions = [1]
  // Layer 1: h = x + sum_j (sum_i A[i, j] relu2(x u[i] + bu[i])) v_top[j] + sum_j (sum_i A[i, j]) b[j].
  %bub = linalg.broadcast ins(%bu : tensor<5x8xf32>) outs(%zm : !m) dimensions = [0]
  %r0 = linalg.contract indexing_maps = #in ins(%x, %u : !x, tensor<5x24x8xf32>) outs(%bub : !m) -> !m
  %r1 = arith.maximumf %r0, %zm : !m   %r = arith.mulf %r1, %r1 : !m
  %c = linalg.contract indexing_maps = [affine_map<(t, j, m, i) -> (t, i, j)>, affine_map<(t, j, m, i) -> (t, i, m)>,
      affine_map<(t, j, m, i) -> (t, j, m)>]
      ins(%a, %r : !a, !m) outs(%zm : !m) -> !m
  %h0 = linalg.contract indexing_maps = #out ins(%c, %v_top : !m, tensor<5x8x24xf32>) outs(%x : !x) -> !x
  %h = linalg.matmul ins(%aj, %b : !zr, tensor<5x24xf32>) outs(%h0 : !x) -> !x
  // Layer 2: the upper half of the output depends on i through its blocks, the lower half on j.
  %s1 = call @relu2(%h, %u1, %c1) : (!x, !side, tensor<5x4xf32>) -> !q
  %s2 = call @relu2(%h, %u2, %c2) : (!x, !side, tensor<5x4xf32>) -> !q
  %aib = linalg.broadcast ins(%ai : !zr) outs(%zq : !q) dimensions = [2]
  %ajb = linalg.broadcast ins(%aj : !zr) outs(%zq : !q) dimensions = [2]
  %p11 = arith.mulf %aib, %s1 : !q   %p22 = arith.mulf %ajb, %s2 : !q
  %p12 = linalg.contract indexing_maps = [affine_map<(t, i, m, j) -> (t, i, j)>, affine_map<(t, i, m, j) -> (t, j, m)>,
      affine_map<(t, i, m, j) -> (t, i, m)>]
      ins(%a, %s2 : !a, !q) outs(%zq : !q) -> !q
  %p21 = linalg.contract indexing_maps = [affine_map<(t, j, m, i) -> (t, i, j)>, affine_map<(t, j, m, i) -> (t, i, m)>,
      affine_map<(t, j, m, i) -> (t, j, m)>]
      ins(%a, %s1 : !a, !q) outs(%zq : !q) -> !q
  %up0 = linalg.matmul ins(%ai, %b1 : !zr, tensor<5x12xf32>) outs(%zd : !d) -> !d
  %up1 = linalg.contract indexing_maps = #out ins(%p11, %v11 : !q, !block) outs(%up0 : !d) -> !d
  %upper = linalg.contract indexing_maps = #out ins(%p12, %v12 : !q, !block) outs(%up1 : !d) -> !d
  %lo0 = linalg.matmul ins(%aj, %b2 : !zr, tensor<5x12xf32>) outs(%zd : !d) -> !d
  %lo1 = linalg.contract indexing_maps = #out ins(%p21, %v21 : !q, !block) outs(%lo0 : !d) -> !d
  %lower = linalg.contract indexing_maps = #out ins(%p22, %v22 : !q, !block) outs(%lo1 : !d) -> !d
  %both = tensor.concat dim(1) %upper, %lower : (!d, !d) -> !x
  %y = arith.addf %h, %both : !x
  return %y, %g1, %g2 : !x, !z, !z
}
