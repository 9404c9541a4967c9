// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// CompeteSMoE -- Effective Training of Sparse Mixture of Experts via Competition
//
// Every expert runs, the largest outputs win and are mixed by the softmax of their norms; a linear router that imitates
// the competition gives the cheap path.
//
// Ops: route, apply (all experts, dense result), top_k, normalize over the chosen, apply (mixing pairs), to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !s = tensor<?x6xf32>   !o = tensor<?x6x24xf32>
!all = !moe.routing<?x6xf32>   !top = !moe.routing<?x6xf32, max_per_row = 2>

// The two best scores of each token, as softmax weights over the winners, mix the experts' outputs.
func.func private @winners(%scores: !s, %outputs: !o) -> (!x, !s) {
  %every = moe.route %scores : !s   %best = moe.top_k %every k(2) : !all   %r = moe.normalize %best by(softmax) : !top
  %y = moe.apply %r pairs(%outputs) weighted(after) out(sum) : !top, !o -> !x {
  ^bb0(%e: !x):
    moe.yield %e : !x
  }
  %routing = moe.to_dense %r : !top
  return %y, %routing : !x, !s
}

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x6xf32> {moe.name = "wr"},
    %w1: tensor<6x24x40xf32> {moe.name = "w1"}, %w2: tensor<6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y_comp"}, !s {moe.name = "routing_comp"}, !x {moe.name = "y_router"},
        !s {moe.name = "routing_router"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s
  %every = moe.route %zs : !s
  %o = moe.apply %every rows(%x) experts(%w1, %w2) out(dense) : !all, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32>
      -> !o {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %ones = tensor.splat %f1[%n] : !h
    %halves = tensor.splat %half[%n] : !h   %scale = tensor.splat %rsqrt2[%n] : !h
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %b = arith.mulf %a, %scale : !h   %erf = math.erf %b : !h   %c = arith.addf %erf, %ones : !h
    %d = arith.mulf %a, %halves : !h   %g = arith.mulf %c, %d : !h
    %e = linalg.matmul ins(%g, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %e : !x
  }
  %squares = arith.mulf %o, %o : !o
  %sums = linalg.reduce {arith.addf} ins(%squares : !o) outs(%zs : !s) dimensions = [2]
  %norms = math.sqrt %sums : !s
  %yc, %rc = call @winners(%norms, %o) : (!s, !o) -> (!x, !s)
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%zs : !s) -> !s
  %yr, %rr = call @winners(%logits, %o) : (!s, !o) -> (!x, !s)
  return %yc, %rc, %yr, %rr : !x, !s, !x, !s
}
