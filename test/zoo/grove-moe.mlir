// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Grove MoE: Towards Efficient and Superior MoE LLMs with Adjugate Experts
//
// Two experts form a group, and every group has one small adjugate expert, which runs once for a token that hit the
// group, with the summed weight of the group's picks: two picks in one group share one evaluation.
//
// Ops: top_k, normalize, to_dense, route with a mask (the groups that were hit), apply twice.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !ha = tensor<?x12xf32>   !e = tensor<?x8xf32>   !g = tensor<?x4xf32>
!r = !moe.routing<?x8xf32, max_per_row = 3>   !rg = !moe.routing<?x4xf32>   !ups = tensor<8x24x30xf32>
!downs = tensor<8x30x24xf32>   !aups = tensor<4x24x12xf32>   !adowns = tensor<4x12x24xf32>   !up = tensor<24x30xf32>
!down = tensor<30x24xf32>   !aup = tensor<24x12xf32>   !adown = tensor<12x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x8xf32> {moe.name = "wr"}, %wg: !ups {moe.name = "wg"},
    %wu: !ups {moe.name = "wu"}, %wd: !downs {moe.name = "wd"}, %ag: !aups {moe.name = "ag"},
    %au: !aups {moe.name = "au"}, %ad: !adowns {moe.name = "ad"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !g {moe.name = "adj_weight"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %lambda = arith.constant 0.05 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zg = tensor.splat %f0[%t] : !g
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x8xf32>
  %top = moe.top_k %probs k(3) : !moe.routing<?x8xf32>   %gates = moe.normalize %top by(sum) : !r
  %routing = moe.to_dense %gates : !r

  // Two neighbours form a group.
  %pairs = tensor.expand_shape %routing [[0], [1, 2]] output_shape [%t, 4, 2] : !e into tensor<?x4x2xf32>
  %adj_weight = linalg.reduce {arith.addf} ins(%pairs : tensor<?x4x2xf32>) outs(%zg : !g) dimensions = [2]
  %hit = arith.cmpf ogt, %adj_weight, %zg : !g   %groups = moe.route %adj_weight mask(%hit : tensor<?x4xi1>) : !g

  %y = moe.apply %gates rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum) : !r, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %a = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %m = arith.negf %a : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %a, %den : !h   %h = arith.mulf %silu, %b : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %adjugate = moe.apply %groups rows(%x) experts(%ag, %au, %ad) weighted(after) out(sum)
      : !rg, !x, !aups, !aups, !adowns -> !x {
  ^bb0(%v: !x, %gate: !aup, %up: !aup, %down: !adown):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !ha   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !ha
    %a = linalg.matmul ins(%v, %gate : !x, !aup) outs(%zh : !ha) -> !ha
    %b = linalg.matmul ins(%v, %up : !x, !aup) outs(%zh : !ha) -> !ha
    %m = arith.negf %a : !ha   %exp = math.exp %m : !ha   %den = arith.addf %exp, %one : !ha
    %silu = arith.divf %a, %den : !ha   %h = arith.mulf %silu, %b : !ha
    %o = linalg.matmul ins(%h, %down : !ha, !adown) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %ls = tensor.splat %lambda[%t] : !x   %scaled = arith.mulf %adjugate, %ls : !x   %out = arith.addf %y, %scaled : !x
  return %out, %routing, %adj_weight : !x, !e, !g
}
