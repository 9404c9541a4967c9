// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Selective Sinkhorn Routing for Improved Sparse Mixture of Experts
//
// Tokens are assigned by an entropic transport plan whose expert marginals are equal: Sinkhorn's alternating
// normalisation of rows and columns, over the whole batch. A run-time switch takes plain softmax routing instead.
// A row factor 1/T and a column factor 1/E cancel in the step behind them, so that only the last ones are applied; the
// regularisation 0.5 doubles the logits.
//
// Ops: normalize along both axes inside scf.for, scf.if that yields a routing, top_k, apply.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !ups = tensor<6x24x32xf32>   !downs = tensor<6x32x24xf32>
!up = tensor<24x32xf32>   !down = tensor<32x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %use_ot: tensor<1xi32> {moe.name = "use_ot"},
    %wr: tensor<24x6xf32> {moe.name = "wr"}, %w1: !ups {moe.name = "w1"}, %w2: !downs {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !e {moe.name = "score"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c6 = arith.constant 6 : index
  %i1 = arith.constant 1 : i32   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %fh = arith.constant 0.5 : f32   %experts = arith.constant 6.0 : f32
  %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %z = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %logits = moe.route %z : !e
  %flag = tensor.extract %use_ot[%c0] : tensor<1xi32>   %transport = arith.cmpi eq, %flag, %i1 : i32
  %scores = scf.if %transport -> !all {
    %z2 = arith.addf %z, %z : !e   %sharp = moe.route %z2 : !e   %start = moe.normalize %sharp by(softmax) : !all
    %plan = scf.for %i = %c0 to %c6 step %c1 iter_args(%p = %start) -> !all {
      %rows = moe.normalize %p by(sum) : !all   %columns = moe.normalize %rows by(sum) axis(token) : !all
      scf.yield %columns : !all
    }
    scf.yield %plan : !all
  } else {
    %probs = moe.normalize %logits by(softmax) : !all
    scf.yield %probs : !all
  }
  %top = moe.top_k %scores k(2) : !all   %gates = moe.normalize %top by(sum) : !r
  %y = moe.apply %gates rows(%x) experts(%w1, %w2) weighted(after) out(sum) : !r, !x, !ups, !downs -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %half = tensor.splat %fh[%n] : !h   %root = tensor.splat %rsqrt2[%n] : !h
    %s = arith.mulf %a, %root : !h   %erf = math.erf %s : !h   %cdf2 = arith.addf %erf, %one : !h
    %ah = arith.mulf %a, %half : !h   %h = arith.mulf %ah, %cdf2 : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %gates : !r
  // A column of the plan sums to T / E.
  %t32 = arith.index_cast %t : index to i32   %tokens = arith.sitofp %t32 : i32 to f32
  %share = arith.divf %tokens, %experts : f32   %factor = arith.select %transport, %share, %f1 : f32
  %plain = moe.to_dense %scores : !all   %factors = tensor.splat %factor[%t] : !e
  %score = arith.mulf %plain, %factors : !e
  return %y, %routing, %score : !x, !e, !e
}
