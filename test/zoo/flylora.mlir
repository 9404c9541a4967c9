// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// FlyLoRA: Boosting Task Decoupling and Parameter Efficiency via Implicit Rank-Wise Mixture-of-Experts
//
// A frozen sparse projection, given as indices and values per rank, scores the ranks; the k largest by magnitude plus a
// bias pass, with the projection's value as weight.
//
// Ops: top_k by another key, map (the constant scale), to_dense. The sparse projection is a linalg.map over (token,
// rank).

!x = tensor<?x30xf32>   !y = tensor<?x22xf32>   !e = tensor<?x16xf32>   !a = tensor<16x5xf32>   !ai = tensor<16x5xi32>
!r = !moe.routing<?x16xf32>   !top = !moe.routing<?x16xf32, max_per_row = 6>

func.func @main(%x: !x {moe.name = "x"}, %w0: tensor<30x22xf32> {moe.name = "w0"}, %a_idx: !ai {moe.name = "a_idx"},
    %a_val: !a {moe.name = "a_val"}, %bias: tensor<16xf32> {moe.name = "bias"}, %b: tensor<16x22xf32> {moe.name = "b"})
    -> (!y {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c5 = arith.constant 5 : index
  %f0 = arith.constant 0.0 : f32   %scale = arith.constant 1.5 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zy = tensor.splat %f0[%t] : !y
  %scales = tensor.splat %scale[%t] : !e
  %z = linalg.map outs(%ze : !e) (%init: f32) {
    %i = linalg.index 0 : index   %r = linalg.index 1 : index
    %sum = scf.for %j = %c0 to %c5 step %c1 iter_args(%acc = %f0) -> f32 {
      %id = tensor.extract %a_idx[%r, %j] : !ai   %col = arith.index_cast %id : i32 to index
      %v = tensor.extract %x[%i, %col] : !x   %w = tensor.extract %a_val[%r, %j] : !a
      %p = arith.mulf %v, %w : f32   %next = arith.addf %acc, %p : f32
      scf.yield %next : f32
    }
    linalg.yield %sum : f32
  }
  %biases = linalg.broadcast ins(%bias : tensor<16xf32>) outs(%ze : !e) dimensions = [0]
  %shifted = arith.addf %z, %biases : !e   %key = math.absf %shifted : !e
  %weights = arith.mulf %z, %scales : !e   %all = moe.route %weights : !e
  %best = moe.top_k %all by(%key : !e) k(6) : !r
  %routing = moe.to_dense %best : !top
  %base = linalg.matmul ins(%x, %w0 : !x, tensor<30x22xf32>) outs(%zy : !y) -> !y
  %y = linalg.matmul ins(%routing, %b : !e, tensor<16x22xf32>) outs(%base : !y) -> !y
  return %y, %routing : !y, !e
}
