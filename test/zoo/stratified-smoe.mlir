// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Towards Being Parameter-Efficient: A Stratified Sparsely Activated Transformer with Dynamic Capacity
//
// Experts stand in strata with one gate each. The gate of stratum i may send a token to any expert of this or a later
// stratum, and after an expert of stratum s the token goes on to gate s + 1, until it is past the last one.
//
// Ops: scf.for over the gates; route with a [T, E] mask (a token that is not at this gate has an empty row), normalize,
// top_k, to_slots (where the token went), apply with banks [L, M, ..] reached through an affine map.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !e = tensor<?x6xf32>   !i = tensor<?xi32>   !w1 = tensor<3x2x24x36xf32>
!w2 = tensor<3x2x36x24xf32>   !all = !moe.routing<?x6xf32>   !r = !moe.routing<?x6xf32, max_per_row = 1>
!m = tensor<?x6xi1>   !up = tensor<24x36xf32>   !down = tensor<36x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<3x24x6xf32> {moe.name = "w_gate"}, %w1: !w1 {moe.name = "w1"},
    %w2: !w2 {moe.name = "w2"})
    -> (!x {moe.name = "y"}, tensor<?x3x2xf32> {moe.name = "routing"}, !i {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index   %i0 = arith.constant 0 : i32   %i1 = arith.constant 1 : i32
  %false = arith.constant false   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %fh = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zi = tensor.splat %i0[%t] : !i
  %zm = tensor.splat %false[%t] : !m
  %y, %gate_of, %count, %at = scf.for %gate = %c0 to %c3 step %c1
      iter_args(%v = %x, %seen = %ze, %passes = %zi, %next = %zi) -> (!x, !e, !i, !i) {
    %wg = tensor.extract_slice %w_gate[%gate, 0, 0] [1, 24, 6] [1, 1, 1] : tensor<3x24x6xf32> to tensor<24x6xf32>
    %logits = linalg.matmul ins(%v, %wg : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    %gate32 = arith.index_cast %gate : index to i32
    %allowed = linalg.generic {indexing_maps = [affine_map<(t, e) -> (t)>, affine_map<(t, e) -> (t, e)>],
        iterator_types = ["parallel", "parallel"]}
        ins(%next : !i) outs(%zm : !m) {
    ^bb0(%n: i32, %init: i1):
      %e = linalg.index 1 : index   %stratum = arith.divui %e, %c2 : index   %here = arith.cmpi eq, %n, %gate32 : i32
      %later = arith.cmpi uge, %stratum, %gate : index   %ok = arith.andi %here, %later : i1
      linalg.yield %ok : i1
    } -> !m
    %open = moe.route %logits mask(%allowed : !m) : !e   %probs = moe.normalize %open by(softmax) : !all
    %r = moe.top_k %probs k(1) : !all
    %o = moe.apply %r rows(%v) experts(%w1 by (e) -> (e floordiv 2, e mod 2), %w2 by (e) -> (e floordiv 2, e mod 2))
        weighted(after) out(sum) : !r, !x, !w1, !w2 -> !x {
    ^bb0(%rows: !x, %up: !up, %down: !down):
      %n = tensor.dim %rows, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
      %a = linalg.matmul ins(%rows, %up : !x, !up) outs(%zh : !h) -> !h
      %one = tensor.splat %f1[%n] : !h   %half = tensor.splat %fh[%n] : !h   %root = tensor.splat %rsqrt2[%n] : !h
      %s = arith.mulf %a, %root : !h   %erf = math.erf %s : !h   %cdf2 = arith.addf %erf, %one : !h
      %ah = arith.mulf %a, %half : !h   %h = arith.mulf %ah, %cdf2 : !h
      %out = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
      moe.yield %out : !x
    }
    %sum = arith.addf %v, %o : !x
    %dense = moe.to_dense %r : !r
    %seen_now = arith.addf %seen, %dense : !e
    %one = moe.counts %r per(row) : !r
    %passes_now = arith.addi %passes, %one : !i
    %idx, %w = moe.to_slots %r : !r
    %went = tensor.collapse_shape %idx [[0, 1]] : tensor<?x1xi32> into !i
    %onward = linalg.map ins(%went, %next : !i, !i) outs(%zi : !i) (%flat: i32, %stay: i32, %init: i32) {
      %s = arith.shrui %flat, %i1 : i32   %s1 = arith.addi %s, %i1 : i32   %idle = arith.cmpi slt, %flat, %i0 : i32
      %to = arith.select %idle, %stay, %s1 : i32
      linalg.yield %to : i32
    }
    scf.yield %sum, %seen_now, %passes_now, %onward : !x, !e, !i, !i
  }
  %routing = tensor.expand_shape %gate_of [[0], [1, 2]] output_shape [%t, 3, 2] : !e into tensor<?x3x2xf32>
  return %y, %routing, %count : !x, tensor<?x3x2xf32>, !i
}
