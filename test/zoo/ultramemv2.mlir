// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// UltraMemV2: Memory Networks Scaling to 120B Parameters with Superior Long-Context Learning
//
// A memory of cells addressed by rows and columns of a grid per pair of key groups: rows and columns are chosen first,
// then the best cells over all pairs; a table maps cells to value slots, which several cells may share.
//
// Ops: top_k per group with to_dense of(mask) (rows and columns), route with the product of the masks, top_k over all
// cells, to_slots, from_slots (cell to slot; a slot that is named twice counts twice), apply pair by pair, to_dense.

!x = tensor<?x24xf32>   !s = tensor<?x2x2x7xf32>   !ar = tensor<?x2x7xf32>   !arf = tensor<?x7xf32>
!m = tensor<?x7xi1>   !m3 = tensor<?x2x7xi1>   !k = tensor<?x2x7x2x7xf32>   !cells = tensor<?x196xf32>
!cm = tensor<?x196xi1>   !v = tensor<?x12xf32>   !p = tensor<?x9xf32>   !id = tensor<?x5xi32>   !w5 = tensor<?x5xf32>
!rm = !moe.routing<?x7xf32, max_per_row = 4>   !top = !moe.routing<?x196xf32, max_per_row = 5>
!r = !moe.routing<?x40xf32, max_per_row = 5>

func.func @main(%x: !x {moe.name = "x"}, %wqr: tensor<2x2x24x10xf32> {moe.name = "wqr"},
    %wqc: tensor<2x2x24x10xf32> {moe.name = "wqc"}, %kr: tensor<2x2x7x10xf32> {moe.name = "kr"},
    %kc: tensor<2x2x7x10xf32> {moe.name = "kc"}, %core: tensor<2x2x2x2xf32> {moe.name = "core"},
    %rvec: tensor<2x2xf32> {moe.name = "rvec"}, %cvec: tensor<2x2xf32> {moe.name = "cvec"},
    %slot: tensor<4x49xi32> {moe.name = "slot"}, %wpre: tensor<24x9xf32> {moe.name = "wpre"},
    %u: tensor<40x9xf32> {moe.name = "u"}, %v: tensor<40x12xf32> {moe.name = "v"},
    %wexp: tensor<12x24xf32> {moe.name = "wexp"}) -> (!x {moe.name = "y"}, tensor<?x4x49xf32> {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x
  %srow = func.call @scores(%x, %wqr, %kr) : (!x, tensor<2x2x24x10xf32>, tensor<2x2x7x10xf32>) -> !s
  %scol = func.call @scores(%x, %wqc, %kc) : (!x, tensor<2x2x24x10xf32>, tensor<2x2x7x10xf32>) -> !s
  %row_masks = func.call @best(%srow, %rvec) : (!s, tensor<2x2xf32>) -> !m3
  %col_masks = func.call @best(%scol, %cvec) : (!s, tensor<2x2xf32>) -> !m3
  %z2 = tensor.splat %f0[%t] : tensor<?x2x7x2x2xf32>
  %half = linalg.contract indexing_maps = [affine_map<(t, p, i, q, b, a) -> (t, p, a, i)>,
      affine_map<(t, p, i, q, b, a) -> (p, q, a, b)>, affine_map<(t, p, i, q, b, a) -> (t, p, i, q, b)>] ins(%srow,
          %core : !s, tensor<2x2x2x2xf32>) outs(%z2 : tensor<?x2x7x2x2xf32>) -> tensor<?x2x7x2x2xf32>
  // The two halves meet in every cell (p, q, i, j).
  %k5 = tensor.splat %f0[%t] : tensor<?x2x2x7x7xf32>
  %cells5 = linalg.contract indexing_maps = [affine_map<(t, p, q, i, j, b) -> (t, p, i, q, b)>,
      affine_map<(t, p, q, i, j, b) -> (t, q, b, j)>, affine_map<(t, p, q, i, j, b) -> (t, p, q, i, j)>] ins(%half,
          %scol : tensor<?x2x7x2x2xf32>, !s) outs(%k5 : tensor<?x2x2x7x7xf32>) -> tensor<?x2x2x7x7xf32>
  %cells = tensor.collapse_shape %cells5 [[0], [1, 2, 3, 4]] : tensor<?x2x2x7x7xf32> into !cells
  %open5 = tensor.generate %t {
  ^bb0(%i: index, %p: index, %q: index, %a: index, %b: index):
    %in_row = tensor.extract %row_masks[%i, %p, %a] : !m3   %in_col = tensor.extract %col_masks[%i, %q, %b] : !m3
    %both = arith.andi %in_row, %in_col : i1
    tensor.yield %both : i1
  } : tensor<?x2x2x7x7xi1>
  %open = tensor.collapse_shape %open5 [[0], [1, 2, 3, 4]] : tensor<?x2x2x7x7xi1> into !cm
  %found = moe.route %cells mask(%open : !cm) : !cells   %chosen = moe.top_k %found k(5) : !moe.routing<?x196xf32>
  %flat = moe.to_dense %chosen : !top
  %routing = tensor.expand_shape %flat [[0], [1, 2]] output_shape [%t, 4, 49] : !cells into tensor<?x4x49xf32>
  %cell, %score = moe.to_slots %chosen : !top
  %table = tensor.collapse_shape %slot [[0, 1]] : tensor<4x49xi32> into tensor<196xi32>
  %slots = linalg.map ins(%cell : !id) outs(%cell : !id) (%c: i32, %init: i32) {
    %i0 = arith.constant 0 : i32   %im1 = arith.constant -1 : i32
    %empty = arith.cmpi slt, %c, %i0 : i32   %safe = arith.select %empty, %i0, %c : i32
    %ci = arith.index_cast %safe : i32 to index   %named = tensor.extract %table[%ci] : tensor<196xi32>
    %o = arith.select %empty, %im1, %named : i32
    linalg.yield %o : i32
  }
  %values = moe.from_slots %slots, %score experts(40) : !id, !w5
  %zp = tensor.splat %f0[%t] : !p   %xp = linalg.matmul ins(%x, %wpre : !x, tensor<24x9xf32>) outs(%zp : !p) -> !p
  %acc = moe.apply %values rows(%xp) experts(%u, %v) weighted(after) out(sum) : !r, !p, tensor<40x9xf32>,
      tensor<40x12xf32> -> !v {
  ^bb0(%xs: !p, %key: tensor<9xf32>, %value: tensor<12xf32>):
    %n = tensor.dim %xs, %c0 : !p   %zn = tensor.splat %f0[%n] : tensor<?xf32>   %zv = tensor.splat %f0[%n] : !v
    %dot = linalg.matvec ins(%xs, %key : !p, tensor<9xf32>) outs(%zn : tensor<?xf32>) -> tensor<?xf32>
    %dots = linalg.broadcast ins(%dot : tensor<?xf32>) outs(%zv : !v) dimensions = [1]
    %vals = linalg.broadcast ins(%value : tensor<12xf32>) outs(%zv : !v) dimensions = [0]
    %o = arith.mulf %dots, %vals : !v
    moe.yield %o : !v
  }
  %y = linalg.matmul ins(%acc, %wexp : !v, tensor<12x24xf32>) outs(%x : !x) -> !x
  return %y, %routing : !x, tensor<?x4x49xf32>
}

// The scores of the rows (or columns) of every group and rank.
func.func private @scores(%x: !x, %w: tensor<2x2x24x10xf32>, %keys: tensor<2x2x7x10xf32>) -> !s {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zq = tensor.splat %f0[%t] : tensor<?x2x2x10xf32>   %zs = tensor.splat %f0[%t] : !s
  %q = linalg.contract indexing_maps = [affine_map<(t, p, a, k, d) -> (t, d)>,
      affine_map<(t, p, a, k, d) -> (p, a, d, k)>, affine_map<(t, p, a, k, d) -> (t, p, a, k)>] ins(%x, %w
          : !x, tensor<2x2x24x10xf32>) outs(%zq : tensor<?x2x2x10xf32>) -> tensor<?x2x2x10xf32>
  %s = linalg.contract indexing_maps = [affine_map<(t, p, a, i, k) -> (t, p, a, k)>,
      affine_map<(t, p, a, i, k) -> (p, a, i, k)>, affine_map<(t, p, a, i, k) -> (t, p, a, i)>] ins(%q, %keys
          : tensor<?x2x2x10xf32>, tensor<2x2x7x10xf32>) outs(%zs : !s) -> !s
  return %s : !s
}

// The four best rows (or columns) of every group, by the scores' mixture over the ranks.
func.func private @best(%s: !s, %w: tensor<2x2xf32>) -> !m3 {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %s, %c0 : !s   %za = tensor.splat %f0[%t] : !ar
  %a = linalg.contract indexing_maps = [affine_map<(t, p, i, a) -> (t, p, a, i)>, affine_map<(t, p, i, a) -> (p, a)>,
      affine_map<(t, p, i, a) -> (t, p, i)>] ins(%s, %w : !s, tensor<2x2xf32>) outs(%za : !ar) -> !ar
  %flat = tensor.collapse_shape %a [[0, 1], [2]] : !ar into !arf   %all = moe.route %flat : !arf
  %kept = moe.top_k %all k(4) : !moe.routing<?x7xf32>
  %mask = moe.to_dense %kept of(mask) : !rm
  %m3 = tensor.expand_shape %mask [[0, 1], [2]] output_shape [%t, 2, 7] : !m into !m3
  return %m3 : !m3
}
