// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label Classification
//
// The gate is the projection of the logits on the simplex: the experts whose logit stands out far enough from the sum
// of the better ones are kept, and what is above the threshold tau is the weight.
//
// Ops: select (rank and the sum of the better logits give the support), counts, map, apply.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x7xf32>   !r = !moe.routing<?x7xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x7xf32> {moe.name = "wr"},
    %w1: tensor<7x24x40xf32> {moe.name = "w1"}, %w2: tensor<7x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "count"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %z = linalg.matmul ins(%x, %wr : !x, tensor<24x7xf32>) outs(%ze : !e) -> !e

  // Expert number j of the ranking is in the support while 1 + j z(j) > z(1) + ... + z(j).
  %all = moe.route %z : !e
  %kept = moe.select %all {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %rank32 = arith.index_cast %rank : index to i32   %better = arith.sitofp %rank32 : i32 to f32
    %jz = arith.mulf %better, %key : f32   %left = arith.addf %jz, %f1 : f32
    %in = arith.cmpf ogt, %left, %before : f32
    moe.yield %in : i1
  } : !r
  %count = moe.counts %kept per(row) : !r
  %logits = moe.to_dense %kept : !r
  %z1 = tensor.splat %f0[%t] : tensor<?xf32>
  %total = linalg.reduce { arith.addf } ins(%logits : !e) outs(%z1 : tensor<?xf32>) dimensions = [1]
  %gates = moe.map %kept {
  ^bb0(%w: f32, %row: index, %expert: index):
    %sum = tensor.extract %total[%row] : tensor<?xf32>   %k = tensor.extract %count[%row] : tensor<?xi32>
    %kf = arith.sitofp %k : i32 to f32   %over = arith.subf %sum, %f1 : f32   %tau = arith.divf %over, %kf : f32
    %g = arith.subf %w, %tau : f32   %pos = arith.maximumf %g, %f0 : f32
    moe.yield %pos : f32
  } : !r
  %routing = moe.to_dense %gates : !r

  %y = moe.apply %gates rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<7x24x40xf32>, tensor<7x40x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %o: f32) {
      %s = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %s : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %g = arith.mulf %ph, %cdf2 : f32
      linalg.yield %g : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  return %y, %routing, %count : !x, !e, tensor<?xi32>
}
