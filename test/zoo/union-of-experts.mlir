// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Union of Experts: Adapting Hierarchical Routing to Equivalently Decomposed Transformer
//
// A transformer block cut into experts that are slices of its dense matrices: experts of heads choose patches, and
// attend inside what they chose; patches choose experts of the feed-forward layer.
//
// Ops: top_k along the tokens (here patches) per sequence in scf.for, apply with a coupled body whose rows are patches
// and experts' slices by along(split); top_k, apply with slices, to_dense.

!x = tensor<?x12x24xf32>   !s = tensor<12x24xf32>   !p = tensor<4x72xf32>   !pt = tensor<4x3x24xf32>
!r4 = tensor<4x3xf32>   !w = tensor<24x24xf32>   !ra = !moe.routing<4x3xf32, max_per_expert = 2>
!rm = !moe.routing<4x3xf32, max_per_row = 2>   !all = !moe.routing<4x3xf32>   !out = tensor<?x4x3xf32>
!wp = tensor<72x3xf32>   !pl = tensor<?x3x24xf32>   !h = tensor<?x3x12xf32>
!k = tensor<?x3x8xf32>   !kh = tensor<?x3x2x4xf32>   !a = tensor<2x?x3x?xf32>   !wk = tensor<24x8xf32>
#rows = affine_map<(p, s, n, k) -> (p, s, k)>
#cols = affine_map<(p, s, n, k) -> (k, n)>
#out = affine_map<(p, s, n, k) -> (p, s, n)>

func.func @main(%x: !x {moe.name = "x"}, %wra: !wp {moe.name = "wra"}, %wq: !w {moe.name = "wq"},
    %wk: !w {moe.name = "wk"}, %wv: !w {moe.name = "wv"}, %wo: !w {moe.name = "wo"}, %wrm: !wp {moe.name = "wrm"},
    %w1: tensor<24x36xf32> {moe.name = "w1"}, %w2: tensor<36x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !out {moe.name = "route_attn"}, !out {moe.name = "route_mlp"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %b = tensor.dim %x, %c0 : !x   %zx = tensor.splat %f0[%b] : !x   %zout = tensor.splat %f0[%b] : !out
  %y, %route_attn, %route_mlp = scf.for %i = %c0 to %b step %c1 iter_args(%ys = %zx, %as = %zout, %ms = %zout)
      -> (!x, !out, !out) {
    %xi = tensor.extract_slice %x[%i, 0, 0] [1, 12, 24] [1, 1, 1] : !x to !s
    %yi, %ai, %mi = func.call @sequence(%xi, %wra, %wq, %wk, %wv, %wo, %wrm, %w1, %w2)
        : (!s, !wp, !w, !w, !w, !w, !wp, tensor<24x36xf32>, tensor<36x24xf32>) -> (!s, !r4, !r4)
    %ys1 = tensor.insert_slice %yi into %ys[%i, 0, 0] [1, 12, 24] [1, 1, 1] : !s into !x
    %as1 = tensor.insert_slice %ai into %as[%i, 0, 0] [1, 4, 3] [1, 1, 1] : !r4 into !out
    %ms1 = tensor.insert_slice %mi into %ms[%i, 0, 0] [1, 4, 3] [1, 1, 1] : !r4 into !out
    scf.yield %ys1, %as1, %ms1 : !x, !out, !out
  }
  return %y, %route_attn, %route_mlp : !x, !out, !out
}

func.func private @sequence(%x: !s, %wra: !wp, %wq: !w, %wk: !w, %wv: !w, %wo: !w, %wrm: !wp, %w1: tensor<24x36xf32>,
    %w2: tensor<36x24xf32>) -> (!s, !r4, !r4) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %c3 = arith.constant 3 : index   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %zr = tensor.splat %f0 : !r4
  %patches = tensor.expand_shape %x [[0, 1], [2]] output_shape [4, 3, 24] : !s into !pt
  %flat = tensor.collapse_shape %patches [[0], [1, 2]] : !pt into !p
  %la = linalg.matmul ins(%flat, %wra : !p, !wp) outs(%zr : !r4) -> !r4
  %all = moe.route %la : !r4   %pr = moe.normalize %all by(softmax) : !all
  %ra = moe.top_k %pr k(2) axis(token) : !all
  %attn = moe.apply %ra rows(%patches) experts(%wq along 1 split(8), %wk along 1 split(8), %wv along 1 split(8),
      %wo along 0 split(8)) weighted(after) out(sum) : !ra, !pt, !w, !w, !w, !w -> !pt {
  ^bb0(%v: !pl, %q: !wk, %k: !wk, %val: !wk, %o: tensor<8x24xf32>):
    // Attention of two heads among the tokens of the chosen patches.
    %np = tensor.dim %v, %c0 : !pl   %n = arith.muli %np, %c3 : index
    %z8 = tensor.splat %f0[%np] : !k   %zs = tensor.splat %f0[%np, %n] : !a   %zh = tensor.splat %f0[%np] : !kh
    %zo = tensor.splat %f0[%np] : !pl   %halves = tensor.splat %half[%np, %n] : !a
    %q1 = linalg.contract indexing_maps = [#rows, #cols, #out] ins(%v, %q : !pl, !wk) outs(%z8 : !k) -> !k
    %k1 = linalg.contract indexing_maps = [#rows, #cols, #out] ins(%v, %k : !pl, !wk) outs(%z8 : !k) -> !k
    %v1 = linalg.contract indexing_maps = [#rows, #cols, #out] ins(%v, %val : !pl, !wk) outs(%z8 : !k) -> !k
    %qh = tensor.expand_shape %q1 [[0], [1], [2, 3]] output_shape [%np, 3, 2, 4] : !k into !kh
    %kt = tensor.collapse_shape %k1 [[0, 1], [2]] : !k into tensor<?x8xf32>
    %vt = tensor.collapse_shape %v1 [[0, 1], [2]] : !k into tensor<?x8xf32>
    %kh = tensor.expand_shape %kt [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
    %vh = tensor.expand_shape %vt [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
    %dots = linalg.contract indexing_maps = [affine_map<(h, p, s, j, d) -> (p, s, h, d)>,
        affine_map<(h, p, s, j, d) -> (j, h, d)>, affine_map<(h, p, s, j, d) -> (h, p, s, j)>]
        ins(%qh, %kh : !kh, tensor<?x2x4xf32>) outs(%zs : !a) -> !a
    %scaled = arith.mulf %dots, %halves : !a
    %prob = linalg.softmax dimension(3) ins(%scaled : !a) outs(%zs : !a) -> !a
    %c = linalg.contract indexing_maps = [affine_map<(p, s, h, d, j) -> (h, p, s, j)>,
        affine_map<(p, s, h, d, j) -> (j, h, d)>, affine_map<(p, s, h, d, j) -> (p, s, h, d)>]
        ins(%prob, %vh : !a, tensor<?x2x4xf32>) outs(%zh : !kh) -> !kh
    %cc = tensor.collapse_shape %c [[0], [1], [2, 3]] : !kh into !k
    %u = linalg.contract indexing_maps = [#rows, #cols, #out] ins(%cc, %o : !k, tensor<8x24xf32>) outs(%zo : !pl) -> !pl
    moe.yield %u : !pl
  }
  %route_attn = moe.to_dense %ra : !ra
  %h = arith.addf %patches, %attn : !pt   %hflat = tensor.collapse_shape %h [[0], [1, 2]] : !pt into !p
  %lm = linalg.matmul ins(%hflat, %wrm : !p, !wp) outs(%zr : !r4) -> !r4
  %all2 = moe.route %lm : !r4   %pm = moe.normalize %all2 by(softmax) : !all   %rm = moe.top_k %pm k(2) : !all
  %route_mlp = moe.to_dense %rm : !rm
  %mlp = moe.apply %rm rows(%h) experts(%w1 along 1 split(12), %w2 along 0 split(12)) weighted(after) out(sum)
      : !rm, !pt, tensor<24x36xf32>, tensor<36x24xf32> -> !pt {
  ^bb0(%v: !pl, %up: tensor<24x12xf32>, %down: tensor<12x24xf32>):
    %n = tensor.dim %v, %c0 : !pl   %zh = tensor.splat %f0[%n] : !h   %zo = tensor.splat %f0[%n] : !pl
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %a = linalg.contract indexing_maps = [#rows, #cols, #out] ins(%v, %up : !pl, tensor<24x12xf32>) outs(%zh : !h) -> !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %u = linalg.contract indexing_maps = [#rows, #cols, #out] ins(%g, %down : !h, tensor<12x24xf32>)
        outs(%zo : !pl) -> !pl
    moe.yield %u : !pl
  }
  %y3 = arith.addf %h, %mlp : !pt   %y = tensor.collapse_shape %y3 [[0, 1], [2]] : !pt into !s
  return %y, %route_attn, %route_mlp : !s, !r4, !r4
}
