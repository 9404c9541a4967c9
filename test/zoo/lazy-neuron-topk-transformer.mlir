// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// The Lazy Neuron Phenomenon: On Emergence of Activation Sparsity in Transformers
//
// Only the k largest activations of a feed-forward layer stay: a neuron is an expert with one vector, weighted by its
// activation.
//
// Ops: route, top_k, to_dense, and linalg for the two dense products.

!x = tensor<?x24xf32>   !f = tensor<?x44xf32>   !r = !moe.routing<?x44xf32, max_per_row = 7>   !i = tensor<?xi32>

func.func @main(%x: !x {moe.name = "x"}, %w1: tensor<24x44xf32> {moe.name = "w1"},
    %b1: tensor<44xf32> {moe.name = "b1"}, %w2: tensor<44x24xf32> {moe.name = "w2"},
    %b2: tensor<24xf32> {moe.name = "b2"}) -> (!x {moe.name = "y"}, !f {moe.name = "act"}, !i {moe.name = "nnz"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zf = tensor.splat %f0[%t] : !f   %zx = tensor.splat %f0[%t] : !x
  %bias = linalg.broadcast ins(%b1 : tensor<44xf32>) outs(%zf : !f) dimensions = [0]
  %bias2 = linalg.broadcast ins(%b2 : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
  %z = linalg.matmul ins(%x, %w1 : !x, tensor<24x44xf32>) outs(%bias : !f) -> !f
  %h = arith.maximumf %z, %zf : !f
  %all = moe.route %h : !f   %kept = moe.top_k %all k(7) : !moe.routing<?x44xf32>   %act = moe.to_dense %kept : !r
  // Chosen entries may be zero: what counts is the non-zero ones.
  %used = arith.cmpf one, %act, %zf : !f
  %nonzero = moe.route %act mask(%used : tensor<?x44xi1>) : !f
  %nnz = moe.counts %nonzero per(row) : !moe.routing<?x44xf32>
  %y = linalg.matmul ins(%act, %w2 : !f, tensor<44x24xf32>) outs(%bias2 : !x) -> !x
  return %y, %act, %nnz : !x, !f, !i
}
