// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Approximating Two-Layer Feedforward Networks for Efficient Transformers
//
// Independent sigmoid gates, top-K, no renormalisation, ReLU experts. A product-key memory is the same thing with a
// single value vector as the expert: the best sums of one sub-key score from either half, weighted by their ReLU.
//
// Ops: top_k, to_slots and from_slots (the product of two selections), map, apply (the second one has no rows).

!x = tensor<?x24xf32>   !h = tensor<?x16xf32>   !e = tensor<?x10xf32>   !m = tensor<?x36xf32>   !s = tensor<?x6xf32>
!half = tensor<?x12xf32>   !keys = tensor<6x12xf32>   !r = !moe.routing<?x10xf32, max_per_row = 4>
!rs = !moe.routing<?x6xf32, max_per_row = 4>   !rm = !moe.routing<?x36xf32, max_per_row = 4>   !iw = tensor<?x4xf32>
!ii = tensor<?x4xi32>

func.func @main(%x: !x {moe.name = "x"}, %ws: tensor<24x10xf32> {moe.name = "ws"},
    %w1: tensor<10x24x16xf32> {moe.name = "w1"}, %w2: tensor<10x16x24xf32> {moe.name = "w2"},
    %ka: !keys {moe.name = "ka"}, %kb: !keys {moe.name = "kb"}, %v: tensor<36x24xf32> {moe.name = "v"})
    -> (!x {moe.name = "y_moe"}, !e {moe.name = "routing"}, !x {moe.name = "y_pkm"}, !m {moe.name = "mem"}) {
  %c0 = arith.constant 0 : index   %i0 = arith.constant 0 : i32   %n6 = arith.constant 6 : i32
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %ones = tensor.splat %f1[%t] : !e
  %logits = linalg.matmul ins(%x, %ws : !x, tensor<24x10xf32>) outs(%ze : !e) -> !e
  %neg = arith.negf %logits : !e   %exp = math.exp %neg : !e   %den = arith.addf %exp, %ones : !e
  %sigmoid = arith.divf %ones, %den : !e
  %all = moe.route %sigmoid : !e   %gates = moe.top_k %all k(4) : !moe.routing<?x10xf32>
  %y_moe = moe.apply %gates rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<10x24x16xf32>, tensor<10x16x24xf32> -> !x {
  ^bb0(%rows: !x, %up: tensor<24x16xf32>, %down: tensor<16x24xf32>):
    %n = tensor.dim %rows, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%rows, %up : !x, tensor<24x16xf32>) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<16x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %gates : !r

  %qa = tensor.extract_slice %x[0, 0] [%t, 12] [1, 1] : !x to !half
  %qb = tensor.extract_slice %x[0, 12] [%t, 12] [1, 1] : !x to !half
  %ia, %sa = func.call @best(%qa, %ka) : (!half, !keys) -> (!ii, !iw)
  %ib, %sb = func.call @best(%qb, %kb) : (!half, !keys) -> (!ii, !iw)
  %zi = tensor.splat %i0[%t] : tensor<?x4x4xi32>   %zs = tensor.splat %f0[%t] : tensor<?x4x4xf32>
  %numbers, %sums = linalg.generic {indexing_maps = [affine_map<(t, i, j) -> (t, i)>, affine_map<(t, i, j) -> (t, i)>,
        affine_map<(t, i, j) -> (t, j)>, affine_map<(t, i, j) -> (t, j)>, affine_map<(t, i, j) -> (t, i, j)>,
        affine_map<(t, i, j) -> (t, i, j)>], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%ia, %sa, %ib, %sb : !ii, !iw, !ii, !iw) outs(%zi, %zs : tensor<?x4x4xi32>, tensor<?x4x4xf32>) {
  ^bb0(%i: i32, %si: f32, %j: i32, %sj: f32, %init_i: i32, %init_s: f32):
    %first = arith.muli %i, %n6 : i32   %number = arith.addi %first, %j : i32   %sum = arith.addf %si, %sj : f32
    linalg.yield %number, %sum : i32, f32
  } -> (tensor<?x4x4xi32>, tensor<?x4x4xf32>)
  %idx = tensor.collapse_shape %numbers [[0], [1, 2]] : tensor<?x4x4xi32> into tensor<?x16xi32>
  %score = tensor.collapse_shape %sums [[0], [1, 2]] : tensor<?x4x4xf32> into tensor<?x16xf32>
  %candidates = moe.from_slots %idx, %score experts(36) : tensor<?x16xi32>, tensor<?x16xf32>
  %found = moe.top_k %candidates k(4) : !moe.routing<?x36xf32, max_per_row = 16>
  %memory = moe.map %found {
  ^bb0(%w: f32, %row: index, %expert: index):
    %relu = arith.maximumf %w, %f0 : f32
    moe.yield %relu : f32
  } : !rm
  %y_pkm = moe.apply %memory experts(%v) index(weight) weighted(after) out(sum) : !rm, tensor<36x24xf32> -> !x {
  ^bb0(%value: tensor<24xf32>, %w: tensor<?xf32>):
    %n = tensor.dim %w, %c0 : tensor<?xf32>   %init = tensor.empty(%n) : !x
    %o = linalg.broadcast ins(%value : tensor<24xf32>) outs(%init : !x) dimensions = [0]
    moe.yield %o : !x
  }
  %mem = moe.to_dense %memory : !rm
  return %y_moe, %routing, %y_pkm, %mem : !x, !e, !x, !m
}

// The four best sub-keys of one half and their scores.
func.func private @best(%q: !half, %keys: !keys) -> (!ii, !iw) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %q, %c0 : !half   %zs = tensor.splat %f0[%t] : !s
  %s = linalg.contract indexing_maps = [affine_map<(t, k, d) -> (t, d)>, affine_map<(t, k, d) -> (k, d)>,
      affine_map<(t, k, d) -> (t, k)>]
      ins(%q, %keys : !half, !keys) outs(%zs : !s) -> !s
  %all = moe.route %s : !s   %top = moe.top_k %all k(4) : !moe.routing<?x6xf32>
  %i, %v = moe.to_slots %top : !rs
  return %i, %v : !ii, !iw
}
