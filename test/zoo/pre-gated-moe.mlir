// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Pre-gated MoE: An Algorithm-System Co-Design for Fast and Scalable Mixture-of-Expert Inference
//
// The gate of a block decides for the next block, from its own input, so that the next block's experts can be fetched
// meanwhile; only the first block has a gate of its own.
//
// Ops: scf.for over the blocks that carries the next routing's logits; route, normalize, top_k, apply, to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !seen = tensor<3x?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>
!ups = tensor<6x24x40xf32>   !downs = tensor<6x40x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x6xf32> {moe.name = "w_gate"},
    %w_pre: tensor<2x24x6xf32> {moe.name = "w_pre"}, %w1: tensor<3x6x24x40xf32> {moe.name = "w1"},
    %w2: tensor<3x6x40x24xf32> {moe.name = "w2"}) -> (!x {moe.name = "y"}, !seen {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zseen = tensor.splat %f0[%t] : !seen
  %l0 = linalg.matmul ins(%x, %w_gate : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %y, %last, %routing = scf.for %l = %c0 to %c3 step %c1 iter_args(%hidden = %x, %logits = %l0, %seen = %zseen)
      -> (!x, !e, !seen) {
    %up = tensor.extract_slice %w1[%l, 0, 0, 0] [1, 6, 24, 40] [1, 1, 1, 1] : tensor<3x6x24x40xf32> to !ups
    %down = tensor.extract_slice %w2[%l, 0, 0, 0] [1, 6, 40, 24] [1, 1, 1, 1] : tensor<3x6x40x24xf32> to !downs
    %pre = arith.minui %l, %c1 : index
    %wp = tensor.extract_slice %w_pre[%pre, 0, 0] [1, 24, 6] [1, 1, 1] : tensor<2x24x6xf32> to tensor<24x6xf32>
    %ahead = linalg.matmul ins(%hidden, %wp : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
    %r = moe.top_k %p k(2) : !moe.routing<?x6xf32>
    %o = moe.apply %r rows(%hidden) experts(%up, %down) weighted(after) out(sum) : !r, !x, !ups, !downs -> !x {
    ^bb0(%v: !x, %u: !up, %d: !down):
      %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
      %a = linalg.matmul ins(%v, %u : !x, !up) outs(%zh : !h) -> !h
      %h = arith.maximumf %a, %zh : !h
      %o = linalg.matmul ins(%h, %d : !h, !down) outs(%zx : !x) -> !x
      moe.yield %o : !x
    }
    %next = arith.addf %hidden, %o : !x   %dense = moe.to_dense %r : !r
    %seen_next = tensor.insert_slice %dense into %seen[%l, 0, 0] [1, %t, 6] [1, 1, 1] : !e into !seen
    scf.yield %next, %ahead, %seen_next : !x, !e, !seen
  }
  return %y, %routing : !x, !seen
}
