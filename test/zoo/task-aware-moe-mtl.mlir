// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Sparsely Activated Mixture-of-Experts are Robust Multi-Task Learners
//
// All tasks share the experts, but each task has its own router: a token is routed by the gate of its task.
//
// Ops: route, normalize, top_k, apply; the gate of a token is an apply as well (experts = gates, routing by task
// number).

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !g = !moe.routing<?x4xf32, max_per_row = 1>   !id = tensor<?x1xi32>
!one = tensor<?x1xf32>

func.func @main(%x: !x {moe.name = "x"}, %task_id: tensor<?xi32> {moe.name = "task_id"},
    %w_gate: tensor<4x24x6xf32> {moe.name = "w_gate"}, %w1: tensor<6x24x40xf32> {moe.name = "w1"},
    %w2: tensor<6x40x24xf32> {moe.name = "w2"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x
  %ids = tensor.expand_shape %task_id [[0, 1]] output_shape [%t, 1] : tensor<?xi32> into !id
  %ones = tensor.splat %f1[%t] : !one
  %tasks = moe.from_slots %ids, %ones experts(4) : !id, !one
  %logits = moe.apply %tasks rows(%x) experts(%w_gate) out(sum) : !g, !x, tensor<4x24x6xf32> -> !e {
  ^bb0(%v: !x, %gate: tensor<24x6xf32>):
    %n = tensor.dim %v, %c0 : !x   %ze = tensor.splat %f0[%n] : !e
    %o = linalg.matmul ins(%v, %gate : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    moe.yield %o : !e
  }
  %every = moe.route %logits : !e   %probs = moe.normalize %every by(softmax) : !all   %r = moe.top_k %probs k(2) : !all
  %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
      : !r, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !e
}
