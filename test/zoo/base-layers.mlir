// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// BASE Layers: Simplifying Training of Large, Sparse Models
//
// Balanced assignment: every token gets one expert and every expert the same number of tokens, so that the sum of the
// affinities is largest; a greedy choice is used at inference. The chosen expert is weighted by the sigmoid of the
// affinity.
//
// Ops: from_slots (experts by number, weights beside them), top_k with to_slots as argmax, apply. The assignment is
// upstream: tokens enter one after the other along the cheapest chain of moves between experts.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !s = tensor<?x4xf32>   !i = tensor<?xi32>   !id = tensor<?x1xi32>
!w = tensor<?x1xf32>   !m = tensor<4x4xf32>   !mi = tensor<4x4xindex>   !d = tensor<4xf32>   !di = tensor<4xindex>
!r = !moe.routing<?x4xf32, max_per_row = 1>   !we = tensor<4x24xf32>   !up = tensor<24x40xf32>
!down = tensor<40x24xf32>   !ups = tensor<4x24x40xf32>   !downs = tensor<4x40x24xf32>

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

func.func @main(%x: !x {moe.name = "x"}, %wa: !we {moe.name = "wa"}, %w1: !ups {moe.name = "w1"},
    %w2: !downs {moe.name = "w2"})
    -> (!x {moe.name = "y_bal"}, !i {moe.name = "assign_bal"}, !x {moe.name = "y_greedy"},
        !i {moe.name = "assign_greedy"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s   %normed = func.call @layer_norm(%x) : (!x) -> !x
  %s = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>] ins(%x, %wa : !x, !we) outs(%zs : !s) -> !s
  %assign_bal = func.call @balanced(%s) : (!s) -> !i
  %all = moe.route %s : !s   %best = moe.top_k %all k(1) : !moe.routing<?x4xf32>
  %greedy1, %best_s = moe.to_slots %best : !r   %assign_greedy = tensor.collapse_shape %greedy1 [[0, 1]] : !id into !i
  %y_bal = func.call @layer(%x, %normed, %s, %assign_bal, %w1, %w2) : (!x, !x, !s, !i, !ups, !downs) -> !x
  %y_greedy = func.call @layer(%x, %normed, %s, %assign_greedy, %w1, %w2) : (!x, !x, !s, !i, !ups, !downs) -> !x
  return %y_bal, %assign_bal, %y_greedy, %assign_greedy : !x, !i, !x, !i
}

func.func private @layer(%x: !x, %normed: !x, %s: !s, %to: !i, %w1: !ups, %w2: !downs) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x
  %gates = tensor.generate %t {
  ^bb0(%i: index, %j: index):
    %e = tensor.extract %to[%i] : !i   %ei = arith.index_cast %e : i32 to index   %v = tensor.extract %s[%i, %ei] : !s
    %m = arith.negf %v : f32   %ex_ = math.exp %m : f32   %den = arith.addf %ex_, %f1 : f32
    %g = arith.divf %f1, %den : f32
    tensor.yield %g : f32
  } : !w
  %ids = tensor.expand_shape %to [[0, 1]] output_shape [%t, 1] : !i into !id
  %r = moe.from_slots %ids, %gates experts(4) : !id, !w
  %o = moe.apply %r rows(%normed) experts(%w1, %w2) weighted(after) out(sum) : !r, !x, !ups, !downs -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %f = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %f : !x
  }
  %y = arith.addf %x, %o : !x
  return %y : !x
}

// The assignment with the largest sum, at most ceil(T / 4) tokens per expert.
func.func private @balanced(%s: !s) -> !i {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c4 = arith.constant 4 : index
  %c16 = arith.constant 16 : index   %im1 = arith.constant -1 : i32   %inf = arith.constant 0x7F800000 : f32
  %t = tensor.dim %s, %c0 : !s   %cap = arith.ceildivui %t, %c4 : index   %none = tensor.splat %im1[%t] : !i
  %far = tensor.splat %inf : !m   %zero = tensor.splat %c0 : !di   %zero2 = tensor.splat %c0 : !mi
  %final, %counts = scf.for %token = %c0 to %t step %c1 iter_args(%assign = %none, %count = %zero) -> (!i, !di) {
    // What it costs to move a token from expert a to b, and which one is the cheapest.
    %move, %who = scf.for %u = %c0 to %token step %c1 iter_args(%cost = %far, %by = %zero2) -> (!m, !mi) {
      %a32 = tensor.extract %assign[%u] : !i   %a = arith.index_cast %a32 : i32 to index
      %own = tensor.extract %s[%u, %a] : !s
      %cost_u, %by_u = scf.for %b = %c0 to %c4 step %c1 iter_args(%c = %cost, %w = %by) -> (!m, !mi) {
        %other = tensor.extract %s[%u, %b] : !s   %loss = arith.subf %own, %other : f32
        %old = tensor.extract %c[%a, %b] : !m   %who_old = tensor.extract %w[%a, %b] : !mi
        %less = arith.cmpf olt, %loss, %old : f32   %cheapest = arith.select %less, %loss, %old : f32
        %who_new = arith.select %less, %u, %who_old : index
        %c1_ = tensor.insert %cheapest into %c[%a, %b] : !m   %w1_ = tensor.insert %who_new into %w[%a, %b] : !mi
        scf.yield %c1_, %w1_ : !m, !mi
      }
      scf.yield %cost_u, %by_u : !m, !mi
    }
    // The cheapest chain that ends at each expert: `from` is the expert before, or the expert itself where the token
    // enters.
    %row = tensor.extract_slice %s[%token, 0] [1, 4] [1, 1] : !s to !d   %enter = arith.negf %row : !d
    %self = arith.constant dense<[0, 1, 2, 3]> : !di
    %dist, %from = scf.for %round = %c1 to %c4 step %c1 iter_args(%d0 = %enter, %f = %self) -> (!d, !di) {
      %d3, %f3 = scf.for %ab = %c0 to %c16 step %c1 iter_args(%d1 = %d0, %f1 = %f) -> (!d, !di) {
        %a = arith.divui %ab, %c4 : index   %b = arith.remui %ab, %c4 : index
        %da = tensor.extract %d1[%a] : !d   %step = tensor.extract %move[%a, %b] : !m
        %via = arith.addf %da, %step : f32   %db = tensor.extract %d1[%b] : !d   %fb = tensor.extract %f1[%b] : !di
        %less = arith.cmpf olt, %via, %db : f32
        %best = arith.select %less, %via, %db : f32   %prev = arith.select %less, %a, %fb : index
        %d2 = tensor.insert %best into %d1[%b] : !d   %f2 = tensor.insert %prev into %f1[%b] : !di
        scf.yield %d2, %f2 : !d, !di
      }
      scf.yield %d3, %f3 : !d, !di
    }
    // The end of the chain is the cheapest expert with room.
    %end, %least = scf.for %b = %c0 to %c4 step %c1 iter_args(%at = %c0, %lowest = %inf) -> (index, f32) {
      %n = tensor.extract %count[%b] : !di   %db = tensor.extract %dist[%b] : !d
      %room = arith.cmpi ult, %n, %cap : index   %less = arith.cmpf olt, %db, %lowest : f32
      %take = arith.andi %room, %less : i1
      %at_next = arith.select %take, %b, %at : index   %lowest_next = arith.select %take, %db, %lowest : f32
      scf.yield %at_next, %lowest_next : index, f32
    }
    %n_end = tensor.extract %count[%end] : !di   %n_more = arith.addi %n_end, %c1 : index
    %count_next = tensor.insert %n_more into %count[%end] : !di
    // Every token on the chain moves to the next expert; the new one enters at its beginning.
    %moved, %first = scf.for %round = %c1 to %c4 step %c1 iter_args(%as = %assign, %b = %end) -> (!i, index) {
      %a = tensor.extract %from[%b] : !di   %last = arith.cmpi eq, %a, %b : index
      %mover = tensor.extract %who[%a, %b] : !mi   %who_moves = arith.select %last, %token, %mover : index
      %b32 = arith.index_cast %b : index to i32
      %as_next = tensor.insert %b32 into %as[%who_moves] : !i
      scf.yield %as_next, %a : !i, index
    }
    %first32 = arith.index_cast %first : index to i32   %assign_next = tensor.insert %first32 into %moved[%token] : !i
    scf.yield %assign_next, %count_next : !i, !di
  }
  return %final : !i
}
