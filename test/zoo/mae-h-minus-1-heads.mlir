// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// A Mixture of h-1 Heads is Better than h Heads
//
// Each expert is an attention layer without one of its heads; the gate mixes them, so that a head's weight is one minus
// its own gate.
//
// Ops: none of the dialect: the experts' sum is regrouped by head and every head runs once.

!x = tensor<?x24xf32>   !h = tensor<4xf32>   !c = tensor<4x?x6xf32>   !sc = tensor<4x?x?xf32>   !wp = tensor<4x24x6xf32>
!wo = tensor<4x6x24xf32>   !one = tensor<1x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wa: tensor<24x10xf32> {moe.name = "wa"},
    %ba: tensor<10xf32> {moe.name = "ba"}, %wb: tensor<10x4xf32> {moe.name = "wb"}, %wq: !wp {moe.name = "wq"},
    %wk: !wp {moe.name = "wk"}, %wv: !wp {moe.name = "wv"}, %wo: !wo {moe.name = "wo"})
    -> (!x {moe.name = "y"}, !h {moe.name = "gate"}, !h {moe.name = "headw"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %scale = arith.constant 0.40824829046386302 : f32   %third = arith.constant 1.3333333333333333 : f32
  %t = tensor.dim %x, %c0 : !x   %zo = tensor.splat %f0 : !one   %z10 = tensor.splat %f0 : tensor<1x10xf32>
  %z14 = tensor.splat %f0 : tensor<1x4xf32>   %zc = tensor.splat %f0[%t] : !c   %zsc = tensor.splat %f0[%t, %t] : !sc
  %zx = tensor.splat %f0[%t] : !x   %z24 = tensor.splat %f0 : tensor<24xf32>   %zh = tensor.splat %f0 : !h
  %sum = linalg.reduce {arith.addf} ins(%x : !x) outs(%z24 : tensor<24xf32>) dimensions = [0]
  %ti = arith.index_cast %t : index to i32   %tf = arith.sitofp %ti : i32 to f32
  %count = tensor.splat %tf : tensor<24xf32>   %mean0 = arith.divf %sum, %count : tensor<24xf32>
  %mean = tensor.expand_shape %mean0 [[0, 1]] output_shape [1, 24] : tensor<24xf32> into !one
  %ba2 = tensor.expand_shape %ba [[0, 1]] output_shape [1, 10] : tensor<10xf32> into tensor<1x10xf32>
  %u = linalg.matmul ins(%mean, %wa : !one, tensor<24x10xf32>) outs(%ba2 : tensor<1x10xf32>) -> tensor<1x10xf32>
  %v = math.tanh %u : tensor<1x10xf32>
  %l = linalg.matmul ins(%v, %wb : tensor<1x10xf32>, tensor<10x4xf32>) outs(%z14 : tensor<1x4xf32>) -> tensor<1x4xf32>
  %g1 = linalg.softmax dimension(1) ins(%l : tensor<1x4xf32>) outs(%z14 : tensor<1x4xf32>) -> tensor<1x4xf32>
  %gate = tensor.collapse_shape %g1 [[0, 1]] : tensor<1x4xf32> into !h
  %ones = tensor.splat %f1 : !h   %thirds = tensor.splat %third : !h   %rest = arith.subf %ones, %gate : !h
  %headw = arith.mulf %rest, %thirds : !h
  %q = linalg.contract indexing_maps = [affine_map<(h, t, i, d) -> (t, d)>, affine_map<(h, t, i, d) -> (h, d, i)>,
      affine_map<(h, t, i, d) -> (h, t, i)>] ins(%x, %wq : !x, !wp) outs(%zc : !c) -> !c
  %k = linalg.contract indexing_maps = [affine_map<(h, t, i, d) -> (t, d)>, affine_map<(h, t, i, d) -> (h, d, i)>,
      affine_map<(h, t, i, d) -> (h, t, i)>] ins(%x, %wk : !x, !wp) outs(%zc : !c) -> !c
  %val = linalg.contract indexing_maps = [affine_map<(h, t, i, d) -> (t, d)>, affine_map<(h, t, i, d) -> (h, d, i)>,
      affine_map<(h, t, i, d) -> (h, t, i)>] ins(%x, %wv : !x, !wp) outs(%zc : !c) -> !c
  %dots = linalg.contract indexing_maps = [affine_map<(h, t, j, i) -> (h, t, i)>, affine_map<(h, t, j, i) -> (h, j, i)>,
      affine_map<(h, t, j, i) -> (h, t, j)>] ins(%q, %k : !c, !c) outs(%zsc : !sc) -> !sc
  %scaled = linalg.map ins(%dots : !sc) outs(%zsc : !sc) (%s: f32, %init: f32) {
    %o = arith.mulf %s, %scale : f32
    linalg.yield %o : f32
  }
  %p = linalg.softmax dimension(2) ins(%scaled : !sc) outs(%zsc : !sc) -> !sc
  %ctx = linalg.contract indexing_maps = [affine_map<(h, t, i, j) -> (h, t, j)>, affine_map<(h, t, i, j) -> (h, j, i)>,
      affine_map<(h, t, i, j) -> (h, t, i)>] ins(%p, %val : !sc, !c) outs(%zc : !c) -> !c
  %weights = linalg.broadcast ins(%headw : !h) outs(%zc : !c) dimensions = [1,2]
  %weighted = arith.mulf %ctx, %weights : !c
  %y = linalg.contract indexing_maps = [affine_map<(t, d, h, i) -> (h, t, i)>, affine_map<(t, d, h, i) -> (h, i, d)>,
      affine_map<(t, d, h, i) -> (t, d)>] ins(%weighted, %wo : !c, !wo) outs(%zx : !x) -> !x
  return %y, %gate, %headw : !x, !h, !h
}
