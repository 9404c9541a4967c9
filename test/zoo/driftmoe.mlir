// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// DriftMoE: A Mixture of Experts Approach to Handle Concept Drifts
//
// Experts are decision trees that learn from a stream; a small network routes a sample to the best trees, whose class
// distributions are mixed. Which trees are right is a result for the router's training.
//
// Ops: apply over all trees with a dense result (every tree's distribution), top_k, normalize, apply that mixes
// (pairs); top_k with to_slots as argmax, to_dense as one-hot.

!x = tensor<?x10xf32>   !e = tensor<?x5xf32>   !d = tensor<?x4xf32>   !ed = tensor<?x5x4xf32>   !i = tensor<?xi32>
!nodes = tensor<5x13xi32>   !nf = tensor<5x13xf32>   !dists = tensor<5x13x4xf32>   !all = !moe.routing<?x5xf32>
!r = !moe.routing<?x5xf32, max_per_row = 3>   !one = !moe.routing<?x5xf32, max_per_row = 1>
!rd = !moe.routing<?x4xf32, max_per_row = 1>

func.func @main(%x: !x {moe.name = "x"}, %label: !i {moe.name = "label"}, %wa: tensor<10x12xf32> {moe.name = "wa"},
    %ba: tensor<12xf32> {moe.name = "ba"}, %wb: tensor<12x8xf32> {moe.name = "wb"},
    %bb: tensor<8xf32> {moe.name = "bb"}, %wc: tensor<8x5xf32> {moe.name = "wc"}, %bc: tensor<5xf32> {moe.name = "bc"},
    %feat: !nodes {moe.name = "feat"}, %thr: !nf {moe.name = "thr"}, %lchild: !nodes {moe.name = "lchild"},
    %rchild: !nodes {moe.name = "rchild"}, %dist: !dists {moe.name = "dist"})
    -> (!d {moe.name = "prob"}, !i {moe.name = "pred"}, !d {moe.name = "prob_top1"}, !e {moe.name = "routing"},
        !e {moe.name = "right"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c5 = arith.constant 5 : index
  %i0 = arith.constant 0 : i32   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %z1 = tensor.splat %f0[%t] : tensor<?x12xf32>
  %z2 = tensor.splat %f0[%t] : tensor<?x8xf32>   %zd = tensor.splat %f0[%t] : !d
  %b1 = linalg.broadcast ins(%ba : tensor<12xf32>) outs(%z1 : tensor<?x12xf32>) dimensions = [0]
  %b2 = linalg.broadcast ins(%bb : tensor<8xf32>) outs(%z2 : tensor<?x8xf32>) dimensions = [0]
  %b3 = linalg.broadcast ins(%bc : tensor<5xf32>) outs(%ze : !e) dimensions = [0]
  %v1 = linalg.matmul ins(%x, %wa : !x, tensor<10x12xf32>) outs(%b1 : tensor<?x12xf32>) -> tensor<?x12xf32>
  %h1 = arith.maximumf %v1, %z1 : tensor<?x12xf32>
  %v2 = linalg.matmul ins(%h1, %wb : tensor<?x12xf32>, tensor<12x8xf32>) outs(%b2 : tensor<?x8xf32>) -> tensor<?x8xf32>
  %h2 = arith.maximumf %v2, %z2 : tensor<?x8xf32>
  %zlog = linalg.matmul ins(%h2, %wc : tensor<?x8xf32>, tensor<8x5xf32>) outs(%b3 : !e) -> !e
  %every = moe.route %zlog : !e   %p = moe.normalize %every by(softmax) : !all
  %dists = moe.apply %every rows(%x) experts(%feat, %thr, %lchild, %rchild, %dist) out(dense)
      : !all, !x, !nodes, !nf, !nodes, !nodes, !dists -> !ed {
  ^bb0(%v: !x, %f: tensor<13xi32>, %th: tensor<13xf32>, %lc: tensor<13xi32>, %rc: tensor<13xi32>,
      %di: tensor<13x4xf32>):
    %n = tensor.dim %v, %c0 : !x   %init = tensor.empty(%n) : !d
    %leafs = tensor.generate %n {
    ^bb0(%i: index):
      // Five steps reach every leaf: at a leaf the walk stays.
      %leaf = scf.for %s = %c0 to %c5 step %c1 iter_args(%at = %c0) -> index {
        %fi = tensor.extract %f[%at] : tensor<13xi32>   %col = arith.index_cast %fi : i32 to index
        %left = tensor.extract %lc[%at] : tensor<13xi32>   %right = tensor.extract %rc[%at] : tensor<13xi32>
        %is_leaf = arith.cmpi slt, %left, %i0 : i32   %safe = arith.select %is_leaf, %c0, %col : index
        %value = tensor.extract %v[%i, %safe] : !x   %bound = tensor.extract %th[%at] : tensor<13xf32>
        %goes_left = arith.cmpf ole, %value, %bound : f32   %child = arith.select %goes_left, %left, %right : i32
        %to = arith.index_cast %child : i32 to index
        %next = arith.select %is_leaf, %at, %to : index
        scf.yield %next : index
      }
      tensor.yield %leaf : index
    } : tensor<?xindex>
    %o = linalg.map outs(%init : !d) (%none: f32) {
      %i = linalg.index 0 : index   %j = linalg.index 1 : index   %leaf = tensor.extract %leafs[%i] : tensor<?xindex>
      %w = tensor.extract %di[%leaf, %j] : tensor<13x4xf32>
      linalg.yield %w : f32
    }
    moe.yield %o : !d
  }
  %best = moe.top_k %p k(3) : !all   %r = moe.normalize %best by(sum) : !r   %routing = moe.to_dense %r : !r
  %prob = moe.apply %r pairs(%dists) weighted(after) out(sum) : !r, !ed -> !d {
  ^bb0(%v: !d):
    moe.yield %v : !d
  }
  %first = moe.top_k %p k(1) : !all
  %prob_top1 = moe.apply %first pairs(%dists) out(sum) : !one, !ed -> !d {
  ^bb0(%v: !d):
    moe.yield %v : !d
  }
  %classes = moe.route %prob : !d   %winner = moe.top_k %classes k(1) : !moe.routing<?x4xf32>
  %pred1, %w = moe.to_slots %winner : !rd   %pred = tensor.collapse_shape %pred1 [[0, 1]] : tensor<?x1xi32> into !i
  // right: the class that a tree names, row by row of (sample, tree).
  %flat = tensor.collapse_shape %dists [[0, 1], [2]] : !ed into !d   %guesses = moe.route %flat : !d
  %guess = moe.top_k %guesses k(1) : !moe.routing<?x4xf32>   %named1, %gw = moe.to_slots %guess : !rd
  %named = tensor.collapse_shape %named1 [[0, 1]] : tensor<?x1xi32> into !i
  %named2 = tensor.expand_shape %named [[0, 1]] output_shape [%t, 5] : !i into tensor<?x5xi32>
  %labels = tensor.empty(%t) : tensor<?x5xi32>
  %label2 = linalg.broadcast ins(%label : !i) outs(%labels : tensor<?x5xi32>) dimensions = [1]
  %hits = arith.cmpi eq, %named2, %label2 : tensor<?x5xi32>   %right = arith.uitofp %hits : tensor<?x5xi1> to !e
  return %prob, %pred, %prob_top1, %routing, %right : !d, !i, !d, !e, !e
}
