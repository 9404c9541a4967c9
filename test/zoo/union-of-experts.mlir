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
!wp = tensor<72x3xf32>   !pl = tensor<?x3x24xf32>

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
  %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %zr = tensor.splat %f0 : !r4
  %patches = tensor.expand_shape %x [[0, 1], [2]] output_shape [4, 3, 24] : !s into !pt
  %flat = tensor.collapse_shape %patches [[0], [1, 2]] : !pt into !p
  %la = linalg.matmul ins(%flat, %wra : !p, !wp) outs(%zr : !r4) -> !r4
  %all = moe.route %la : !r4   %pr = moe.normalize %all by(softmax) : !all
  %ra = moe.top_k %pr k(2) axis(token) : !all
  %attn = moe.apply %ra rows(%patches) experts(%wq along 1 split(8), %wk along 1 split(8), %wv along 1 split(8),
      %wo along 0 split(8)) weighted(after) out(sum) : !ra, !pt, !w, !w, !w, !w -> !pt {
  ^bb0(%v: !pl, %q: tensor<24x8xf32>, %k: tensor<24x8xf32>, %val: tensor<24x8xf32>, %o: tensor<8x24xf32>):
    // The tokens of the chosen patches, and attention of two heads among them.
    %tokens = tensor.collapse_shape %v [[0, 1], [2]] : !pl into tensor<?x24xf32>
    %n = tensor.dim %tokens, %c0 : tensor<?x24xf32>   %np = tensor.dim %v, %c0 : !pl
    %z8 = tensor.splat %f0[%n] : tensor<?x8xf32>   %zs = tensor.splat %f0[%n, %n] : tensor<2x?x?xf32>
    %zh = tensor.splat %f0[%n] : tensor<?x2x4xf32>   %zo = tensor.splat %f0[%n] : tensor<?x24xf32>
    %q1 = linalg.matmul ins(%tokens, %q : tensor<?x24xf32>, tensor<24x8xf32>)
        outs(%z8 : tensor<?x8xf32>) -> tensor<?x8xf32>
    %k1 = linalg.matmul ins(%tokens, %k : tensor<?x24xf32>, tensor<24x8xf32>)
        outs(%z8 : tensor<?x8xf32>) -> tensor<?x8xf32>
    %v1 = linalg.matmul ins(%tokens, %val : tensor<?x24xf32>, tensor<24x8xf32>)
        outs(%z8 : tensor<?x8xf32>) -> tensor<?x8xf32>
    %qh = tensor.expand_shape %q1 [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
    %kh = tensor.expand_shape %k1 [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
    %vh = tensor.expand_shape %v1 [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
    %dots = linalg.contract indexing_maps = [affine_map<(h, i, j, d) -> (i, h, d)>,
        affine_map<(h, i, j, d) -> (j, h, d)>, affine_map<(h, i, j, d) -> (h, i, j)>] ins(%qh, %kh
            : tensor<?x2x4xf32>, tensor<?x2x4xf32>) outs(%zs : tensor<2x?x?xf32>) -> tensor<2x?x?xf32>
    %halves = tensor.splat %half[%n, %n] : tensor<2x?x?xf32>   %scaled = arith.mulf %dots, %halves : tensor<2x?x?xf32>
    %prob = linalg.softmax dimension(2) ins(%scaled : tensor<2x?x?xf32>)
        outs(%zs : tensor<2x?x?xf32>) -> tensor<2x?x?xf32>
    %c = linalg.contract indexing_maps = [affine_map<(i, h, d, j) -> (h, i, j)>, affine_map<(i, h, d, j) -> (j, h, d)>,
        affine_map<(i, h, d, j) -> (i, h, d)>] ins(%prob, %vh : tensor<2x?x?xf32>, tensor<?x2x4xf32>) outs(%zh
            : tensor<?x2x4xf32>) -> tensor<?x2x4xf32>
    %cc = tensor.collapse_shape %c [[0], [1, 2]] : tensor<?x2x4xf32> into tensor<?x8xf32>
    %u = linalg.matmul ins(%cc, %o : tensor<?x8xf32>, tensor<8x24xf32>) outs(%zo : tensor<?x24xf32>) -> tensor<?x24xf32>
    %back = tensor.expand_shape %u [[0, 1], [2]] output_shape [%np, 3, 24] : tensor<?x24xf32> into !pl
    moe.yield %back : !pl
  }
  %route_attn = moe.to_dense %ra : !ra
  %h = arith.addf %patches, %attn : !pt   %hflat = tensor.collapse_shape %h [[0], [1, 2]] : !pt into !p
  %lm = linalg.matmul ins(%hflat, %wrm : !p, !wp) outs(%zr : !r4) -> !r4
  %all2 = moe.route %lm : !r4   %pm = moe.normalize %all2 by(softmax) : !all   %rm = moe.top_k %pm k(2) : !all
  %route_mlp = moe.to_dense %rm : !rm
  %mlp = moe.apply %rm rows(%h) experts(%w1 along 1 split(12), %w2 along 0 split(12)) weighted(after) out(sum)
      : !rm, !pt, tensor<24x36xf32>, tensor<36x24xf32> -> !pt {
  ^bb0(%v: !pl, %up: tensor<24x12xf32>, %down: tensor<12x24xf32>):
    %tokens = tensor.collapse_shape %v [[0, 1], [2]] : !pl into tensor<?x24xf32>
    %n = tensor.dim %tokens, %c0 : tensor<?x24xf32>   %np = tensor.dim %v, %c0 : !pl
    %zh = tensor.splat %f0[%n] : tensor<?x12xf32>   %zo = tensor.splat %f0[%n] : tensor<?x24xf32>
    %a = linalg.matmul ins(%tokens, %up : tensor<?x24xf32>, tensor<24x12xf32>)
        outs(%zh : tensor<?x12xf32>) -> tensor<?x12xf32>
    %one = tensor.splat %f1[%n] : tensor<?x12xf32>   %hf = tensor.splat %half[%n] : tensor<?x12xf32>
    %rt = tensor.splat %root2[%n] : tensor<?x12xf32>
    %g_s = arith.mulf %a, %rt : tensor<?x12xf32>   %g_f = math.erf %g_s : tensor<?x12xf32>
    %g_c = arith.addf %g_f, %one : tensor<?x12xf32>   %g_h = arith.mulf %a, %hf : tensor<?x12xf32>
    %g = arith.mulf %g_h, %g_c : tensor<?x12xf32>
    %u = linalg.matmul ins(%g, %down : tensor<?x12xf32>, tensor<12x24xf32>)
        outs(%zo : tensor<?x24xf32>) -> tensor<?x24xf32>
    %back = tensor.expand_shape %u [[0, 1], [2]] output_shape [%np, 3, 24] : tensor<?x24xf32> into !pl
    moe.yield %back : !pl
  }
  %y3 = arith.addf %h, %mlp : !pt   %y = tensor.collapse_shape %y3 [[0, 1], [2]] : !pt into !s
  return %y, %route_attn, %route_mlp : !s, !r4, !r4
}
