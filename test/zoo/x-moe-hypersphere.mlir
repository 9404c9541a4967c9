// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// On the Representation Collapse of Sparse Mixture of Experts
//
// Routing on a hypersphere: tokens are projected to a few dimensions, and the logits are cosines with the experts'
// embeddings divided by a learned temperature, so that no expert wins by the length of its vector.
//
// Ops: route, normalize, top_k, apply; the cosines are upstream arithmetic.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 1>   !l = tensor<?x5xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_low: tensor<24x5xf32> {moe.name = "w_low"},
    %emb: tensor<6x5xf32> {moe.name = "emb"}, %tau: tensor<f32> {moe.name = "tau"},
    %w1: tensor<6x24x40xf32> {moe.name = "w1"}, %w2: tensor<6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %eps = arith.constant 1.0e-6 : f32
  %t = tensor.dim %x, %c0 : !x   %zl = tensor.splat %f0[%t] : !l   %ze = tensor.splat %f0[%t] : !e
  %zt = tensor.splat %f0[%t] : tensor<?xf32>   %z6 = tensor.splat %f0 : tensor<6xf32>
  %tau_value = tensor.extract %tau[] : tensor<f32>
  %l = linalg.matmul ins(%x, %w_low : !x, tensor<24x5xf32>) outs(%zl : !l) -> !l
  %dots = linalg.contract indexing_maps = [affine_map<(t, e, i) -> (t, i)>, affine_map<(t, e, i) -> (e, i)>,
      affine_map<(t, e, i) -> (t, e)>]
      ins(%l, %emb : !l, tensor<6x5xf32>) outs(%ze : !e) -> !e
  %ll = arith.mulf %l, %l : !l   %ee = arith.mulf %emb, %emb : tensor<6x5xf32>
  %ln = linalg.reduce { arith.addf } ins(%ll : !l) outs(%zt : tensor<?xf32>) dimensions = [1]
  %en = linalg.reduce { arith.addf } ins(%ee : tensor<6x5xf32>) outs(%z6 : tensor<6xf32>) dimensions = [1]
  %logits = linalg.generic {indexing_maps = [affine_map<(t, e) -> (t, e)>, affine_map<(t, e) -> (t)>,
      affine_map<(t, e) -> (e)>, affine_map<(t, e) -> (t, e)>],
      iterator_types = ["parallel", "parallel"]} ins(%dots, %ln, %en : !e, tensor<?xf32>, tensor<6xf32>) outs(%ze
          : !e) {
  ^bb0(%dot: f32, %a2: f32, %b2: f32, %init: f32):
    %ar = math.sqrt %a2 : f32   %br = math.sqrt %b2 : f32   %am = arith.maximumf %ar, %eps : f32
    %bm = arith.maximumf %br, %eps : f32   %size = arith.mulf %am, %bm : f32   %cosine = arith.divf %dot, %size : f32
    %s = arith.divf %cosine, %tau_value : f32
    linalg.yield %s : f32
  } -> !e
  %every = moe.route %logits : !e   %probs = moe.normalize %every by(softmax) : !all   %r = moe.top_k %probs k(1) : !all
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !e
}
