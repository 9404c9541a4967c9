// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Grove MoE: Towards Efficient and Superior MoE LLMs with Adjugate Experts
//
// Two experts form a group, and every group has one small adjugate expert, which runs once for a token that hit the
// group, with the summed weight of the group's picks: two picks in one group share one evaluation.
//
// Ops: top_k, normalize, from_slots and to_dense (weights of a group that is hit twice add), route with a mask, apply twice.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !ha = tensor<?x12xf32>   !e = tensor<?x8xf32>   !g = tensor<?x4xf32>
!k = tensor<?x3xi32>   !r = !moe.routing<?x8xf32, max_per_row = 3>   !rg = !moe.routing<?x4xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x8xf32> {moe.name = "wr"},
                %wg: tensor<8x24x30xf32> {moe.name = "wg"}, %wu: tensor<8x24x30xf32> {moe.name = "wu"},
                %wd: tensor<8x30x24xf32> {moe.name = "wd"}, %ag: tensor<4x24x12xf32> {moe.name = "ag"},
                %au: tensor<4x24x12xf32> {moe.name = "au"}, %ad: tensor<4x12x24xf32> {moe.name = "ad"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !g {moe.name = "adj_weight"}) {
  %c0 = arith.constant 0 : index   %i1 = arith.constant 1 : i32   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %lambda = arith.constant 0.05 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e
  %probs = moe.normalize %all by(softmax) : !moe.routing<?x8xf32>
  %top = moe.top_k %probs k(3) : !moe.routing<?x8xf32>
  %gates = moe.normalize %top by(sum) : !r
  %routing = moe.to_dense %gates : !r

  // The group of expert e is e / 2 (a shift, so that an empty slot, -1, stays empty).
  %idx, %w = moe.to_slots %gates : !r
  %ones = tensor.splat %i1[%t] : !k
  %group = arith.shrsi %idx, %ones : !k
  %hits = moe.from_slots %group, %w experts(4) : !k, tensor<?x3xf32>
  %adj_weight = moe.to_dense %hits : !moe.routing<?x4xf32, max_per_row = 3>
  %zg = tensor.splat %f0[%t] : !g
  %hit = arith.cmpf ogt, %adj_weight, %zg : !g
  %groups = moe.route %adj_weight mask(%hit : tensor<?x4xi1>) : !g

  %y = moe.apply %gates rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum)
      : !r, !x, tensor<8x24x30xf32>, tensor<8x24x30xf32>, tensor<8x30x24xf32> -> !x {
  ^bb0(%v: !x, %gate: tensor<24x30xf32>, %up: tensor<24x30xf32>, %down: tensor<30x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %a = linalg.matmul ins(%v, %gate : !x, tensor<24x30xf32>) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, tensor<24x30xf32>) outs(%zh : !h) -> !h
    %m = arith.negf %a : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %a, %den : !h   %h = arith.mulf %silu, %b : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<30x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %adjugate = moe.apply %groups rows(%x) experts(%ag, %au, %ad) weighted(after) out(sum)
      : !rg, !x, tensor<4x24x12xf32>, tensor<4x24x12xf32>, tensor<4x12x24xf32> -> !x {
  ^bb0(%v: !x, %gate: tensor<24x12xf32>, %up: tensor<24x12xf32>, %down: tensor<12x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !ha   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !ha
    %a = linalg.matmul ins(%v, %gate : !x, tensor<24x12xf32>) outs(%zh : !ha) -> !ha
    %b = linalg.matmul ins(%v, %up : !x, tensor<24x12xf32>) outs(%zh : !ha) -> !ha
    %m = arith.negf %a : !ha   %exp = math.exp %m : !ha   %den = arith.addf %exp, %one : !ha
    %silu = arith.divf %a, %den : !ha   %h = arith.mulf %silu, %b : !ha
    %o = linalg.matmul ins(%h, %down : !ha, tensor<12x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %lambdas = tensor.splat %lambda[%t] : !x
  %scaled = arith.mulf %adjugate, %lambdas : !x   %out = arith.addf %y, %scaled : !x
  return %out, %routing, %adj_weight : !x, !e, !g
}
