// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Dynamic Mixture of Experts: An Auto-Tuning Approach for Efficient Transformer Models
//
// Top-any gating: an expert takes a token when their similarity exceeds the expert's own threshold, so that a token has
// any number of experts; a token without one gets its best live expert.
//
// Ops: route with a mask over the experts, select (above the expert's threshold; in a row without such a pair, of rank
// 0), map (every chosen expert has weight 1), counts, apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !we = tensor<6x24xf32>   !t = tensor<?xf32>
!up = tensor<24x40xf32>   !down = tensor<40x24xf32>   !ups = tensor<6x24x40xf32>   !downs = tensor<6x40x24xf32>
!r = !moe.routing<?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %we: !we {moe.name = "we"}, %g: tensor<6xf32> {moe.name = "g"},
    %live: tensor<6xi1> {moe.name = "live"}, %w1: !ups {moe.name = "w1"}, %w2: !downs {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %i0 = arith.constant 0 : i32   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %tiny = arith.constant 1.0e-12 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zt = tensor.splat %f0[%t] : !t
  %z6 = tensor.splat %f0 : tensor<6xf32>
  %xx = arith.mulf %x, %x : !x   %xs = linalg.reduce {arith.addf} ins(%xx : !x) outs(%zt : !t) dimensions = [1]
  %ww = arith.mulf %we, %we : !we
  %ws = linalg.reduce {arith.addf} ins(%ww : !we) outs(%z6 : tensor<6xf32>) dimensions = [1]
  %dots = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>] ins(%x, %we : !x, !we) outs(%ze : !e) -> !e
  // sigmoid(tau cos) exceeds sigmoid(tau g) where cos exceeds g.
  %cos = linalg.map ins(%dots : !e) outs(%ze : !e) (%dot: f32, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %a = tensor.extract %xs[%i] : !t
    %b = tensor.extract %ws[%j] : tensor<6xf32>
    %ar = math.sqrt %a : f32   %br = math.sqrt %b : f32   %an = arith.maximumf %ar, %tiny : f32
    %bn = arith.maximumf %br, %tiny : f32   %xu = arith.divf %dot, %an : f32   %c = arith.divf %xu, %bn : f32
    linalg.yield %c : f32
  }
  %live_only = moe.route %cos mask(%live : tensor<6xi1>) : !e
  %takers = moe.select %live_only {
  ^bb0(%c: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %least = tensor.extract %g[%expert] : tensor<6xf32>   %above = arith.cmpf ogt, %c, %least : f32
    moe.yield %above : i1
  } : !r
  %any = moe.counts %takers per(row) : !r
  %active = moe.select %live_only {
  ^bb0(%c: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %least = tensor.extract %g[%expert] : tensor<6xf32>   %above = arith.cmpf ogt, %c, %least : f32
    %n = tensor.extract %any[%row] : tensor<?xi32>   %none = arith.cmpi eq, %n, %i0 : i32
    %best = arith.cmpi eq, %rank, %c0 : index   %fallback = arith.andi %best, %none : i1
    %in = arith.ori %above, %fallback : i1
    moe.yield %in : i1
  } : !r
  %ones = moe.map %active {
  ^bb0(%w: f32, %row: index, %expert: index):
    moe.yield %f1 : f32
  } : !r
  %y = moe.apply %ones rows(%x) experts(%w1, %w2) out(sum) : !r, !x, !ups, !downs -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %gl_s = arith.mulf %a, %rt : !h   %gl_f = math.erf %gl_s : !h   %gl_c = arith.addf %gl_f, %one : !h
    %gl_h = arith.mulf %a, %hf : !h   %gl = arith.mulf %gl_h, %gl_c : !h
    %o = linalg.matmul ins(%gl, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %ones : !r
  %count = moe.counts %ones per(row) : !r
  return %y, %routing, %count : !x, !e, tensor<?xi32>
}
