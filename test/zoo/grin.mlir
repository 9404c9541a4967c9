// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// GRIN: GRadient-INformed MoE
//
// The inference form of SparseMixer-v2: two argmaxes one after the other, the second without the first one's winner. Each
// gate value is its winner's share in a softmax over only those logits that lie within a margin of the winner.
//
// Ops: top_k, select (the margin), normalize, to_dense of(mask) (what the second round leaves out), from_slots, apply.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !up = tensor<24x36xf32>   !down = tensor<36x24xf32>
!e = tensor<?x8xf32>   !r = !moe.routing<?x8xf32>   !r1 = !moe.routing<?x8xf32, max_per_row = 1>
!r2 = !moe.routing<?x8xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x8xf32> {moe.name = "w_gate"},
                %w_g: tensor<8x24x36xf32> {moe.name = "w_g"}, %w_u: tensor<8x24x36xf32> {moe.name = "w_u"},
                %w_d: tensor<8x36x24xf32> {moe.name = "w_d"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %true = arith.constant true
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %trues = tensor.splat %true[%t] : tensor<?x8xi1>
  %s = linalg.matmul ins(%x, %w_gate : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %all = moe.route %s : !e
  %first = func.call @winner(%all, %s) : (!r, !e) -> !r1
  %taken = moe.to_dense %first of(mask) : !r1
  %free = arith.xori %taken, %trues : tensor<?x8xi1>
  %others = moe.route %s mask(%free : tensor<?x8xi1>) : !e
  %second = func.call @winner(%others, %s) : (!r, !e) -> !r1
  %i1, %g1 = moe.to_slots %first : !r1
  %i2, %g2 = moe.to_slots %second : !r1
  %i = tensor.concat dim(1) %i1, %i2 : (tensor<?x1xi32>, tensor<?x1xi32>) -> tensor<?x2xi32>
  %g = tensor.concat dim(1) %g1, %g2 : (tensor<?x1xf32>, tensor<?x1xf32>) -> tensor<?x2xf32>
  %gates = moe.from_slots %i, %g experts(8) : tensor<?x2xi32>, tensor<?x2xf32>
  %y = moe.apply %gates rows(%x) experts(%w_g, %w_u, %w_d) weighted(after) out(sum)
      : !r2, !x, tensor<8x24x36xf32>, tensor<8x24x36xf32>, tensor<8x36x24xf32> -> !x {
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
  %routing = moe.to_dense %gates : !r2
  return %y, %routing : !x, !e
}

// The best pair of each row, weighted with its softmax over the pairs within the margin.
func.func private @winner(%pairs: !r, %s: !e) -> !r1 {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %margin = arith.constant 0.3 : f32
  %best = moe.top_k %pairs k(1) : !r
  %idx, %tops = moe.to_slots %best : !r1
  %near = moe.select %pairs {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %top = tensor.extract %tops[%row, %c0] : tensor<?x1xf32>
    %size = math.absf %key : f32   %f = arith.maximumf %size, %top : f32   %gap = arith.subf %top, %key : f32
    %relative = arith.divf %gap, %f : f32   %close = arith.cmpf ole, %relative, %margin : f32
    %zero = arith.cmpf oeq, %f, %f0 : f32   %in = arith.ori %close, %zero : i1
    moe.yield %in : i1
  } : !r
  %soft = moe.normalize %near by(softmax) : !r
  %win = moe.top_k %soft by(%s : !e) k(1) : !r
  return %win : !r1
}
