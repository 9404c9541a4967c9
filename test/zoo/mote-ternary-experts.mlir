// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoTE: Mixture of Ternary Experts for Memory-efficient Large Multimodal Models
//
// A full-precision FFN is the shared expert of every token; the routed experts have weights -1, 0, 1 with one scale per
// matrix. The body decodes its expert's codes and scales the products.
//
// Ops: top_k, apply with integer banks (decoding is plain arith in the body); the shared expert is dense upstream code.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !up = tensor<24x32xf32>   !down = tensor<32x24xf32>
!e = tensor<?x6xf32>   !r = !moe.routing<?x6xf32, max_per_row = 2>   !qu = tensor<6x24x32xi32>
!qd = tensor<6x32x24xi32>   !s = tensor<6xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x6xf32> {moe.name = "wr"}, %q_g: !qu {moe.name = "q_g"},
    %s_g: !s {moe.name = "s_g"}, %q_u: !qu {moe.name = "q_u"}, %s_u: !s {moe.name = "s_u"},
    %q_d: !qd {moe.name = "q_d"}, %s_d: !s {moe.name = "s_d"}, %fg: !up {moe.name = "fg"}, %fu: !up {moe.name = "fu"},
    %fd: !down {moe.name = "fd"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %gates = moe.top_k %probs k(2) : !moe.routing<?x6xf32>
  %routed = moe.apply %gates rows(%x) experts(%q_g, %s_g, %q_u, %s_u, %q_d, %s_d) weighted(after) out(sum)
      : !r, !x, !qu, !s, !qu, !s, !qd, !s -> !x {
  ^bb0(%v: !x, %cg: tensor<24x32xi32>, %sg: tensor<f32>, %cu: tensor<24x32xi32>, %su: tensor<f32>,
      %cd: tensor<32x24xi32>, %sd: tensor<f32>):
    %wg = arith.sitofp %cg : tensor<24x32xi32> to !up   %wu = arith.sitofp %cu : tensor<24x32xi32> to !up
    %wd = arith.sitofp %cd : tensor<32x24xi32> to !down   %kg = tensor.extract %sg[] : tensor<f32>
    %ku = tensor.extract %su[] : tensor<f32>   %kd = tensor.extract %sd[] : tensor<f32>
    %o = func.call @ffn(%v, %wg, %wu, %wd, %kg, %ku, %kd) : (!x, !up, !up, !down, f32, f32, f32) -> !x
    moe.yield %o : !x
  }
  %shared = func.call @ffn(%x, %fg, %fu, %fd, %f1, %f1, %f1) : (!x, !up, !up, !down, f32, f32, f32) -> !x
  %y = arith.addf %shared, %routed : !x
  %routing = moe.to_dense %gates : !r
  return %y, %routing : !x, !e
}

// (silu(kg * (v @ wg)) * (ku * (v @ wu))) @ wd * kd
func.func private @ffn(%v: !x, %wg: !up, %wu: !up, %wd: !down, %kg: f32, %ku: f32, %kd: f32) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %g = linalg.matmul ins(%v, %wg : !x, !up) outs(%zh : !h) -> !h
  %u = linalg.matmul ins(%v, %wu : !x, !up) outs(%zh : !h) -> !h
  %h = linalg.map ins(%g, %u : !h, !h) outs(%zh : !h) (%a: f32, %b: f32, %init: f32) {
    %as = arith.mulf %a, %kg : f32   %bs = arith.mulf %b, %ku : f32   %m = arith.negf %as : f32
    %exp = math.exp %m : f32   %den = arith.addf %exp, %f1 : f32   %silu = arith.divf %as, %den : f32
    %p = arith.mulf %silu, %bs : f32
    linalg.yield %p : f32
  }
  %o = linalg.matmul ins(%h, %wd : !h, !down) outs(%zx : !x) -> !x
  %kds = tensor.splat %kd[%n] : !x
  %y = arith.mulf %o, %kds : !x
  return %y : !x
}
