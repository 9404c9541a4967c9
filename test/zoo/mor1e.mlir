// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Intuition-aware Mixture-of-Rank-1-Experts for Parameter Efficient Finetuning
//
// All rank-1 experts of a linear layer are mixed; the gate adds to its own logits an intuition that a whole sequence
// gets from the similarity of its embedding to centroids.
//
// Ops: route, normalize, to_dense: a rank-1 expert is one column and one row, so that its gate scales the narrow
// product.

!x = tensor<3x?x24xf32>   !r = tensor<?x24xf32>   !y = tensor<?x20xf32>   !e = tensor<?x6xf32>   !s = tensor<3x6xf32>
!st = tensor<3x?x6xf32>   !c = tensor<3x5xf32>   !emb = tensor<3x12xf32>   !cen = tensor<5x12xf32>

func.func @main(%x: !x {moe.name = "x"}, %emb: !emb {moe.name = "emb"}, %cen: !cen {moe.name = "cen"},
    %w0: tensor<24x20xf32> {moe.name = "w0"}, %wr: tensor<24x6xf32> {moe.name = "wr"},
    %wi: tensor<5x6xf32> {moe.name = "wi"}, %a: tensor<6x24xf32> {moe.name = "a"},
    %bb: tensor<6x20xf32> {moe.name = "bb"}) -> (tensor<3x?x20xf32> {moe.name = "y"}, !st {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %tiny = arith.constant 1.0e-12 : f32   %tau = arith.constant 0.2 : f32
  %t = tensor.dim %x, %c1 : !x   %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !r
  %n = tensor.dim %rows, %c0 : !r
  %ze = tensor.splat %f0[%n] : !e   %zs = tensor.splat %f0 : !s   %zc = tensor.splat %f0 : !c
  %zy = tensor.splat %f0[%n] : !y   %z3 = tensor.splat %f0 : tensor<3xf32>   %z5 = tensor.splat %f0 : tensor<5xf32>
  // pi = softmax(cos(emb, centroid) / tau) of each sequence.
  %dots = linalg.contract indexing_maps = [affine_map<(b, c, d) -> (b, d)>, affine_map<(b, c, d) -> (c, d)>,
      affine_map<(b, c, d) -> (b, c)>] ins(%emb, %cen : !emb, !cen) outs(%zc : !c) -> !c
  %ee = arith.mulf %emb, %emb : !emb
  %es = linalg.reduce {arith.addf} ins(%ee : !emb) outs(%z3 : tensor<3xf32>) dimensions = [1]
  %cc = arith.mulf %cen, %cen : !cen
  %cs = linalg.reduce {arith.addf} ins(%cc : !cen) outs(%z5 : tensor<5xf32>) dimensions = [1]
  %sharp = linalg.map ins(%dots : !c) outs(%zc : !c) (%dot: f32, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %p = tensor.extract %es[%i] : tensor<3xf32>
    %q = tensor.extract %cs[%j] : tensor<5xf32>   %pr = math.sqrt %p : f32   %qr = math.sqrt %q : f32
    %pn = arith.maximumf %pr, %tiny : f32   %qn = arith.maximumf %qr, %tiny : f32   %u = arith.divf %dot, %pn : f32
    %v = arith.divf %u, %qn : f32   %o = arith.divf %v, %tau : f32
    linalg.yield %o : f32
  }
  %pi = linalg.softmax dimension(1) ins(%sharp : !c) outs(%zc : !c) -> !c
  %intuition = linalg.matmul ins(%pi, %wi : !c, tensor<5x6xf32>) outs(%zs : !s) -> !s
  %init = tensor.empty(%t) : !st
  %per_token = linalg.broadcast ins(%intuition : !s) outs(%init : !st) dimensions = [1]
  %added = tensor.collapse_shape %per_token [[0, 1], [2]] : !st into !e
  %logits = linalg.matmul ins(%rows, %wr : !r, tensor<24x6xf32>) outs(%added : !e) -> !e
  %all = moe.route %logits : !e   %g = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %gates = moe.to_dense %g : !moe.routing<?x6xf32>
  %low = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>] ins(%rows, %a : !r, tensor<6x24xf32>) outs(%ze : !e) -> !e
  %gated = arith.mulf %low, %gates : !e
  %base = linalg.matmul ins(%rows, %w0 : !r, tensor<24x20xf32>) outs(%zy : !y) -> !y
  %flat = linalg.matmul ins(%gated, %bb : !e, tensor<6x20xf32>) outs(%base : !y) -> !y
  %y = tensor.expand_shape %flat [[0, 1], [2]] output_shape [3, %t, 20] : !y into tensor<3x?x20xf32>
  %routing = tensor.expand_shape %gates [[0, 1], [2]] output_shape [3, %t, 6] : !e into !st
  return %y, %routing : tensor<3x?x20xf32>, !st
}
