// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Pushing Mixture of Experts to the Limit: Extremely Parameter Efficient MoE for Instruction Tuning
//
// Soft mixtures of parameter-efficient experts on one linear layer: of scaling vectors (their mixture scales the
// output), and of LoRA pairs.
//
// Ops: route, normalize, apply over all experts; the mixture of vectors is one product.

!x = tensor<?x24xf32>   !y = tensor<?x20xf32>   !e = tensor<?x6xf32>   !low = tensor<?x4xf32>   !as = tensor<6x24x4xf32>
!bs = tensor<6x4x20xf32>   !r = !moe.routing<?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %w0: tensor<24x20xf32> {moe.name = "w0"},
    %w_gate_v: tensor<24x6xf32> {moe.name = "w_gate_v"}, %vec: tensor<6x20xf32> {moe.name = "vec"},
    %w_gate_l: tensor<24x6xf32> {moe.name = "w_gate_l"}, %a: !as {moe.name = "a"}, %b: !bs {moe.name = "b"})
    -> (!y {moe.name = "y_mov"}, !e {moe.name = "routing_mov"}, !y {moe.name = "y_molora"},
        !e {moe.name = "routing_molora"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zy = tensor.splat %f0[%t] : !y
  %base = linalg.matmul ins(%x, %w0 : !x, tensor<24x20xf32>) outs(%zy : !y) -> !y
  %lv = linalg.matmul ins(%x, %w_gate_v : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %routing_mov = linalg.softmax dimension(1) ins(%lv : !e) outs(%ze : !e) -> !e
  %l = linalg.matmul ins(%routing_mov, %vec : !e, tensor<6x20xf32>) outs(%zy : !y) -> !y
  %y_mov = arith.mulf %base, %l : !y
  %ll = linalg.matmul ins(%x, %w_gate_l : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %all = moe.route %ll : !e   %r = moe.normalize %all by(softmax) : !r
  %lora = moe.apply %r rows(%x) experts(%a, %b) weighted(after) out(sum) : !r, !x, !as, !bs -> !y {
  ^bb0(%v: !x, %down: tensor<24x4xf32>, %up: tensor<4x20xf32>):
    %n = tensor.dim %v, %c0 : !x   %zl = tensor.splat %f0[%n] : !low   %zo = tensor.splat %f0[%n] : !y
    %h = linalg.matmul ins(%v, %down : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
    %o = linalg.matmul ins(%h, %up : !low, tensor<4x20xf32>) outs(%zo : !y) -> !y
    moe.yield %o : !y
  }
  %y_molora = arith.addf %base, %lora : !y   %routing_molora = moe.to_dense %r : !r
  return %y_mov, %routing_mov, %y_molora, %routing_molora : !y, !e, !y, !e
}
