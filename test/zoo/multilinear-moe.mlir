// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Multilinear Mixture of Experts: Scalable Expert Specialization through Factorization
//
// Experts are factors of one weight tensor, in CP or tensor-ring form, so that no expert is ever formed. The CP layer's
// gate is 1.5-entmax: the squared distance above a threshold that makes the sum one.
//
// Ops: top_k of all logits and to_slots (sorted logits, for the exact threshold); the factors are linalg.contract. The
// scan for the threshold is upstream.

!x = tensor<?x18xf32>   !xa = tensor<?x19xf32>   !e = tensor<?x48xf32>   !t = tensor<?xf32>   !o = tensor<?x14xf32>
!cr = tensor<?x7xf32>   !ring = tensor<?x2x3xf32>   !mid = tensor<?x3x4xf32>   !ends = tensor<?x4x2xf32>
!all = !moe.routing<?x48xf32, max_per_row = 48>

func.func @main(%x: !x {moe.name = "x"}, %wg: tensor<18x48xf32> {moe.name = "wg"},
    %ue: tensor<48x7xf32> {moe.name = "ue"}, %ui: tensor<19x7xf32> {moe.name = "ui"},
    %uo: tensor<14x7xf32> {moe.name = "uo"}, %ge: tensor<2x48x3xf32> {moe.name = "ge"},
    %gi: tensor<3x19x4xf32> {moe.name = "gi"}, %go: tensor<4x14x2xf32> {moe.name = "go"})
    -> (!o {moe.name = "y_cp"}, !o {moe.name = "y_tr"}, !e {moe.name = "gate_cp"}, !e {moe.name = "gate_tr"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c48 = arith.constant 48 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zr = tensor.splat %f0[%t] : !cr
  %zo = tensor.splat %f0[%t] : !o   %one1 = tensor.splat %f1[%t] : tensor<?x1xf32>
  %xa = tensor.concat dim(1) %x, %one1 : (!x, tensor<?x1xf32>) -> !xa
  %z = linalg.matmul ins(%x, %wg : !x, tensor<18x48xf32>) outs(%ze : !e) -> !e
  %gate_tr = linalg.softmax dimension(1) ins(%z : !e) outs(%ze : !e) -> !e
  // tau of the k largest halves: mean - sqrt((1 - spread) / k); the last k whose tau lies below its smallest member
  // counts.
  %halves = tensor.splat %half[%t] : !e   %zh = arith.mulf %z, %halves : !e   %every = moe.route %zh : !e
  %sorted = moe.top_k %every k(48) : !moe.routing<?x48xf32>   %idx, %h = moe.to_slots %sorted : !all
  %gate_cp = linalg.map ins(%zh : !e) outs(%ze : !e) (%own: f32, %init: f32) {
    %i = linalg.index 0 : index   %top = tensor.extract %h[%i, %c0] : !e
    %tau, %sum, %squares = scf.for %k = %c0 to %c48 step %c1 iter_args(%best = %f0, %s = %f0, %q = %f0) -> (f32, f32,
        f32) {
      // Relative to the largest, which keeps the squares small.
      %hk = tensor.extract %h[%i, %k] : !e   %v = arith.subf %hk, %top : f32   %s1 = arith.addf %s, %v : f32
      %vv = arith.mulf %v, %v : f32   %q1 = arith.addf %q, %vv : f32
      %n = arith.addi %k, %c1 : index   %ni = arith.index_cast %n : index to i32   %nf = arith.sitofp %ni : i32 to f32
      %mean = arith.divf %s1, %nf : f32   %ms = arith.mulf %mean, %s1 : f32   %spread = arith.subf %q1, %ms : f32
      %left = arith.subf %f1, %spread : f32   %d = arith.divf %left, %nf : f32
      %dp = arith.maximumf %d, %f0 : f32   %root = math.sqrt %dp : f32   %tau_k = arith.subf %mean, %root : f32
      %in = arith.cmpf ole, %tau_k, %v : f32   %next = arith.select %in, %tau_k, %best : f32
      scf.yield %next, %s1, %q1 : f32, f32, f32
    }
    %rel = arith.subf %own, %top : f32   %above = arith.subf %rel, %tau : f32   %pos = arith.maximumf %above, %f0 : f32
    %o = arith.mulf %pos, %pos : f32
    linalg.yield %o : f32
  }
  // CP form.
  %ge_ = linalg.matmul ins(%gate_cp, %ue : !e, tensor<48x7xf32>) outs(%zr : !cr) -> !cr
  %gi_ = linalg.matmul ins(%xa, %ui : !xa, tensor<19x7xf32>) outs(%zr : !cr) -> !cr
  %g2 = arith.mulf %ge_, %gi_ : !cr
  %y_cp = linalg.contract indexing_maps = [affine_map<(t, o, r) -> (t, r)>, affine_map<(t, o, r) -> (o, r)>,
      affine_map<(t, o, r) -> (t, o)>] ins(%g2, %uo : !cr, tensor<14x7xf32>) outs(%zo : !o) -> !o
  // Ring form.
  %zring = tensor.splat %f0[%t] : !ring   %zmid = tensor.splat %f0[%t] : !mid   %zends = tensor.splat %f0[%t] : !ends
  %a = linalg.contract indexing_maps = [affine_map<(t, a, b, e) -> (t, e)>, affine_map<(t, a, b, e) -> (a, e, b)>,
      affine_map<(t, a, b, e) -> (t, a, b)>] ins(%gate_tr, %ge : !e, tensor<2x48x3xf32>) outs(%zring : !ring) -> !ring
  %b = linalg.contract indexing_maps = [affine_map<(t, b, c, i) -> (t, i)>, affine_map<(t, b, c, i) -> (b, i, c)>,
      affine_map<(t, b, c, i) -> (t, b, c)>] ins(%xa, %gi : !xa, tensor<3x19x4xf32>) outs(%zmid : !mid) -> !mid
  %c = linalg.contract indexing_maps = [affine_map<(t, c, a, b) -> (t, a, b)>, affine_map<(t, c, a, b) -> (t, b, c)>,
      affine_map<(t, c, a, b) -> (t, c, a)>] ins(%a, %b : !ring, !mid) outs(%zends : !ends) -> !ends
  %y_tr = linalg.contract indexing_maps = [affine_map<(t, o, c, a) -> (t, c, a)>, affine_map<(t, o, c, a) -> (c, o, a)>,
      affine_map<(t, o, c, a) -> (t, o)>] ins(%c, %go : !ends, tensor<4x14x2xf32>) outs(%zo : !o) -> !o
  return %y_cp, %y_tr, %gate_cp, %gate_tr : !o, !o, !e, !e
}
