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
!h = tensor<?x40xf32>   !r = !moe.routing<8x4xf32, max_per_row = 1>   !ups = tensor<4x24x40xf32>
!downs = tensor<4x40x24xf32>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>   !t = tensor<?xf32>
!s = tensor<8xf32>

func.func @main(%x: !x {moe.name = "x"}, %phi: !phi {moe.name = "phi"}, %scale: tensor<1xf32> {moe.name = "scale"},
    %w1: !ups {moe.name = "w1"}, %w2: !downs {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !l {moe.name = "dispatch"}, !l {moe.name = "combine"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %fh = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %eps = arith.constant 1.0e-6 : f32
  %owner = arith.constant dense<[[0], [0], [1], [1], [2], [2], [3], [3]]> : tensor<8x1xi32>
  %t = tensor.dim %x, %c0 : !x   %zl = tensor.splat %f0[%t] : !l   %zx = tensor.splat %f0[%t] : !x
  %zt = tensor.splat %f0[%t] : !t   %zs = tensor.splat %f0 : !s   %zslots = tensor.splat %f0 : !slots
  %ones = tensor.splat %f1 : tensor<8x1xf32>   %factor = tensor.extract %scale[%c0] : tensor<1xf32>
  // The norms of tokens and slot parameters only scale the rows and columns of x phi.
  %raw = linalg.matmul ins(%x, %phi : !x, !phi) outs(%zl : !l) -> !l
  %xx = arith.mulf %x, %x : !x   %pp = arith.mulf %phi, %phi : !phi
  %xn = linalg.reduce { arith.addf } ins(%xx : !x) outs(%zt : !t) dimensions = [1]
  %pn = linalg.reduce { arith.addf } ins(%pp : !phi) outs(%zs : !s) dimensions = [0]
  %logits = linalg.map ins(%raw : !l) outs(%zl : !l) (%dot: f32, %init: f32) {
    %ti = linalg.index 0 : index   %a = tensor.extract %xn[%ti] : !t   %ae = arith.addf %a, %eps : f32
    %si = linalg.index 1 : index   %b = tensor.extract %pn[%si] : !s   %be = arith.addf %b, %eps : f32
    %an = math.sqrt %ae : f32   %bn = math.sqrt %be : f32   %xu = arith.divf %dot, %an : f32
    %pu = arith.divf %xu, %bn : f32   %l = arith.mulf %pu, %factor : f32
    linalg.yield %l : f32
  }
  %dispatch = linalg.softmax dimension(0) ins(%logits : !l) outs(%zl : !l) -> !l
  %combine = linalg.softmax dimension(1) ins(%logits : !l) outs(%zl : !l) -> !l
  %slots = linalg.contract indexing_maps = [affine_map<(s, d, t) -> (t, s)>, affine_map<(s, d, t) -> (t, d)>,
      affine_map<(s, d, t) -> (s, d)>] ins(%dispatch, %x : !l, !x) outs(%zslots : !slots) -> !slots
  %r = moe.from_slots %owner, %ones experts(4) : tensor<8x1xi32>, tensor<8x1xf32>
  %out = moe.apply %r rows(%slots) experts(%w1, %w2) out(sum) : !r, !slots, !ups, !downs -> !slots {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zv = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %half = tensor.splat %fh[%n] : !h   %root = tensor.splat %rsqrt2[%n] : !h
    %s = arith.mulf %a, %root : !h   %erf = math.erf %s : !h   %cdf2 = arith.addf %erf, %one : !h
    %ah = arith.mulf %a, %half : !h   %h = arith.mulf %ah, %cdf2 : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zv : !x) -> !x
    moe.yield %o : !x
  }
  %y = linalg.matmul ins(%combine, %out : !l, !slots) outs(%zx : !x) -> !x
  return %y, %dispatch, %combine : !x, !l, !l
}
