// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// GRIN: GRadient-INformed MoE
//
// The inference form of SparseMixer-v2: two argmaxes one after the other, the second without the first one's winner.
// Each gate value is its winner's share in a softmax over only those logits that lie within a margin of the winner.
//
// Ops: top_k, select (the margin), normalize, to_dense (what the second round leaves out), route with a mask, apply.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !up = tensor<24x36xf32>   !down = tensor<36x24xf32>
!e = tensor<?x8xf32>   !r = !moe.routing<?x8xf32>   !r1 = !moe.routing<?x8xf32, max_per_row = 1>
!r2 = !moe.routing<?x8xf32, max_per_row = 2>   !ups = tensor<8x24x36xf32>   !downs = tensor<8x36x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x8xf32> {moe.name = "w_gate"}, %w_g: !ups {moe.name = "w_g"},
    %w_u: !ups {moe.name = "w_u"}, %w_d: !downs {moe.name = "w_d"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %s = linalg.matmul ins(%x, %w_gate : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %all = moe.route %s : !e
  %first = func.call @winner(%all, %s) : (!r, !e) -> !e
  %free = arith.cmpf oeq, %first, %ze : !e
  %others = moe.route %s mask(%free : tensor<?x8xi1>) : !e
  %second = func.call @winner(%others, %s) : (!r, !e) -> !e
  %routing = arith.addf %first, %second : !e
  %both = moe.route %routing : !e   %gates = moe.top_k %both k(2) : !r
  %y = moe.apply %gates rows(%x) experts(%w_g, %w_u, %w_d) weighted(after) out(sum)
      : !r2, !x, !ups, !ups, !downs -> !x {
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
  return %y, %routing : !x, !e
}

// The weight of the best pair of each row: its share in a softmax over the pairs within the margin.
func.func private @winner(%pairs: !r, %s: !e) -> !e {
  %c0 = arith.constant 0 : index   %margin = arith.constant 0.3 : f32
  %best = moe.top_k %pairs k(1) : !r
  %idx, %tops = moe.to_slots %best : !r1
  %near = moe.select %pairs {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %top = tensor.extract %tops[%row, %c0] : tensor<?x1xf32>
    %size = math.absf %key : f32   %f = arith.maximumf %size, %top : f32   %gap = arith.subf %top, %key : f32
    %most = arith.mulf %f, %margin : f32   %in = arith.cmpf ole, %gap, %most : f32
    moe.yield %in : i1
  } : !r
  %soft = moe.normalize %near by(softmax) : !r   %win = moe.top_k %soft by(%s : !e) k(1) : !r
  %share = moe.to_dense %win : !r1
  return %share : !e
}
