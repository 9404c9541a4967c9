// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// From Sparse to Soft Mixtures of Experts
//
// Every slot of an expert takes a convex mixture of all tokens, every token one of all slots' outputs: one matrix of
// logits, a softmax over the tokens to dispatch and one over the slots to combine. Nothing is dropped.
//
// Ops: linalg.softmax along both axes; from_slots (slot s belongs to expert s / P, known beforehand) and apply over
// the slots as rows.

!x = tensor<?x24xf32>   !l = tensor<?x8xf32>   !phi = tensor<24x8xf32>   !slots = tensor<8x24xf32>
!h = tensor<?x40xf32>   !r = !moe.routing<8x4xf32, max_per_row = 1>

func.func @main(%x: !x {moe.name = "x"}, %phi: !phi {moe.name = "phi"}, %scale: tensor<1xf32> {moe.name = "scale"},
                %w1: tensor<4x24x40xf32> {moe.name = "w1"}, %w2: tensor<4x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !l {moe.name = "dispatch"}, !l {moe.name = "combine"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32   %eps = arith.constant 1.0e-6 : f32
  %owner = arith.constant dense<[[0], [0], [1], [1], [2], [2], [3], [3]]> : tensor<8x1xi32>
  %t = tensor.dim %x, %c0 : !x   %zl = tensor.splat %f0[%t] : !l   %zx = tensor.splat %f0[%t] : !x
  %zt = tensor.splat %f0[%t] : tensor<?xf32>   %z8 = tensor.splat %f0 : tensor<8xf32>
  %zslots = tensor.splat %f0 : !slots   %ones = tensor.splat %f1 : tensor<8x1xf32>   %factor = tensor.extract %scale[%c0] : tensor<1xf32>
  // The norms of tokens and slot parameters only scale the rows and columns of x phi.
  %raw = linalg.matmul ins(%x, %phi : !x, !phi) outs(%zl : !l) -> !l
  %xx = arith.mulf %x, %x : !x   %pp = arith.mulf %phi, %phi : !phi
  %xn = linalg.reduce { arith.addf } ins(%xx : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %pn = linalg.reduce { arith.addf } ins(%pp : !phi) outs(%z8 : tensor<8xf32>) dimensions = [0]
  %logits = linalg.generic {indexing_maps = [affine_map<(t, s) -> (t, s)>, affine_map<(t, s) -> (t)>, affine_map<(t, s) -> (s)>,
                                             affine_map<(t, s) -> (t, s)>], iterator_types = ["parallel", "parallel"]}
      ins(%raw, %xn, %pn : !l, tensor<?xf32>, tensor<8xf32>) outs(%zl : !l) {
  ^bb0(%dot: f32, %a: f32, %b: f32, %init: f32):
    %ae = arith.addf %a, %eps : f32   %be = arith.addf %b, %eps : f32   %an = math.sqrt %ae : f32
    %bn = math.sqrt %be : f32   %xu = arith.divf %dot, %an : f32   %pu = arith.divf %xu, %bn : f32
    %l = arith.mulf %pu, %factor : f32
    linalg.yield %l : f32
  } -> !l
  %dispatch = linalg.softmax dimension(0) ins(%logits : !l) outs(%zl : !l) -> !l
  %combine = linalg.softmax dimension(1) ins(%logits : !l) outs(%zl : !l) -> !l
  %slots = linalg.contract indexing_maps = [affine_map<(s, d, t) -> (t, s)>, affine_map<(s, d, t) -> (t, d)>, affine_map<(s, d, t) -> (s, d)>]
      ins(%dispatch, %x : !l, !x) outs(%zslots : !slots) -> !slots
  %r = moe.from_slots %owner, %ones experts(4) : tensor<8x1xi32>, tensor<8x1xf32>
  %out = moe.apply %r rows(%slots) experts(%w1, %w2) out(sum) : !r, !slots, tensor<4x24x40xf32>, tensor<4x40x24xf32> -> !slots {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zv = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %s = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %s : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zv : !x) -> !x
    moe.yield %o : !x
  }
  %y = linalg.matmul ins(%combine, %out : !l, !slots) outs(%zx : !x) -> !x
  return %y, %dispatch, %combine : !x, !l, !l
}
