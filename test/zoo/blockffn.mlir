// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// BlockFFN: Towards End-Side Acceleration-Friendly Mixture-of-Experts with Chunk-Level Activation Sparsity
//
// The gate is an RMSNorm of ReLU scores: an expert whose score is not positive is skipped, so that the number of
// experts of a token varies from none to all; the union over the chunk says which experts must be read.
//
// Ops: route with a mask (a chosen pair is not the same as a weight other than zero), counts per row and expert, apply.

!x = tensor<?x24xf32>   !h = tensor<?x10xf32>   !e = tensor<?x12xf32>   !r = !moe.routing<?x12xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x12xf32> {moe.name = "wr"},
    %gamma: tensor<12xf32> {moe.name = "gamma"}, %wu: tensor<12x24x10xf32> {moe.name = "wu"},
    %wd: tensor<12x10x24xf32> {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "active"},
        tensor<12xi1> {moe.name = "needed"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %experts = arith.constant 12.0 : f32   %eps = arith.constant 1.0e-6 : f32
  %none = arith.constant dense<0> : tensor<12xi32>
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %z1 = tensor.splat %f0[%t] : tensor<?xf32>
  %scores = linalg.matmul ins(%x, %wr : !x, tensor<24x12xf32>) outs(%ze : !e) -> !e
  %relu = arith.maximumf %scores, %ze : !e   %positive = arith.cmpf ogt, %scores, %ze : !e
  %squares = arith.mulf %relu, %relu : !e
  %sum = linalg.reduce { arith.addf } ins(%squares : !e) outs(%z1 : tensor<?xf32>) dimensions = [1]
  %plain = moe.route %relu mask(%positive : tensor<?x12xi1>) : !e
  %gates = moe.map %plain {
  ^bb0(%w: f32, %row: index, %expert: index):
    %g = tensor.extract %gamma[%expert] : tensor<12xf32>   %s = tensor.extract %sum[%row] : tensor<?xf32>
    %mean = arith.divf %s, %experts : f32   %safe = arith.addf %mean, %eps : f32   %rms = math.sqrt %safe : f32
    %unit = arith.divf %w, %rms : f32   %a = arith.mulf %g, %unit : f32
    moe.yield %a : f32
  } : !r
  %y = moe.apply %gates rows(%x) experts(%wu, %wd) weighted(after) out(sum)
      : !r, !x, tensor<12x24x10xf32>, tensor<12x10x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x10xf32>, %down: tensor<10x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %u = linalg.matmul ins(%v, %up : !x, tensor<24x10xf32>) outs(%zh : !h) -> !h
    %m = arith.negf %u : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %h = arith.divf %u, %den : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<10x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %gates : !r
  %active = moe.counts %gates per(row) : !r
  %load = moe.counts %gates per(expert) : !r
  %needed = arith.cmpi sgt, %load, %none : tensor<12xi32>
  return %y, %routing, %active, %needed : !x, !e, tensor<?xi32>, tensor<12xi1>
}
