// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise Linear Modulation
//
// The router runs several times under given dropout masks and divides the mean logit by its spread; the experts
// modulate features of one shared hidden layer.
//
// Ops: top_k, normalize, apply on the shared features, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x5xf32>   !drop = tensor<4x?x24xf32>
!z = tensor<4x?x5xf32>   !r = !moe.routing<?x5xf32, max_per_row = 2>   !ab = tensor<5x32x32xf32>

func.func @main(%x: !x {moe.name = "x"}, %drop: !drop {moe.name = "drop"}, %wr: tensor<24x5xf32> {moe.name = "wr"},
    %w1: tensor<24x32xf32> {moe.name = "w1"}, %w2: tensor<24x32xf32> {moe.name = "w2"}, %a: !ab {moe.name = "a"},
    %b: !ab {moe.name = "b"}, %wo: tensor<32x24xf32> {moe.name = "wo"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !e {moe.name = "score"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %eps = arith.constant 1.0e-2 : f32   %quarter = arith.constant 0.25 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zz = tensor.splat %f0[%t] : !z
  %zx = tensor.splat %f0[%t] : !x   %zh = tensor.splat %f0[%t] : !h   %zd = tensor.splat %f0[%t] : !drop
  %epss = tensor.splat %eps[%t] : !e   %quarters = tensor.splat %quarter[%t] : !e
  // The mean and the variance of the logits over the passes.
  %xs = linalg.broadcast ins(%x : !x) outs(%zd : !drop) dimensions = [0]   %dropped = arith.mulf %xs, %drop : !drop
  %z = linalg.contract indexing_maps = [affine_map<(m, t, e, d) -> (m, t, d)>, affine_map<(m, t, e, d) -> (d, e)>,
      affine_map<(m, t, e, d) -> (m, t, e)>] ins(%dropped, %wr : !drop, tensor<24x5xf32>) outs(%zz : !z) -> !z
  %sum = linalg.reduce {arith.addf} ins(%z : !z) outs(%ze : !e) dimensions = [0]
  %mean = arith.mulf %sum, %quarters : !e
  %means = linalg.broadcast ins(%mean : !e) outs(%zz : !z) dimensions = [0]   %gap = arith.subf %z, %means : !z
  %gaps = arith.mulf %gap, %gap : !z
  %sumsq = linalg.reduce {arith.addf} ins(%gaps : !z) outs(%ze : !e) dimensions = [0]
  %var = arith.mulf %sumsq, %quarters : !e
  %safe = arith.addf %var, %epss : !e   %dev = math.sqrt %safe : !e   %score = arith.divf %mean, %dev : !e
  %all = moe.route %score : !e   %best = moe.top_k %all k(2) : !moe.routing<?x5xf32>
  %r = moe.normalize %best by(softmax) : !r
  %u = linalg.matmul ins(%x, %w1 : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
  %c = linalg.matmul ins(%x, %w2 : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
  %one = tensor.splat %f1[%t] : !h   %hf = tensor.splat %half[%t] : !h   %rt = tensor.splat %root2[%t] : !h
  %g_s = arith.mulf %u, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
  %g_h = arith.mulf %u, %hf : !h   %g = arith.mulf %g_h, %g_c : !h   %hidden = arith.mulf %g, %c : !h
  %mixed = moe.apply %r rows(%hidden) experts(%a, %b) weighted(after) out(sum) : !r, !h, !ab, !ab -> !h {
  ^bb0(%v: !h, %scale: tensor<32x32xf32>, %shift: tensor<32x32xf32>):
    %n = tensor.dim %v, %c0 : !h   %zn = tensor.splat %f0[%n] : !h
    %s = linalg.matmul ins(%v, %scale : !h, tensor<32x32xf32>) outs(%zn : !h) -> !h
    %vs = arith.mulf %s, %v : !h
    %o = linalg.matmul ins(%v, %shift : !h, tensor<32x32xf32>) outs(%vs : !h) -> !h
    moe.yield %o : !h
  }
  %y = linalg.matmul ins(%mixed, %wo : !h, tensor<32x24xf32>) outs(%zx : !x) -> !x
  %routing = moe.to_dense %r : !r
  return %y, %routing, %score : !x, !e, !e
}
