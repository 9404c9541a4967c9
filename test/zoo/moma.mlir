// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoMa: Efficient Early-Fusion Pre-training with Mixture of Modality-Aware Experts
//
// Experts belong to a modality and choose among its tokens, with a capacity that follows the number of these tokens; an
// auxiliary router says per token which experts would choose it, for causal inference.
//
// Ops: route with a mask, counts, top_k along the tokens with a k per expert, apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !a = tensor<?x10xf32>   !i = tensor<?xi32>   !g = tensor<5xi32>
!s = tensor<?x5xf32>   !m = tensor<?x5xi1>   !r = !moe.routing<?x5xf32>   !up = tensor<5x24x32xf32>
!down = tensor<5x32x24xf32>

func.func private @experts(%r: !r, %x: !x, %wg: !up, %wu: !up, %wd: !down) -> (!x, !s) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %y = moe.apply %r rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum) : !r, !x, !up, !up, !down -> !x {
  ^bb0(%v: !x, %gate: tensor<24x32xf32>, %up: tensor<24x32xf32>, %down: tensor<32x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %g = linalg.matmul ins(%v, %gate : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %up : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
    %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%a, %down : !h, tensor<32x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !s
}

func.func @main(%x: !x {moe.name = "x"}, %modality: !i {moe.name = "modality"}, %wr: tensor<24x5xf32> {moe.name = "wr"},
    %wa1: tensor<24x10xf32> {moe.name = "wa1"}, %wa2: tensor<10x5xf32> {moe.name = "wa2"}, %wg: !up {moe.name = "wg"},
    %wu: !up {moe.name = "wu"}, %wd: !down {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}, !x {moe.name = "y_causal"}, !s {moe.name = "routing_causal"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %group = arith.constant dense<[0, 0, 0, 1, 1]> : !g   %sizes = arith.constant dense<[3, 3, 3, 2, 2]> : !g
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s   %ones = tensor.splat %f1[%t] : !s
  %l = linalg.matmul ins(%x, %wr : !x, tensor<24x5xf32>) outs(%zs : !s) -> !s
  %n = arith.negf %l : !s   %e = math.exp %n : !s   %d = arith.addf %e, %ones : !s   %s = arith.divf %ones, %d : !s
  // An expert sees the tokens of its modality; its capacity is their number divided by the experts of the modality.
  %ei = tensor.empty(%t) : tensor<?x5xi32>
  %mt = linalg.broadcast ins(%modality : !i) outs(%ei : tensor<?x5xi32>) dimensions = [1]
  %me = linalg.broadcast ins(%group : !g) outs(%ei : tensor<?x5xi32>) dimensions = [0]
  %own = arith.cmpi eq, %mt, %me : tensor<?x5xi32>   %visible = moe.route %s mask(%own : !m) : !s
  %seen = moe.counts %visible per(expert) : !r   %cap = arith.ceildivsi %seen, %sizes : !g
  %r = moe.top_k %visible k(%cap : !g) axis(token) : !r
  %y, %routing = call @experts(%r, %x, %wg, %wu, %wd) : (!r, !x, !up, !up, !down) -> (!x, !s)
  // The causal path: sigmoid(a) > 1/2, that is a > 0.
  %za = tensor.splat %f0[%t] : !a   %onea = tensor.splat %f1[%t] : !a
  %a1 = linalg.matmul ins(%x, %wa1 : !x, tensor<24x10xf32>) outs(%za : !a) -> !a
  %na = arith.negf %a1 : !a   %xa = math.exp %na : !a   %da = arith.addf %xa, %onea : !a
  %sa = arith.divf %a1, %da : !a
  %a = linalg.matmul ins(%sa, %wa2 : !a, tensor<10x5xf32>) outs(%zs : !s) -> !s
  %wants = arith.cmpf ogt, %a, %zs : !s   %active = arith.andi %wants, %own : !m
  %rc = moe.route %s mask(%active : !m) : !s
  %yc, %routing_c = call @experts(%rc, %x, %wg, %wu, %wd) : (!r, !x, !up, !up, !down) -> (!x, !s)
  return %y, %routing, %yc, %routing_c : !x, !s, !x, !s
}
