// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts
//
// An overloaded expert keeps the C tokens with the highest scores. With rerouting, tokens claim more experts than they
// need and keep the best of those that had room.
//
// Ops: route, normalize, top_k, limit by score, top_k of the survivors, normalize, apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !s = tensor<?x6xf32>   !up = tensor<6x24x40xf32>
!down = tensor<6x40x24xf32>   !all = !moe.routing<?x6xf32>   !top = !moe.routing<?x6xf32, max_per_row = 2>

// The layer when every token claims its n best experts.
func.func private @layer(%x: !x, %p: !all, %n: index, %cap: index, %wg: !up, %wu: !up, %wd: !down) -> (!x, !s) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %claims = moe.top_k %p k(%n : index) : !all   %survivors = moe.limit %claims cap(%cap : index) order(key) : !all
  %best = moe.top_k %survivors k(2) : !all   %r = moe.normalize %best by(sum) : !top
  %y = moe.apply %r rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum) : !top, !x, !up, !up, !down -> !x {
  ^bb0(%v: !x, %gate: tensor<24x40xf32>, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %m = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%m] : !h   %zx = tensor.splat %f0[%m] : !x   %one = tensor.splat %f1[%m] : !h
    %g = linalg.matmul ins(%v, %gate : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%a, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !top
  return %y, %routing : !x, !s
}

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x6xf32> {moe.name = "w_gate"}, %wg: !up {moe.name = "w_g"},
    %wu: !up {moe.name = "w_u"}, %wd: !down {moe.name = "w_d"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}, !x {moe.name = "y_drop"}, !s {moe.name = "routing_drop"}) {
  %c0 = arith.constant 0 : index   %c2 = arith.constant 2 : index   %c3 = arith.constant 3 : index
  %c4 = arith.constant 4 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %z = tensor.splat %f0[%t] : !s
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%z : !s) -> !s
  %all = moe.route %logits : !s   %p = moe.normalize %all by(softmax) : !all
  // C = ceil(K T / E) = ceil(T / 3)
  %cap = arith.ceildivui %t, %c3 : index
  %y, %r = call @layer(%x, %p, %c4, %cap, %wg, %wu, %wd) : (!x, !all, index, index, !up, !up, !down) -> (!x, !s)
  %yd, %rd = call @layer(%x, %p, %c2, %cap, %wg, %wu, %wd) : (!x, !all, index, index, !up, !up, !down) -> (!x, !s)
  return %y, %r, %yd, %rd : !x, !s, !x, !s
}
