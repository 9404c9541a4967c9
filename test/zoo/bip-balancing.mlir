// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Binary-Integer-Programming Based Algorithm for Expert Load Balancing in Mixture-of-Experts Models
//
// Prices of tokens and experts are order statistics of the score matrix, found by a few dual steps; experts are chosen
// by score minus price, weighted by the plain score, and the prices go on to the next batch.
//
// Ops: route, top_k along both axes with to_dense (the smallest kept key is the order statistic), top_k by another key,
// apply.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !s = tensor<?x6xf32>   !q = tensor<6xf32>   !p = tensor<?xf32>
!all = !moe.routing<?x6xf32>   !top = !moe.routing<?x6xf32, max_per_row = 2>   !ups = tensor<6x24x30xf32>
!downs = tensor<6x30x24xf32>   !up = tensor<24x30xf32>   !down = tensor<30x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %q_in: !q {moe.name = "q_in"}, %wr: tensor<24x6xf32> {moe.name = "wr"},
    %wg: !ups {moe.name = "wg"}, %wu: !ups {moe.name = "wu"}, %wd: !downs {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !s {moe.name = "routing"}, !q {moe.name = "q_out"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %inf = arith.constant 0x7F800000 : f32
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s   %zp = tensor.splat %f0[%t] : !p
  %zq = tensor.splat %f0 : !q   %infp = tensor.splat %inf[%t] : !p   %infq = tensor.splat %inf : !q
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%zs : !s) -> !s
  %s = linalg.softmax dimension(1) ins(%logits : !s) outs(%zs : !s) -> !s
  // C + 1 with C = floor(K T / E) = floor(T / 3)
  %cap = arith.divui %t, %c3 : index   %cap1 = arith.addi %cap, %c1 : index
  %q = scf.for %i = %c0 to %c2 step %c1 iter_args(%q0 = %q_in) -> !q {
    %sq0 = linalg.broadcast ins(%q0 : !q) outs(%zs : !s) dimensions = [0]   %sq = arith.subf %s, %sq0 : !s
    %rows = moe.route %sq : !s   %row3 = moe.top_k %rows k(3) : !all
    %rowd = moe.to_dense %row3 fill(0x7FF0000000000000) : !moe.routing<?x6xf32, max_per_row = 3>
    %rowmin = linalg.reduce {arith.minimumf} ins(%rowd : !s) outs(%infp : !p) dimensions = [1]
    %p = arith.maximumf %rowmin, %zp : !p
    %sp0 = linalg.broadcast ins(%p : !p) outs(%zs : !s) dimensions = [1]   %sp = arith.subf %s, %sp0 : !s
    %cols = moe.route %sp : !s   %colc = moe.top_k %cols k(%cap1 : index) axis(token) : !all
    %cold = moe.to_dense %colc fill(0x7FF0000000000000) : !all
    %colmin = linalg.reduce {arith.minimumf} ins(%cold : !s) outs(%infq : !q) dimensions = [0]
    %q1 = arith.maximumf %colmin, %zq : !q
    scf.yield %q1 : !q
  }
  %price = linalg.broadcast ins(%q : !q) outs(%zs : !s) dimensions = [0]   %key = arith.subf %s, %price : !s
  %all = moe.route %s : !s   %r = moe.top_k %all by(%key : !s) k(2) : !all
  %y = moe.apply %r rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum) : !top, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %g = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%a, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !top
  return %y, %routing, %q : !x, !s, !q
}
