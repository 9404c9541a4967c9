// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large Language Models with Applications in Protein Mechanics and Design
//
// A first pass without adapters decides, by a small head on its last state, how every layer of a second pass mixes its
// LoRA adapters per token.
//
// Ops: route, normalize (all adapters, token by token), apply in scf.for over the layers.

!x = tensor<?x24xf32>   !s = tensor<?x16xf32>   !u = tensor<?x12xf32>   !lam = tensor<?x3x4xf32>   !e = tensor<?x4xf32>
!low = tensor<?x4xf32>   !w = tensor<24x24xf32>   !as = tensor<4x24x4xf32>   !bs = tensor<4x4x24xf32>
!r = !moe.routing<?x4xf32>

func.func @main(%x: !x {moe.name = "x"}, %w: tensor<3x24x24xf32> {moe.name = "w"},
    %s1: tensor<24x16xf32> {moe.name = "s1"}, %c1: tensor<16xf32> {moe.name = "c1"},
    %s2: tensor<16x12xf32> {moe.name = "s2"}, %c2: tensor<12xf32> {moe.name = "c2"},
    %a: tensor<3x4x24x4xf32> {moe.name = "a"}, %b: tensor<3x4x4x24xf32> {moe.name = "b"})
    -> (!x {moe.name = "y"}, !lam {moe.name = "lam"}) {
  %c0 = arith.constant 0 : index   %one = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %scale = arith.constant 1.5 : f32
  %t = tensor.dim %x, %c0 : !x   %zs = tensor.splat %f0[%t] : !s   %zu = tensor.splat %f0[%t] : !u
  %zx = tensor.splat %f0[%t] : !x   %zlam = tensor.splat %f0[%t] : !lam   %ones = tensor.splat %f1[%t] : !x
  %scales = tensor.splat %scale[%t] : !x
  %hb = scf.for %l = %c0 to %c3 step %one iter_args(%h = %x) -> !x {
    %wl = tensor.extract_slice %w[%l, 0, 0] [1, 24, 24] [1, 1, 1] : tensor<3x24x24xf32> to !w
    %q = linalg.matmul ins(%h, %wl : !x, !w) outs(%zx : !x) -> !x
    %g_n = arith.negf %q : !x   %g_e = math.exp %g_n : !x   %g_d = arith.addf %g_e, %ones : !x
    %g = arith.divf %q, %g_d : !x   %next = arith.addf %h, %g : !x
    scf.yield %next : !x
  }
  %b1 = linalg.broadcast ins(%c1 : tensor<16xf32>) outs(%zs : !s) dimensions = [0]
  %b2 = linalg.broadcast ins(%c2 : tensor<12xf32>) outs(%zu : !u) dimensions = [0]
  %v1 = linalg.matmul ins(%hb, %s1 : !x, tensor<24x16xf32>) outs(%b1 : !s) -> !s
  %v = arith.maximumf %v1, %zs : !s
  %v2 = linalg.matmul ins(%v, %s2 : !s, tensor<16x12xf32>) outs(%b2 : !u) -> !u
  %logits = tensor.expand_shape %v2 [[0], [1, 2]] output_shape [%t, 3, 4] : !u into !lam
  %lam = linalg.softmax dimension(2) ins(%logits : !lam) outs(%zlam : !lam) -> !lam
  %y = scf.for %l = %c0 to %c3 step %one iter_args(%h = %x) -> !x {
    %wl = tensor.extract_slice %w[%l, 0, 0] [1, 24, 24] [1, 1, 1] : tensor<3x24x24xf32> to !w
    %al = tensor.extract_slice %a[%l, 0, 0, 0] [1, 4, 24, 4] [1, 1, 1, 1] : tensor<3x4x24x4xf32> to !as
    %bl = tensor.extract_slice %b[%l, 0, 0, 0] [1, 4, 4, 24] [1, 1, 1, 1] : tensor<3x4x4x24xf32> to !bs
    %weights = tensor.extract_slice %lam[0, %l, 0] [%t, 1, 4] [1, 1, 1] : !lam to !e
    %mix = moe.route %weights : !e
    %lora = moe.apply %mix rows(%h) experts(%al, %bl) weighted(after) out(sum) : !r, !x, !as, !bs -> !x {
    ^bb0(%rows: !x, %down: tensor<24x4xf32>, %up: tensor<4x24xf32>):
      %n = tensor.dim %rows, %c0 : !x   %zl = tensor.splat %f0[%n] : !low   %zo = tensor.splat %f0[%n] : !x
      %lo = linalg.matmul ins(%rows, %down : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
      %o = linalg.matmul ins(%lo, %up : !low, tensor<4x24xf32>) outs(%zo : !x) -> !x
      moe.yield %o : !x
    }
    %scaled = arith.mulf %lora, %scales : !x
    %q = linalg.matmul ins(%h, %wl : !x, !w) outs(%scaled : !x) -> !x
    %g_n = arith.negf %q : !x   %g_e = math.exp %g_n : !x   %g_d = arith.addf %g_e, %ones : !x
    %g = arith.divf %q, %g_d : !x   %next = arith.addf %h, %g : !x
    scf.yield %next : !x
  }
  return %y, %lam : !x, !lam
}
