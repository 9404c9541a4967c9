// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Efficiently Editing Mixture-of-Experts Models with Compressed Experts
//
// The best experts of a token run in full; those behind them are only embedding vectors, whose mixture scales the
// input, the hidden layer and the up projection of the full ones.
//
// Ops: top_k, select by rank (full and compressed ones of one choice), normalize over the compressed ones, to_dense
// (their weights mix the vectors), apply with rows of three tensors, weighted(after). The result has negative weights
// for the compressed ones, which is why chosen and non-zero are not the same.

!x = tensor<?x24xf32>   !h = tensor<?x20xf32>   !e = tensor<?x8xf32>   !up = tensor<24x20xf32>
!down = tensor<20x24xf32>   !ups = tensor<8x24x20xf32>   !downs = tensor<8x20x24xf32>   !e24 = tensor<8x24xf32>
!r = !moe.routing<?x8xf32, max_per_row = 4>   !top = !moe.routing<?x8xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x8xf32> {moe.name = "w_gate"}, %w_g: !ups {moe.name = "w_g"},
    %w_u: !ups {moe.name = "w_u"}, %w_d: !downs {moe.name = "w_d"}, %e1: !e24 {moe.name = "e1"},
    %e2: tensor<8x20xf32> {moe.name = "e2"}, %e3: !e24 {moe.name = "e3"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c2 = arith.constant 2 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zx = tensor.splat %f0[%t] : !x
  %zh = tensor.splat %f0[%t] : !h
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x8xf32>
  %best = moe.top_k %p k(4) : !moe.routing<?x8xf32>
  %main = moe.top_k %p k(2) : !moe.routing<?x8xf32>
  %aux = moe.select %best {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %in = arith.cmpi uge, %rank, %c2 : index
    moe.yield %in : i1
  } : !r
  %mix = moe.normalize %aux by(sum) : !r   %w = moe.to_dense %mix : !r
  %s1 = linalg.matmul ins(%w, %e1 : !e, !e24) outs(%zx : !x) -> !x
  %s2 = linalg.matmul ins(%w, %e2 : !e, tensor<8x20xf32>) outs(%zh : !h) -> !h
  %s3 = linalg.matmul ins(%w, %e3 : !e, !e24) outs(%zx : !x) -> !x
  %x1 = arith.mulf %x, %s1 : !x   %x3 = arith.mulf %x, %s3 : !x
  %y = moe.apply %main rows(%x1, %x3, %s2) experts(%w_g, %w_u, %w_d) weighted(after) out(sum) : !top, !x, !x, !h, !ups,
      !ups, !downs -> !x {
  ^bb0(%v1: !x, %v3: !x, %scale: !h, %gate: !up, %up: !up, %down: !down):
    %n = tensor.dim %v1, %c0 : !x   %zhn = tensor.splat %f0[%n] : !h   %zxn = tensor.splat %f0[%n] : !x
    %one = tensor.splat %f1[%n] : !h
    %a = linalg.matmul ins(%v1, %gate : !x, !up) outs(%zhn : !h) -> !h
    %b = linalg.matmul ins(%v3, %up : !x, !up) outs(%zhn : !h) -> !h
    %s_n = arith.negf %a : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %one : !h
    %s = arith.divf %a, %s_d : !h   %ab = arith.mulf %s, %b : !h   %hs = arith.mulf %ab, %scale : !h
    %o = linalg.matmul ins(%hs, %down : !h, !down) outs(%zxn : !x) -> !x
    moe.yield %o : !x
  }
  %plus = moe.to_dense %main : !top   %minus = moe.to_dense %aux : !r   %routing = arith.subf %plus, %minus : !e
  return %y, %routing : !x, !e
}
