// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Chain-of-Experts: Unlocking the Communication Power of Mixture-of-Experts Models
//
// A token passes C times through the same bank of experts; each pass has its own router, which chooses from what the
// passes before made of the token, and adds to an inner residual together with a shared expert.
//
// Ops: scf.for around route, normalize, top_k and apply (the routing is a value of the loop's body).

!x = tensor<?x24xf32>   !h = tensor<?x20xf32>   !up = tensor<24x20xf32>   !down = tensor<20x24xf32>
!e = tensor<?x6xf32>   !all = tensor<3x?x6xf32>   !r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<3x24x6xf32> {moe.name = "wr"},
    %w1: tensor<6x24x20xf32> {moe.name = "w1"}, %w3: tensor<6x24x20xf32> {moe.name = "w3"},
    %w2: tensor<6x20x24xf32> {moe.name = "w2"}, %ws1: !up {moe.name = "ws1"}, %ws3: !up {moe.name = "ws3"},
    %ws2: !down {moe.name = "ws2"}) -> (!x {moe.name = "y"}, !all {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zr = tensor.splat %f0[%t] : !all
  %y, %routing = scf.for %c = %c0 to %c3 step %c1 iter_args(%v = %x, %seen = %zr) -> (!x, !all) {
    %wc = tensor.extract_slice %wr[%c, 0, 0] [1, 24, 6] [1, 1, 1] : tensor<3x24x6xf32> to tensor<24x6xf32>
    %logits = linalg.matmul ins(%v, %wc : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    %every = moe.route %logits : !e   %probs = moe.normalize %every by(softmax) : !moe.routing<?x6xf32>
    %r = moe.top_k %probs k(2) : !moe.routing<?x6xf32>
    %routed = moe.apply %r rows(%v) experts(%w1, %w3, %w2) weighted(after) out(sum)
        : !r, !x, tensor<6x24x20xf32>, tensor<6x24x20xf32>, tensor<6x20x24xf32> -> !x {
    ^bb0(%rows: !x, %e1: !up, %e3: !up, %e2: !down):
      %o = func.call @expert(%rows, %e1, %e3, %e2) : (!x, !up, !up, !down) -> !x
      moe.yield %o : !x
    }
    %shared = func.call @expert(%v, %ws1, %ws3, %ws2) : (!x, !up, !up, !down) -> !x
    %sum = arith.addf %v, %shared : !x   %next = arith.addf %sum, %routed : !x
    %dense = moe.to_dense %r : !r
    %seen_next = tensor.insert_slice %dense into %seen[%c, 0, 0] [1, %t, 6] [1, 1, 1] : !e into !all
    scf.yield %next, %seen_next : !x, !all
  }
  return %y, %routing : !x, !all
}

func.func private @expert(%v: !x, %w1: !up, %w3: !up, %w2: !down) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %one = tensor.splat %f1[%n] : !h
  %g = linalg.matmul ins(%v, %w1 : !x, !up) outs(%zh : !h) -> !h
  %u = linalg.matmul ins(%v, %w3 : !x, !up) outs(%zh : !h) -> !h
  %m = arith.negf %g : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
  %silu = arith.divf %g, %den : !h   %h = arith.mulf %silu, %u : !h
  %o = linalg.matmul ins(%h, %w2 : !h, !down) outs(%zx : !x) -> !x
  return %o : !x
}
