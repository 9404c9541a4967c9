// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoH: Multi-Head Attention as Mixture-of-Head Attention
//
// Attention heads are experts: some are shared by all tokens, of the others a token takes the best. Form one weighs
// them by learned gates, form two (causal) chooses by the norms of the queries and does not weigh.
//
// Ops: concat puts the shared heads' routing beside the routed heads' one; top_k, normalize, map, to_dense; since all
// heads' outputs are needed by other tokens, the gates scale them in a contraction.

!x = tensor<?x?x24xf32>   !xt = tensor<?x24xf32>   !h = tensor<?x?x6x4xf32>   !ht = tensor<?x6x4xf32>
!sc = tensor<?x6x?x?xf32>   !g = tensor<?x?x6xf32>   !gt = tensor<?x6xf32>   !s = tensor<?x2xf32>   !q = tensor<?x4xf32>
!rs = !moe.routing<?x2xf32>   !rr = !moe.routing<?x4xf32, max_per_row = 2>   !r = !moe.routing<?x6xf32, max_per_row = 4>
!w = tensor<24x24xf32>   !wo = tensor<6x4x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wq: !w {moe.name = "wq"}, %wk: !w {moe.name = "wk"},
    %wv: !w {moe.name = "wv"}, %wo: !w {moe.name = "wo"}, %ws: tensor<24x2xf32> {moe.name = "ws"},
    %wr: tensor<24x4xf32> {moe.name = "wr"}, %wh: tensor<24x2xf32> {moe.name = "wh"})
    -> (!x {moe.name = "y"}, !g {moe.name = "routing"}, !x {moe.name = "y_pf"}, !g {moe.name = "mask_pf"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %minf = arith.constant 0xFF800000 : f32
  %b = tensor.dim %x, %c0 : !x   %n = tensor.dim %x, %c1 : !x
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !xt   %t = tensor.dim %rows, %c0 : !xt
  %zx = tensor.splat %f0[%t] : !xt   %zs = tensor.splat %f0[%t] : !s   %zq = tensor.splat %f0[%t] : !q
  %z2 = tensor.splat %f0[%t] : !s   %zsc = tensor.splat %f0[%b, %n, %n] : !sc   %zh = tensor.splat %f0[%b, %n] : !h
  %ones = tensor.splat %f1[%t] : !s
  %q1 = linalg.matmul ins(%rows, %wq : !xt, !w) outs(%zx : !xt) -> !xt
  %k1 = linalg.matmul ins(%rows, %wk : !xt, !w) outs(%zx : !xt) -> !xt
  %v1 = linalg.matmul ins(%rows, %wv : !xt, !w) outs(%zx : !xt) -> !xt
  %qh = tensor.expand_shape %q1 [[0, 1], [2, 3]] output_shape [%b, %n, 6, 4] : !xt into !h
  %kh = tensor.expand_shape %k1 [[0, 1], [2, 3]] output_shape [%b, %n, 6, 4] : !xt into !h
  %vh = tensor.expand_shape %v1 [[0, 1], [2, 3]] output_shape [%b, %n, 6, 4] : !xt into !h
  %dots = linalg.contract indexing_maps = [affine_map<(b, h, s, j, d) -> (b, s, h, d)>,
      affine_map<(b, h, s, j, d) -> (b, j, h, d)>, affine_map<(b, h, s, j, d) -> (b, h, s, j)>] ins(%qh, %kh
          : !h, !h) outs(%zsc : !sc) -> !sc
  %scaled = linalg.map ins(%dots : !sc) outs(%zsc : !sc) (%v: f32, %init: f32) {
    %o = arith.mulf %v, %half : f32
    linalg.yield %o : f32
  }
  %causal = linalg.map ins(%scaled : !sc) outs(%zsc : !sc) (%v: f32, %init: f32) {
    %i = linalg.index 2 : index   %j = linalg.index 3 : index   %past = arith.cmpi ule, %j, %i : index
    %o = arith.select %past, %v, %minf : f32
    linalg.yield %o : f32
  }
  %p = linalg.softmax dimension(3) ins(%scaled : !sc) outs(%zsc : !sc) -> !sc
  %heads = linalg.contract indexing_maps = [affine_map<(b, s, h, d, j) -> (b, h, s, j)>,
      affine_map<(b, s, h, d, j) -> (b, j, h, d)>, affine_map<(b, s, h, d, j) -> (b, s, h, d)>] ins(%p, %vh
          : !sc, !h) outs(%zh : !h) -> !h
  %pc = linalg.softmax dimension(3) ins(%causal : !sc) outs(%zsc : !sc) -> !sc
  %heads_c = linalg.contract indexing_maps = [affine_map<(b, s, h, d, j) -> (b, h, s, j)>,
      affine_map<(b, s, h, d, j) -> (b, j, h, d)>, affine_map<(b, s, h, d, j) -> (b, s, h, d)>] ins(%pc, %vh
          : !sc, !h) outs(%zh : !h) -> !h
  // Form one: shared heads weigh a1 softmax, the chosen ones a2 times their probability.
  %hl = linalg.matmul ins(%rows, %wh : !xt, tensor<24x2xf32>) outs(%z2 : !s) -> !s
  %kinds = linalg.softmax dimension(1) ins(%hl : !s) outs(%z2 : !s) -> !s
  %sl = linalg.matmul ins(%rows, %ws : !xt, tensor<24x2xf32>) outs(%zs : !s) -> !s
  %rl = linalg.matmul ins(%rows, %wr : !xt, tensor<24x4xf32>) outs(%zq : !q) -> !q
  %sall = moe.route %sl : !s   %sp_ = moe.normalize %sall by(softmax) : !rs   %rall = moe.route %rl : !q
  %rp = moe.normalize %rall by(softmax) : !moe.routing<?x4xf32>   %rtop = moe.top_k %rp k(2) : !moe.routing<?x4xf32>
  %shared = moe.map %sp_ {
  ^bb0(%w: f32, %row: index, %head: index):
    %a = tensor.extract %kinds[%row, %c0] : !s   %o = arith.mulf %w, %a : f32
    moe.yield %o : f32
  } : !rs
  %routed = moe.map %rtop {
  ^bb0(%w: f32, %row: index, %head: index):
    %a = tensor.extract %kinds[%row, %c1] : !s   %o = arith.mulf %w, %a : f32
    moe.yield %o : f32
  } : !rr
  %both = moe.concat %shared, %routed : !rs, !rr
  %g1 = moe.to_dense %both : !r
  %routing = tensor.expand_shape %g1 [[0, 1], [2]] output_shape [%b, %n, 6] : !gt into !g
  // Form two: the norms of the routed heads' queries.
  %qq = arith.mulf %qh, %qh : !h   %zg = tensor.splat %f0[%b, %n] : !g
  %norms = linalg.reduce {arith.addf} ins(%qq : !h) outs(%zg : !g) dimensions = [3]
  %norms_t = tensor.collapse_shape %norms [[0, 1], [2]] : !g into !gt
  %rnorm = tensor.extract_slice %norms_t[0, 2] [%t, 4] [1, 1] : !gt to !q
  %nall = moe.route %rnorm : !q   %ntop = moe.top_k %nall k(2) : !moe.routing<?x4xf32>
  %one = moe.map %ntop {
  ^bb0(%w: f32, %row: index, %head: index):
    moe.yield %f1 : f32
  } : !rr
  %always = moe.route %ones : !s   %used = moe.concat %always, %one : !rs, !rr
  %g2 = moe.to_dense %used : !r
  %mask_pf = tensor.expand_shape %g2 [[0, 1], [2]] output_shape [%b, %n, 6] : !gt into !g
  %wo3 = tensor.expand_shape %wo [[0, 1], [2]] output_shape [6, 4, 24] : !w into !wo
  %y = func.call @gated(%heads, %routing, %wo3) : (!h, !g, !wo) -> !x
  %y_pf = func.call @gated(%heads_c, %mask_pf, %wo3) : (!h, !g, !wo) -> !x
  return %y, %routing, %y_pf, %mask_pf : !x, !g, !x, !g
}

// The gated heads' outputs through their rows of wo.
func.func private @gated(%o: !h, %g: !g, %wo: !wo) -> !x {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %b = tensor.dim %o, %c0 : !h   %n = tensor.dim %o, %c1 : !h   %zh = tensor.splat %f0[%b, %n] : !h
  %zx = tensor.splat %f0[%b, %n] : !x
  %gates = linalg.broadcast ins(%g : !g) outs(%zh : !h) dimensions = [3]   %scaled = arith.mulf %o, %gates : !h
  %y = linalg.contract indexing_maps = [affine_map<(b, s, c, h, d) -> (b, s, h, d)>,
      affine_map<(b, s, c, h, d) -> (h, d, c)>, affine_map<(b, s, c, h, d) -> (b, s, c)>] ins(%scaled, %wo
          : !h, !wo) outs(%zx : !x) -> !x
  return %y : !x
}
