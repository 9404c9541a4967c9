// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou
//
// Two levels of experts, of categories and of tasks. Every stream's gate sees only the experts allowed to it, and a
// self-gate adds the stream's own experts once more: the slots of a routing say which, and equal experts add.
//
// Ops: apply (all experts, dense result; at level 2 on the stream of the expert's group), from_slots (rows are (token,
// stream)), apply (mixing outputs, rows by token and expert).

!x = tensor<?x20xf32>   !h = tensor<?x14xf32>   !l = tensor<?x3xf32>   !hs = tensor<?x3x14xf32>
!mixed = tensor<?x3x8xf32>   !ids = tensor<3x8xi32>   !r = !moe.routing<?x6xf32>   !r2 = !moe.routing<?x12xf32>
#tsd = affine_map<(t, s, e, d) -> (t, s, d)>
#td = affine_map<(t, s, e, d) -> (t, d)>
#sde = affine_map<(t, s, e, d) -> (s, d, e)>
#tse = affine_map<(t, s, e, d) -> (t, s, e)>

// v * 2 sigmoid((v a) b)
func.func private @feature_gate(%v: tensor<?x?xf32>, %a: tensor<?x3xf32>, %b: tensor<3x?xf32>) -> tensor<?x?xf32> {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %f2 = arith.constant 2.0 : f32
  %n = tensor.dim %v, %c0 : tensor<?x?xf32>   %d = tensor.dim %v, %c1 : tensor<?x?xf32>
  %zl = tensor.splat %f0[%n] : !l   %zv = tensor.splat %f0[%n, %d] : tensor<?x?xf32>
  %low = linalg.matmul ins(%v, %a : tensor<?x?xf32>, tensor<?x3xf32>) outs(%zl : !l) -> !l
  %up = linalg.matmul ins(%low, %b : !l, tensor<3x?xf32>) outs(%zv : tensor<?x?xf32>) -> tensor<?x?xf32>
  %o = linalg.map ins(%v, %up : tensor<?x?xf32>, tensor<?x?xf32>)
      outs(%zv : tensor<?x?xf32>) (%in: f32, %g: f32, %init: f32) {
    %neg = arith.negf %g : f32   %exp = math.exp %neg : f32   %den = arith.addf %exp, %f1 : f32
    %twice = arith.mulf %in, %f2 : f32   %gated = arith.divf %twice, %den : f32
    linalg.yield %gated : f32
  }
  return %o : tensor<?x?xf32>
}

// silu(batch norm of v w with the statistics bn = (gamma, beta, mean, variance))
func.func private @layer(%v: tensor<?x?xf32>, %w: tensor<?x14xf32>, %bn: tensor<4x14xf32>) -> !h {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %v, %c0 : tensor<?x?xf32>   %zh = tensor.splat %f0[%n] : !h
  %z = linalg.matmul ins(%v, %w : tensor<?x?xf32>, tensor<?x14xf32>) outs(%zh : !h) -> !h
  %o = linalg.map ins(%z : !h) outs(%zh : !h) (%in: f32, %init: f32) {
    %i = linalg.index 1 : index   %gamma = tensor.extract %bn[%c0, %i] : tensor<4x14xf32>
    %beta = tensor.extract %bn[%c1, %i] : tensor<4x14xf32>   %mean = tensor.extract %bn[%c2, %i] : tensor<4x14xf32>
    %var = tensor.extract %bn[%c3, %i] : tensor<4x14xf32>
    %ve = arith.addf %var, %eps : f32   %dev = math.sqrt %ve : f32   %centred = arith.subf %in, %mean : f32
    %unit = arith.divf %centred, %dev : f32   %normed = math.fma %unit, %gamma, %beta : f32
    %neg = arith.negf %normed : f32   %exp = math.exp %neg : f32   %den = arith.addf %exp, %f1 : f32
    %silu = arith.divf %normed, %den : f32
    linalg.yield %silu : f32
  }
  return %o : !h
}

func.func @main(%x: !x {moe.name = "x"}, %w1: tensor<3x2x20x14xf32> {moe.name = "w1"},
    %a1: tensor<3x2x20x3xf32> {moe.name = "a1"}, %b1: tensor<3x2x3x20xf32> {moe.name = "b1"},
    %bn1: tensor<3x2x4x14xf32> {moe.name = "bn1"}, %g1_shared: tensor<20x6xf32> {moe.name = "g1_shared"},
    %g1_cat: tensor<2x20x4xf32> {moe.name = "g1_cat"}, %sg1: tensor<3x20x2xf32> {moe.name = "sg1"},
    %w2: tensor<6x2x14x14xf32> {moe.name = "w2"}, %a2: tensor<6x2x14x3xf32> {moe.name = "a2"},
    %b2: tensor<6x2x3x14xf32> {moe.name = "b2"}, %bn2: tensor<6x2x4x14xf32> {moe.name = "bn2"},
    %g2: tensor<3x14x6xf32> {moe.name = "g2"}, %sg2: tensor<3x14x2xf32> {moe.name = "sg2"})
    -> (tensor<3x?x14xf32> {moe.name = "y"}, tensor<3x?x6xf32> {moe.name = "routing"},
        tensor<3x?x14xf32> {moe.name = "z"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %z6 = tensor.splat %f0[%t] : tensor<?x6xf32>
  %z12 = tensor.splat %f0[%t] : tensor<?x12xf32>   %z22 = tensor.splat %f0[%t] : tensor<?x2x2xf32>
  %z24 = tensor.splat %f0[%t] : tensor<?x2x4xf32>   %z32 = tensor.splat %f0[%t] : tensor<?x3x2xf32>
  %z36 = tensor.splat %f0[%t] : tensor<?x3x6xf32>
  // Level 1: all six experts on x.
  %every = moe.route %z6 : tensor<?x6xf32>
  %o = moe.apply %every rows(%x) experts(%w1 by (e) -> (e floordiv 2, e mod 2), %a1 by (e) -> (e floordiv 2, e mod 2),
      %b1 by (e) -> (e floordiv 2, e mod 2), %bn1 by (e) -> (e floordiv 2, e mod 2))
      out(dense) : !r, !x, tensor<3x2x20x14xf32>, tensor<3x2x20x3xf32>, tensor<3x2x3x20xf32>, tensor<3x2x4x14xf32>
          -> tensor<?x6x14xf32> {
  ^bb0(%v: !x, %w: tensor<20x14xf32>, %a: tensor<20x3xf32>, %b: tensor<3x20xf32>, %bn: tensor<4x14xf32>):
    %vc = tensor.cast %v : !x to tensor<?x?xf32>
    %wc = tensor.cast %w : tensor<20x14xf32> to tensor<?x14xf32>
    %ac = tensor.cast %a : tensor<20x3xf32> to tensor<?x3xf32>
    %bc = tensor.cast %b : tensor<3x20xf32> to tensor<3x?xf32>
    %g = func.call @feature_gate(%vc, %ac, %bc) : (tensor<?x?xf32>, tensor<?x3xf32>, tensor<3x?xf32>) -> tensor<?x?xf32>
    %h = func.call @layer(%g, %wc, %bn) : (tensor<?x?xf32>, tensor<?x14xf32>, tensor<4x14xf32>) -> !h
    moe.yield %h : !h
  }
  // The slots of the shared stream: six experts, then its own two again; of a category: own, shared, own again.
  %ls = linalg.matmul ins(%x, %g1_shared : !x, tensor<20x6xf32>) outs(%z6 : tensor<?x6xf32>) -> tensor<?x6xf32>
  %lc = linalg.contract indexing_maps = [#td, #sde, #tse] ins(%x, %g1_cat : !x, tensor<2x20x4xf32>)
      outs(%z24 : tensor<?x2x4xf32>) -> tensor<?x2x4xf32>
  %lo = linalg.contract indexing_maps = [#td, #sde, #tse] ins(%x, %sg1 : !x, tensor<3x20x2xf32>)
      outs(%z32 : tensor<?x3x2xf32>) -> tensor<?x3x2xf32>
  %qs = linalg.softmax dimension(1) ins(%ls : tensor<?x6xf32>) outs(%z6 : tensor<?x6xf32>) -> tensor<?x6xf32>
  %qc = linalg.softmax dimension(2) ins(%lc : tensor<?x2x4xf32>) outs(%z24 : tensor<?x2x4xf32>) -> tensor<?x2x4xf32>
  %qo = linalg.softmax dimension(2) ins(%lo : tensor<?x3x2xf32>) outs(%z32 : tensor<?x3x2xf32>) -> tensor<?x3x2xf32>
  %qs3 = tensor.expand_shape %qs [[0], [1, 2]] output_shape [%t, 1, 6] : tensor<?x6xf32> into tensor<?x1x6xf32>
  %qo0 = tensor.extract_slice %qo[0, 0, 0] [%t, 1, 2] [1, 1, 1] : tensor<?x3x2xf32> to tensor<?x1x2xf32>
  %qo12 = tensor.extract_slice %qo[0, 1, 0] [%t, 2, 2] [1, 1, 1] : tensor<?x3x2xf32> to tensor<?x2x2xf32>
  %m0 = tensor.concat dim(2) %qs3, %qo0 : (tensor<?x1x6xf32>, tensor<?x1x2xf32>) -> tensor<?x1x8xf32>
  %m12 = tensor.concat dim(2) %qc, %qo12, %z22 : (tensor<?x2x4xf32>, tensor<?x2x2xf32>, tensor<?x2x2xf32>)
      -> tensor<?x2x8xf32>
  %m1 = tensor.concat dim(1) %m0, %m12 : (tensor<?x1x8xf32>, tensor<?x2x8xf32>) -> !mixed
  %ids1 = arith.constant dense<[[0, 1, 2, 3, 4, 5, 0, 1], [2, 3, 0, 1, 2, 3, -1, -1], [4, 5, 0, 1, 4, 5, -1, -1]]>
      : !ids
  %i0 = tensor.empty(%t) : tensor<?x3x8xi32>
  %i1 = linalg.broadcast ins(%ids1 : !ids) outs(%i0 : tensor<?x3x8xi32>) dimensions = [0]
  %slots1 = tensor.collapse_shape %i1 [[0, 1], [2]] : tensor<?x3x8xi32> into tensor<?x8xi32>
  %w8 = tensor.collapse_shape %m1 [[0, 1], [2]] : !mixed into tensor<?x8xf32>
  %streams = moe.from_slots %slots1, %w8 experts(6) : tensor<?x8xi32>, tensor<?x8xf32>
  %zr = moe.apply %streams rows(%o by (t, e) -> (t floordiv 3, e)) weighted(after) out(sum)
      : !moe.routing<?x6xf32, max_per_row = 8>, tensor<?x6x14xf32> -> !h {
  ^bb0(%v: !h):
    moe.yield %v : !h
  }
  %z = tensor.expand_shape %zr [[0, 1], [2]] output_shape [%t, 3, 14] : !h into !hs
  // Level 2: the streams of the groups shared, category 0, category 1, task 0 (category 0), tasks 1 and 2 (category 1).
  %z1 = tensor.extract_slice %z[0, 1, 0] [%t, 2, 14] [1, 1, 1] : !hs to tensor<?x2x14xf32>
  %z2 = tensor.extract_slice %z[0, 2, 0] [%t, 1, 14] [1, 1, 1] : !hs to tensor<?x1x14xf32>
  %groups = tensor.concat dim(1) %z, %z1, %z2 : (!hs, tensor<?x2x14xf32>, tensor<?x1x14xf32>) -> tensor<?x6x14xf32>
  %every2 = moe.route %z12 : tensor<?x12xf32>
  %u = moe.apply %every2 rows(%groups by (t, e) -> (t, e floordiv 2))
      experts(%w2 by (e) -> (e floordiv 2, e mod 2), %a2 by (e) -> (e floordiv 2, e mod 2),
          %b2 by (e) -> (e floordiv 2, e mod 2), %bn2 by (e) -> (e floordiv 2, e mod 2))
      out(dense) : !r2, tensor<?x6x14xf32>, tensor<6x2x14x14xf32>, tensor<6x2x14x3xf32>, tensor<6x2x3x14xf32>,
          tensor<6x2x4x14xf32> -> tensor<?x12x14xf32> {
  ^bb0(%v: !h, %w: tensor<14x14xf32>, %a: tensor<14x3xf32>, %b: tensor<3x14xf32>, %bn: tensor<4x14xf32>):
    %vc = tensor.cast %v : !h to tensor<?x?xf32>
    %wc = tensor.cast %w : tensor<14x14xf32> to tensor<?x14xf32>
    %ac = tensor.cast %a : tensor<14x3xf32> to tensor<?x3xf32>
    %bc = tensor.cast %b : tensor<3x14xf32> to tensor<3x?xf32>
    %g = func.call @feature_gate(%vc, %ac, %bc) : (tensor<?x?xf32>, tensor<?x3xf32>, tensor<3x?xf32>) -> tensor<?x?xf32>
    %h = func.call @layer(%g, %wc, %bn) : (tensor<?x?xf32>, tensor<?x14xf32>, tensor<4x14xf32>) -> !h
    moe.yield %h : !h
  }
  // A task's slots: own, category, shared, own again.
  %zt = tensor.extract_slice %groups[0, 3, 0] [%t, 3, 14] [1, 1, 1] : tensor<?x6x14xf32> to !hs
  %lt = linalg.contract indexing_maps = [#tsd, #sde, #tse] ins(%zt, %g2 : !hs, tensor<3x14x6xf32>)
      outs(%z36 : tensor<?x3x6xf32>) -> tensor<?x3x6xf32>
  %lp = linalg.contract indexing_maps = [#tsd, #sde, #tse] ins(%zt, %sg2 : !hs, tensor<3x14x2xf32>)
      outs(%z32 : tensor<?x3x2xf32>) -> tensor<?x3x2xf32>
  %qt = linalg.softmax dimension(2) ins(%lt : tensor<?x3x6xf32>) outs(%z36 : tensor<?x3x6xf32>) -> tensor<?x3x6xf32>
  %qp = linalg.softmax dimension(2) ins(%lp : tensor<?x3x2xf32>) outs(%z32 : tensor<?x3x2xf32>) -> tensor<?x3x2xf32>
  %m2 = tensor.concat dim(2) %qt, %qp : (tensor<?x3x6xf32>, tensor<?x3x2xf32>) -> !mixed
  %ids2 = arith.constant dense<[[6, 7, 2, 3, 0, 1, 6, 7], [8, 9, 4, 5, 0, 1, 8, 9], [10, 11, 4, 5, 0, 1, 10, 11]]>
      : !ids
  %i2 = linalg.broadcast ins(%ids2 : !ids) outs(%i0 : tensor<?x3x8xi32>) dimensions = [0]
  %slots2 = tensor.collapse_shape %i2 [[0, 1], [2]] : tensor<?x3x8xi32> into tensor<?x8xi32>
  %w82 = tensor.collapse_shape %m2 [[0, 1], [2]] : !mixed into tensor<?x8xf32>
  %tasks = moe.from_slots %slots2, %w82 experts(12) : tensor<?x8xi32>, tensor<?x8xf32>
  %yr = moe.apply %tasks rows(%u by (t, e) -> (t floordiv 3, e)) weighted(after) out(sum)
      : !moe.routing<?x12xf32, max_per_row = 8>, tensor<?x12x14xf32> -> !h {
  ^bb0(%v: !h):
    moe.yield %v : !h
  }
  %y = tensor.expand_shape %yr [[0, 1], [2]] output_shape [%t, 3, 14] : !h into !hs
  %e14 = tensor.empty(%t) : tensor<3x?x14xf32>   %e6 = tensor.empty(%t) : tensor<3x?x6xf32>
  %yt = linalg.transpose ins(%y : !hs) outs(%e14 : tensor<3x?x14xf32>) permutation = [1, 0, 2]
  %rt = linalg.transpose ins(%qt : tensor<?x3x6xf32>) outs(%e6 : tensor<3x?x6xf32>) permutation = [1, 0, 2]
  %zo = linalg.transpose ins(%z : !hs) outs(%e14 : tensor<3x?x14xf32>) permutation = [1, 0, 2]
  return %yt, %rt, %zo : tensor<3x?x14xf32>, tensor<3x?x6xf32>, tensor<3x?x14xf32>
}
