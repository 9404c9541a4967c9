// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Unchosen Experts Can Contribute Too: Unleashing MoE Models' Power by Self-Contrast
//
// One model runs twice over the same weights: strong with its top-2 routing, weak with only the second-ranked expert of
// every layer. Next-token scores extrapolate from the weak to the strong logits where the strong pass finds them
// plausible.
//
// Ops: one function with two uses; select by rank on a top_k (strong: both pairs, weak: rank 1 only), normalize, apply
// inside scf.for over the layers. The argmax of the scores is a top_k, too.

!x = tensor<?x24xf32>   !h = tensor<?x28xf32>   !e = tensor<?x6xf32>   !all = tensor<2x?x6xf32>   !z = tensor<?x21xf32>
!t = tensor<?xf32>   !g = tensor<24xf32>   !up = tensor<2x6x24x28xf32>   !down = tensor<2x6x28x24xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %g_norm: tensor<2x24xf32> {moe.name = "g_norm"},
    %w_gate: tensor<2x24x6xf32> {moe.name = "w_gate"}, %w_g: !up {moe.name = "w_g"}, %w_u: !up {moe.name = "w_u"},
    %w_d: !down {moe.name = "w_d"}, %g_out: !g {moe.name = "g_out"}, %w_out: tensor<24x21xf32> {moe.name = "w_out"})
    -> (!z {moe.name = "scores"}, tensor<?xi32> {moe.name = "next"}, !all {moe.name = "routing_strong"},
        !all {moe.name = "routing_weak"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %minf = arith.constant 0xFF800000 : f32   %alpha = arith.constant 0.1 : f32   %beta = arith.constant 0.5 : f32
  %beta1 = arith.constant 1.5 : f32   %masked = arith.constant -1.0e9 : f32
  %z, %strong = func.call @pass(%x, %g_norm, %w_gate, %w_g, %w_u, %w_d, %g_out, %w_out, %c0)
      : (!x, tensor<2x24xf32>, tensor<2x24x6xf32>, !up, !up, !down, !g, tensor<24x21xf32>, index) -> (!z, !all)
  %zw, %weak = func.call @pass(%x, %g_norm, %w_gate, %w_g, %w_u, %w_d, %g_out, %w_out, %c1)
      : (!x, tensor<2x24xf32>, tensor<2x24x6xf32>, !up, !up, !down, !g, tensor<24x21xf32>, index) -> (!z, !all)
  %t = tensor.dim %x, %c0 : !x   %zz = tensor.splat %f0[%t] : !z   %low = tensor.splat %minf[%t] : !t
  %p = linalg.softmax dimension(1) ins(%z : !z) outs(%zz : !z) -> !z
  %best = linalg.reduce { arith.maximumf } ins(%p : !z) outs(%low : !t) dimensions = [1]
  %scores = linalg.generic {indexing_maps = [affine_map<(t, v) -> (t, v)>, affine_map<(t, v) -> (t, v)>,
      affine_map<(t, v) -> (t, v)>,
      affine_map<(t, v) -> (t)>, affine_map<(t, v) -> (t, v)>], iterator_types = ["parallel", "parallel"]}
      ins(%z, %zw, %p, %best : !z, !z, !z, !t) outs(%zz : !z) {
  ^bb0(%a: f32, %b: f32, %q: f32, %top: f32, %init: f32):
    %sa = arith.mulf %a, %beta1 : f32   %sb = arith.mulf %b, %beta : f32   %contrast = arith.subf %sa, %sb : f32
    %least = arith.mulf %top, %alpha : f32   %plausible = arith.cmpf oge, %q, %least : f32
    %score = arith.select %plausible, %contrast, %masked : f32
    linalg.yield %score : f32
  } -> !z
  %tokens = moe.route %scores : !z   %first = moe.top_k %tokens k(1) : !moe.routing<?x21xf32>
  %idx, %w = moe.to_slots %first : !moe.routing<?x21xf32, max_per_row = 1>
  %next = tensor.collapse_shape %idx [[0, 1]] : tensor<?x1xi32> into tensor<?xi32>
  return %scores, %next, %strong, %weak : !z, tensor<?xi32>, !all, !all
}

// The layers with the experts of rank `first` and 1 in the order of the logits.
func.func private @pass(%x: !x, %g_norm: tensor<2x24xf32>, %w_gate: tensor<2x24x6xf32>, %w_g: !up, %w_u: !up,
    %w_d: !down, %g_out: !g, %w_out: tensor<24x21xf32>, %from: index) -> (!z, !all) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %za = tensor.splat %f0[%t] : !all
  %zz = tensor.splat %f0[%t] : !z
  %h, %routing = scf.for %l = %c0 to %c2 step %c1 iter_args(%v = %x, %seen = %za) -> (!x, !all) {
    %g = tensor.extract_slice %g_norm[%l, 0] [1, 24] [1, 1] : tensor<2x24xf32> to !g
    %wr = tensor.extract_slice %w_gate[%l, 0, 0] [1, 24, 6] [1, 1, 1] : tensor<2x24x6xf32> to tensor<24x6xf32>
    %wg = tensor.extract_slice %w_g[%l, 0, 0, 0] [1, 6, 24, 28] [1, 1, 1, 1] : !up to tensor<6x24x28xf32>
    %wu = tensor.extract_slice %w_u[%l, 0, 0, 0] [1, 6, 24, 28] [1, 1, 1, 1] : !up to tensor<6x24x28xf32>
    %wd = tensor.extract_slice %w_d[%l, 0, 0, 0] [1, 6, 28, 24] [1, 1, 1, 1] : !down to tensor<6x28x24xf32>
    %n = func.call @rms(%v, %g) : (!x, !g) -> !x
    %lg = linalg.matmul ins(%n, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    %every = moe.route %lg : !e   %top = moe.top_k %every k(2) : !moe.routing<?x6xf32>
    %some = moe.select %top {
    ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
      %in = arith.cmpi uge, %rank, %from : index
      moe.yield %in : i1
    } : !r
    %r = moe.normalize %some by(softmax) : !r
    %o = moe.apply %r rows(%n) experts(%wg, %wu, %wd) weighted(after) out(sum)
        : !r, !x, tensor<6x24x28xf32>, tensor<6x24x28xf32>, tensor<6x28x24xf32> -> !x {
    ^bb0(%rows: !x, %gate: tensor<24x28xf32>, %up: tensor<24x28xf32>, %down: tensor<28x24xf32>):
      %m = tensor.dim %rows, %c0 : !x
      %zh = tensor.splat %f0[%m] : !h   %zx = tensor.splat %f0[%m] : !x   %one = tensor.splat %f1[%m] : !h
      %a = linalg.matmul ins(%rows, %gate : !x, tensor<24x28xf32>) outs(%zh : !h) -> !h
      %b = linalg.matmul ins(%rows, %up : !x, tensor<24x28xf32>) outs(%zh : !h) -> !h
      %neg = arith.negf %a : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
      %silu = arith.divf %a, %den : !h   %hidden = arith.mulf %silu, %b : !h
      %out = linalg.matmul ins(%hidden, %down : !h, tensor<28x24xf32>) outs(%zx : !x) -> !x
      moe.yield %out : !x
    }
    %v_next = arith.addf %v, %o : !x
    %dense = moe.to_dense %r : !r
    %seen_next = tensor.insert_slice %dense into %seen[%l, 0, 0] [1, %t, 6] [1, 1, 1] : !e into !all
    scf.yield %v_next, %seen_next : !x, !all
  }
  %final = func.call @rms(%h, %g_out) : (!x, !g) -> !x
  %z = linalg.matmul ins(%final, %w_out : !x, tensor<24x21xf32>) outs(%zz : !z) -> !z
  return %z, %routing : !z, !all
}

// v / sqrt(mean(v^2) + 1e-6) * g
func.func private @rms(%v: !x, %g: !g) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-6 : f32
  %t = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%t] : !t   %zx = tensor.splat %f0[%t] : !x
  %squares = arith.mulf %v, %v : !x
  %sum = linalg.reduce { arith.addf } ins(%squares : !x) outs(%zt : !t) dimensions = [1]
  %out = linalg.generic {indexing_maps = [affine_map<(t, d) -> (t, d)>, affine_map<(t, d) -> (t)>,
      affine_map<(t, d) -> (d)>,
      affine_map<(t, d) -> (t, d)>], iterator_types = ["parallel",
          "parallel"]} ins(%v, %sum, %g : !x, !t, !g) outs(%zx : !x) {
  ^bb0(%a: f32, %s: f32, %w: f32, %init: f32):
    %mean = arith.divf %s, %width : f32   %safe = arith.addf %mean, %eps : f32   %root = math.sqrt %safe : f32
    %unit = arith.divf %a, %root : f32   %o = arith.mulf %unit, %w : f32
    linalg.yield %o : f32
  } -> !x
  return %out : !x
}
