// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Mixture of Sparse Attention: Content-Based Learnable Sparse Attention via Expert-Choice Routing
//
// Every attention head is an expert that takes its k best tokens of the sequence and attends among them alone, in their
// original order; its output is scaled by the router score.
//
// Ops: route, top_k along the tokens, apply with a coupled body (attention among the rows) and the rows' positions,
// to_dense.

!x = tensor<?x24xf32>   !v = tensor<?x8xf32>   !s = tensor<?x3xf32>   !a = tensor<?x?xf32>   !w = tensor<24x8xf32>
!heads = tensor<3x24x8xf32>   !pos = tensor<?xindex>   !r = !moe.routing<?x3xf32>
#ni = affine_map<(n, i) -> (n, i)>
#n = affine_map<(n, i) -> (n)>

// Rotary embedding of the rows of x w, each at its position, in the rotate-half form.
func.func private @rope(%x: !x, %w: !w, %pos: !pos) -> !v {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %c4 = arith.constant 4 : index
  %f0 = arith.constant 0.0 : f32   %rate = arith.constant -2.302585092994046 : f32
  %n = tensor.dim %x, %c0 : !x   %z = tensor.splat %f0[%n] : !v
  %v = linalg.matmul ins(%x, %w : !x, !w) outs(%z : !v) -> !v
  %o = linalg.generic {indexing_maps = [#ni, #n, #ni], iterator_types = ["parallel", "parallel"]}
      ins(%v, %pos : !v, !pos) outs(%z : !v) {
  ^bb0(%own: f32, %p: index, %init: f32):
    %row = linalg.index 0 : index   %i = linalg.index 1 : index   %partner = arith.xori %i, %c4 : index
    %other = tensor.extract %v[%row, %partner] : !v
    // position * 10000^(-(i mod 4) / 4)
    %j = arith.andi %i, %c3 : index   %ji = arith.index_cast %j : index to i32
    %pi = arith.index_cast %p : index to i32   %jf = arith.sitofp %ji : i32 to f32   %pf = arith.sitofp %pi : i32 to f32
    %exponent = arith.mulf %jf, %rate : f32   %frequency = math.exp %exponent : f32
    %angle = arith.mulf %pf, %frequency : f32   %cos = math.cos %angle : f32   %sin = math.sin %angle : f32
    %lower = arith.cmpi ult, %i, %c4 : index   %neg = arith.negf %sin : f32
    %sign = arith.select %lower, %neg, %sin : f32   %a = arith.mulf %own, %cos : f32
    %b = arith.mulf %other, %sign : f32   %sum = arith.addf %a, %b : f32
    linalg.yield %sum : f32
  } -> !v
  return %o : !v
}

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x3xf32> {moe.name = "w_r"}, %wq: !heads {moe.name = "w_q"},
    %wk: !heads {moe.name = "w_k"}, %wv: !heads {moe.name = "w_v"}, %wo: tensor<3x8x24xf32> {moe.name = "w_o"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %scale = arith.constant 0.35355339059327379 : f32   %minf = arith.constant 0xFF800000 : f32
  %t = tensor.dim %x, %c0 : !x   %z = tensor.splat %f0[%t] : !s   %ones = tensor.splat %f1[%t] : !s
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x3xf32>) outs(%z : !s) -> !s
  %neg = arith.negf %logits : !s   %exp = math.exp %neg : !s   %den = arith.addf %exp, %ones : !s
  %scores = arith.divf %ones, %den : !s
  %all = moe.route %scores : !s   %r = moe.top_k %all k(6) axis(token) : !r
  %y = moe.apply %r rows(%x) experts(%wq, %wk, %wv, %wo) index(row) weighted(after) out(sum)
      : !moe.routing<?x3xf32, max_per_expert = 6>, !x, !heads, !heads, !heads, tensor<3x8x24xf32> -> !x {
  ^bb0(%v: !x, %qe: !w, %ke: !w, %ve: !w, %oe: tensor<8x24xf32>, %pos: !pos):
    %n = tensor.dim %v, %c0 : !x
    %za = tensor.splat %f0[%n, %n] : !a   %zv = tensor.splat %f0[%n] : !v   %zx = tensor.splat %f0[%n] : !x
    %q = func.call @rope(%v, %qe, %pos) : (!x, !w, !pos) -> !v
    %k = func.call @rope(%v, %ke, %pos) : (!x, !w, !pos) -> !v
    %values = linalg.matmul ins(%v, %ve : !x, !w) outs(%zv : !v) -> !v
    %qk = linalg.matmul indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>,
        affine_map<(i, j, d) -> (i, j)>]
        ins(%q, %k : !v, !v) outs(%za : !a) -> !a
    // The rows are in ascending order of their positions, so that causal means j <= i.
    %causal = linalg.map ins(%qk : !a) outs(%za : !a) (%s: f32, %init: f32) {
      %i = linalg.index 0 : index   %j = linalg.index 1 : index   %past = arith.cmpi ule, %j, %i : index
      %scaled = arith.mulf %s, %scale : f32   %masked = arith.select %past, %scaled, %minf : f32
      linalg.yield %masked : f32
    }
    %p = linalg.softmax dimension(1) ins(%causal : !a) outs(%za : !a) -> !a
    %c = linalg.matmul ins(%p, %values : !a, !v) outs(%zv : !v) -> !v
    %o = linalg.matmul ins(%c, %oe : !v, tensor<8x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !moe.routing<?x3xf32, max_per_expert = 6>
  return %y, %routing : !x, !s
}
