// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Taming Sparsely Activated Transformer with Stochastic Experts
//
// No gate: a uniformly drawn expert processes each input with weight 1. Three layers draw per token, per sequence and
// per batch, from explicit random numbers; a second result is the ensemble in which every layer averages all experts.
//
// Ops: from_slots (experts by number), route of everything with out(mean) for the ensemble, apply in scf.for over the
// layers.

!bt = tensor<2x?xf32>   !btd = tensor<2x?x24xf32>   !ids = tensor<3x2x?xi32>   !x = tensor<?x24xf32>
!h = tensor<?x40xf32>   !up = tensor<5x24x40xf32>   !down = tensor<5x40x24xf32>
!r = !moe.routing<?x5xf32, max_per_row = 1>   !all = !moe.routing<?x5xf32>

func.func @main(%x: !btd {moe.name = "x"}, %u_tok: !bt {moe.name = "u_tok"}, %u_seq: tensor<2xf32> {moe.name = "u_seq"},
    %u_batch: tensor<1xf32> {moe.name = "u_batch"}, %w1: tensor<3x5x24x40xf32> {moe.name = "w1"},
    %w2: tensor<3x5x40x24xf32> {moe.name = "w2"})
    -> (!btd {moe.name = "y"}, !ids {moe.name = "experts"}, !btd {moe.name = "y_ens"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %i0 = arith.constant 0 : i32   %last = arith.constant 4 : i32   %f1 = arith.constant 1.0 : f32
  %count = arith.constant 5.0 : f32
  %seq = tensor.dim %x, %c1 : !btd
  %tokens = tensor.collapse_shape %x [[0, 1], [2]] : !btd into !x
  %t = tensor.dim %tokens, %c0 : !x
  %whole = tensor.extract %u_batch[%c0] : tensor<1xf32>
  %zi = tensor.splat %i0[%seq] : !ids
  %experts = linalg.generic {indexing_maps = [affine_map<(l, b, t) -> (b, t)>, affine_map<(l, b, t) -> (b)>,
      affine_map<(l, b, t) -> (l, b, t)>],
      iterator_types = ["parallel", "parallel", "parallel"]} ins(%u_tok, %u_seq : !bt, tensor<2xf32>) outs(%zi : !ids) {
  ^bb0(%tok: f32, %sequence: f32, %init: i32):
    %l = linalg.index 0 : index   %first = arith.cmpi eq, %l, %c0 : index   %second = arith.cmpi eq, %l, %c1 : index
    %later = arith.select %second, %sequence, %whole : f32   %u = arith.select %first, %tok, %later : f32
    %scaled = arith.mulf %u, %count : f32   %floor = arith.fptosi %scaled : f32 to i32
    %id = arith.minsi %floor, %last : i32
    linalg.yield %id : i32
  } -> !ids
  %flat = tensor.collapse_shape %experts [[0], [1, 2]] : !ids into tensor<3x?xi32>
  %ones = tensor.splat %f1[%t] : tensor<?x1xf32>   %every = tensor.splat %f1[%t] : tensor<?x5xf32>
  %all = moe.route %every : tensor<?x5xf32>
  %y, %ensemble = scf.for %l = %c0 to %c3 step %c1 iter_args(%v = %tokens, %e = %tokens) -> (!x, !x) {
    %up = tensor.extract_slice %w1[%l, 0, 0, 0] [1, 5, 24, 40] [1, 1, 1, 1] : tensor<3x5x24x40xf32> to !up
    %down = tensor.extract_slice %w2[%l, 0, 0, 0] [1, 5, 40, 24] [1, 1, 1, 1] : tensor<3x5x40x24xf32> to !down
    %row = tensor.extract_slice %flat[%l, 0] [1, %t] [1, 1] : tensor<3x?xi32> to tensor<?xi32>
    %ids = tensor.expand_shape %row [[0, 1]] output_shape [%t, 1] : tensor<?xi32> into tensor<?x1xi32>
    %r = moe.from_slots %ids, %ones experts(5) : tensor<?x1xi32>, tensor<?x1xf32>
    %o = moe.apply %r rows(%v) experts(%up, %down) out(sum) : !r, !x, !up, !down -> !x {
    ^bb0(%rows: !x, %u: tensor<24x40xf32>, %d: tensor<40x24xf32>):
      %f = func.call @ffn(%rows, %u, %d) : (!x, tensor<24x40xf32>, tensor<40x24xf32>) -> !x
      moe.yield %f : !x
    }
    %mean = moe.apply %all rows(%e) experts(%up, %down) out(mean) : !all, !x, !up, !down -> !x {
    ^bb0(%rows: !x, %u: tensor<24x40xf32>, %d: tensor<40x24xf32>):
      %f = func.call @ffn(%rows, %u, %d) : (!x, tensor<24x40xf32>, tensor<40x24xf32>) -> !x
      moe.yield %f : !x
    }
    %v_next = arith.addf %v, %o : !x   %e_next = arith.addf %e, %mean : !x
    scf.yield %v_next, %e_next : !x, !x
  }
  %y3 = tensor.expand_shape %y [[0, 1], [2]] output_shape [2, %seq, 24] : !x into !btd
  %ens3 = tensor.expand_shape %ensemble [[0, 1], [2]] output_shape [2, %seq, 24] : !x into !btd
  return %y3, %experts, %ens3 : !btd, !ids, !btd
}

func.func private @ffn(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
  %h = arith.maximumf %a, %zh : !h
  %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
  return %o : !x
}
