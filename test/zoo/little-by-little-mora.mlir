// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive Learning
//
// Ranks of a LoRA pair as experts, scored by the size of their own activation; some have been pruned. The weight is a
// softmax over the ranks that are alive.
//
// Ops: route with a mask over the experts, normalize, top_k, to_dense.

!x = tensor<?x26xf32>   !y = tensor<?x22xf32>   !e = tensor<?x12xf32>   !t = tensor<?xf32>   !r = !moe.routing<?x12xf32>
!top = !moe.routing<?x12xf32, max_per_row = 4>

func.func @main(%x: !x {moe.name = "x"}, %w0: tensor<26x22xf32> {moe.name = "w0"},
    %a: tensor<26x12xf32> {moe.name = "a"}, %b: tensor<12x22xf32> {moe.name = "b"},
    %alive: tensor<12xi1> {moe.name = "alive"}) -> (!y {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %tau = arith.constant 0.3 : f32
  %eps = arith.constant 1.0e-6 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zt = tensor.splat %f0[%t] : !t
  %zy = tensor.splat %f0[%t] : !y   %taus = tensor.splat %tau[%t] : !e   %epss = tensor.splat %eps[%t] : !t
  %low = linalg.matmul ins(%x, %a : !x, tensor<26x12xf32>) outs(%ze : !e) -> !e
  %sq = arith.mulf %low, %low : !e
  %pairs = moe.route %sq mask(%alive : tensor<12xi1>) : !e   %own = moe.to_dense %pairs : !r
  %total = linalg.reduce {arith.addf} ins(%own : !e) outs(%zt : !t) dimensions = [1]   %root = math.sqrt %total : !t
  %norm = arith.addf %root, %epss : !t
  %norms = linalg.broadcast ins(%norm : !t) outs(%ze : !e) dimensions = [1]
  %size = math.absf %low : !e   %s = arith.divf %size, %norms : !e   %sharp = arith.divf %s, %taus : !e
  %all = moe.route %sharp mask(%alive : tensor<12xi1>) : !e
  %w = moe.normalize %all by(softmax) : !r
  %best = moe.top_k %w by(%s : !e) k(4) : !r
  %routing = moe.to_dense %best : !top   %gated = arith.mulf %low, %routing : !e
  %base = linalg.matmul ins(%x, %w0 : !x, tensor<26x22xf32>) outs(%zy : !y) -> !y
  %y = linalg.matmul ins(%gated, %b : !e, tensor<12x22xf32>) outs(%base : !y) -> !y
  return %y, %routing : !y, !e
}
