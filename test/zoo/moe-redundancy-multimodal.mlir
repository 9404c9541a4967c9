// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Exploiting Mixture-of-Experts Redundancy Unlocks Multimodal Generative Abilities
//
// A trained language MoE learns a second modality by LoRA pairs on its experts, which act on tokens of the new modality
// only; the router stays.
//
// Ops: top_k, normalize, apply with rows of two tensors (the token and the scale of its deltas).

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !low = tensor<?x4xf32>   !e = tensor<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !w1 = tensor<6x24x30xf32>   !w2 = tensor<6x30x24xf32>
!a1 = tensor<6x24x4xf32>   !b1 = tensor<6x4x30xf32>   !a2 = tensor<6x30x4xf32>   !b2 = tensor<6x4x24xf32>
!i = tensor<?xi32>   !m = tensor<?xf32>

func.func @main(%x: !x {moe.name = "x"}, %modality: !i {moe.name = "modality"}, %wr: tensor<24x6xf32> {moe.name = "wr"},
    %w1: !w1 {moe.name = "w1"}, %w2: !w2 {moe.name = "w2"}, %a1: !a1 {moe.name = "a1"}, %b1: !b1 {moe.name = "b1"},
    %a2: !a2 {moe.name = "a2"}, %b2: !b2 {moe.name = "b2"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %i1 = arith.constant 1 : i32   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %scale = arith.constant 0.5 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zm = tensor.splat %f0[%t] : !m
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %best = moe.top_k %p k(2) : !moe.routing<?x6xf32>   %r = moe.normalize %best by(sum) : !r
  %delta = linalg.map ins(%modality : !i) outs(%zm : !m) (%kind: i32, %init: f32) {
    %new = arith.cmpi eq, %kind, %i1 : i32   %s = arith.select %new, %scale, %f0 : f32
    linalg.yield %s : f32
  }
  %y = moe.apply %r rows(%x, %delta) experts(%w1, %w2, %a1, %b1, %a2, %b2) weighted(after) out(sum)
      : !r, !x, !m, !w1, !w2, !a1, !b1, !a2, !b2 -> !x {
  ^bb0(%v: !x, %s: !m, %up: tensor<24x30xf32>, %down: tensor<30x24xf32>, %ua: tensor<24x4xf32>, %ub: tensor<4x30xf32>,
      %da: tensor<30x4xf32>, %db: tensor<4x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %zl = tensor.splat %f0[%n] : !low   %one = tensor.splat %f1[%n] : !h
    %ul = linalg.matmul ins(%v, %ua : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
    %ud = linalg.matmul ins(%ul, %ub : !low, tensor<4x30xf32>) outs(%zh : !h) -> !h
    %sh = linalg.broadcast ins(%s : !m) outs(%zh : !h) dimensions = [1]   %us = arith.mulf %ud, %sh : !h
    %u = linalg.matmul ins(%v, %up : !x, tensor<24x30xf32>) outs(%us : !h) -> !h
    %g_n = arith.negf %u : !h   %g_e = math.exp %g_n : !h   %g_d = arith.addf %g_e, %one : !h
    %g = arith.divf %u, %g_d : !h
    %dl = linalg.matmul ins(%g, %da : !h, tensor<30x4xf32>) outs(%zl : !low) -> !low
    %dd = linalg.matmul ins(%dl, %db : !low, tensor<4x24xf32>) outs(%zx : !x) -> !x
    %sx = linalg.broadcast ins(%s : !m) outs(%zx : !x) dimensions = [1]   %ds = arith.mulf %dd, %sx : !x
    %o = linalg.matmul ins(%g, %down : !h, tensor<30x24xf32>) outs(%ds : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !e
}
