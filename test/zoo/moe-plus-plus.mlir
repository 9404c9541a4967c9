// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoE++: Accelerating Mixture-of-Experts Methods with Zero-Computation Experts
//
// FFN experts stand beside experts that cost nothing: zero, copy, and a blend with a learned vector, with capacities of
// their own. The router adds a transform of the logits of the layer before.
//
// Ops: route, normalize, top_k, limit with a capacity per expert, apply with four cases of bodies, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !s = tensor<?x8xf32>   !c = tensor<?x2xf32>   !up = tensor<4x24x32xf32>
!down = tensor<4x32x24xf32>   !cv = tensor<2x24xf32>   !wc = tensor<2x24x2xf32>   !all = !moe.routing<?x8xf32>
!top = !moe.routing<?x8xf32, max_per_row = 2>

func.func private @layer(%x: !x, %logits: !s, %w1: !up, %w2: !down, %cv: !cv, %wc: !wc) -> (!x, !s) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c22 = arith.constant 22 : index
  %c66 = arith.constant 66 : index   %c70 = arith.constant 70 : index   %c280 = arith.constant 280 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x
  %all = moe.route %logits : !s   %p = moe.normalize %all by(softmax) : !all   %best = moe.top_k %p k(2) : !all
  // Capacities ceil(66 T / 280) of an FFN expert and ceil(22 T / 70) of the others.
  %t66 = arith.muli %t, %c66 : index   %t22 = arith.muli %t, %c22 : index   %cf = arith.ceildivui %t66, %c280 : index
  %cz = arith.ceildivui %t22, %c70 : index
  %caps = tensor.from_elements %cf, %cf, %cf, %cf, %cz, %cz, %cz, %cz : tensor<8xindex>
  %kept = moe.limit %best cap(%caps : tensor<8xindex>) order(row) : !top
  %moe = moe.apply %kept rows(%x)
      experts(%w1 case(0), %w2 case(0), %cv case(3), %wc case(3)) cases([0, 0, 0, 0, 1, 2, 3, 3])
      weighted(after) out(sum) : !top, !x, !up, !down, !cv, !wc -> !x {
  ^bb0(%v: !x, %up: tensor<24x32xf32>, %down: tensor<32x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %halves = tensor.splat %half[%n] : !h   %scale = tensor.splat %rsqrt2[%n] : !h
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
    %b = arith.mulf %a, %scale : !h   %erf = math.erf %b : !h   %c = arith.addf %erf, %one : !h
    %d = arith.mulf %a, %halves : !h   %g = arith.mulf %c, %d : !h
    %o = linalg.matmul ins(%g, %down : !h, tensor<32x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }, {
  ^bb0(%v: !x):
    %n = tensor.dim %v, %c0 : !x   %zero = tensor.splat %f0[%n] : !x
    moe.yield %zero : !x
  }, {
  ^bb0(%v: !x):
    moe.yield %v : !x
  }, {
  ^bb0(%v: !x, %vector: tensor<24xf32>, %w: tensor<24x2xf32>):
    %n = tensor.dim %v, %c0 : !x   %zc = tensor.splat %f0[%n] : !c
    %l = linalg.matmul ins(%v, %w : !x, tensor<24x2xf32>) outs(%zc : !c) -> !c
    %a = linalg.softmax dimension(1) ins(%l : !c) outs(%zc : !c) -> !c
    %e = tensor.empty(%n) : !x
    %o = linalg.generic {indexing_maps = [affine_map<(n, d) -> (n, d)>, affine_map<(n, d) -> (d)>,
        affine_map<(n, d) -> (n, d)>],
        iterator_types = ["parallel", "parallel"]} ins(%v, %vector : !x, tensor<24xf32>) outs(%e : !x) {
    ^bb0(%vi: f32, %ci: f32, %init: f32):
      %i = linalg.index 0 : index   %a1 = tensor.extract %a[%i, %c0] : !c   %a2 = tensor.extract %a[%i, %c1] : !c
      %l1 = arith.mulf %a1, %vi : f32   %l2 = arith.mulf %a2, %ci : f32   %b = arith.addf %l1, %l2 : f32
      linalg.yield %b : f32
    } -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %x, %moe : !x
  %routing = moe.to_dense %kept : !top
  return %y, %routing : !x, !s
}

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<2x24x8xf32> {moe.name = "wr"},
    %wres: tensor<2x8x8xf32> {moe.name = "wres"}, %w1: tensor<2x4x24x32xf32> {moe.name = "w1"},
    %w2: tensor<2x4x32x24xf32> {moe.name = "w2"}, %cv: tensor<2x2x24xf32> {moe.name = "cv"},
    %wc: tensor<2x2x24x2xf32> {moe.name = "wc"})
    -> (!x {moe.name = "y"}, tensor<2x?x8xf32> {moe.name = "routing"}, !s {moe.name = "logits"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s
  %wr0 = tensor.extract_slice %wr[0, 0, 0] [1, 24, 8] [1, 1, 1] : tensor<2x24x8xf32> to tensor<24x8xf32>
  %w10 = tensor.extract_slice %w1[0, 0, 0, 0] [1, 4, 24, 32] [1, 1, 1, 1] : tensor<2x4x24x32xf32> to !up
  %w20 = tensor.extract_slice %w2[0, 0, 0, 0] [1, 4, 32, 24] [1, 1, 1, 1] : tensor<2x4x32x24xf32> to !down
  %cv0 = tensor.extract_slice %cv[0, 0, 0] [1, 2, 24] [1, 1, 1] : tensor<2x2x24xf32> to !cv
  %wc0 = tensor.extract_slice %wc[0, 0, 0, 0] [1, 2, 24, 2] [1, 1, 1, 1] : tensor<2x2x24x2xf32> to !wc
  %l0 = linalg.matmul ins(%x, %wr0 : !x, tensor<24x8xf32>) outs(%zs : !s) -> !s
  %h, %r0 = call @layer(%x, %l0, %w10, %w20, %cv0, %wc0) : (!x, !s, !up, !down, !cv, !wc) -> (!x, !s)
  %wr1 = tensor.extract_slice %wr[1, 0, 0] [1, 24, 8] [1, 1, 1] : tensor<2x24x8xf32> to tensor<24x8xf32>
  %res = tensor.extract_slice %wres[1, 0, 0] [1, 8, 8] [1, 1, 1] : tensor<2x8x8xf32> to tensor<8x8xf32>
  %w11 = tensor.extract_slice %w1[1, 0, 0, 0] [1, 4, 24, 32] [1, 1, 1, 1] : tensor<2x4x24x32xf32> to !up
  %w21 = tensor.extract_slice %w2[1, 0, 0, 0] [1, 4, 32, 24] [1, 1, 1, 1] : tensor<2x4x32x24xf32> to !down
  %cv1 = tensor.extract_slice %cv[1, 0, 0] [1, 2, 24] [1, 1, 1] : tensor<2x2x24xf32> to !cv
  %wc1 = tensor.extract_slice %wc[1, 0, 0, 0] [1, 2, 24, 2] [1, 1, 1, 1] : tensor<2x2x24x2xf32> to !wc
  %residual = linalg.matmul ins(%l0, %res : !s, tensor<8x8xf32>) outs(%zs : !s) -> !s
  %l1 = linalg.matmul ins(%h, %wr1 : !x, tensor<24x8xf32>) outs(%residual : !s) -> !s
  %y, %r1 = call @layer(%h, %l1, %w11, %w21, %cv1, %wc1) : (!x, !s, !up, !down, !cv, !wc) -> (!x, !s)
  %e = tensor.empty(%t) : tensor<2x?x8xf32>
  %first = tensor.insert_slice %r0 into %e[0, 0, 0] [1, %t, 8] [1, 1, 1] : !s into tensor<2x?x8xf32>
  %routing = tensor.insert_slice %r1 into %first[1, 0, 0] [1, %t, 8] [1, 1, 1] : !s into tensor<2x?x8xf32>
  return %y, %routing, %l1 : !x, tensor<2x?x8xf32>, !s
}
