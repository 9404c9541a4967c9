// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoMa: Efficient Early-Fusion Pre-training with Mixture of Modality-Aware Experts
//
// Experts belong to a modality and choose among its tokens, with a capacity that follows the number of these tokens; an
// auxiliary router says per token which experts would choose it, for causal inference.
//
// Ops: route with a mask, counts, top_k along the tokens with a k per expert, apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !s = tensor<?x5xf32>   !m = tensor<?x5xi1>   !r = !moe.routing<?x5xf32>
!up = tensor<5x24x32xf32>   !down = tensor<5x32x24xf32>

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

func.func @main(%x: !x {moe.name = "x"}, %modality: tensor<?xi32> {moe.name = "modality"}, %wr: tensor<24x5xf32> {moe.name = "wr"}, %wa1: tensor<24x10xf32> {moe.name = "wa1"},
    %wa2: tensor<10x5xf32> {moe.name = "wa2"}, %wg: !up {moe.name = "wg"}, %wu: !up {moe.name = "wu"}, %wd: !down {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}, !x {moe.name = "y_causal"}, !s {moe.name = "routing_causal"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %group = arith.constant dense<[0, 0, 0, 1, 1]> : tensor<5xi32>
  %sizes = arith.constant dense<[3, 3, 3, 2, 2]> : tensor<5xi32>
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s   %ones = tensor.splat %f1[%t] : !s
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x5xf32>) outs(%zs : !s) -> !s
  %neg = arith.negf %logits : !s   %exp = math.exp %neg : !s   %den = arith.addf %exp, %ones : !s
  %s = arith.divf %ones, %den : !s
  // An expert sees the tokens of its modality; its capacity is their number divided by the experts of the modality.
  %ei = tensor.empty(%t) : tensor<?x5xi32>
  %mt = linalg.broadcast ins(%modality : tensor<?xi32>) outs(%ei : tensor<?x5xi32>) dimensions = [1]
  %me = linalg.broadcast ins(%group : tensor<5xi32>) outs(%ei : tensor<?x5xi32>) dimensions = [0]
  %own = arith.cmpi eq, %mt, %me : tensor<?x5xi32>
  %visible = moe.route %s mask(%own : !m) : !s
  %seen = moe.counts %visible per(expert) : !r
  %cap = arith.ceildivsi %seen, %sizes : tensor<5xi32>
  %r = moe.top_k %visible k(%cap : tensor<5xi32>) axis(token) : !r
  %y, %routing = call @experts(%r, %x, %wg, %wu, %wd) : (!r, !x, !up, !up, !down) -> (!x, !s)
  // The causal path: sigmoid(a) > 1/2, that is a > 0.
  %za = tensor.splat %f0[%t] : tensor<?x10xf32>   %onea = tensor.splat %f1[%t] : tensor<?x10xf32>
  %a1 = linalg.matmul ins(%x, %wa1 : !x, tensor<24x10xf32>) outs(%za : tensor<?x10xf32>) -> tensor<?x10xf32>
  %na = arith.negf %a1 : tensor<?x10xf32>   %xa = math.exp %na : tensor<?x10xf32>
  %da = arith.addf %xa, %onea : tensor<?x10xf32>   %sa = arith.divf %a1, %da : tensor<?x10xf32>
  %a = linalg.matmul ins(%sa, %wa2 : tensor<?x10xf32>, tensor<10x5xf32>) outs(%zs : !s) -> !s
  %wants = arith.cmpf ogt, %a, %zs : !s   %active = arith.andi %wants, %own : !m
  %rc = moe.route %s mask(%active : !m) : !s
  %yc, %routing_c = call @experts(%rc, %x, %wg, %wu, %wd) : (!r, !x, !up, !up, !down) -> (!x, !s)
  return %y, %routing, %yc, %routing_c : !x, !s, !x, !s
}
