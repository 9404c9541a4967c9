// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Lifting the Curse of Capacity Gap in Distilling Language Models
//
// Transformer layers whose heads and neurons are partly shared and partly the token's expert's: every token brings the
// query, key and value of its own expert into one attention over all.
//
// Ops: top_k (k = 1); apply without weights gathers each token's own projections for an attention over all tokens, and
// applies its own output projection; normalize and to_dense for the gates.

!x = tensor<?x24xf32>   !q = tensor<?x8xf32>   !qs = tensor<?x3x8xf32>   !c3 = tensor<3x?x8xf32>
!sc = tensor<3x?x?xf32>   !e = tensor<?x3xf32>   !s = tensor<?x2x8xf32>   !t = tensor<?xf32>   !h = tensor<?x16xf32>
!he = tensor<?x10xf32>   !w = tensor<24x8xf32>   !sh = tensor<2x24x8xf32>   !r = !moe.routing<?x3xf32, max_per_row = 1>
!we = tensor<3x1x24x8xf32>   !woe = tensor<3x1x8x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wga: tensor<24x3xf32> {moe.name = "wga"}, %wq_s: !sh {moe.name = "wq_s"},
    %wk_s: !sh {moe.name = "wk_s"}, %wv_s: !sh {moe.name = "wv_s"}, %wo_s: tensor<2x8x24xf32> {moe.name = "wo_s"},
    %wq_e: !we {moe.name = "wq_e"}, %wk_e: !we {moe.name = "wk_e"}, %wv_e: !we {moe.name = "wv_e"},
    %wo_e: !woe {moe.name = "wo_e"}, %wgf: tensor<24x3xf32> {moe.name = "wgf"},
    %w1_s: tensor<24x16xf32> {moe.name = "w1_s"}, %w2_s: tensor<16x24xf32> {moe.name = "w2_s"},
    %w1_e: tensor<3x24x10xf32> {moe.name = "w1_e"}, %w2_e: tensor<3x10x24xf32> {moe.name = "w2_e"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing_attn"}, !e {moe.name = "routing_ffn"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %scale = arith.constant 0.35355339059327376 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zq = tensor.splat %f0[%t] : !q
  %zs = tensor.splat %f0[%t] : !s   %zsc = tensor.splat %f0[%t, %t] : !sc   %zqs = tensor.splat %f0[%t] : !qs
  %zx = tensor.splat %f0[%t] : !x   %zh = tensor.splat %f0[%t] : !h   %zt = tensor.splat %f0[%t] : !t
  // Attention: two shared heads and one of the token's expert.
  %ra, %routing_attn = func.call @gate(%x, %wga) : (!x, tensor<24x3xf32>) -> (!r, !e)
  %qs_ = linalg.contract indexing_maps = [affine_map<(t, h, i, d) -> (t, d)>, affine_map<(t, h, i, d) -> (h, d, i)>,
      affine_map<(t, h, i, d) -> (t, h, i)>] ins(%x, %wq_s : !x, !sh) outs(%zs : !s) -> !s
  %ks_ = linalg.contract indexing_maps = [affine_map<(t, h, i, d) -> (t, d)>, affine_map<(t, h, i, d) -> (h, d, i)>,
      affine_map<(t, h, i, d) -> (t, h, i)>] ins(%x, %wk_s : !x, !sh) outs(%zs : !s) -> !s
  %vs_ = linalg.contract indexing_maps = [affine_map<(t, h, i, d) -> (t, d)>, affine_map<(t, h, i, d) -> (h, d, i)>,
      affine_map<(t, h, i, d) -> (t, h, i)>] ins(%x, %wv_s : !x, !sh) outs(%zs : !s) -> !s
  %qe, %ke, %ve = moe.apply %ra rows(%x) experts(%wq_e by (e) -> (e, 0), %wk_e by (e) -> (e, 0), %wv_e by (e) -> (e, 0))
      out(sum, sum, sum) : !r, !x, !we, !we, !we -> (!q, !q, !q) {
  ^bb0(%v: !x, %a: !w, %b: !w, %c: !w):
    %n = tensor.dim %v, %c0 : !x   %zn = tensor.splat %f0[%n] : !q
    %o1 = linalg.matmul ins(%v, %a : !x, !w) outs(%zn : !q) -> !q
    %o2 = linalg.matmul ins(%v, %b : !x, !w) outs(%zn : !q) -> !q
    %o3 = linalg.matmul ins(%v, %c : !x, !w) outs(%zn : !q) -> !q
    moe.yield %o1, %o2, %o3 : !q, !q, !q
  }
  %qh = func.call @heads(%qs_, %qe) : (!s, !q) -> !qs   %kh = func.call @heads(%ks_, %ke) : (!s, !q) -> !qs
  %vh = func.call @heads(%vs_, %ve) : (!s, !q) -> !qs
  %dots = linalg.contract indexing_maps = [affine_map<(h, t, j, i) -> (t, h, i)>, affine_map<(h, t, j, i) -> (j, h, i)>,
      affine_map<(h, t, j, i) -> (h, t, j)>] ins(%qh, %kh : !qs, !qs) outs(%zsc : !sc) -> !sc
  %scales = tensor.splat %scale[%t, %t] : !sc   %scaled = arith.mulf %dots, %scales : !sc
  %p = linalg.softmax dimension(2) ins(%scaled : !sc) outs(%zsc : !sc) -> !sc
  %ctx = linalg.contract indexing_maps = [affine_map<(t, h, i, j) -> (h, t, j)>, affine_map<(t, h, i, j) -> (j, h, i)>,
      affine_map<(t, h, i, j) -> (t, h, i)>] ins(%p, %vh : !sc, !qs) outs(%zqs : !qs) -> !qs
  %cs = tensor.extract_slice %ctx[0, 0, 0] [%t, 2, 8] [1, 1, 1] : !qs to !s
  %ce = tensor.extract_slice %ctx[0, 2, 0] [%t, 1, 8] [1, 1, 1] : !qs to !q
  %o_shared = linalg.contract indexing_maps = [affine_map<(t, d, h, i) -> (t, h, i)>,
      affine_map<(t, d, h, i) -> (h, i, d)>, affine_map<(t, d, h, i) -> (t, d)>] ins(%cs, %wo_s
          : !s, tensor<2x8x24xf32>) outs(%zx : !x) -> !x
  %o_own = moe.apply %ra rows(%ce) experts(%wo_e by (e) -> (e, 0)) out(sum) : !r, !q, !woe -> !x {
  ^bb0(%v: !q, %a: tensor<8x24xf32>):
    %n = tensor.dim %v, %c0 : !q   %zn = tensor.splat %f0[%n] : !x
    %o = linalg.matmul ins(%v, %a : !q, tensor<8x24xf32>) outs(%zn : !x) -> !x
    moe.yield %o : !x
  }
  %o = arith.addf %o_shared, %o_own : !x   %h = func.call @residual(%x, %o, %routing_attn) : (!x, !x, !e) -> !x
  // Feed-forward: shared neurons and those of the token's expert.
  %rf, %routing_ffn = func.call @gate(%h, %wgf) : (!x, tensor<24x3xf32>) -> (!r, !e)
  %a_s = linalg.matmul ins(%h, %w1_s : !x, tensor<24x16xf32>) outs(%zh : !h) -> !h
  %one = tensor.splat %f1[%t] : !h   %hf = tensor.splat %half[%t] : !h   %rt = tensor.splat %root2[%t] : !h
  %gs_s = arith.mulf %a_s, %rt : !h   %gs_f = math.erf %gs_s : !h   %gs_c = arith.addf %gs_f, %one : !h
  %gs_h = arith.mulf %a_s, %hf : !h   %gs = arith.mulf %gs_h, %gs_c : !h
  %f_s = linalg.matmul ins(%gs, %w2_s : !h, tensor<16x24xf32>) outs(%zx : !x) -> !x
  %f_e = moe.apply %rf rows(%h) experts(%w1_e, %w2_e) out(sum) : !r, !x, tensor<3x24x10xf32>, tensor<3x10x24xf32>
      -> !x {
  ^bb0(%v: !x, %up: tensor<24x10xf32>, %down: tensor<10x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zn = tensor.splat %f0[%n] : !he   %zo = tensor.splat %f0[%n] : !x
    %one_e = tensor.splat %f1[%n] : !he   %hf_e = tensor.splat %half[%n] : !he   %rt_e = tensor.splat %root2[%n] : !he
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x10xf32>) outs(%zn : !he) -> !he
    %g_s = arith.mulf %a, %rt_e : !he   %g_f = math.erf %g_s : !he   %g_c = arith.addf %g_f, %one_e : !he
    %g_h = arith.mulf %a, %hf_e : !he   %g = arith.mulf %g_h, %g_c : !he
    %o4 = linalg.matmul ins(%g, %down : !he, tensor<10x24xf32>) outs(%zo : !x) -> !x
    moe.yield %o4 : !x
  }
  %f = arith.addf %f_s, %f_e : !x   %y = func.call @residual(%h, %f, %routing_ffn) : (!x, !x, !e) -> !x
  return %y, %routing_attn, %routing_ffn : !x, !e, !e
}

// The best expert of each token with its probability.
func.func private @gate(%v: !x, %w: tensor<24x3xf32>) -> (!r, !e) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %v, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%v, %w : !x, tensor<24x3xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x3xf32>
  %best = moe.top_k %p k(1) : !moe.routing<?x3xf32>   %dense = moe.to_dense %best : !r
  return %best, %dense : !r, !e
}

func.func private @heads(%shared: !s, %own: !q) -> !qs {
  %c0 = arith.constant 0 : index
  %t = tensor.dim %own, %c0 : !q
  %own1 = tensor.expand_shape %own [[0], [1, 2]] output_shape [%t, 1, 8] : !q into tensor<?x1x8xf32>
  %all = tensor.concat dim(1) %shared, %own1 : (!s, tensor<?x1x8xf32>) -> !qs
  return %all : !qs
}

// v + c o, c being the gate of the token's expert.
func.func private @residual(%v: !x, %o: !x, %gates: !e) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%t] : !t   %zx = tensor.splat %f0[%t] : !x
  %c = linalg.reduce {arith.addf} ins(%gates : !e) outs(%zt : !t) dimensions = [1]
  %cx = linalg.broadcast ins(%c : !t) outs(%zx : !x) dimensions = [1]
  %scaled = arith.mulf %o, %cx : !x   %y = arith.addf %v, %scaled : !x
  return %y : !x
}
