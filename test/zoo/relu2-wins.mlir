// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// ReLU^2 Wins: Discovering Efficient Activation Functions for Sparse LLMs
//
// A neuron of a squared-ReLU layer counts by the norm of what it adds; those below a threshold are skipped. A neuron is
// an expert with one row of the second matrix.
//
// Ops: route with a mask, counts; the masked product is linalg.

!x = tensor<?x24xf32>   !f = tensor<?x44xf32>   !w2 = tensor<44x24xf32>   !n = tensor<44xf32>   !m = tensor<?x44xi1>

func.func @main(%x: !x {moe.name = "x"}, %w1: tensor<24x44xf32> {moe.name = "w1"}, %w2: !w2 {moe.name = "w2"},
    %thr: tensor<1xf32> {moe.name = "thr"})
    -> (!x {moe.name = "y"}, !m {moe.name = "mask"}, tensor<?xi32> {moe.name = "count"}, !x {moe.name = "y_dense"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zf = tensor.splat %f0[%t] : !f   %zx = tensor.splat %f0[%t] : !x
  %zn = tensor.splat %f0 : !n
  %z = linalg.matmul ins(%x, %w1 : !x, tensor<24x44xf32>) outs(%zf : !f) -> !f
  %relu = arith.maximumf %z, %zf : !f   %a = arith.mulf %relu, %relu : !f
  %ww = arith.mulf %w2, %w2 : !w2   %sq = linalg.reduce {arith.addf} ins(%ww : !w2) outs(%zn : !n) dimensions = [1]
  %norm = math.sqrt %sq : !n
  %norms = linalg.broadcast ins(%norm : !n) outs(%zf : !f) dimensions = [0]   %mag = arith.mulf %a, %norms : !f
  %least = tensor.extract %thr[%c0] : tensor<1xf32>   %leasts = tensor.splat %least[%t] : !f
  %mask = arith.cmpf ogt, %mag, %leasts : !f
  %active = moe.route %a mask(%mask : !m) : !f   %kept = moe.to_dense %active : !moe.routing<?x44xf32>
  %count = moe.counts %active per(row) : !moe.routing<?x44xf32>
  %y = linalg.matmul ins(%kept, %w2 : !f, !w2) outs(%zx : !x) -> !x
  %y_dense = linalg.matmul ins(%a, %w2 : !f, !w2) outs(%zx : !x) -> !x
  return %y, %mask, %count, %y_dense : !x, !m, tensor<?xi32>, !x
}
