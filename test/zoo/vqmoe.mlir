// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// On the effectiveness of discrete representations in sparse mixture of experts
//
// Two branches over one bank of experts: a router's top-k, and the expert that the nearest vector of a codebook names,
// which runs on that vector itself; a softmax mixes the branches.
//
// Ops: top_k, normalize, from_slots (experts by number), apply twice, top_k with to_slots as an argmin.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x4xf32>   !c = tensor<?x10xf32>   !p = tensor<?x2xf32>
!i1 = tensor<?x1xi32>   !w1s = tensor<?x1xf32>   !one = !moe.routing<?x4xf32, max_per_row = 1>
!r = !moe.routing<?x4xf32, max_per_row = 2>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>
!ups = tensor<4x24x40xf32>   !downs = tensor<4x40x24xf32>   !cb = tensor<10x24xf32>

// (v - mean) / sqrt(variance + 1.0e-5) over each row.
func.func private @layer_norm(%v: !x) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !x
  %sum = linalg.reduce {arith.addf} ins(%v : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>
  %means = linalg.broadcast ins(%mean : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %d = arith.subf %v, %means : !x   %dd = arith.mulf %d, %d : !x
  %sq = linalg.reduce {arith.addf} ins(%dd : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %var = arith.divf %sq, %widths : tensor<?xf32>   %safe = arith.addf %var, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %o = arith.divf %d, %roots : !x
  return %o : !x
}

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x4xf32> {moe.name = "wr"}, %cb: !cb {moe.name = "cb"},
    %w1: !ups {moe.name = "w1"}, %w2: !downs {moe.name = "w2"}, %wp: tensor<24x2xf32> {moe.name = "wp"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?xi32> {moe.name = "code"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %i4 = arith.constant 4 : i32
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %f2 = arith.constant 2.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zc = tensor.splat %f0[%t] : !c
  %zp = tensor.splat %f0[%t] : !p   %zx = tensor.splat %f0[%t] : !x
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %best = moe.top_k %all k(2) : !moe.routing<?x4xf32>
  %r = moe.normalize %best by(softmax) : !r
  %a = func.call @experts(%r, %x, %w1, %w2) : (!r, !x, !ups, !downs) -> !x
  // argmin |x - c|^2 is argmax 2 x.c - |c|^2.
  %z10 = tensor.splat %f0 : tensor<10xf32>   %cc = arith.mulf %cb, %cb : !cb
  %norms = linalg.reduce {arith.addf} ins(%cc : !cb) outs(%z10 : tensor<10xf32>) dimensions = [1]
  %dots = linalg.contract indexing_maps = [affine_map<(t, c, d) -> (t, d)>, affine_map<(t, c, d) -> (c, d)>,
      affine_map<(t, c, d) -> (t, c)>] ins(%x, %cb : !x, !cb) outs(%zc : !c) -> !c
  %key = linalg.map ins(%dots : !c) outs(%zc : !c) (%dot: f32, %init: f32) {
    %j = linalg.index 1 : index   %norm = tensor.extract %norms[%j] : tensor<10xf32>
    %twice = arith.mulf %dot, %f2 : f32   %k = arith.subf %twice, %norm : f32
    linalg.yield %k : f32
  }
  %codes = moe.route %key : !c   %nearest = moe.top_k %codes k(1) : !moe.routing<?x10xf32>
  %code1, %w = moe.to_slots %nearest : !moe.routing<?x10xf32, max_per_row = 1>
  %code = tensor.collapse_shape %code1 [[0, 1]] : !i1 into tensor<?xi32>
  %q = tensor.generate %t {
  ^bb0(%i: index, %j: index):
    %k = tensor.extract %code[%i] : tensor<?xi32>   %ki = arith.index_cast %k : i32 to index
    %v = tensor.extract %cb[%ki, %j] : !cb
    tensor.yield %v : f32
  } : !x
  %fours = tensor.splat %i4[%t] : !i1   %expert = arith.remsi %code1, %fours : !i1   %ones = tensor.splat %f1[%t] : !w1s
  %named = moe.from_slots %expert, %ones experts(4) : !i1, !w1s
  %named2 = moe.cast %named : !one to !r
  %qn = func.call @layer_norm(%q) : (!x) -> !x
  %f = func.call @experts(%named2, %qn, %w1, %w2) : (!r, !x, !ups, !downs) -> !x
  %d = func.call @layer_norm(%f) : (!x) -> !x
  %branch = linalg.matmul ins(%x, %wp : !x, tensor<24x2xf32>) outs(%zp : !p) -> !p
  %pp = linalg.softmax dimension(1) ins(%branch : !p) outs(%zp : !p) -> !p
  %y = linalg.map ins(%a, %d : !x, !x) outs(%zx : !x) (%av: f32, %dv: f32, %init: f32) {
    %i = linalg.index 0 : index   %p1 = tensor.extract %pp[%i, %c0] : !p   %p2 = tensor.extract %pp[%i, %c1] : !p
    %pa = arith.mulf %p1, %av : f32   %pd = arith.mulf %p2, %dv : f32   %sum = arith.addf %pa, %pd : f32
    linalg.yield %sum : f32
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing, %code : !x, !e, tensor<?xi32>
}

func.func private @experts(%r: !r, %x: !x, %w1: !ups, %w2: !downs) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum) : !r, !x, !ups, !downs -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  return %y : !x
}
