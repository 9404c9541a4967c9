// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Memory Augmented Language Models through Mixture of Word Experts
//
// No router is learned: tables turn a token's id in a routing vocabulary into one of many small word experts, and the
// expert's frequency bucket fixes how many tokens it takes.
//
// Ops: from_slots (experts by id), limit with a capacity per expert, apply, to_slots.

!x = tensor<?x24xf32>   !h = tensor<?x6xf32>   !id = tensor<?xi32>   !r = !moe.routing<?x15xf32, max_per_row = 1>

func.func @main(%x: !x {moe.name = "x"}, %ids: !id {moe.name = "ids"}, %block: tensor<40xi32> {moe.name = "block"},
    %slot: tensor<40xi32> {moe.name = "slot"}, %bucket: tensor<15xi32> {moe.name = "bucket"},
    %num: tensor<3xi32> {moe.name = "num"}, %w1: tensor<15x24x6xf32> {moe.name = "w1"},
    %w2: tensor<15x6x24xf32> {moe.name = "w2"}) -> (!x {moe.name = "y"}, !id {moe.name = "expert"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %i5 = arith.constant 5 : i32
  %i16 = arith.constant 16 : i32   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c0 : !x
  %ti = arith.index_cast %t : index to i32
  %e0 = tensor.empty(%t) : !id   %caps0 = tensor.empty() : tensor<15xi32>
  // e = block[id] * ES + slot[id]
  %expert = linalg.map ins(%ids : !id) outs(%e0 : !id) (%id: i32, %init: i32) {
    %i = arith.index_cast %id : i32 to index   %b = tensor.extract %block[%i] : tensor<40xi32>
    %s = tensor.extract %slot[%i] : tensor<40xi32>   %b5 = arith.muli %b, %i5 : i32   %e = arith.addi %b5, %s : i32
    linalg.yield %e : i32
  }
  // C_e = ceil(num[bucket[e]] T / 16)
  %caps = linalg.map ins(%bucket : tensor<15xi32>) outs(%caps0 : tensor<15xi32>) (%b: i32, %init: i32) {
    %i = arith.index_cast %b : i32 to index   %n = tensor.extract %num[%i] : tensor<3xi32>
    %nt = arith.muli %n, %ti : i32   %c = arith.ceildivsi %nt, %i16 : i32
    linalg.yield %c : i32
  }
  %idx = tensor.expand_shape %expert [[0, 1]] output_shape [%t, 1] : !id into tensor<?x1xi32>
  %ones = tensor.splat %f1[%t] : tensor<?x1xf32>
  %all = moe.from_slots %idx, %ones experts(15) : tensor<?x1xi32>, tensor<?x1xf32>
  %kept = moe.limit %all cap(%caps : tensor<15xi32>) order(row) : !r
  %ffn = moe.apply %kept rows(%x) experts(%w1, %w2) out(sum) : !r, !x, tensor<15x24x6xf32>, tensor<15x6x24xf32> -> !x {
  ^bb0(%v: !x, %up: tensor<24x6xf32>, %down: tensor<6x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %halves = tensor.splat %half[%n] : !h   %scale = tensor.splat %rsqrt2[%n] : !h
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x6xf32>) outs(%zh : !h) -> !h
    %b = arith.mulf %a, %scale : !h   %erf = math.erf %b : !h   %c = arith.addf %erf, %one : !h
    %d = arith.mulf %a, %halves : !h   %g = arith.mulf %c, %d : !h
    %o = linalg.matmul ins(%g, %down : !h, tensor<6x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %x, %ffn : !x
  %slots, %w = moe.to_slots %kept : !r
  %served = tensor.collapse_shape %slots [[0, 1]] : tensor<?x1xi32> into !id
  return %y, %served : !x, !id
}
