// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer
//
// Trainable noise is added to the gate's logits and only the k largest enter the softmax; only experts with a gate run.
// The hierarchical form, a gate over groups times a gate within each group, shares the experts and is a second result.
//
// Ops: top_k and normalize (over E experts, over G groups, over the M experts of T*G rows), route with a mask, apply
// with banks [G, M, ..] reached through an affine map. All gates' logits are one product: the gates stand side by side.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !e = tensor<?x12xf32>   !g = tensor<?x3xf32>   !m = tensor<?x4xf32>
!gm = tensor<?x3x4xf32>   !logits = tensor<?x27xf32>   !gates = tensor<24x27xf32>   !nested = tensor<3x24x4xf32>
!w1 = tensor<3x4x24x36xf32>   !w2 = tensor<3x4x36x24xf32>   !r = !moe.routing<?x12xf32>

func.func @main(%x: !x {moe.name = "x"}, %noise: !e {moe.name = "noise"}, %noise_p: !g {moe.name = "noise_p"},
    %noise_s: !gm {moe.name = "noise_s"}, %w_g: tensor<24x12xf32> {moe.name = "w_g"},
    %w_n: tensor<24x12xf32> {moe.name = "w_n"}, %w_gp: tensor<24x3xf32> {moe.name = "w_gp"},
    %w_np: tensor<24x3xf32> {moe.name = "w_np"}, %w_gs: !nested {moe.name = "w_gs"}, %w_ns: !nested {moe.name = "w_ns"},
    %w1: !w1 {moe.name = "w1"}, %w2: !w2 {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !x {moe.name = "y_h"}, !gm {moe.name = "routing_h"}) {
  %c0 = arith.constant 0 : index   %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x
  %tg = arith.muli %t, %c3 : index
  %a = func.call @side_by_side(%w_g, %w_gp, %w_gs) : (tensor<24x12xf32>, tensor<24x3xf32>, !nested) -> !gates
  %b = func.call @side_by_side(%w_n, %w_np, %w_ns) : (tensor<24x12xf32>, tensor<24x3xf32>, !nested) -> !gates
  %noise_sf = tensor.collapse_shape %noise_s [[0], [1, 2]] : !gm into !e
  %draws = tensor.concat dim(1) %noise, %noise_p, %noise_sf : (!e, !g, !e) -> !logits
  %zl = tensor.splat %f0[%t] : !logits
  %clean = linalg.matmul ins(%x, %a : !x, !gates) outs(%zl : !logits) -> !logits
  %spread = linalg.matmul ins(%x, %b : !x, !gates) outs(%zl : !logits) -> !logits
  %noisy = linalg.map ins(%clean, %spread, %draws : !logits, !logits, !logits)
      outs(%zl : !logits) (%c: f32, %s: f32, %d: f32, %init: f32) {
    %size = math.absf %s : f32   %m = arith.negf %size : f32   %exp = math.exp %m : f32   %log = math.log1p %exp : f32
    %pos = arith.maximumf %s, %f0 : f32   %softplus = arith.addf %pos, %log : f32
    %added = arith.mulf %d, %softplus : f32   %logit = arith.addf %c, %added : f32
    linalg.yield %logit : f32
  }

  %flat_logits = tensor.extract_slice %noisy[0, 0] [%t, 12] [1, 1] : !logits to !e
  %flat_all = moe.route %flat_logits : !e   %flat_top = moe.top_k %flat_all k(3) : !r
  %flat = moe.normalize %flat_top by(softmax) : !moe.routing<?x12xf32, max_per_row = 3>
  %routing = moe.to_dense %flat : !moe.routing<?x12xf32, max_per_row = 3>
  %flat_any = moe.cast %flat : !moe.routing<?x12xf32, max_per_row = 3> to !r
  %y = func.call @experts(%flat_any, %x, %w1, %w2) : (!r, !x, !w1, !w2) -> !x

  %group_logits = tensor.extract_slice %noisy[0, 12] [%t, 3] [1, 1] : !logits to !g
  %group_all = moe.route %group_logits : !g   %group_top = moe.top_k %group_all k(2) : !moe.routing<?x3xf32>
  %primary = moe.normalize %group_top by(softmax) : !moe.routing<?x3xf32, max_per_row = 2>
  %p = moe.to_dense %primary : !moe.routing<?x3xf32, max_per_row = 2>
  %inner_logits = tensor.extract_slice %noisy[0, 15] [%t, 12] [1, 1] : !logits to !e
  %inner_3d = tensor.expand_shape %inner_logits [[0], [1, 2]] output_shape [%t, 3, 4] : !e into !gm
  %inner_rows = tensor.collapse_shape %inner_3d [[0, 1], [2]] : !gm into !m
  %inner_all = moe.route %inner_rows : !m   %inner_top = moe.top_k %inner_all k(2) : !moe.routing<?x4xf32>
  %secondary = moe.normalize %inner_top by(softmax) : !moe.routing<?x4xf32, max_per_row = 2>
  %q_rows = moe.to_dense %secondary : !moe.routing<?x4xf32, max_per_row = 2>
  %q = tensor.expand_shape %q_rows [[0, 1], [2]] output_shape [%t, 3, 4] : !m into !gm
  %zgm = tensor.splat %f0[%t] : !gm
  %ps = linalg.broadcast ins(%p : !g) outs(%zgm : !gm) dimensions = [2]
  %routing_h = arith.mulf %ps, %q : !gm
  %products = tensor.collapse_shape %routing_h [[0], [1, 2]] : !gm into !e
  %ze = tensor.splat %f0[%t] : !e
  %nonzero = arith.cmpf ogt, %products, %ze : !e
  %nested = moe.route %products mask(%nonzero : tensor<?x12xi1>) : !e
  %y_h = func.call @experts(%nested, %x, %w1, %w2) : (!r, !x, !w1, !w2) -> !x
  return %y, %routing, %y_h, %routing_h : !x, !e, !x, !gm
}

func.func private @experts(%r: !r, %x: !x, %w1: !w1, %w2: !w2) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w1 by (e) -> (e floordiv 4, e mod 4), %w2 by (e) -> (e floordiv 4, e mod 4))
      weighted(after) out(sum) : !r, !x, !w1, !w2 -> !x {
  ^bb0(%v: !x, %up: tensor<24x36xf32>, %down: tensor<36x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x36xf32>) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<36x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  return %y : !x
}

// The columns of the flat gate, the gate over groups, and the gates within the groups.
func.func private @side_by_side(%flat: tensor<24x12xf32>, %groups: tensor<24x3xf32>, %inner: !nested) -> !gates {
  %init = tensor.empty() : tensor<24x3x4xf32>
  %columns = linalg.transpose ins(%inner : !nested) outs(%init : tensor<24x3x4xf32>) permutation = [1, 0, 2]
  %inner_2d = tensor.collapse_shape %columns [[0], [1, 2]] : tensor<24x3x4xf32> into tensor<24x12xf32>
  %all = tensor.concat dim(1) %flat, %groups, %inner_2d : (tensor<24x12xf32>, tensor<24x3xf32>, tensor<24x12xf32>)
      -> !gates
  return %all : !gates
}
