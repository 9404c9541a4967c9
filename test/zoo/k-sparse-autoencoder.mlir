// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// k-Sparse Autoencoders
//
// A linear autoencoder that keeps the k largest hidden units of a token, by signed value: a unit is an expert with one
// vector.
//
// Ops: route, top_k, to_dense (the sparse code; decoding is one dense product).

!x = tensor<?x24xf32>   !f = tensor<?x40xf32>   !w = tensor<24x40xf32>   !r = !moe.routing<?x40xf32, max_per_row = 6>

func.func @main(%x: !x {moe.name = "x"}, %w: !w {moe.name = "w"}, %b: tensor<40xf32> {moe.name = "b"},
    %b2: tensor<24xf32> {moe.name = "b2"}) -> (!x {moe.name = "y"}, !f {moe.name = "code"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zf = tensor.splat %f0[%t] : !f   %zx = tensor.splat %f0[%t] : !x
  %bias = linalg.broadcast ins(%b : tensor<40xf32>) outs(%zf : !f) dimensions = [0]
  %bias2 = linalg.broadcast ins(%b2 : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
  %z = linalg.matmul ins(%x, %w : !x, !w) outs(%bias : !f) -> !f
  %all = moe.route %z : !f   %kept = moe.top_k %all k(6) : !moe.routing<?x40xf32>   %code = moe.to_dense %kept : !r
  %y = linalg.contract indexing_maps = [affine_map<(t, d, f) -> (t, f)>, affine_map<(t, d, f) -> (d, f)>,
      affine_map<(t, d, f) -> (t, d)>] ins(%code, %w : !f, !w) outs(%bias2 : !x) -> !x
  return %y, %code : !x, !f
}
