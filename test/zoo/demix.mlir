// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// DEMix Layers: Disentangling Domains for Modular Language Modeling
//
// Every domain has an expert and the experts' next-token distributions are mixed by a posterior over the domains that
// each observed token updates; with a known domain only its expert counts.
//
// Ops: apply over all experts with a dense result, with a body that ends in log-probabilities; the posterior is a
// recurrence in scf.for, upstream.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !v = tensor<?x17xf32>   !ev = tensor<?x4x17xf32>   !e = tensor<?x4xf32>
!i = tensor<?xi32>   !s = tensor<4xf32>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>
!ups = tensor<4x24x40xf32>   !downs = tensor<4x40x24xf32>   !r = !moe.routing<?x4xf32>

// (v - mean) / sqrt(variance + 1.0e-5) over each row.
func.func private @layer_norm(%v: !x) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !x
  %sum = linalg.reduce {arith.addf} ins(%v : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>
  %means = linalg.broadcast ins(%mean : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %d = arith.subf %v, %means : !x   %dd = arith.mulf %d, %d : !x
  %sq = linalg.reduce {arith.addf} ins(%dd : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %var = arith.divf %sq, %widths : tensor<?xf32>   %safe = arith.addf %var, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %o = arith.divf %d, %roots : !x
  return %o : !x
}

func.func @main(%x: !x {moe.name = "x"}, %target: !i {moe.name = "target"},
    %domain: tensor<1xi32> {moe.name = "domain"}, %state: !s {moe.name = "state"}, %w1: !ups {moe.name = "w1"},
    %w2: !downs {moe.name = "w2"}, %wout: tensor<24x17xf32> {moe.name = "wout"})
    -> (!v {moe.name = "logp_mix"}, !e {moe.name = "post"}, !s {moe.name = "state_out"}, !v {moe.name = "logp_label"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c4 = arith.constant 4 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %root2 = arith.constant 0.70710678118654752 : f32   %minf = arith.constant 0xFF800000 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zv = tensor.splat %f0[%t] : !v
  %z0 = tensor.splat %f0 : tensor<f32>   %low0 = tensor.splat %minf : tensor<f32>   %zs = tensor.splat %f0 : !s
  %every = moe.route %ze : !e   %ln = func.call @layer_norm(%x) : (!x) -> !x
  %logp = moe.apply %every rows(%x, %ln) experts(%w1, %w2) out(dense) : !r, !x, !x, !ups, !downs -> !ev {
  ^bb0(%rows: !x, %normed: !x, %up: !up, %down: !down):
    %n = tensor.dim %rows, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zl = tensor.splat %f0[%n] : !v
    %zn = tensor.splat %f0[%n] : tensor<?xf32>   %low = tensor.splat %minf[%n] : tensor<?xf32>
    %a = linalg.matmul ins(%normed, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %o = linalg.matmul ins(%g, %down : !h, !down) outs(%rows : !x) -> !x
    %on = func.call @layer_norm(%o) : (!x) -> !x
    %z = linalg.matmul ins(%on, %wout : !x, tensor<24x17xf32>) outs(%zl : !v) -> !v
    %top = linalg.reduce {arith.maximumf} ins(%z : !v) outs(%low : tensor<?xf32>) dimensions = [1]
    %tops = linalg.broadcast ins(%top : tensor<?xf32>) outs(%zl : !v) dimensions = [1]
    %shifted = arith.subf %z, %tops : !v
    %ez = math.exp %shifted : !v
    %sum = linalg.reduce {arith.addf} ins(%ez : !v) outs(%zn : tensor<?xf32>) dimensions = [1]
    %ls = math.log %sum : tensor<?xf32>
    %lss = linalg.broadcast ins(%ls : tensor<?xf32>) outs(%zl : !v) dimensions = [1]
    %lp = arith.subf %shifted, %lss : !v
    moe.yield %lp : !v
  }
  %d0 = tensor.extract %domain[%c0] : tensor<1xi32>   %dom = arith.index_cast %d0 : i32 to index
  %logp_label = tensor.extract_slice %logp[0, %dom, 0] [%t, 1, 17] [1, 1, 1] : !ev to !v
  // post[t] is the posterior before token t is seen.
  %post, %st = scf.for %i = %c0 to %t step %c1 iter_args(%seen = %ze, %now = %state) -> (!e, !s) {
    %p = func.call @softmax4(%now) : (!s) -> !s
    %seen_next = tensor.insert_slice %p into %seen[%i, 0] [1, 4] [1, 1] : !s into !e
    %y = tensor.extract %target[%i] : !i   %yi = arith.index_cast %y : i32 to index
    %own = tensor.extract_slice %logp[%i, 0, %yi] [1, 4, 1] [1, 1, 1] : !ev to !s
    %next = arith.addf %now, %own : !s
    scf.yield %seen_next, %next : !e, !s
  }
  // ln sum_j post[j] exp(logp_j), the largest term taken out.
  %logp_mix = linalg.map outs(%zv : !v) (%init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index
    %top = scf.for %d = %c0 to %c4 step %c1 iter_args(%best = %minf) -> f32 {
      %l = tensor.extract %logp[%i, %d, %j] : !ev   %best_next = arith.maximumf %best, %l : f32
      scf.yield %best_next : f32
    }
    %sum = scf.for %d = %c0 to %c4 step %c1 iter_args(%acc = %f0) -> f32 {
      %l = tensor.extract %logp[%i, %d, %j] : !ev   %w = tensor.extract %post[%i, %d] : !e
      %rel = arith.subf %l, %top : f32   %el = math.exp %rel : f32   %part = arith.mulf %w, %el : f32
      %acc_next = arith.addf %acc, %part : f32
      scf.yield %acc_next : f32
    }
    %ls = math.log %sum : f32   %o = arith.addf %top, %ls : f32
    linalg.yield %o : f32
  }
  %smax = linalg.reduce {arith.maximumf} ins(%st : !s) outs(%low0 : tensor<f32>) dimensions = [0]
  %m = tensor.extract %smax[] : tensor<f32>   %ms = tensor.splat %m : !s   %srel = arith.subf %st, %ms : !s
  %es = math.exp %srel : !s
  %stot = linalg.reduce {arith.addf} ins(%es : !s) outs(%z0 : tensor<f32>) dimensions = [0]
  %total = tensor.extract %stot[] : tensor<f32>   %ltotal = math.log %total : f32   %lts = tensor.splat %ltotal : !s
  %state_out = arith.subf %srel, %lts : !s
  return %logp_mix, %post, %state_out, %logp_label : !v, !e, !s, !v
}

func.func private @softmax4(%v: !s) -> !s {
  %f0 = arith.constant 0.0 : f32
  %zs = tensor.splat %f0 : !s   %p = linalg.softmax dimension(0) ins(%v : !s) outs(%zs : !s) -> !s
  return %p : !s
}
