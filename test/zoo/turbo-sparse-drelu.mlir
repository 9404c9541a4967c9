// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Turbo Sparse: Achieving LLM SOTA Performance with Minimal Activated Parameters
//
// Both projections of the gated expert pass a ReLU, so that most hidden entries are zero; routing is a softmax over the
// top-k logits.
//
// Ops: top_k, normalize, apply.

!x = tensor<?x24xf32>   !h = tensor<?x44xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<24x6xf32> {moe.name = "w_gate"},
    %w_g: tensor<6x24x44xf32> {moe.name = "w_g"}, %w_u: tensor<6x24x44xf32> {moe.name = "w_u"},
    %w_d: tensor<6x44x24xf32> {moe.name = "w_d"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %every = moe.route %logits : !e   %top = moe.top_k %every k(2) : !all   %r = moe.normalize %top by(softmax) : !r
  %y = moe.apply %r rows(%x) experts(%w_g, %w_u, %w_d) weighted(after) out(sum)
      : !r, !x, tensor<6x24x44xf32>, tensor<6x24x44xf32>, tensor<6x44x24xf32> -> !x {
  ^bb0(%v: !x, %gate: tensor<24x44xf32>, %up: tensor<24x44xf32>, %down: tensor<44x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %gate : !x, tensor<24x44xf32>) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, tensor<24x44xf32>) outs(%zh : !h) -> !h
    %ar = arith.maximumf %a, %zh : !h   %br = arith.maximumf %b, %zh : !h   %h = arith.mulf %ar, %br : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<44x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !e
}
