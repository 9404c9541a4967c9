// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Earth-Adapter: Bridge the Geospatial Domain Gaps with Mixture of Frequency Adaptation
//
// Three adapters see the feature map, its low-pass and its high-pass part; a dense softmax router mixes them per
// position. The box mask is a product of two symmetric masks, so the low-pass filter is one real convolution per axis.
//
// Ops: route, normalize, apply with a view per expert (rows by (t, e) -> (e, t)), to_dense. The transform is plain
// linalg.

!img = tensor<?x6x5x16xf32>   !x = tensor<?x16xf32>   !h = tensor<?x6xf32>   !g = tensor<?x3xf32>
!views = tensor<3x?x16xf32>   !r = !moe.routing<?x3xf32>

// The periodic convolution of a low-pass filter: f[m, n] = (1 + 2 cos(2 pi (m - n) / size)) / size keeps frequencies -1
// to 1.
func.func private @filter(%m: index, %n: index, %size: f32) -> f32 {
  %f1 = arith.constant 1.0 : f32   %f2 = arith.constant 2.0 : f32   %tau = arith.constant 6.283185307179586 : f32
  %d = arith.subi %m, %n : index   %i = arith.index_cast %d : index to i32   %f = arith.sitofp %i : i32 to f32
  %turns = arith.divf %f, %size : f32   %angle = arith.mulf %turns, %tau : f32   %cos = math.cos %angle : f32
  %twice = arith.mulf %cos, %f2 : f32   %sum = arith.addf %twice, %f1 : f32   %value = arith.divf %sum, %size : f32
  return %value : f32
}

func.func @main(%x: !img {moe.name = "x"}, %wr: tensor<16x3xf32> {moe.name = "wr"},
    %a: tensor<3x16x6xf32> {moe.name = "a"}, %ba: tensor<3x6xf32> {moe.name = "ba"},
    %bw: tensor<3x6x16xf32> {moe.name = "bw"}, %bb: tensor<3x16xf32> {moe.name = "bb"},
    %s: tensor<1xf32> {moe.name = "s"})
    -> (!img {moe.name = "y"}, tensor<?x6x5x3xf32> {moe.name = "gate"}, !img {moe.name = "low"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f5 = arith.constant 5.0 : f32
  %f6 = arith.constant 6.0 : f32
  %b = tensor.dim %x, %c0 : !img   %zi = tensor.splat %f0[%b] : !img
  %rows_f = tensor.generate { ^bb0(%m: index, %n: index):
    %v = func.call @filter(%m, %n, %f6) : (index, index, f32) -> f32
    tensor.yield %v : f32
  } : tensor<6x6xf32>
  %cols_f = tensor.generate { ^bb0(%m: index, %n: index):
    %v = func.call @filter(%m, %n, %f5) : (index, index, f32) -> f32
    tensor.yield %v : f32
  } : tensor<5x5xf32>
  %low0 = linalg.contract indexing_maps = [affine_map<(b, m, n, d, k) -> (m, k)>,
      affine_map<(b, m, n, d, k) -> (b, k, n, d)>, affine_map<(b, m, n, d, k) -> (b, m, n, d)>]
      ins(%rows_f, %x : tensor<6x6xf32>, !img) outs(%zi : !img) -> !img
  %low = linalg.contract indexing_maps = [affine_map<(b, m, n, d, k) -> (n, k)>,
      affine_map<(b, m, n, d, k) -> (b, m, k, d)>, affine_map<(b, m, n, d, k) -> (b, m, n, d)>]
      ins(%cols_f, %low0 : tensor<5x5xf32>, !img) outs(%zi : !img) -> !img
  %high = arith.subf %x, %low : !img
  %xr = tensor.collapse_shape %x [[0, 1, 2], [3]] : !img into !x
  %lr = tensor.collapse_shape %low [[0, 1, 2], [3]] : !img into !x
  %hr = tensor.collapse_shape %high [[0, 1, 2], [3]] : !img into !x
  %t = tensor.dim %xr, %c0 : !x   %v0 = tensor.empty(%t) : !views
  %v1 = tensor.insert_slice %xr into %v0[0, 0, 0] [1, %t, 16] [1, 1, 1] : !x into !views
  %v2 = tensor.insert_slice %lr into %v1[1, 0, 0] [1, %t, 16] [1, 1, 1] : !x into !views
  %views = tensor.insert_slice %hr into %v2[2, 0, 0] [1, %t, 16] [1, 1, 1] : !x into !views
  %zg = tensor.splat %f0[%t] : !g
  %logits = linalg.matmul ins(%xr, %wr : !x, tensor<16x3xf32>) outs(%zg : !g) -> !g
  %all = moe.route %logits : !g   %r = moe.normalize %all by(softmax) : !r
  %mixed = moe.apply %r rows(%views by (t, e) -> (e, t)) experts(%a, %ba, %bw, %bb) weighted(after) out(sum)
      : !r, !views, tensor<3x16x6xf32>, tensor<3x6xf32>, tensor<3x6x16xf32>, tensor<3x16xf32> -> !x {
  ^bb0(%v: !x, %down: tensor<16x6xf32>, %bd: tensor<6xf32>, %up: tensor<6x16xf32>, %bu: tensor<16xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %hb = linalg.broadcast ins(%bd : tensor<6xf32>) outs(%zh : !h) dimensions = [0]
    %ob = linalg.broadcast ins(%bu : tensor<16xf32>) outs(%zx : !x) dimensions = [0]
    %d = linalg.matmul ins(%v, %down : !x, tensor<16x6xf32>) outs(%hb : !h) -> !h
    %relu = arith.maximumf %d, %zh : !h
    %o = linalg.matmul ins(%relu, %up : !h, tensor<6x16xf32>) outs(%ob : !x) -> !x
    moe.yield %o : !x
  }
  %s0 = tensor.extract %s[%c0] : tensor<1xf32>
  %scale = tensor.splat %s0[%t] : !x
  %scaled = arith.mulf %mixed, %scale : !x   %yr = arith.addf %xr, %scaled : !x
  %y = tensor.expand_shape %yr [[0, 1, 2], [3]] output_shape [%b, 6, 5, 16] : !x into !img
  %g = moe.to_dense %r : !r
  %gate = tensor.expand_shape %g [[0, 1, 2], [3]] output_shape [%b, 6, 5, 3] : !g into tensor<?x6x5x3xf32>
  return %y, %gate, %low : !img, tensor<?x6x5x3xf32>, !img
}
