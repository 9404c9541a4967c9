// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity
//
// Each token goes to its best expert, scaled by that expert's probability; an expert serves the first C tokens that
// come, the others pass by through the residual.
//
// Ops: route, top_k, limit (capacity in token order), counts (for the auxiliary loss), apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !p = tensor<?x4xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x4xf32> {moe.name = "wr"},
    %w1: tensor<4x24x40xf32> {moe.name = "w1"}, %w2: tensor<4x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !p {moe.name = "routing"}, tensor<1xf32> {moe.name = "aux"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c5 = arith.constant 5 : index
  %c16 = arith.constant 16 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %z = tensor.splat %f0[%t] : !p
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x4xf32>) outs(%z : !p) -> !p
  %p = linalg.softmax dimension(1) ins(%logits : !p) outs(%z : !p) -> !p
  %all = moe.route %p : !p   %top = moe.top_k %all k(1) : !moe.routing<?x4xf32>
  // C = ceil(5 T / (4 E))
  %t5 = arith.muli %t, %c5 : index   %cap = arith.ceildivui %t5, %c16 : index
  %kept = moe.limit %top cap(%cap : index) order(row) : !moe.routing<?x4xf32, max_per_row = 1>
  %ffn = moe.apply %kept rows(%x) experts(%w1, %w2) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 1>,
      !x, tensor<4x24x40xf32>, tensor<4x40x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %u = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %a = arith.maximumf %u, %zh : !h
    %o = linalg.matmul ins(%a, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %x, %ffn : !x
  %routing = moe.to_dense %kept : !moe.routing<?x4xf32, max_per_row = 1>
  // aux = 0.01 E sum_e (count_e / T) (sum_t p[t, e] / T); no token gives 0 / 1.
  %counts = moe.counts %top per(expert) : !moe.routing<?x4xf32, max_per_row = 1>
  %load = arith.sitofp %counts : tensor<4xi32> to tensor<4xf32>
  %z4 = tensor.splat %f0 : tensor<4xf32>
  %mass = linalg.reduce {arith.addf} ins(%p : !p) outs(%z4 : tensor<4xf32>) dimensions = [0]
  %both = arith.mulf %load, %mass : tensor<4xf32>
  %z0 = tensor.splat %f0 : tensor<f32>
  %sum = linalg.reduce {arith.addf} ins(%both : tensor<4xf32>) outs(%z0 : tensor<f32>) dimensions = [0]
  %total = tensor.extract %sum[] : tensor<f32>   %t1 = arith.maxui %t, %c1 : index
  %ti = arith.index_cast %t1 : index to i64   %tf = arith.sitofp %ti : i64 to f32   %tt = arith.mulf %tf, %tf : f32
  %scale = arith.constant 0.04 : f32
  %scaled = arith.mulf %scale, %total : f32   %aux = arith.divf %scaled, %tt : f32
  %aux1 = tensor.from_elements %aux : tensor<1xf32>
  return %y, %routing, %aux1 : !x, !p, tensor<1xf32>
}
