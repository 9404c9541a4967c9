// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Finedeep: Mitigating Sparse Activation in Dense LLMs via Multi-Layer Fine-Grained Experts
//
// Layers of small experts, all of them active; the weight of an expert is read from what it answers, by a scoring
// vector of its own and a sigmoid.
//
// Ops: apply over all experts with a dense result (their outputs), route of the scores, apply that only mixes (pairs),
// in scf.for over the layers.

!x = tensor<?x24xf32>   !h = tensor<?x12xf32>   !e = tensor<?x4xf32>   !o = tensor<?x4x24xf32>
!seen = tensor<?x3x4xf32>   !g = tensor<24xf32>   !r = !moe.routing<?x4xf32>   !up = tensor<24x12xf32>
!down = tensor<12x24xf32>   !ups = tensor<4x24x12xf32>   !downs = tensor<4x12x24xf32>   !wr = tensor<4x24xf32>

// v / sqrt(mean(v^2) + 1.0e-6) * g
func.func private @rms(%v: !x, %g: !g) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-6 : f32
  %n = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !x
  %vv = arith.mulf %v, %v : !x
  %sum = linalg.reduce {arith.addf} ins(%vv : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>   %safe = arith.addf %mean, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %scales = linalg.broadcast ins(%g : !g) outs(%zx : !x) dimensions = [0]
  %unit = arith.divf %v, %roots : !x   %o = arith.mulf %unit, %scales : !x
  return %o : !x
}

func.func @main(%x: !x {moe.name = "x"}, %g_norm: tensor<3x24xf32> {moe.name = "g_norm"},
    %w_g: tensor<3x4x24x12xf32> {moe.name = "w_g"}, %w_u: tensor<3x4x24x12xf32> {moe.name = "w_u"},
    %w_d: tensor<3x4x12x24xf32> {moe.name = "w_d"}, %w_r: tensor<3x4x24xf32> {moe.name = "w_r"})
    -> (!x {moe.name = "y"}, !seen {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zseen = tensor.splat %f0[%t] : !seen
  %ones = tensor.splat %f1[%t] : !e
  %every = moe.route %ze : !e
  %y, %routing = scf.for %m = %c0 to %c3 step %c1 iter_args(%v = %x, %seen = %zseen) -> (!x, !seen) {
    %gm = tensor.extract_slice %g_norm[%m, 0] [1, 24] [1, 1] : tensor<3x24xf32> to !g
    %n = func.call @rms(%v, %gm) : (!x, !g) -> !x
    %gate = tensor.extract_slice %w_g[%m, 0, 0, 0] [1, 4, 24, 12] [1, 1, 1, 1] : tensor<3x4x24x12xf32> to !ups
    %up = tensor.extract_slice %w_u[%m, 0, 0, 0] [1, 4, 24, 12] [1, 1, 1, 1] : tensor<3x4x24x12xf32> to !ups
    %down = tensor.extract_slice %w_d[%m, 0, 0, 0] [1, 4, 12, 24] [1, 1, 1, 1] : tensor<3x4x12x24xf32> to !downs
    %w = tensor.extract_slice %w_r[%m, 0, 0] [1, 4, 24] [1, 1, 1] : tensor<3x4x24xf32> to !wr
    %o = moe.apply %every rows(%n) experts(%gate, %up, %down) out(dense) : !r, !x, !ups, !ups, !downs -> !o {
    ^bb0(%rows: !x, %ge: !up, %ue: !up, %de: !down):
      %b = tensor.dim %rows, %c0 : !x   %zh = tensor.splat %f0[%b] : !h   %zx = tensor.splat %f0[%b] : !x
      %one = tensor.splat %f1[%b] : !h
      %a = linalg.matmul ins(%rows, %ge : !x, !up) outs(%zh : !h) -> !h
      %c = linalg.matmul ins(%rows, %ue : !x, !up) outs(%zh : !h) -> !h
      %s_n = arith.negf %a : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %one : !h
      %s = arith.divf %a, %s_d : !h   %hidden = arith.mulf %s, %c : !h
      %out = linalg.matmul ins(%hidden, %de : !h, !down) outs(%zx : !x) -> !x
      moe.yield %out : !x
    }
    %score = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, e, d)>, affine_map<(t, e, d) -> (e, d)>,
        affine_map<(t, e, d) -> (t, e)>] ins(%o, %w : !o, !wr) outs(%ze : !e) -> !e
    %weight_n = arith.negf %score : !e   %weight_e = math.exp %weight_n : !e
    %weight_d = arith.addf %weight_e, %ones : !e   %weight = arith.divf %ones, %weight_d : !e
    %weighted = moe.route %weight : !e
    %sum = moe.apply %weighted pairs(%o) weighted(after) out(sum) : !r, !o -> !x {
    ^bb0(%rows: !x):
      moe.yield %rows : !x
    }
    %next = arith.addf %v, %sum : !x
    %seen_next = tensor.insert_slice %weight into %seen[0, %m, 0] [%t, 1, 4] [1, 1, 1] : !e into !seen
    scf.yield %next, %seen_next : !x, !seen
  }
  return %y, %routing : !x, !seen
}
