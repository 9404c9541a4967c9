// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Gated Attention for Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free
//
// Attention with fewer key and value heads than query heads, whose outputs pass a sigmoid gate of the input: one per
// element, or one per head. A mixture in which every expert (head) runs for every token.
//
// Ops: none of the dialect: the gate scales all heads' outputs.

!x = tensor<?x?x24xf32>   !q = tensor<?x?x3x2x4xf32>   !k = tensor<?x?x3x4xf32>   !sc = tensor<?x3x2x?x?xf32>
!g = tensor<?x?x6xf32>   !gh = tensor<?x?x3x2xf32>   !w = tensor<24x24xf32>   !wk = tensor<24x12xf32>
!kd = tensor<?x?x12xf32>

func.func @main(%x: !x {moe.name = "x"}, %wq: !w {moe.name = "wq"}, %wk: !wk {moe.name = "wk"},
    %wv: !wk {moe.name = "wv"}, %wo: !w {moe.name = "wo"}, %wge: !w {moe.name = "wge"},
    %wgh: tensor<24x6xf32> {moe.name = "wgh"})
    -> (!x {moe.name = "y_elem"}, !x {moe.name = "y_head"}, !g {moe.name = "gate_head"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %minf = arith.constant 0xFF800000 : f32
  %b = tensor.dim %x, %c0 : !x   %n = tensor.dim %x, %c1 : !x   %zx = tensor.splat %f0[%b, %n] : !x
  %zk = tensor.splat %f0[%b, %n] : !kd   %zsc = tensor.splat %f0[%b, %n, %n] : !sc   %zq = tensor.splat %f0[%b, %n] : !q
  %zg = tensor.splat %f0[%b, %n] : !g
  %q0 = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%x, %wq : !x, !w) outs(%zx : !x) -> !x
  %k0 = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%x, %wk : !x, !wk) outs(%zk : !kd) -> !kd
  %v0 = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%x, %wv : !x, !wk) outs(%zk : !kd) -> !kd
  %qh = tensor.expand_shape %q0 [[0], [1], [2, 3, 4]] output_shape [%b, %n, 3, 2, 4] : !x into !q
  %kh = tensor.expand_shape %k0 [[0], [1], [2, 3]] output_shape [%b, %n, 3, 4] : !kd into !k
  %vh = tensor.expand_shape %v0 [[0], [1], [2, 3]] output_shape [%b, %n, 3, 4] : !kd into !k
  %dots = linalg.contract indexing_maps = [affine_map<(b, g, h, s, j, d) -> (b, s, g, h, d)>,
      affine_map<(b, g, h, s, j, d) -> (b, j, g, d)>, affine_map<(b, g, h, s, j, d) -> (b, g, h, s, j)>] ins(%qh, %kh
          : !q, !k) outs(%zsc : !sc) -> !sc
  %masked = linalg.map ins(%dots : !sc) outs(%zsc : !sc) (%v: f32, %init: f32) {
    %i = linalg.index 3 : index   %j = linalg.index 4 : index   %past = arith.cmpi ule, %j, %i : index
    %sv = arith.mulf %v, %half : f32   %o = arith.select %past, %sv, %minf : f32
    linalg.yield %o : f32
  }
  %p = linalg.softmax dimension(4) ins(%masked : !sc) outs(%zsc : !sc) -> !sc
  %heads = linalg.contract indexing_maps = [affine_map<(b, s, g, h, d, j) -> (b, g, h, s, j)>,
      affine_map<(b, s, g, h, d, j) -> (b, j, g, d)>, affine_map<(b, s, g, h, d, j) -> (b, s, g, h, d)>] ins(%p, %vh
          : !sc, !k) outs(%zq : !q) -> !q
  %y0 = tensor.collapse_shape %heads [[0], [1], [2, 3, 4]] : !q into !x
  %ones = tensor.splat %f1[%b, %n] : !x   %ones_g = tensor.splat %f1[%b, %n] : !g
  %le = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%x, %wge : !x, !w) outs(%zx : !x) -> !x
  %ge_n = arith.negf %le : !x   %ge_e = math.exp %ge_n : !x   %ge_d = arith.addf %ge_e, %ones : !x
  %ge = arith.divf %ones, %ge_d : !x   %elem = arith.mulf %y0, %ge : !x
  %y_elem = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%elem, %wo : !x, !w) outs(%zx : !x) -> !x
  %lh = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%x, %wgh : !x, tensor<24x6xf32>) outs(%zg : !g) -> !g
  %gate_head_n = arith.negf %lh : !g   %gate_head_e = math.exp %gate_head_n : !g
  %gate_head_d = arith.addf %gate_head_e, %ones_g : !g   %gate_head = arith.divf %ones_g, %gate_head_d : !g
  %gh = tensor.expand_shape %gate_head [[0], [1], [2, 3]] output_shape [%b, %n, 3, 2] : !g into !gh
  %ghb = linalg.broadcast ins(%gh : !gh) outs(%zq : !q) dimensions = [4]   %hgated = arith.mulf %heads, %ghb : !q
  %hflat = tensor.collapse_shape %hgated [[0], [1], [2, 3, 4]] : !q into !x
  %y_head = linalg.contract indexing_maps = [affine_map<(b, s, c, d) -> (b, s, d)>, affine_map<(b, s, c, d) -> (d, c)>,
      affine_map<(b, s, c, d) -> (b, s, c)>] ins(%hflat, %wo : !x, !w) outs(%zx : !x) -> !x
  return %y_elem, %y_head, %gate_head : !x, !x, !g
}
