// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoExtend: Tuning New Experts for Modality and Task Extension
//
// A trained MoE layer gets one more expert: its logit stands behind the others' in one softmax, and a small calibration
// network corrects the probabilities of the chosen ones.
//
// Ops: top_k by another key (selection on the probabilities, weights from the calibration), normalize, apply with two
// cases: the bank of old experts, and the new one, whose body captures its matrices.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !e = tensor<?x4xf32>   !f = tensor<?x5xf32>   !mh = tensor<?x8xf32>
!r0 = !moe.routing<?x4xf32, max_per_row = 2>   !r1 = !moe.routing<?x5xf32, max_per_row = 2>   !up = tensor<24x30xf32>
!down = tensor<30x24xf32>   !ups = tensor<4x24x30xf32>   !downs = tensor<4x30x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %r0: tensor<24x4xf32> {moe.name = "r0"}, %g0: !ups {moe.name = "g0"},
    %u0: !ups {moe.name = "u0"}, %d0: !downs {moe.name = "d0"}, %r1: tensor<24x4xf32> {moe.name = "r1"},
    %rnew: tensor<24x1xf32> {moe.name = "rnew"}, %m1: tensor<5x8xf32> {moe.name = "m1"},
    %m2: tensor<8x5xf32> {moe.name = "m2"}, %g1: !ups {moe.name = "g1"}, %u1: !ups {moe.name = "u1"},
    %d1: !downs {moe.name = "d1"}, %gn: !up {moe.name = "gn"}, %un: !up {moe.name = "un"}, %dn: !down {moe.name = "dn"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing_0"}, !f {moe.name = "routing_1"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zf = tensor.splat %f0[%t] : !f
  %zm = tensor.splat %f0[%t] : !mh   %z1 = tensor.splat %f0[%t] : tensor<?x1xf32>
  %l0 = linalg.matmul ins(%x, %r0 : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %all = moe.route %l0 : !e   %p0 = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %b0 = moe.top_k %p0 k(2) : !moe.routing<?x4xf32>   %w0 = moe.normalize %b0 by(sum) : !r0
  %o0 = moe.apply %w0 rows(%x) experts(%g0, %u0, %d0) weighted(after) out(sum) : !r0, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %o = func.call @swiglu(%v, %gate, %up, %down) : (!x, !up, !up, !down) -> !x
    moe.yield %o : !x
  }
  %y1 = arith.addf %x, %o0 : !x   %routing_0 = moe.to_dense %w0 : !r0
  %la = linalg.matmul ins(%y1, %r1 : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %lb = linalg.matmul ins(%y1, %rnew : !x, tensor<24x1xf32>) outs(%z1 : tensor<?x1xf32>) -> tensor<?x1xf32>
  %logits = tensor.concat dim(1) %la, %lb : (!e, tensor<?x1xf32>) -> !f
  %p = linalg.softmax dimension(1) ins(%logits : !f) outs(%zf : !f) -> !f
  %one = tensor.splat %f1[%t] : !mh   %hf = tensor.splat %half[%t] : !mh   %rt = tensor.splat %root2[%t] : !mh
  %q = linalg.matmul ins(%p, %m1 : !f, tensor<5x8xf32>) outs(%zm : !mh) -> !mh
  %ql_s = arith.mulf %q, %rt : !mh   %ql_f = math.erf %ql_s : !mh   %ql_c = arith.addf %ql_f, %one : !mh
  %ql_h = arith.mulf %q, %hf : !mh   %ql = arith.mulf %ql_h, %ql_c : !mh
  %c = linalg.matmul ins(%ql, %m2 : !mh, tensor<8x5xf32>) outs(%p : !f) -> !f
  %calibrated = moe.route %c : !f
  %b1 = moe.top_k %calibrated by(%p : !f) k(2) : !moe.routing<?x5xf32>   %w = moe.normalize %b1 by(sum) : !r1
  %o1 = moe.apply %w rows(%y1) experts(%g1 case(0), %u1 case(0), %d1 case(0)) cases([0, 0, 0, 0, 1]) weighted(after)
      out(sum) : !r1, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %o = func.call @swiglu(%v, %gate, %up, %down) : (!x, !up, !up, !down) -> !x
    moe.yield %o : !x
  }, {
  ^bb0(%v: !x):
    %o = func.call @swiglu(%v, %gn, %un, %dn) : (!x, !up, !up, !down) -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %y1, %o1 : !x   %routing_1 = moe.to_dense %w : !r1
  return %y, %routing_0, %routing_1 : !x, !e, !f
}

func.func private @swiglu(%v: !x, %gate: !up, %up: !up, %down: !down) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %one = tensor.splat %f1[%n] : !h
  %a = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
  %b = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
  %s_n = arith.negf %a : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %one : !h
  %s = arith.divf %a, %s_d : !h   %g = arith.mulf %s, %b : !h
  %o = linalg.matmul ins(%g, %down : !h, !down) outs(%zx : !x) -> !x
  return %o : !x
}
