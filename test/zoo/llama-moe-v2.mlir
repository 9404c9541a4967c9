// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// LLaMA-MoE v2: Exploring Sparsity of LLaMA from Perspective of Mixture-of-Experts with Post-Training
//
// Attention experts are KV-head groups: attention inside one sees only the tokens routed to it, now and in earlier
// calls (a ragged cache per expert). The MLP side has routed experts and one that is always on.
//
// Ops: route, normalize, top_k, apply with a coupled body (rows' positions, a sum and the new cache rows as buckets),
// counts, apply (MLP), to_dense.

!x = tensor<?x24xf32>   !v = tensor<?x8xf32>   !q = tensor<?x2x8xf32>   !a = tensor<?x2x?xf32>   !pos = tensor<?xindex>
!s = tensor<?x4xf32>   !m = tensor<?x6xf32>   !top4 = !moe.routing<?x4xf32, max_per_row = 2>
!top6 = !moe.routing<?x6xf32, max_per_row = 2>
#td = affine_map<(t, d) -> (t, d)>
#t = affine_map<(t, d) -> (t)>
#d = affine_map<(t, d) -> (d)>

// x / sqrt(mean(x^2) + eps) * g
func.func private @rms(%x: !x, %g: tensor<24xf32>) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f24 = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %x, %c0 : !x   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %e = tensor.empty(%n) : !x
  %xx = arith.mulf %x, %x : !x
  %sums = linalg.reduce {arith.addf} ins(%xx : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %o = linalg.generic {indexing_maps = [#td, #t, #d, #td], iterator_types = ["parallel", "parallel"]}
      ins(%x, %sums, %g : !x, tensor<?xf32>, tensor<24xf32>) outs(%e : !x) {
  ^bb0(%v: f32, %sum: f32, %w: f32, %init: f32):
    %mean = arith.divf %sum, %f24 : f32   %safe = arith.addf %mean, %eps : f32   %root = math.sqrt %safe : f32
    %unit = arith.divf %v, %root : f32   %scaled = arith.mulf %unit, %w : f32
    linalg.yield %scaled : f32
  } -> !x
  return %o : !x
}

// Rotary embedding of rows, each at its position, in the rotate-half form.
func.func private @rope(%v: !v, %pos: !pos, %pos0: index) -> !v {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %c4 = arith.constant 4 : index
  %rate = arith.constant -2.302585092994046 : f32
  %n = tensor.dim %v, %c0 : !v   %e = tensor.empty(%n) : !v
  %o = linalg.generic {indexing_maps = [#td, #t, #td], iterator_types = ["parallel", "parallel"]}
      ins(%v, %pos : !v, !pos) outs(%e : !v) {
  ^bb0(%own: f32, %p: index, %init: f32):
    %row = linalg.index 0 : index   %i = linalg.index 1 : index   %partner = arith.xori %i, %c4 : index
    %other = tensor.extract %v[%row, %partner] : !v
    %absolute = arith.addi %p, %pos0 : index   %j = arith.andi %i, %c3 : index
    %ji = arith.index_cast %j : index to i32   %pi = arith.index_cast %absolute : index to i32
    %jf = arith.sitofp %ji : i32 to f32   %pf = arith.sitofp %pi : i32 to f32   %exponent = arith.mulf %jf, %rate : f32
    %frequency = math.exp %exponent : f32   %angle = arith.mulf %pf, %frequency : f32   %cos = math.cos %angle : f32
    %sin = math.sin %angle : f32   %lower = arith.cmpi ult, %i, %c4 : index   %neg = arith.negf %sin : f32
    %sign = arith.select %lower, %neg, %sin : f32   %a = arith.mulf %own, %cos : f32
    %b = arith.mulf %other, %sign : f32   %sum = arith.addf %a, %b : f32
    linalg.yield %sum : f32
  } -> !v
  return %o : !v
}

// (silu(v gate) * (v up)) down, for experts of any width.
func.func private @swiglu(%v: !x, %gate: tensor<24x?xf32>, %up: tensor<24x?xf32>, %down: tensor<?x24xf32>) -> !x {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %f = tensor.dim %gate, %c1 : tensor<24x?xf32>
  %zh = tensor.splat %f0[%n, %f] : tensor<?x?xf32>   %zx = tensor.splat %f0[%n] : !x
  %one = tensor.splat %f1[%n, %f] : tensor<?x?xf32>
  %g = linalg.matmul ins(%v, %gate : !x, tensor<24x?xf32>) outs(%zh : tensor<?x?xf32>) -> tensor<?x?xf32>
  %u = linalg.matmul ins(%v, %up : !x, tensor<24x?xf32>) outs(%zh : tensor<?x?xf32>) -> tensor<?x?xf32>
  %neg = arith.negf %g : tensor<?x?xf32>   %exp = math.exp %neg : tensor<?x?xf32>
  %den = arith.addf %exp, %one : tensor<?x?xf32>   %silu = arith.divf %g, %den : tensor<?x?xf32>
  %a = arith.mulf %silu, %u : tensor<?x?xf32>
  %o = linalg.matmul ins(%a, %down : tensor<?x?xf32>, tensor<?x24xf32>) outs(%zx : !x) -> !x
  return %o : !x
}

func.func @main(%x: !x {moe.name = "x"}, %p0: tensor<i32> {moe.name = "pos0"},
    %past_len: tensor<4xi32> {moe.name = "past_len"}, %past_k: tensor<4x7x8xf32> {moe.name = "past_k"},
    %past_v: tensor<4x7x8xf32> {moe.name = "past_v"}, %g_attn: tensor<24xf32> {moe.name = "g_attn"},
    %w_ga: tensor<24x4xf32> {moe.name = "w_ga"}, %w_q: tensor<4x24x2x8xf32> {moe.name = "w_q"},
    %w_k: tensor<4x24x8xf32> {moe.name = "w_k"}, %w_v: tensor<4x24x8xf32> {moe.name = "w_v"},
    %w_o: tensor<4x2x8x24xf32> {moe.name = "w_o"}, %g_mlp: tensor<24xf32> {moe.name = "g_mlp"},
    %w_gm: tensor<24x6xf32> {moe.name = "w_gm"}, %w_g: tensor<6x24x20xf32> {moe.name = "w_g"},
    %w_u: tensor<6x24x20xf32> {moe.name = "w_u"}, %w_d: tensor<6x20x24xf32> {moe.name = "w_d"},
    %r_g: tensor<24x12xf32> {moe.name = "r_g"}, %r_u: tensor<24x12xf32> {moe.name = "r_u"},
    %r_d: tensor<12x24xf32> {moe.name = "r_d"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing_attn"}, !m {moe.name = "routing_mlp"},
        tensor<4xi32> {moe.name = "new_len"}, tensor<4x?x8xf32> {moe.name = "new_k"},
        tensor<4x?x8xf32> {moe.name = "new_v"}) {
  %c0 = arith.constant 0 : index   %c7 = arith.constant 7 : index   %f0 = arith.constant 0.0 : f32
  %scale = arith.constant 0.35355339059327379 : f32   %minf = arith.constant 0xFF800000 : f32
  %t = tensor.dim %x, %c0 : !x
  %pi = tensor.extract %p0[] : tensor<i32>   %pos0 = arith.index_cast %pi : i32 to index
  %zs = tensor.splat %f0[%t] : !s   %zm = tensor.splat %f0[%t] : !m
  %n = call @rms(%x, %g_attn) : (!x, tensor<24xf32>) -> !x
  %la = linalg.matmul ins(%n, %w_ga : !x, tensor<24x4xf32>) outs(%zs : !s) -> !s
  %alla = moe.route %la : !s   %pa = moe.normalize %alla by(softmax) : !moe.routing<?x4xf32>
  %besta = moe.top_k %pa k(2) : !moe.routing<?x4xf32>   %ra = moe.normalize %besta by(sum) : !top4
  %attn, %new_k, %new_v = moe.apply %ra rows(%n) experts(%w_q, %w_k, %w_v, %w_o, %past_k, %past_v, %past_len) index(row)
      weighted(after)
      out(sum, buckets(%t), buckets(%t)) : !top4, !x, tensor<4x24x2x8xf32>, tensor<4x24x8xf32>, tensor<4x24x8xf32>,
          tensor<4x2x8x24xf32>,
      tensor<4x7x8xf32>, tensor<4x7x8xf32>, tensor<4xi32> -> (!x, tensor<4x?x8xf32>, tensor<4x?x8xf32>) {
  ^bb0(%v: !x, %wq: tensor<24x2x8xf32>, %wk: tensor<24x8xf32>, %wv: tensor<24x8xf32>, %wo: tensor<2x8x24xf32>,
      %pk: tensor<7x8xf32>, %pv: tensor<7x8xf32>, %plen: tensor<i32>, %pos: !pos):
    %m = tensor.dim %v, %c0 : !x
    %keys_n = arith.addi %m, %c7 : index   %li = tensor.extract %plen[] : tensor<i32>
    %len = arith.index_cast %li : i32 to index
    %zv = tensor.splat %f0[%m] : !v   %zq = tensor.splat %f0[%m] : !q   %za = tensor.splat %f0[%m, %keys_n] : !a
    %zx = tensor.splat %f0[%m] : !x   %zp = tensor.splat %f0 : tensor<7x8xf32>
    %k0 = linalg.matmul ins(%v, %wk : !x, tensor<24x8xf32>) outs(%zv : !v) -> !v
    %k = func.call @rope(%k0, %pos, %pos0) : (!v, !pos, index) -> !v
    %vn = linalg.matmul ins(%v, %wv : !x, tensor<24x8xf32>) outs(%zv : !v) -> !v
    %q0 = linalg.contract indexing_maps = [affine_map<(t, h, i, d) -> (t, d)>, affine_map<(t, h, i, d) -> (d, h, i)>,
        affine_map<(t, h, i, d) -> (t, h, i)>]
        ins(%v, %wq : !x, tensor<24x2x8xf32>) outs(%zq : !q) -> !q
    %qa = tensor.extract_slice %q0[0, 0, 0] [%m, 1, 8] [1, 1, 1] : !q to !v
    %qb = tensor.extract_slice %q0[0, 1, 0] [%m, 1, 8] [1, 1, 1] : !q to !v
    %ra0 = func.call @rope(%qa, %pos, %pos0) : (!v, !pos, index) -> !v
    %rb0 = func.call @rope(%qb, %pos, %pos0) : (!v, !pos, index) -> !v
    %q1 = tensor.insert_slice %ra0 into %zq[0, 0, 0] [%m, 1, 8] [1, 1, 1] : !v into !q
    %q = tensor.insert_slice %rb0 into %q1[0, 1, 0] [%m, 1, 8] [1, 1, 1] : !v into !q
    // The cache behind past_len is not to be read: its values count as zero, its scores are masked.
    %pvs = linalg.map ins(%pv : tensor<7x8xf32>) outs(%zp : tensor<7x8xf32>) (%c: f32, %init: f32) {
      %row = linalg.index 0 : index   %cached = arith.cmpi ult, %row, %len : index
      %value = arith.select %cached, %c, %f0 : f32
      linalg.yield %value : f32
    }
    %keys = tensor.concat dim(0) %pk, %k : (tensor<7x8xf32>, !v) -> !v
    %values = tensor.concat dim(0) %pvs, %vn : (tensor<7x8xf32>, !v) -> !v
    %scores = linalg.contract indexing_maps = [affine_map<(t, h, j, d) -> (t, h, d)>,
        affine_map<(t, h, j, d) -> (j, d)>, affine_map<(t, h, j, d) -> (t, h, j)>]
        ins(%q, %keys : !q, !v) outs(%za : !a) -> !a
    %masked = linalg.map ins(%scores : !a) outs(%za : !a) (%s: f32, %init: f32) {
      %i = linalg.index 0 : index   %j = linalg.index 2 : index   %last = arith.addi %i, %c7 : index
      %is_past = arith.cmpi ult, %j, %c7 : index   %cached = arith.cmpi ult, %j, %len : index
      %causal = arith.cmpi ule, %j, %last : index   %seen = arith.select %is_past, %cached, %causal : i1
      %scaled = arith.mulf %s, %scale : f32   %m1 = arith.select %seen, %scaled, %minf : f32
      linalg.yield %m1 : f32
    }
    %p = linalg.softmax dimension(2) ins(%masked : !a) outs(%za : !a) -> !a
    %c = linalg.contract indexing_maps = [affine_map<(t, h, i, j) -> (t, h, j)>, affine_map<(t, h, i, j) -> (j, i)>,
        affine_map<(t, h, i, j) -> (t, h, i)>]
        ins(%p, %values : !a, !v) outs(%zq : !q) -> !q
    %o = linalg.contract indexing_maps = [affine_map<(t, d, h, i) -> (t, h, i)>, affine_map<(t, d, h, i) -> (h, i, d)>,
        affine_map<(t, d, h, i) -> (t, d)>]
        ins(%c, %wo : !q, tensor<2x8x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o, %k, %vn : !x, !v, !v
  }
  %new_len = moe.counts %ra per(expert) : !top4
  %routing_attn = moe.to_dense %ra : !top4
  %h = arith.addf %x, %attn : !x
  %mn = call @rms(%h, %g_mlp) : (!x, tensor<24xf32>) -> !x
  %lm = linalg.matmul ins(%mn, %w_gm : !x, tensor<24x6xf32>) outs(%zm : !m) -> !m
  %allm = moe.route %lm : !m   %pm = moe.normalize %allm by(softmax) : !moe.routing<?x6xf32>
  %bestm = moe.top_k %pm k(2) : !moe.routing<?x6xf32>   %rm = moe.normalize %bestm by(sum) : !top6
  %mlp = moe.apply %rm rows(%mn) experts(%w_g, %w_u, %w_d) weighted(after) out(sum) : !top6, !x, tensor<6x24x20xf32>,
      tensor<6x24x20xf32>, tensor<6x20x24xf32> -> !x {
  ^bb0(%v: !x, %gate: tensor<24x20xf32>, %up: tensor<24x20xf32>, %down: tensor<20x24xf32>):
    %gc = tensor.cast %gate : tensor<24x20xf32> to tensor<24x?xf32>
    %uc = tensor.cast %up : tensor<24x20xf32> to tensor<24x?xf32>
    %dc = tensor.cast %down : tensor<20x24xf32> to tensor<?x24xf32>
    %o = func.call @swiglu(%v, %gc, %uc, %dc) : (!x, tensor<24x?xf32>, tensor<24x?xf32>, tensor<?x24xf32>) -> !x
    moe.yield %o : !x
  }
  %routing_mlp = moe.to_dense %rm : !top6
  %rgc = tensor.cast %r_g : tensor<24x12xf32> to tensor<24x?xf32>
  %ruc = tensor.cast %r_u : tensor<24x12xf32> to tensor<24x?xf32>
  %rdc = tensor.cast %r_d : tensor<12x24xf32> to tensor<?x24xf32>
  %always = call @swiglu(%mn, %rgc, %ruc, %rdc) : (!x, tensor<24x?xf32>, tensor<24x?xf32>, tensor<?x24xf32>) -> !x
  %both = arith.addf %mlp, %always : !x   %y = arith.addf %h, %both : !x
  return %y, %routing_attn, %routing_mlp, %new_len, %new_k, %new_v : !x, !s, !m, tensor<4xi32>, tensor<4x?x8xf32>,
      tensor<4x?x8xf32>
}
