// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Jointly-Learned Exit and Inference for a Dynamic Neural Network : JEI-DNN
//
// After each block a head gives class logits, and a gate on four uncertainty features decides whether the sample
// leaves. Block l is expert l: in step l only the samples that have not left are routed to it, the others do no work.
//
// Ops: from_slots (an empty slot for a sample that has left), apply with three results, inside scf.for.

!x = tensor<?x24xf32>   !c = tensor<?x7xf32>   !f = tensor<?xf32>   !i = tensor<?xi32>   !b = tensor<?xi1>

// The largest probability, the entropy, and the logarithm of the sum of exponentials of each row of logits.
func.func private @features(%c: !c) -> (!f, !f, !f) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %minf = arith.constant 0xFF800000 : f32
  %n = tensor.dim %c, %c0 : !c   %zf = tensor.splat %f0[%n] : !f   %low = tensor.splat %minf[%n] : !f
  %one = tensor.splat %f1[%n] : !f   %e = tensor.empty(%n) : !c
  %max = linalg.reduce {arith.maximumf} ins(%c : !c) outs(%low : !f) dimensions = [1]
  %maxb = linalg.broadcast ins(%max : !f) outs(%e : !c) dimensions = [1]
  %shifted = arith.subf %c, %maxb : !c   %exp = math.exp %shifted : !c
  %sum = linalg.reduce {arith.addf} ins(%exp : !c) outs(%zf : !f) dimensions = [1]
  %log = math.log %sum : !f   %lse = arith.addf %log, %max : !f   %best = arith.divf %one, %sum : !f
  // -sum p ln p = lse - sum p c
  %ec = arith.mulf %exp, %c : !c
  %sec = linalg.reduce {arith.addf} ins(%ec : !c) outs(%zf : !f) dimensions = [1]
  %mean = arith.mulf %sec, %best : !f   %entropy = arith.subf %lse, %mean : !f
  return %best, %entropy, %lse : !f, !f, !f
}

func.func @main(%x: !x {moe.name = "x"}, %wb: tensor<4x24x24xf32> {moe.name = "wb"},
    %bb: tensor<4x24xf32> {moe.name = "bb"}, %wc: tensor<4x24x7xf32> {moe.name = "wc"},
    %bc: tensor<4x7xf32> {moe.name = "bc"}, %wu: tensor<3x4xf32> {moe.name = "wu"},
    %bu: tensor<3xf32> {moe.name = "bu"})
    -> (!c {moe.name = "logits"}, !i {moe.name = "exit"}, !f {moe.name = "gate"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index   %c4 = arith.constant 4 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %i0 = arith.constant 0 : i32
  %im1 = arith.constant -1 : i32   %true = arith.constant true
  %t = tensor.dim %x, %c0 : !x   %logits0 = tensor.splat %f0[%t] : !c   %gate0 = tensor.splat %f0[%t] : !f
  %exit0 = tensor.splat %i0[%t] : !i   %all = tensor.splat %true[%t] : !b   %none = tensor.splat %im1[%t] : !i
  %halves = tensor.splat %half[%t] : !f   %ones = tensor.splat %f1[%t] : tensor<?x1xf32>
  %r:5 = scf.for %l = %c0 to %c4 step %c1 iter_args(%h = %x, %logits = %logits0, %exit = %exit0, %gate = %gate0,
      %active = %all) -> (!x, !c, !i, !f, !b) {
    %li = arith.index_cast %l : index to i32
    %ls = tensor.splat %li[%t] : !i
    %idx = arith.select %active, %ls, %none : !b, !i
    %slots = tensor.expand_shape %idx [[0, 1]] output_shape [%t, 1] : !i into tensor<?x1xi32>
    %here = moe.from_slots %slots, %ones experts(4) : tensor<?x1xi32>, tensor<?x1xf32>
    %next, %classes, %g = moe.apply %here rows(%h) experts(%wb, %bb, %wc, %bc) index(expert) out(sum, sum, sum)
        : !moe.routing<?x4xf32, max_per_row = 1>, !x, tensor<4x24x24xf32>, tensor<4x24xf32>, tensor<4x24x7xf32>,
            tensor<4x7xf32> -> (!x, !c, !f) {
    ^bb0(%v: !x, %w: tensor<24x24xf32>, %b: tensor<24xf32>, %head: tensor<24x7xf32>, %hb: tensor<7xf32>, %e: index):
      %n = tensor.dim %v, %c0 : !x
      %zx = tensor.splat %f0[%n] : !x   %zc = tensor.splat %f0[%n] : !c   %zf = tensor.splat %f0[%n] : !f
      %hc = tensor.splat %half[%n] : !c
      %bx = linalg.broadcast ins(%b : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
      %z = linalg.matmul ins(%v, %w : !x, tensor<24x24xf32>) outs(%bx : !x) -> !x
      %relu = arith.maximumf %z, %zx : !x   %hn = arith.addf %v, %relu : !x
      %bcx = linalg.broadcast ins(%hb : tensor<7xf32>) outs(%zc : !c) dimensions = [0]
      %c = linalg.matmul ins(%hn, %head : !x, tensor<24x7xf32>) outs(%bcx : !c) -> !c
      %u0, %u1, %u3 = func.call @features(%c) : (!c) -> (!f, !f, !f)
      %cool = arith.mulf %c, %hc : !c
      %p2, %u2, %lse2 = func.call @features(%cool) : (!c) -> (!f, !f, !f)
      %k = arith.minui %e, %c2 : index   %w0 = tensor.extract %wu[%k, %c0] : tensor<3x4xf32>
      %w1 = tensor.extract %wu[%k, %c1] : tensor<3x4xf32>   %w2 = tensor.extract %wu[%k, %c2] : tensor<3x4xf32>
      %w3 = tensor.extract %wu[%k, %c3] : tensor<3x4xf32>   %bias = tensor.extract %bu[%k] : tensor<3xf32>
      %last = arith.cmpi eq, %e, %c3 : index
      %open = linalg.map ins(%u0, %u1, %u2, %u3 : !f, !f, !f, !f)
          outs(%zf : !f) (%a0: f32, %a1: f32, %a2: f32, %a3: f32, %init: f32) {
        %s0 = math.fma %a0, %w0, %bias : f32   %s1 = math.fma %a1, %w1, %s0 : f32   %s2 = math.fma %a2, %w2, %s1 : f32
        %s3 = math.fma %a3, %w3, %s2 : f32   %neg = arith.negf %s3 : f32   %exp = math.exp %neg : f32
        %den = arith.addf %exp, %f1 : f32   %sigmoid = arith.divf %f1, %den : f32
        %gated = arith.select %last, %f1, %sigmoid : f32
        linalg.yield %gated : f32
      }
      moe.yield %hn, %c, %open : !x, !c, !f
    }
    // A sample that left before has no pair, hence gate 0: it does not leave again.
    %leaves = arith.cmpf ogt, %g, %halves : !f
    %em = tensor.empty(%t) : tensor<?x7xi1>
    %leaves7 = linalg.broadcast ins(%leaves : !b) outs(%em : tensor<?x7xi1>) dimensions = [1]
    %logits1 = arith.select %leaves7, %classes, %logits : tensor<?x7xi1>, !c
    %exit1 = arith.select %leaves, %ls, %exit : !b, !i   %gate1 = arith.select %leaves, %g, %gate : !b, !f
    %stays = arith.xori %active, %leaves : !b
    scf.yield %next, %logits1, %exit1, %gate1, %stays : !x, !c, !i, !f, !b
  }
  return %r#1, %r#2, %r#3 : !c, !i, !f
}
