// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Efficient Language Modeling with Sparse all-MLP
//
// A gated MLP whose projection over the positions is a mixture: every chunk of columns has one of three causal position
// matrices, by its number, or by what the first fifth of the sequence says; then a top-1 layer over the tokens.
//
// Ops: from_slots (fixed choice), normalize, top_k with to_slots, to_dense (the chosen position matrices are mixed by a
// one-hot product: their size is a run-time number), apply, to_dense.

!x = tensor<?x24xf32>   !z = tensor<?x36xf32>   !g = tensor<?x18xf32>   !c = tensor<?x6x3xf32>   !h = tensor<?x40xf32>
!e = tensor<?x4xf32>   !ce = tensor<6x3xf32>   !ws = tensor<3x?x?xf32>   !wc = tensor<6x?x?xf32>   !bs = tensor<3x?xf32>
!bc = tensor<6x?xf32>   !t = tensor<?xf32>   !r = !moe.routing<?x4xf32, max_per_row = 1>
!rc = !moe.routing<6x3xf32, max_per_row = 1>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>
!ups = tensor<4x24x40xf32>   !downs = tensor<4x40x24xf32>

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

func.func @main(%x: !x {moe.name = "x"}, %wu: tensor<24x36xf32> {moe.name = "wu"}, %ws: !ws {moe.name = "ws"},
    %bs: !bs {moe.name = "bs"}, %wrs: tensor<3x3xf32> {moe.name = "wrs"}, %wo: tensor<18x24xf32> {moe.name = "wo"},
    %wr: tensor<24x4xf32> {moe.name = "wr"}, %w1: !ups {moe.name = "w1"}, %w2: !downs {moe.name = "w2"})
    -> (!x {moe.name = "y_det"}, !e {moe.name = "routing_det"}, !x {moe.name = "y_pp"}, !e {moe.name = "routing_pp"},
        tensor<6xi32> {moe.name = "chunk_expert"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c5 = arith.constant 5 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %root2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %zz = tensor.splat %f0[%t] : !z   %n = func.call @layer_norm(%x) : (!x) -> !x
  %u = linalg.matmul ins(%n, %wu : !x, tensor<24x36xf32>) outs(%zz : !z) -> !z
  %one = tensor.splat %f1[%t] : !z   %hf = tensor.splat %half[%t] : !z   %rt = tensor.splat %root2[%t] : !z
  %g_s = arith.mulf %u, %rt : !z   %g_f = math.erf %g_s : !z   %g_c = arith.addf %g_f, %one : !z
  %g_h = arith.mulf %u, %hf : !z   %g = arith.mulf %g_h, %g_c : !z
  %z1 = tensor.extract_slice %g[0, 0] [%t, 18] [1, 1] : !z to !g
  %z2 = tensor.extract_slice %g[0, 18] [%t, 18] [1, 1] : !z to !g
  %chunks = tensor.expand_shape %z2 [[0], [1, 2]] output_shape [%t, 6, 3] : !g into !c
  // Chunk c uses matrix c mod 3.
  %own = arith.constant dense<[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0],
      [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]> : !ce
  %y_det, %routing_det = func.call @block(%x, %z1, %chunks, %own, %c0, %ws, %bs, %wo, %wr, %w1, %w2)
      : (!x, !g, !c, !ce, index, !ws, !bs, tensor<18x24xf32>, tensor<24x4xf32>, !ups, !downs) -> (!x, !e)
  // The chunk's mean over the first P = max(1, T / 5) positions chooses.
  %p0 = arith.divui %t, %c5 : index   %p = arith.maxui %p0, %c1 : index   %z63 = tensor.splat %f0 : !ce
  %first = tensor.extract_slice %chunks[0, 0, 0] [%p, 6, 3] [1, 1, 1] : !c to !c
  %sums = linalg.reduce {arith.addf} ins(%first : !c) outs(%z63 : !ce) dimensions = [0]
  %pi = arith.index_cast %p : index to i32   %pf = arith.sitofp %pi : i32 to f32
  %counts = tensor.splat %pf : !ce   %means = arith.divf %sums, %counts : !ce
  %logits = linalg.matmul ins(%means, %wrs : !ce, tensor<3x3xf32>) outs(%z63 : !ce) -> !ce
  %all = moe.route %logits : !ce   %q = moe.normalize %all by(softmax) : !moe.routing<6x3xf32>
  %best = moe.top_k %q k(1) : !moe.routing<6x3xf32>   %k, %w = moe.to_slots %best : !rc
  %chunk_expert = tensor.collapse_shape %k [[0, 1]] : tensor<6x1xi32> into tensor<6xi32>
  %gates = moe.to_dense %best : !rc
  %y_pp, %routing_pp = func.call @block(%x, %z1, %chunks, %gates, %p, %ws, %bs, %wo, %wr, %w1, %w2)
      : (!x, !g, !c, !ce, index, !ws, !bs, tensor<18x24xf32>, tensor<24x4xf32>, !ups, !downs) -> (!x, !e)
  return %y_det, %routing_det, %y_pp, %routing_pp, %chunk_expert : !x, !e, !x, !e, tensor<6xi32>
}

// The rest of the layer with the matrices mixed by `gates`; positions before `start` mix nothing.
func.func private @block(%x: !x, %z1: !g, %chunks: !c, %gates: !ce, %start: index, %ws: !ws, %bs: !bs,
    %wo: tensor<18x24xf32>, %wr: tensor<24x4xf32>, %w1: !ups, %w2: !downs) -> (!x, !e) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %zwc = tensor.splat %f0[%t, %t] : !wc   %zbc = tensor.splat %f0[%t] : !bc
  %zc = tensor.splat %f0[%t] : !c   %ze = tensor.splat %f0[%t] : !e
  %mix0 = linalg.contract indexing_maps = [affine_map<(c, t, s, e) -> (c, e)>, affine_map<(c, t, s, e) -> (e, t, s)>,
      affine_map<(c, t, s, e) -> (c, t, s)>] ins(%gates, %ws : !ce, !ws) outs(%zwc : !wc) -> !wc
  %bias = linalg.contract indexing_maps = [affine_map<(c, t, e) -> (c, e)>, affine_map<(c, t, e) -> (e, t)>,
      affine_map<(c, t, e) -> (c, t)>] ins(%gates, %bs : !ce, !bs) outs(%zbc : !bc) -> !bc
  %mix = linalg.map ins(%mix0 : !wc) outs(%zwc : !wc) (%v: f32, %init: f32) {
    %i = linalg.index 1 : index   %j = linalg.index 2 : index   %past = arith.cmpi ule, %j, %i : index
    %o = arith.select %past, %v, %f0 : f32
    linalg.yield %o : f32
  }
  %mixed = linalg.contract indexing_maps = [affine_map<(t, c, d, s) -> (c, t, s)>,
      affine_map<(t, c, d, s) -> (s, c, d)>, affine_map<(t, c, d, s) -> (t, c, d)>] ins(%mix, %chunks
          : !wc, !c) outs(%zc : !c) -> !c
  %m = linalg.map ins(%mixed : !c) outs(%zc : !c) (%v: f32, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %b = tensor.extract %bias[%j, %i] : !bc
    %s = arith.addf %v, %b : f32   %mixes = arith.cmpi uge, %i, %start : index   %o = arith.select %mixes, %s, %f0 : f32
    linalg.yield %o : f32
  }
  %mflat = tensor.collapse_shape %m [[0], [1, 2]] : !c into !g   %gated = arith.mulf %z1, %mflat : !g
  %h = linalg.matmul ins(%gated, %wo : !g, tensor<18x24xf32>) outs(%x : !x) -> !x
  %hn = func.call @layer_norm(%h) : (!x) -> !x
  %logits = linalg.matmul ins(%hn, %wr : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %best = moe.top_k %p k(1) : !moe.routing<?x4xf32>   %routing = moe.to_dense %best : !r
  %o = moe.apply %best rows(%hn) experts(%w1, %w2) weighted(after) out(sum) : !r, !x, !ups, !downs -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zo = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %f = linalg.matmul ins(%g, %down : !h, !down) outs(%zo : !x) -> !x
    moe.yield %f : !x
  }
  %y = arith.addf %h, %o : !x
  return %y, %routing : !x, !e
}
