// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// SkillNet-NLU: A Sparsely Activated Model for General-Purpose Natural Language Understanding
//
// Every expert is a skill, and a table says which skills a task needs: a token runs exactly those, and the outputs are
// averaged. No gate is learned.
//
// Ops: route with a [T, E] mask, normalize (equal weights), apply.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !e = tensor<?x7xf32>   !all = !moe.routing<?x7xf32>

func.func @main(%x: !x {moe.name = "x"}, %task: tensor<?xi32> {moe.name = "task"},
    %table: tensor<6x7xi1> {moe.name = "table"}, %w1: tensor<7x24x36xf32> {moe.name = "w1"},
    %b1: tensor<7x36xf32> {moe.name = "b1"}, %w2: tensor<7x36x24xf32> {moe.name = "w2"},
    %b2: tensor<7x24xf32> {moe.name = "b2"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32   %false = arith.constant false
  %t = tensor.dim %x, %c0 : !x   %none = tensor.splat %false[%t] : tensor<?x7xi1>   %ones = tensor.splat %f1[%t] : !e
  %needed = linalg.generic {indexing_maps = [affine_map<(t, s) -> (t)>, affine_map<(t, s) -> (t, s)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%task : tensor<?xi32>) outs(%none : tensor<?x7xi1>) {
  ^bb0(%id: i32, %init: i1):
    %row = arith.index_cast %id : i32 to index   %s = linalg.index 1 : index
    %in = tensor.extract %table[%row, %s] : tensor<6x7xi1>
    linalg.yield %in : i1
  } -> tensor<?x7xi1>
  %every = moe.route %ones mask(%needed : tensor<?x7xi1>) : !e   %r = moe.normalize %every by(sum) : !all
  %y = moe.apply %r rows(%x) experts(%w1, %b1, %w2, %b2) weighted(after) out(sum)
      : !all, !x, tensor<7x24x36xf32>, tensor<7x36xf32>, tensor<7x36x24xf32>, tensor<7x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x36xf32>, %bias: tensor<36xf32>, %down: tensor<36x24xf32>, %shift: tensor<24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %bh = linalg.broadcast ins(%bias : tensor<36xf32>) outs(%zh : !h) dimensions = [0]
    %bx = linalg.broadcast ins(%shift : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x36xf32>) outs(%bh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<36x24xf32>) outs(%bx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !all
  return %y, %routing : !x, !e
}
