// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Mixture of Experts Made Intrinsically Interpretable
//
// No learned router: an expert that few neurons of which would fire for the token is preferred, estimated from the mean
// and the variance of its encoder's columns as if pre-activations were normal.
//
// Ops: top_k, normalize, apply; the statistics of the banks are upstream arithmetic.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !s = tensor<6x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_enc: tensor<6x24x36xf32> {moe.name = "w_enc"},
    %w_dec: tensor<6x36x24xf32> {moe.name = "w_dec"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %neurons = arith.constant 36.0 : f32   %two = arith.constant 2.0 : f32   %eps = arith.constant 1.0e-8 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zs = tensor.splat %f0 : !s
  %fs = tensor.splat %neurons : !s
  %sum = linalg.reduce { arith.addf } ins(%w_enc : tensor<6x24x36xf32>) outs(%zs : !s) dimensions = [2]
  %mu = arith.divf %sum, %fs : !s
  %var = linalg.generic {indexing_maps = [affine_map<(e, d, f) -> (e, d, f)>, affine_map<(e, d, f) -> (e, d)>,
      affine_map<(e, d, f) -> (e, d)>],
      iterator_types = ["parallel", "parallel", "reduction"]} ins(%w_enc, %mu : tensor<6x24x36xf32>, !s) outs(%zs
          : !s) {
  ^bb0(%w: f32, %mean: f32, %acc: f32):
    %off = arith.subf %w, %mean : f32   %square = arith.mulf %off, %off : f32
    %part = arith.divf %square, %neurons : f32   %next = arith.addf %acc, %part : f32
    linalg.yield %next : f32
  } -> !s
  %xx = arith.mulf %x, %x : !x
  %mz = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>]
      ins(%x, %mu : !x, !s) outs(%ze : !e) -> !e
  %vz = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>]
      ins(%xx, %var : !x, !s) outs(%ze : !e) -> !e
  %scores = linalg.map ins(%mz, %vz : !e, !e) outs(%ze : !e) (%mean: f32, %variance: f32, %init: f32) {
    %twice = arith.mulf %variance, %two : f32   %safe = arith.addf %twice, %eps : f32   %root = math.sqrt %safe : f32
    %ratio = arith.divf %mean, %root : f32   %erf = math.erf %ratio : f32   %score = arith.negf %erf : f32
    linalg.yield %score : f32
  }
  %every = moe.route %scores : !e   %top = moe.top_k %every k(2) : !all   %r = moe.normalize %top by(softmax) : !r
  %y = moe.apply %r rows(%x) experts(%w_enc, %w_dec) weighted(after) out(sum)
      : !r, !x, tensor<6x24x36xf32>, tensor<6x36x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x36xf32>, %down: tensor<36x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x36xf32>) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<36x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !e
}
