// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// LLaVA-MoLE: Sparse Mixture of LoRA Experts for Mitigating Data Conflicts in Instruction Finetuning MLLMs
//
// Every linear of a gated feed-forward layer has its own router and its own LoRA experts, of which a token takes the
// best one.
//
// Ops: top_k (k = 1) weighted by the softmax probability, apply; one function per shape of linear.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x4xf32>   !low = tensor<?x4xf32>
!r = !moe.routing<?x4xf32, max_per_row = 1>   !au = tensor<4x24x4xf32>   !bu = tensor<4x4x32xf32>
!ad = tensor<4x32x4xf32>   !bd = tensor<4x4x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wg: tensor<24x32xf32> {moe.name = "wg"},
    %wu: tensor<24x32xf32> {moe.name = "wu"}, %wd: tensor<32x24xf32> {moe.name = "wd"},
    %rg: tensor<24x4xf32> {moe.name = "rg"}, %ru: tensor<24x4xf32> {moe.name = "ru"},
    %rd: tensor<32x4xf32> {moe.name = "rd"}, %ag: !au {moe.name = "ag"}, %bg: !bu {moe.name = "bg"},
    %au: !au {moe.name = "au"}, %bu: !bu {moe.name = "bu"}, %ad: !ad {moe.name = "ad"}, %bd: !bd {moe.name = "bd"})
    -> (!x {moe.name = "y"}, !low {moe.name = "routing_g"}, !low {moe.name = "routing_u"},
        !low {moe.name = "routing_d"}) {
  %c0 = arith.constant 0 : index   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ones = tensor.splat %f1[%t] : !h
  %g, %routing_g = func.call @up(%x, %wg, %rg, %ag, %bg) : (!x, tensor<24x32xf32>, tensor<24x4xf32>, !au, !bu)
      -> (!h, !e)
  %u, %routing_u = func.call @up(%x, %wu, %ru, %au, %bu) : (!x, tensor<24x32xf32>, tensor<24x4xf32>, !au, !bu)
      -> (!h, !e)
  %s_n = arith.negf %g : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %ones : !h
  %s = arith.divf %g, %s_d : !h   %hidden = arith.mulf %s, %u : !h
  %y, %routing_d = func.call @down(%hidden, %wd, %rd, %ad, %bd) : (!h, tensor<32x24xf32>, tensor<32x4xf32>, !ad, !bd)
      -> (!x, !e)
  return %y, %routing_g, %routing_u, %routing_d : !x, !low, !low, !low
}

func.func private @up(%v: !x, %w: tensor<24x32xf32>, %wr: tensor<24x4xf32>, %a: !au, %b: !bu) -> (!h, !e) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %scale = arith.constant 2.0 : f32
  %t = tensor.dim %v, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zo = tensor.splat %f0[%t] : !h
  %scales = tensor.splat %scale[%t] : !h
  %logits = linalg.matmul ins(%v, %wr : !x, tensor<24x4xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %r = moe.top_k %p k(1) : !moe.routing<?x4xf32>
  %lora = moe.apply %r rows(%v) experts(%a, %b) weighted(after) out(sum) : !r, !x, !au, !bu -> !h {
  ^bb0(%rows: !x, %d: tensor<24x4xf32>, %u: tensor<4x32xf32>):
    %n = tensor.dim %rows, %c0 : !x   %zl = tensor.splat %f0[%n] : !low   %zn = tensor.splat %f0[%n] : !h
    %l = linalg.matmul ins(%rows, %d : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
    %o = linalg.matmul ins(%l, %u : !low, tensor<4x32xf32>) outs(%zn : !h) -> !h
    moe.yield %o : !h
  }
  %scaled = arith.mulf %lora, %scales : !h
  %out = linalg.matmul ins(%v, %w : !x, tensor<24x32xf32>) outs(%scaled : !h) -> !h
  %routing = moe.to_dense %r : !r
  return %out, %routing : !h, !e
}

func.func private @down(%v: !h, %w: tensor<32x24xf32>, %wr: tensor<32x4xf32>, %a: !ad, %b: !bd) -> (!x, !e) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %scale = arith.constant 2.0 : f32
  %t = tensor.dim %v, %c0 : !h   %ze = tensor.splat %f0[%t] : !e   %zo = tensor.splat %f0[%t] : !x
  %scales = tensor.splat %scale[%t] : !x
  %logits = linalg.matmul ins(%v, %wr : !h, tensor<32x4xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %r = moe.top_k %p k(1) : !moe.routing<?x4xf32>
  %lora = moe.apply %r rows(%v) experts(%a, %b) weighted(after) out(sum) : !r, !h, !ad, !bd -> !x {
  ^bb0(%rows: !h, %d: tensor<32x4xf32>, %u: tensor<4x24xf32>):
    %n = tensor.dim %rows, %c0 : !h   %zl = tensor.splat %f0[%n] : !low   %zn = tensor.splat %f0[%n] : !x
    %l = linalg.matmul ins(%rows, %d : !h, tensor<32x4xf32>) outs(%zl : !low) -> !low
    %o = linalg.matmul ins(%l, %u : !low, tensor<4x24xf32>) outs(%zn : !x) -> !x
    moe.yield %o : !x
  }
  %scaled = arith.mulf %lora, %scales : !x
  %out = linalg.matmul ins(%v, %w : !h, tensor<32x24xf32>) outs(%scaled : !x) -> !x
  %routing = moe.to_dense %r : !r
  return %out, %routing : !x, !e
}
