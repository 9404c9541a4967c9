// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Rewiring Experts on the Fly:Continuous Rerouting for Better Online Adaptation in Mixture-of-Expert models
//
// A vector added to the router's logits is improved by gradient steps on the next-token loss of the context, and the
// changed router serves the new tokens. The gradient runs through the normalised weights of the chosen experts alone.
//
// Ops: route, top_k, normalize, apply (the chosen experts' outputs, dense, for the gradient), apply (mixing pairs),
// to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x28xf32>   !s = tensor<?x6xf32>   !d = tensor<6xf32>   !l = tensor<?x17xf32>
!f = tensor<?xf32>   !o = tensor<?x6x24xf32>   !up = tensor<6x24x28xf32>   !down = tensor<6x28x24xf32>
!top = !moe.routing<?x6xf32, max_per_row = 2>

// The layer's output, its weights, and the outputs of the chosen experts.
func.func private @layer(%x: !x, %delta: !d, %wr: tensor<24x6xf32>, %wg: !up, %wu: !up, %wd: !down) -> (!x, !s, !o) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %e = tensor.empty(%t) : !s
  %offset = linalg.broadcast ins(%delta : !d) outs(%e : !s) dimensions = [0]
  %z = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%offset : !s) -> !s
  %all = moe.route %z : !s   %best = moe.top_k %all k(2) : !moe.routing<?x6xf32>
  %r = moe.normalize %best by(softmax) : !top
  %outputs = moe.apply %r rows(%x) experts(%wg, %wu, %wd) out(dense) : !top, !x, !up, !up, !down -> !o {
  ^bb0(%v: !x, %gate: tensor<24x28xf32>, %up: tensor<24x28xf32>, %down: tensor<28x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %g = linalg.matmul ins(%v, %gate : !x, tensor<24x28xf32>) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %up : !x, tensor<24x28xf32>) outs(%zh : !h) -> !h
    %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%a, %down : !h, tensor<28x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %mixed = moe.apply %r pairs(%outputs) weighted(after) out(sum) : !top, !o -> !x {
  ^bb0(%o: !x):
    moe.yield %o : !x
  }
  %y = arith.addf %x, %mixed : !x
  %weights = moe.to_dense %r : !top
  return %y, %weights, %outputs : !x, !s, !o
}

func.func @main(%x: !x {moe.name = "x"}, %target: tensor<?xi32> {moe.name = "target"}, %x2: !x {moe.name = "x2"},
    %delta_in: !d {moe.name = "delta_in"}, %lr: tensor<1xf32> {moe.name = "lr"},
    %wr: tensor<24x6xf32> {moe.name = "wr"}, %wg: !up {moe.name = "wg"}, %wu: !up {moe.name = "wu"},
    %wd: !down {moe.name = "wd"}, %wv: tensor<24x17xf32> {moe.name = "wv"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}, !d {moe.name = "delta_out"},
        tensor<2xf32> {moe.name = "loss"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x
  %ti = arith.index_cast %t : index to i32   %tf = arith.sitofp %ti : i32 to f32
  %zl = tensor.splat %f0[%t] : !l   %zx = tensor.splat %f0[%t] : !x   %zs = tensor.splat %f0[%t] : !s
  %zf = tensor.splat %f0[%t] : !f   %zd = tensor.splat %f0 : !d   %z0 = tensor.splat %f0 : tensor<f32>
  %losses0 = tensor.splat %f0 : tensor<2xf32>   %minf = arith.constant 0xFF800000 : f32
  %lows = tensor.splat %minf[%t] : !f
  %rate = tensor.extract %lr[%c0] : tensor<1xf32>
  %rates = tensor.splat %rate : !d
  %delta, %losses = scf.for %step = %c0 to %c2 step %c1 iter_args(%d = %delta_in, %sofar = %losses0)
      -> (!d, tensor<2xf32>) {
    %h, %g, %o = func.call @layer(%x, %d, %wr, %wg, %wu, %wd) : (!x, !d, tensor<24x6xf32>, !up, !up, !down)
        -> (!x, !s, !o)
    %logits = linalg.matmul ins(%h, %wv : !x, tensor<24x17xf32>) outs(%zl : !l) -> !l
    %r = linalg.softmax dimension(1) ins(%logits : !l) outs(%zl : !l) -> !l
    // -(1/T) ln r[target], where ln r[i] = logit[i] - max logit + ln max r, so that no logarithm sees a number that is
    // too small for f32; and the gradient of the logits (1/T) (r - onehot(target)).
    %tops = linalg.reduce {arith.maximumf} ins(%logits : !l) outs(%lows : !f) dimensions = [1]
    %most = linalg.reduce {arith.maximumf} ins(%r : !l) outs(%zf : !f) dimensions = [1]
    %terms = linalg.map ins(%target : tensor<?xi32>) outs(%zf : !f) (%y: i32, %init: f32) {
      %row = linalg.index 0 : index   %i = arith.index_cast %y : i32 to index
      %l = tensor.extract %logits[%row, %i] : !l   %top = tensor.extract %tops[%row] : !f
      %p = tensor.extract %most[%row] : !f   %log = math.log %p : f32   %over = arith.subf %top, %l : f32
      %sum = arith.subf %over, %log : f32   %nll = arith.divf %sum, %tf : f32
      linalg.yield %nll : f32
    }
    %loss0 = linalg.reduce {arith.addf} ins(%terms : !f) outs(%z0 : tensor<f32>) dimensions = [0]
    %loss = tensor.extract %loss0[] : tensor<f32>
    %now = tensor.insert %loss into %sofar[%step] : tensor<2xf32>
    %dlogits = linalg.map ins(%r : !l) outs(%zl : !l) (%p: f32, %init: f32) {
      %row = linalg.index 0 : index   %v = linalg.index 1 : index   %y = tensor.extract %target[%row] : tensor<?xi32>
      %i = arith.index_cast %y : i32 to index   %hit = arith.cmpi eq, %v, %i : index   %less = arith.subf %p, %f1 : f32
      %diff = arith.select %hit, %less, %p : f32   %mean = arith.divf %diff, %tf : f32
      linalg.yield %mean : f32
    }
    %dh = linalg.matmul indexing_maps = [affine_map<(t, d, v) -> (t, v)>, affine_map<(t, d, v) -> (d, v)>,
        affine_map<(t, d, v) -> (t, d)>]
        ins(%dlogits, %wv : !l, tensor<24x17xf32>) outs(%zx : !x) -> !x
    // dz_e = g_e (c_e - sum_j g_j c_j) with c_e = dh . E_e(x); experts that were not chosen have g = 0.
    %c = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (t, e, d)>,
        affine_map<(t, e, d) -> (t, e)>]
        ins(%dh, %o : !x, !o) outs(%zs : !s) -> !s
    %gc = arith.mulf %g, %c : !s
    %mean = linalg.reduce {arith.addf} ins(%gc : !s) outs(%zf : !f) dimensions = [1]
    %means = linalg.broadcast ins(%mean : !f) outs(%zs : !s) dimensions = [1]
    %centred = arith.subf %c, %means : !s   %dz = arith.mulf %g, %centred : !s
    %grad = linalg.reduce {arith.addf} ins(%dz : !s) outs(%zd : !d) dimensions = [0]
    %move = arith.mulf %rates, %grad : !d   %d1 = arith.subf %d, %move : !d
    scf.yield %d1, %now : !d, tensor<2xf32>
  }
  %y, %routing, %unused = call @layer(%x2, %delta, %wr, %wg, %wu, %wd) : (!x, !d, tensor<24x6xf32>, !up, !up, !down)
      -> (!x, !s, !o)
  return %y, %routing, %delta, %losses : !x, !s, !d, tensor<2xf32>
}
