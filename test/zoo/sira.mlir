// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// SiRA: Sparse Mixture of Low Rank Adaptation
//
// The top-K LoRA adapters of a token are added to a frozen linear layer; an adapter takes at most ceil(K T / E) tokens,
// the earliest ones, and a token that finds its adapter full keeps the base path.
//
// Ops: top_k, normalize, limit with a run-time capacity, apply.

!x = tensor<?x26xf32>   !y = tensor<?x20xf32>   !low = tensor<?x4xf32>   !e = tensor<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w0: tensor<26x20xf32> {moe.name = "w0"},
    %w_gate: tensor<26x6xf32> {moe.name = "w_gate"}, %a: tensor<6x26x4xf32> {moe.name = "a"},
    %b: tensor<6x4x20xf32> {moe.name = "b"}) -> (!y {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %k = arith.constant 2 : index   %experts = arith.constant 6 : index
  %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<26x6xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %top = moe.top_k %probs k(2) : !moe.routing<?x6xf32>   %gates = moe.normalize %top by(sum) : !r
  %pairs = arith.muli %t, %k : index   %capacity = arith.ceildivui %pairs, %experts : index
  %held = moe.limit %gates cap(%capacity : index) order(row) : !r
  %adapters = moe.apply %held rows(%x) experts(%a, %b) weighted(after) out(sum)
      : !r, !x, tensor<6x26x4xf32>, tensor<6x4x20xf32> -> !y {
  ^bb0(%v: !x, %down: tensor<26x4xf32>, %up: tensor<4x20xf32>):
    %n = tensor.dim %v, %c0 : !x   %zl = tensor.splat %f0[%n] : !low   %zy = tensor.splat %f0[%n] : !y
    %h = linalg.matmul ins(%v, %down : !x, tensor<26x4xf32>) outs(%zl : !low) -> !low
    %o = linalg.matmul ins(%h, %up : !low, tensor<4x20xf32>) outs(%zy : !y) -> !y
    moe.yield %o : !y
  }
  %y = linalg.matmul ins(%x, %w0 : !x, tensor<26x20xf32>) outs(%adapters : !y) -> !y
  %routing = moe.to_dense %held : !r
  return %y, %routing : !y, !e
}
