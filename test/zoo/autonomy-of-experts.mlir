// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Autonomy-of-Experts Models
//
// No router: every expert projects every token to a few dimensions, the norm of the projection is its score, and the
// best experts go on from the projection that they already have.
//
// Ops: route, apply (all experts, dense result), normalize, top_k, apply (with the projections as pairs), to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !l = tensor<?x6xf32>   !z = tensor<?x6x6xf32>
!all = !moe.routing<?x6xf32>   !top = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %wd: tensor<6x24x6xf32> {moe.name = "wd"},
    %wu: tensor<6x6x40xf32> {moe.name = "wu"}, %wv: tensor<6x24x40xf32> {moe.name = "wv"},
    %wo: tensor<6x40x24xf32> {moe.name = "wo"}) -> (!x {moe.name = "y"}, !l {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zeros = tensor.splat %f0[%t] : !l
  %every = moe.route %zeros : !l
  %z = moe.apply %every rows(%x) experts(%wd) out(dense) : !all, !x, tensor<6x24x6xf32> -> !z {
  ^bb0(%v: !x, %down: tensor<24x6xf32>):
    %n = tensor.dim %v, %c0 : !x   %zl = tensor.splat %f0[%n] : !l
    %o = linalg.matmul ins(%v, %down : !x, tensor<24x6xf32>) outs(%zl : !l) -> !l
    moe.yield %o : !l
  }
  %squares = arith.mulf %z, %z : !z
  %sums = linalg.reduce {arith.addf} ins(%squares : !z) outs(%zeros : !l) dimensions = [2]
  %norms = math.sqrt %sums : !l
  %scores = moe.route %norms : !l   %p = moe.normalize %scores by(softmax) : !all   %r = moe.top_k %p k(2) : !all
  %y = moe.apply %r rows(%x) experts(%wu, %wv, %wo) pairs(%z) weighted(after) out(sum)
      : !top, !x, tensor<6x6x40xf32>, tensor<6x24x40xf32>, tensor<6x40x24xf32>, !z -> !x {
  ^bb0(%v: !x, %up: tensor<6x40xf32>, %lin: tensor<24x40xf32>, %out: tensor<40x24xf32>, %ze: !l):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %g = linalg.matmul ins(%ze, %up : !l, tensor<6x40xf32>) outs(%zh : !h) -> !h
    %u = linalg.matmul ins(%v, %lin : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %neg = arith.negf %g : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %g, %den : !h   %a = arith.mulf %silu, %u : !h
    %o = linalg.matmul ins(%a, %out : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !top
  return %y, %routing : !x, !l
}
