// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Exploiting Transformer Activation Sparsity with Dynamic Inference
//
// A small network predicts how large every expert's contribution will be; a token runs the experts whose prediction
// comes close to the largest one. Gates are 1: the experts' sum is what a dense layer was cut into.
//
// Ops: route, select by a threshold relative to the row's largest key, map, apply.

!x = tensor<?x24xf32>   !h = tensor<?x12xf32>   !e = tensor<?x7xf32>   !all = !moe.routing<?x7xf32>
!c = tensor<?x9xf32>

func.func @main(%x: !x {moe.name = "x"}, %r1: tensor<24x9xf32> {moe.name = "r1"},
    %rb1: tensor<9xf32> {moe.name = "rb1"}, %r2: tensor<9x7xf32> {moe.name = "r2"},
    %rb2: tensor<7xf32> {moe.name = "rb2"}, %w1: tensor<7x24x12xf32> {moe.name = "w1"},
    %b1: tensor<7x12xf32> {moe.name = "b1"}, %w2: tensor<7x12x24xf32> {moe.name = "w2"},
    %b2: tensor<24xf32> {moe.name = "b2"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %threshold = arith.constant 0.5 : f32
  %t = tensor.dim %x, %c0 : !x   %zc = tensor.splat %f0[%t] : !c   %ze = tensor.splat %f0[%t] : !e
  %zx = tensor.splat %f0[%t] : !x
  %rb1s = linalg.broadcast ins(%rb1 : tensor<9xf32>) outs(%zc : !c) dimensions = [0]
  %rb2s = linalg.broadcast ins(%rb2 : tensor<7xf32>) outs(%ze : !e) dimensions = [0]
  %b2s = linalg.broadcast ins(%b2 : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
  %ra = linalg.matmul ins(%x, %r1 : !x, tensor<24x9xf32>) outs(%rb1s : !c) -> !c
  %rh = arith.maximumf %ra, %zc : !c
  %raw = linalg.matmul ins(%rh, %r2 : !c, tensor<9x7xf32>) outs(%rb2s : !e) -> !e
  %c = math.absf %raw : !e
  %low = arith.constant 0xFF800000 : f32
  %lows = tensor.splat %low[%t] : tensor<?xf32>
  %best = linalg.reduce { arith.maximumf } ins(%c : !e) outs(%lows : tensor<?xf32>) dimensions = [1]
  %every = moe.route %c : !e
  %near = moe.select %every {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %top = tensor.extract %best[%row] : tensor<?xf32>
    %least = arith.mulf %top, %threshold : f32   %in = arith.cmpf oge, %key, %least : f32
    moe.yield %in : i1
  } : !all
  %r = moe.map %near {
  ^bb0(%w: f32, %row: index, %expert: index):
    moe.yield %f1 : f32
  } : !all
  %routed = moe.apply %r rows(%x) experts(%w1, %b1, %w2) out(sum)
      : !all, !x, tensor<7x24x12xf32>, tensor<7x12xf32>, tensor<7x12x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x12xf32>, %bias: tensor<12xf32>, %down: tensor<12x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zo = tensor.splat %f0[%n] : !x
    %bs = linalg.broadcast ins(%bias : tensor<12xf32>) outs(%zh : !h) dimensions = [0]
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x12xf32>) outs(%bs : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<12x24xf32>) outs(%zo : !x) -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %routed, %b2s : !x
  %routing = moe.to_dense %r : !all
  return %y, %routing : !x, !e
}
