// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Routing Matters in MoE: Scaling Diffusion Transformers with Explicit Routing Guidance
//
// Experts are routed by the cosine to prototypes, in three score modes with one selection; tokens of unconditional
// samples take an expert of their own, and a shared expert runs for all.
//
// Ops: route with a mask over the tokens, top_k by another key, apply with two cases (the routed experts and the one of
// the unconditional samples, whose routing stands beside the other by concat), to_dense.

!x = tensor<?x24xf32>   !bsd = tensor<?x?x24xf32>   !h = tensor<?x28xf32>   !hs = tensor<?x20xf32>
!e = tensor<?x5xf32>   !ue = tensor<?x6xf32>   !t = tensor<?xf32>   !m = tensor<?x1xi1>   !w1 = tensor<?x1xf32>
!p = tensor<5x24xf32>   !r = !moe.routing<?x5xf32, max_per_row = 2>   !rs = !moe.routing<?x5xf32>
!u = !moe.routing<?x1xf32>   !ru = !moe.routing<?x6xf32, max_per_row = 3>   !up = tensor<24x28xf32>
!down = tensor<28x24xf32>   !ups = tensor<5x24x28xf32>   !downs = tensor<5x28x24xf32>   !out = tensor<3x?x?x5xf32>

func.func @main(%x: !bsd {moe.name = "x"}, %uncond: tensor<?xi1> {moe.name = "uncond"}, %proto: !p {moe.name = "proto"},
    %wg: !ups {moe.name = "wg"}, %wu: !ups {moe.name = "wu"}, %wd: !downs {moe.name = "wd"}, %ng: !up {moe.name = "ng"},
    %nu: !up {moe.name = "nu"}, %nd: !down {moe.name = "nd"}, %sg: tensor<24x20xf32> {moe.name = "sg"},
    %su: tensor<24x20xf32> {moe.name = "su"}, %sd: tensor<20x24xf32> {moe.name = "sd"})
    -> (!bsd {moe.name = "y_softmax"}, !bsd {moe.name = "y_sigmoid"}, !bsd {moe.name = "y_identity"},
        !out {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %true = arith.constant true
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %tiny = arith.constant 1.0e-8 : f32
  %b = tensor.dim %x, %c0 : !bsd   %s = tensor.dim %x, %c1 : !bsd
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : !bsd into !x   %t = tensor.dim %rows, %c0 : !x
  %ze = tensor.splat %f0[%t] : !e   %zt = tensor.splat %f0[%t] : !t   %zx = tensor.splat %f0[%t] : !x
  %zs = tensor.splat %f0[%t] : !hs   %one_s = tensor.splat %f1[%t] : !hs   %ones = tensor.splat %f1[%t] : !e
  %one1 = tensor.splat %f1[%t] : !w1
  // The shared expert.
  %sa = linalg.matmul ins(%rows, %sg : !x, tensor<24x20xf32>) outs(%zs : !hs) -> !hs
  %sb = linalg.matmul ins(%rows, %su : !x, tensor<24x20xf32>) outs(%zs : !hs) -> !hs
  %sl_n = arith.negf %sa : !hs   %sl_e = math.exp %sl_n : !hs   %sl_d = arith.addf %sl_e, %one_s : !hs
  %sl = arith.divf %sa, %sl_d : !hs   %sh = arith.mulf %sl, %sb : !hs
  %shared = linalg.matmul ins(%sh, %sd : !hs, tensor<20x24xf32>) outs(%zx : !x) -> !x
  // Which tokens are unconditional.
  %plain = tensor.generate %b, %s {
  ^bb0(%i: index, %j: index):
    %v = tensor.extract %uncond[%i] : tensor<?xi1>
    tensor.yield %v : i1
  } : tensor<?x?xi1>
  %flat = tensor.collapse_shape %plain [[0, 1]] : tensor<?x?xi1> into tensor<?xi1>
  %without = tensor.expand_shape %flat [[0, 1]] output_shape [%t, 1] : tensor<?xi1> into !m
  %yes = tensor.splat %true[%t] : !m   %routed = arith.xori %without, %yes : !m
  // Cosines.
  %xx = arith.mulf %rows, %rows : !x   %xs = linalg.reduce {arith.addf} ins(%xx : !x) outs(%zt : !t) dimensions = [1]
  %z5 = tensor.splat %f0 : tensor<5xf32>   %pp = arith.mulf %proto, %proto : !p
  %ps = linalg.reduce {arith.addf} ins(%pp : !p) outs(%z5 : tensor<5xf32>) dimensions = [1]
  %dots = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>] ins(%rows, %proto : !x, !p) outs(%ze : !e) -> !e
  %cos = linalg.map ins(%dots : !e) outs(%ze : !e) (%dot: f32, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %a = tensor.extract %xs[%i] : !t
    %q = tensor.extract %ps[%j] : tensor<5xf32>   %ar = math.sqrt %a : f32   %qr = math.sqrt %q : f32
    %an = arith.maximumf %ar, %tiny : f32   %qn = arith.maximumf %qr, %tiny : f32   %u = arith.divf %dot, %an : f32
    %c = arith.divf %u, %qn : f32
    linalg.yield %c : f32
  }
  %soft = linalg.softmax dimension(1) ins(%cos : !e) outs(%ze : !e) -> !e   %sigm_n = arith.negf %cos : !e
  %sigm_e = math.exp %sigm_n : !e   %sigm_d = arith.addf %sigm_e, %ones : !e   %sigm = arith.divf %ones, %sigm_d : !e
  %y0, %g0 = func.call @mode(%rows, %soft, %cos, %routed, %without, %one1, %shared, %wg, %wu, %wd, %ng, %nu, %nd)
      : (!x, !e, !e, !m, !m, !w1, !x, !ups, !ups, !downs, !up, !up, !down) -> (!x, !e)
  %y1, %g1 = func.call @mode(%rows, %sigm, %cos, %routed, %without, %one1, %shared, %wg, %wu, %wd, %ng, %nu, %nd)
      : (!x, !e, !e, !m, !m, !w1, !x, !ups, !ups, !downs, !up, !up, !down) -> (!x, !e)
  %y2, %g2 = func.call @mode(%rows, %cos, %cos, %routed, %without, %one1, %shared, %wg, %wu, %wd, %ng, %nu, %nd)
      : (!x, !e, !e, !m, !m, !w1, !x, !ups, !ups, !downs, !up, !up, !down) -> (!x, !e)
  %y_softmax = tensor.expand_shape %y0 [[0, 1], [2]] output_shape [%b, %s, 24] : !x into !bsd
  %y_sigmoid = tensor.expand_shape %y1 [[0, 1], [2]] output_shape [%b, %s, 24] : !x into !bsd
  %y_identity = tensor.expand_shape %y2 [[0, 1], [2]] output_shape [%b, %s, 24] : !x into !bsd
  %none = tensor.empty(%t) : tensor<3x?x5xf32>
  %r0 = tensor.insert_slice %g0 into %none[0, 0, 0] [1, %t, 5] [1, 1, 1] : !e into tensor<3x?x5xf32>
  %r1 = tensor.insert_slice %g1 into %r0[1, 0, 0] [1, %t, 5] [1, 1, 1] : !e into tensor<3x?x5xf32>
  %r2 = tensor.insert_slice %g2 into %r1[2, 0, 0] [1, %t, 5] [1, 1, 1] : !e into tensor<3x?x5xf32>
  %routing = tensor.expand_shape %r2 [[0], [1, 2], [3]] output_shape [3, %b, %s, 5] : tensor<3x?x5xf32> into !out
  return %y_softmax, %y_sigmoid, %y_identity, %routing : !bsd, !bsd, !bsd, !out
}

func.func private @mode(%x: !x, %score: !e, %cos: !e, %routed: !m, %without: !m, %one: !w1, %shared: !x, %wg: !ups,
    %wu: !ups, %wd: !downs, %ng: !up, %nu: !up, %nd: !down) -> (!x, !e) {
  %all = moe.route %score mask(%routed : !m) : !e   %best = moe.top_k %all by(%cos : !e) k(2) : !rs
  %plain = moe.route %one mask(%without : !m) : !w1   %r = moe.concat %best, %plain : !r, !u
  %o = moe.apply %r rows(%x) experts(%wg case(0), %wu case(0), %wd case(0)) cases([0, 0, 0, 0, 0, 1]) weighted(after)
      out(sum) : !ru, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %f = func.call @swiglu(%v, %gate, %up, %down) : (!x, !up, !up, !down) -> !x
    moe.yield %f : !x
  }, {
  ^bb0(%v: !x):
    %f = func.call @swiglu(%v, %ng, %nu, %nd) : (!x, !up, !up, !down) -> !x
    moe.yield %f : !x
  }
  %y = arith.addf %shared, %o : !x   %dense = moe.to_dense %best : !r
  return %y, %dense : !x, !e
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
