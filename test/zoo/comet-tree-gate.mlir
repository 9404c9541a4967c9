// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// COMET: Learning Cardinality Constrained Mixture of Experts with Trees and Local Search
//
// Trees with the experts as leaves: a smooth step at each node is exactly 0 or 1 outside a band, so that most leaves
// cannot be reached. A softmax over the reachable leaves of all trees, permuted per tree, gives the weights.
//
// Ops: from_slots (leaves as slots, an expert may be the leaf of several trees), normalize over all leaves, to_dense
// (adds the weights of one expert), route with a mask (reachable experts only), apply.

!x = tensor<?x24xf32>   !h = tensor<?x36xf32>   !s = tensor<?x8xf32>   !leaf = tensor<?x2x8xf32>
#td = affine_map<(t, j, n, d) -> (t, d)>
#jdn = affine_map<(t, j, n, d) -> (j, d, n)>
#tjn = affine_map<(t, j, n, d) -> (t, j, n)>

func.func @main(%x: !x {moe.name = "x"}, %w_node: tensor<2x24x7xf32> {moe.name = "w_node"},
    %b_node: tensor<2x7xf32> {moe.name = "b_node"}, %w_leaf: tensor<2x24x8xf32> {moe.name = "w_leaf"},
    %perm: tensor<2x8xi32> {moe.name = "perm"}, %w1: tensor<8x24x36xf32> {moe.name = "w1"},
    %w2: tensor<8x36x24xf32> {moe.name = "w2"}) -> (!x {moe.name = "y"}, !s {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %f2 = arith.constant 2.0 : f32   %f15 = arith.constant 1.5 : f32   %fh = arith.constant 0.5 : f32
  %fmh = arith.constant -0.5 : f32
  %t = tensor.dim %x, %c0 : !x   %zn = tensor.splat %f0[%t] : tensor<?x2x7xf32>   %zl = tensor.splat %f0[%t] : !leaf
  %bias = linalg.broadcast ins(%b_node : tensor<2x7xf32>) outs(%zn : tensor<?x2x7xf32>) dimensions = [0]
  %v = linalg.contract indexing_maps = [#td, #jdn, #tjn] ins(%x, %w_node : !x, tensor<2x24x7xf32>)
      outs(%bias : tensor<?x2x7xf32>) -> tensor<?x2x7xf32>
  // S(v) = 1/2 + 3/2 v - 2 v^3 on [-1/2, 1/2]
  %step = linalg.map ins(%v : tensor<?x2x7xf32>) outs(%zn : tensor<?x2x7xf32>) (%in: f32, %init: f32) {
    %lo = arith.maximumf %in, %fmh : f32   %c = arith.minimumf %lo, %fh : f32   %cc = arith.mulf %c, %c : f32
    %cube = arith.mulf %cc, %f2 : f32   %slope = arith.subf %f15, %cube : f32   %odd = arith.mulf %slope, %c : f32
    %s = arith.addf %odd, %fh : f32
    linalg.yield %s : f32
  }
  // The logarithm of the product of the steps on the way from the root to each leaf; minus infinity if it cannot be
  // reached.
  %path = linalg.map outs(%zl : !leaf) (%init: f32) {
    %row = linalg.index 0 : index   %tree = linalg.index 1 : index   %leaf = linalg.index 2 : index
    %product = scf.for %level = %c0 to %c3 step %c1 iter_args(%sofar = %f1) -> f32 {
      %up = arith.subi %c2, %level : index   %child = arith.shrui %leaf, %up : index
      %parent = arith.shrui %child, %c1 : index   %width = arith.shli %c1, %level : index
      %first = arith.subi %width, %c1 : index   %node = arith.addi %first, %parent : index
      %left = tensor.extract %step[%row, %tree, %node] : tensor<?x2x7xf32>
      %right = arith.subf %f1, %left : f32   %bit = arith.andi %child, %c1 : index
      %is_left = arith.cmpi eq, %bit, %c0 : index   %factor = arith.select %is_left, %left, %right : f32
      %next = arith.mulf %sofar, %factor : f32
      scf.yield %next : f32
    }
    %log = math.log %product : f32
    linalg.yield %log : f32
  }
  %a = linalg.contract indexing_maps = [#td, #jdn, #tjn] ins(%x, %w_leaf : !x, tensor<2x24x8xf32>)
      outs(%path : !leaf) -> !leaf
  %slots = tensor.collapse_shape %a [[0], [1, 2]] : !leaf into tensor<?x16xf32>
  %flat = tensor.collapse_shape %perm [[0, 1]] : tensor<2x8xi32> into tensor<16xi32>
  %ids0 = tensor.empty(%t) : tensor<?x16xi32>
  %ids = linalg.broadcast ins(%flat : tensor<16xi32>) outs(%ids0 : tensor<?x16xi32>) dimensions = [0]
  %leaves = moe.from_slots %ids, %slots experts(8) : tensor<?x16xi32>, tensor<?x16xf32>
  %w = moe.normalize %leaves by(softmax) : !moe.routing<?x8xf32, max_per_row = 16>
  %routing = moe.to_dense %w : !moe.routing<?x8xf32, max_per_row = 16>
  %zs = tensor.splat %f0[%t] : !s
  %reached = arith.cmpf ogt, %routing, %zs : !s
  %r = moe.route %routing mask(%reached : tensor<?x8xi1>) : !s
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !moe.routing<?x8xf32>, !x, tensor<8x24x36xf32>, tensor<8x36x24xf32> -> !x {
  ^bb0(%rows: !x, %up: tensor<24x36xf32>, %down: tensor<36x24xf32>):
    %n = tensor.dim %rows, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %u = linalg.matmul ins(%rows, %up : !x, tensor<24x36xf32>) outs(%zh : !h) -> !h
    %relu = arith.maximumf %u, %zh : !h
    %o = linalg.matmul ins(%relu, %down : !h, tensor<36x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  return %y, %routing : !x, !s
}
