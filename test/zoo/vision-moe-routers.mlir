// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Routers in Vision Mixture of Experts: An Empirical Study
//
// Six routers of one layer on the tokens of each image: token choice and expert choice, both on a softmax and on a
// Sinkhorn plan, a sparsity-constrained transport plan (found by gradient steps on its dual), and soft slots.
//
// Ops: top_k along either axis, limit in the order of ranks, select (the prefix that a projection on a simplex keeps),
// normalize along both axes, map, counts, cast (five routings, one function), from_slots, apply.

!x = tensor<14x20xf32>   !xb = tensor<?x14x20xf32>   !l = tensor<14x4xf32>   !lt = tensor<4x14xf32>
!out = tensor<5x?x14x4xf32>   !phi = tensor<20x4x3xf32>   !z = tensor<14x12xf32>   !zb = tensor<?x14x4x3xf32>
!slots = tensor<12x20xf32>   !a = tensor<14xf32>   !all = !moe.routing<14x4xf32>
!tok = !moe.routing<14x4xf32, max_per_row = 2>   !cols = !moe.routing<4x14xf32>
!own = !moe.routing<12x4xf32, max_per_row = 1>   !ups = tensor<4x20x28xf32>   !downs = tensor<4x28x20xf32>
!rows = tensor<?x20xf32>   !h = tensor<?x28xf32>

func.func @main(%x: !xb {moe.name = "x"}, %wr: tensor<20x4xf32> {moe.name = "wr"}, %phi: !phi {moe.name = "phi"},
    %w1: !ups {moe.name = "w1"}, %w2: !downs {moe.name = "w2"})
    -> (!xb {moe.name = "y_sm_token"}, !xb {moe.name = "y_sk_token"}, !xb {moe.name = "y_sm_expert"},
        !xb {moe.name = "y_sk_expert"}, !xb {moe.name = "y_sparse_expert"}, !xb {moe.name = "y_soft"},
        !out {moe.name = "routing"}, !zb {moe.name = "soft_combine"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %b = tensor.dim %x, %c0 : !xb   %zy = tensor.splat %f0[%b] : !xb   %zr = tensor.splat %f0[%b] : !out
  %zs = tensor.splat %f0[%b] : !zb
  %y:6, %routing, %soft = scf.for %i = %c0 to %b step %c1 iter_args(%a0 = %zy, %a1 = %zy, %a2 = %zy, %a3 = %zy,
      %a4 = %zy, %a5 = %zy, %ar = %zr, %as = %zs) -> (!xb, !xb, !xb, !xb, !xb, !xb, !out, !zb) {
    %xi = tensor.extract_slice %x[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !xb to !x   %zl = tensor.splat %f0 : !l
    %l = linalg.matmul ins(%xi, %wr : !x, tensor<20x4xf32>) outs(%zl : !l) -> !l
    %psm = linalg.softmax dimension(1) ins(%l : !l) outs(%zl : !l) -> !l
    %psk = func.call @sinkhorn(%l) : (!l) -> !l
    %g0 = func.call @token_choice(%psm) : (!l) -> !l   %g1 = func.call @token_choice(%psk) : (!l) -> !l
    %g2 = func.call @expert_choice(%psm) : (!l) -> !l   %g3 = func.call @expert_choice(%psk) : (!l) -> !l
    %g4 = func.call @transport(%l) : (!l) -> !l
    %y0 = func.call @experts(%xi, %g0, %w1, %w2) : (!x, !l, !ups, !downs) -> !x
    %y1 = func.call @experts(%xi, %g1, %w1, %w2) : (!x, !l, !ups, !downs) -> !x
    %y2 = func.call @experts(%xi, %g2, %w1, %w2) : (!x, !l, !ups, !downs) -> !x
    %y3 = func.call @experts(%xi, %g3, %w1, %w2) : (!x, !l, !ups, !downs) -> !x
    %y4 = func.call @experts(%xi, %g4, %w1, %w2) : (!x, !l, !ups, !downs) -> !x
    %y5, %c = func.call @soft_moe(%xi, %phi, %w1, %w2) : (!x, !phi, !ups, !downs) -> (!x, !z)
    %b0 = tensor.insert_slice %y0 into %a0[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !x into !xb
    %b1 = tensor.insert_slice %y1 into %a1[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !x into !xb
    %b2 = tensor.insert_slice %y2 into %a2[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !x into !xb
    %b3 = tensor.insert_slice %y3 into %a3[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !x into !xb
    %b4 = tensor.insert_slice %y4 into %a4[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !x into !xb
    %b5 = tensor.insert_slice %y5 into %a5[%i, 0, 0] [1, 14, 20] [1, 1, 1] : !x into !xb
    %r0 = tensor.insert_slice %g0 into %ar[0, %i, 0, 0] [1, 1, 14, 4] [1, 1, 1, 1] : !l into !out
    %r1 = tensor.insert_slice %g1 into %r0[1, %i, 0, 0] [1, 1, 14, 4] [1, 1, 1, 1] : !l into !out
    %r2 = tensor.insert_slice %g2 into %r1[2, %i, 0, 0] [1, 1, 14, 4] [1, 1, 1, 1] : !l into !out
    %r3 = tensor.insert_slice %g3 into %r2[3, %i, 0, 0] [1, 1, 14, 4] [1, 1, 1, 1] : !l into !out
    %r4 = tensor.insert_slice %g4 into %r3[4, %i, 0, 0] [1, 1, 14, 4] [1, 1, 1, 1] : !l into !out
    %c3 = tensor.expand_shape %c [[0], [1, 2]] output_shape [14, 4, 3] : !z into tensor<14x4x3xf32>
    %bs = tensor.insert_slice %c3 into %as[%i, 0, 0, 0] [1, 14, 4, 3] [1, 1, 1, 1] : tensor<14x4x3xf32> into !zb
    scf.yield %b0, %b1, %b2, %b3, %b4, %b5, %r4, %bs : !xb, !xb, !xb, !xb, !xb, !xb, !out, !zb
  }
  return %y#0, %y#1, %y#2, %y#3, %y#4, %y#5, %routing, %soft : !xb, !xb, !xb, !xb, !xb, !xb, !out, !zb
}

// Rows sum to one and columns to S / E = 3.5, in turns.
func.func private @sinkhorn(%l: !l) -> !l {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c5 = arith.constant 5 : index
  %share = arith.constant 3.5 : f32
  %all = moe.route %l : !l   %start = moe.normalize %all by(softmax) : !all
  %plan = scf.for %i = %c0 to %c5 step %c1 iter_args(%m = %start) -> !all {
    %rows = moe.normalize %m by(sum) : !all   %columns = moe.normalize %rows by(sum) axis(token) : !all
    %scaled = moe.map %columns {
    ^bb0(%w: f32, %row: index, %expert: index):
      %s = arith.mulf %w, %share : f32
      moe.yield %s : f32
    } : !all
    scf.yield %scaled : !all
  }
  %p = moe.to_dense %plan : !all
  return %p : !l
}

// The two best experts of each token; all first choices before all second ones, at most 7 tokens per expert.
func.func private @token_choice(%a: !l) -> !l {
  %all = moe.route %a : !l   %best = moe.top_k %all k(2) : !all
  %kept = moe.limit %best cap(7) order(rank_then_row) : !tok
  %any = moe.cast %kept : !moe.routing<14x4xf32, max_per_row = 2, max_per_expert = 7> to !all
  %g = moe.to_dense %any : !all
  return %g : !l
}

func.func private @expert_choice(%a: !l) -> !l {
  %all = moe.route %a : !l   %best = moe.top_k %all k(7) axis(token) : !all
  %any = moe.cast %best : !moe.routing<14x4xf32, max_per_expert = 7> to !all
  %g = moe.to_dense %any : !all
  return %g : !l
}

// Gradient steps on the dual of the transport problem: tokens that got too little are lifted.
func.func private @transport(%l: !l) -> !l {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c4 = arith.constant 4 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %eta = arith.constant 0.25 : f32
  %za = tensor.splat %f0 : !a   %zl = tensor.splat %f0 : !l   %ones = tensor.splat %f1 : !a
  %etas = tensor.splat %eta : !a
  %dual = scf.for %i = %c0 to %c4 step %c1 iter_args(%d = %za) -> !a {
    %g = func.call @project(%l, %d) : (!l, !a) -> !l
    %got = linalg.reduce {arith.addf} ins(%g : !l) outs(%za : !a) dimensions = [1]   %miss = arith.subf %ones, %got : !a
    %step = arith.mulf %miss, %etas : !a   %next = arith.addf %d, %step : !a
    scf.yield %next : !a
  }
  %g = func.call @project(%l, %dual) : (!l, !a) -> !l
  return %g : !l
}

// Of each expert's column the seven largest entries, projected on a simplex of size 3.5: an entry stays while all
// better ones leave room.
func.func private @project(%l: !l, %d: !a) -> !l {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c7 = arith.constant 7 : index
  %f0 = arith.constant 0.0 : f32   %share = arith.constant 3.5 : f32
  %zl = tensor.splat %f0 : !l   %zlt = tensor.splat %f0 : !lt   %zv = tensor.splat %f0 : tensor<4xf32>
  %ds = linalg.broadcast ins(%d : !a) outs(%zl : !l) dimensions = [1]   %v = arith.addf %l, %ds : !l
  %vt = linalg.transpose ins(%v : !l) outs(%zlt : !lt) permutation = [1, 0]   %columns = moe.route %vt : !lt
  %kept = moe.select %columns {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %token: index):
    %n = arith.addi %rank, %c1 : index   %ni = arith.index_cast %n : index to i32   %nf = arith.sitofp %ni : i32 to f32
    %need = arith.mulf %key, %nf : f32   %room = arith.addf %need, %share : f32   %sum = arith.addf %before, %key : f32
    %fits = arith.cmpf ogt, %room, %sum : f32   %among = arith.cmpi ult, %rank, %c7 : index
    %in = arith.andi %fits, %among : i1
    moe.yield %in : i1
  } : !cols
  %counts = moe.counts %kept per(row) : !cols   %weights = moe.to_dense %kept : !cols
  %sums = linalg.reduce {arith.addf} ins(%weights : !lt) outs(%zv : tensor<4xf32>) dimensions = [1]
  %g = moe.map %kept {
  ^bb0(%w: f32, %row: index, %token: index):
    %s = tensor.extract %sums[%row] : tensor<4xf32>   %n = tensor.extract %counts[%row] : tensor<4xi32>
    %nf = arith.sitofp %n : i32 to f32   %over = arith.subf %s, %share : f32   %theta = arith.divf %over, %nf : f32
    %o = arith.subf %w, %theta : f32   %pos = arith.maximumf %o, %f0 : f32
    moe.yield %pos : f32
  } : !cols
  %gt = moe.to_dense %g : !cols   %back = linalg.transpose ins(%gt : !lt) outs(%zl : !l) permutation = [1, 0]
  return %back : !l
}

func.func private @experts(%x: !x, %g: !l, %w1: !ups, %w2: !downs) -> !x {
  %f0 = arith.constant 0.0 : f32
  %zl = tensor.splat %f0 : !l   %used = arith.cmpf one, %g, %zl : !l
  %r = moe.route %g mask(%used : tensor<14x4xi1>) : !l
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum) : !all, !x, !ups, !downs -> !x {
  ^bb0(%v: !rows, %up: tensor<20x28xf32>, %down: tensor<28x20xf32>):
    %o = func.call @ffn(%v, %up, %down) : (!rows, tensor<20x28xf32>, tensor<28x20xf32>) -> !rows
    moe.yield %o : !rows
  }
  return %y : !x
}

func.func private @soft_moe(%x: !x, %phi: !phi, %w1: !ups, %w2: !downs) -> (!x, !z) {
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %zz = tensor.splat %f0 : !z   %zslots = tensor.splat %f0 : !slots   %zx = tensor.splat %f0 : !x
  %flat = tensor.collapse_shape %phi [[0], [1, 2]] : !phi into tensor<20x12xf32>
  %l = linalg.matmul ins(%x, %flat : !x, tensor<20x12xf32>) outs(%zz : !z) -> !z
  %dispatch = linalg.softmax dimension(0) ins(%l : !z) outs(%zz : !z) -> !z
  %combine = linalg.softmax dimension(1) ins(%l : !z) outs(%zz : !z) -> !z
  %slots = linalg.contract indexing_maps = [affine_map<(s, d, t) -> (t, s)>, affine_map<(s, d, t) -> (t, d)>,
      affine_map<(s, d, t) -> (s, d)>] ins(%dispatch, %x : !z, !x) outs(%zslots : !slots) -> !slots
  %owner = arith.constant dense<[[0], [0], [0], [1], [1], [1], [2], [2], [2], [3], [3], [3]]> : tensor<12x1xi32>
  %ones = tensor.splat %f1 : tensor<12x1xf32>
  %r = moe.from_slots %owner, %ones experts(4) : tensor<12x1xi32>, tensor<12x1xf32>
  %out = moe.apply %r rows(%slots) experts(%w1, %w2) out(sum) : !own, !slots, !ups, !downs -> !slots {
  ^bb0(%v: !rows, %up: tensor<20x28xf32>, %down: tensor<28x20xf32>):
    %o = func.call @ffn(%v, %up, %down) : (!rows, tensor<20x28xf32>, tensor<28x20xf32>) -> !rows
    moe.yield %o : !rows
  }
  %y = linalg.matmul ins(%combine, %out : !z, !slots) outs(%zx : !x) -> !x
  return %y, %combine : !x, !z
}

func.func private @ffn(%v: !rows, %up: tensor<20x28xf32>, %down: tensor<28x20xf32>) -> !rows {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %n = tensor.dim %v, %c0 : !rows   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !rows
  %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
  %a = linalg.matmul ins(%v, %up : !rows, tensor<20x28xf32>) outs(%zh : !h) -> !h
  %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
  %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
  %o = linalg.matmul ins(%g, %down : !h, tensor<28x20xf32>) outs(%zx : !rows) -> !rows
  return %o : !rows
}
