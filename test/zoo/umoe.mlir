// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// UMoE: Unifying Attention and FFN with Shared Experts
//
// Attention as an FFN with experts: an expert's query mixes the normalised states of the tokens before, and the mixture
// goes through the expert's FFN. The FFN sub-layer behind it routes the tokens to the same experts' weights.
//
// Ops: two routings and two applies over one pair of banks; the first body captures all tokens' keys and states and
// asks for the token index (the causal mask).

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !hd = tensor<?x10xf32>   !low = tensor<?x4xf32>   !e = tensor<?x6xf32>
!tt = tensor<?x?xf32>   !g = tensor<24xf32>   !up = tensor<24x32xf32>   !down = tensor<32x24xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %g1: !g {moe.name = "g1"}, %w_ga: tensor<24x6xf32> {moe.name = "w_ga"},
    %w_k: tensor<24x10xf32> {moe.name = "w_k"}, %w_q: tensor<24x10xf32> {moe.name = "w_q"},
    %q_a: tensor<6x24x4xf32> {moe.name = "q_a"}, %q_b: tensor<6x4x10xf32> {moe.name = "q_b"}, %g2: !g {moe.name = "g2"},
    %w_gf: tensor<24x6xf32> {moe.name = "w_gf"}, %w1: tensor<6x24x32xf32> {moe.name = "w1"},
    %w2: tensor<6x32x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing_attn"}, !e {moe.name = "routing_ffn"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %minf = arith.constant 0xFF800000 : f32
  %scale = arith.constant 0.31622776601683794 : f32  // 1 / sqrt(HD)
  %t = tensor.dim %x, %c0 : !x
  %n = func.call @rms(%x, %g1) : (!x, !g) -> !x
  %zk = tensor.splat %f0[%t] : !hd
  %k = linalg.matmul ins(%n, %w_k : !x, tensor<24x10xf32>) outs(%zk : !hd) -> !hd
  %r = func.call @router(%n, %w_ga) : (!x, tensor<24x6xf32>) -> !r
  %attended = moe.apply %r rows(%n) experts(%q_a, %q_b, %w1, %w2) index(row) weighted(after) out(sum)
      : !r, !x, tensor<6x24x4xf32>, tensor<6x4x10xf32>, tensor<6x24x32xf32>, tensor<6x32x24xf32> -> !x {
  ^bb0(%v: !x, %qa: tensor<24x4xf32>, %qb: tensor<4x10xf32>, %up: !up, %down: !down, %rows: tensor<?xindex>):
    %m = tensor.dim %v, %c0 : !x
    %zl = tensor.splat %f0[%m] : !low   %zq = tensor.splat %f0[%m] : !hd   %zs = tensor.splat %f0[%m, %t] : !tt
    %zx = tensor.splat %f0[%m] : !x
    %l = linalg.matmul ins(%v, %qa : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
    %own = linalg.matmul ins(%l, %qb : !low, tensor<4x10xf32>) outs(%zq : !hd) -> !hd
    %q = linalg.matmul ins(%v, %w_q : !x, tensor<24x10xf32>) outs(%own : !hd) -> !hd
    %qk = linalg.contract indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>,
        affine_map<(i, j, d) -> (i, j)>]
        ins(%q, %k : !hd, !hd) outs(%zs : !tt) -> !tt
    %causal = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>,
        affine_map<(i, j) -> (i, j)>],
        iterator_types = ["parallel", "parallel"]} ins(%qk, %rows : !tt, tensor<?xindex>) outs(%zs : !tt) {
    ^bb0(%s: f32, %row: index, %init: f32):
      %j = linalg.index 1 : index   %before = arith.cmpi ule, %j, %row : index   %scaled = arith.mulf %s, %scale : f32
      %kept = arith.select %before, %scaled, %minf : f32
      linalg.yield %kept : f32
    } -> !tt
    %attention = linalg.softmax dimension(1) ins(%causal : !tt) outs(%zs : !tt) -> !tt
    %mix = linalg.matmul ins(%attention, %n : !tt, !x) outs(%zx : !x) -> !x
    %o = func.call @ffn(%mix, %up, %down) : (!x, !up, !down) -> !x
    moe.yield %o : !x
  }
  %h = arith.addf %x, %attended : !x
  %m = func.call @rms(%h, %g2) : (!x, !g) -> !x
  %r2 = func.call @router(%m, %w_gf) : (!x, tensor<24x6xf32>) -> !r
  %fed = moe.apply %r2 rows(%m) experts(%w1, %w2) weighted(after) out(sum) : !r, !x, tensor<6x24x32xf32>,
      tensor<6x32x24xf32> -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %o = func.call @ffn(%v, %up, %down) : (!x, !up, !down) -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %h, %fed : !x
  %routing_attn = moe.to_dense %r : !r
  %routing_ffn = moe.to_dense %r2 : !r
  return %y, %routing_attn, %routing_ffn : !x, !e, !e
}

func.func private @router(%v: !x, %w: tensor<24x6xf32>) -> !r {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %v, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%v, %w : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %top = moe.top_k %probs k(2) : !moe.routing<?x6xf32>
  return %top : !r
}

func.func private @ffn(%v: !x, %up: !up, %down: !down) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
  %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
    %s = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %s : f32   %cdf2 = arith.addf %erf, %f1 : f32
    %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
    linalg.yield %gelu : f32
  }
  %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
  return %o : !x
}

// v / sqrt(mean(v^2) + 1e-6) * g
func.func private @rms(%v: !x, %g: !g) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-6 : f32
  %t = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%t] : tensor<?xf32>   %zx = tensor.splat %f0[%t] : !x
  %squares = arith.mulf %v, %v : !x
  %sum = linalg.reduce { arith.addf } ins(%squares : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %out = linalg.generic {indexing_maps = [affine_map<(t, d) -> (t, d)>, affine_map<(t, d) -> (t)>,
      affine_map<(t, d) -> (d)>,
      affine_map<(t, d) -> (t, d)>], iterator_types = ["parallel",
          "parallel"]} ins(%v, %sum, %g : !x, tensor<?xf32>, !g) outs(%zx : !x) {
  ^bb0(%a: f32, %s: f32, %w: f32, %init: f32):
    %mean = arith.divf %s, %width : f32   %safe = arith.addf %mean, %eps : f32   %root = math.sqrt %safe : f32
    %unit = arith.divf %a, %root : f32   %o = arith.mulf %unit, %w : f32
    linalg.yield %o : f32
  } -> !x
  return %out : !x
}
