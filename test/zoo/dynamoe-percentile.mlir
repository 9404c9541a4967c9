// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// DynaMoE: Dynamic Token-Level Expert Activation with Layer-Wise Adaptive Capacity for Mixture-of-Experts Neural Networks
//
// Three layers with ever fewer experts; a token activates the experts whose probability exceeds a percentile of its own
// distribution, at a level that comes with the token, and at least the best one.
//
// Ops: top_k of all pairs and to_slots (the sorted probabilities), select (above the token's threshold, or of rank 0),
// normalize, apply, counts. The number of experts is part of the type: one function per layer.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !i = tensor<?xi32>   !t = tensor<?xf32>   !up = tensor<24x30xf32>
!down = tensor<30x24xf32>   !e6 = tensor<?x6xf32>   !e4 = tensor<?x4xf32>   !e3 = tensor<?x3xf32>
!up6 = tensor<6x24x30xf32>   !down6 = tensor<6x30x24xf32>   !up4 = tensor<4x24x30xf32>   !down4 = tensor<4x30x24xf32>
!up3 = tensor<3x24x30xf32>   !down3 = tensor<3x30x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %level: !t {moe.name = "level"}, %wr0: tensor<24x6xf32> {moe.name = "wr0"},
    %w1_0: !up6 {moe.name = "w1_0"}, %w2_0: !down6 {moe.name = "w2_0"}, %wr1: tensor<24x4xf32> {moe.name = "wr1"},
    %w1_1: !up4 {moe.name = "w1_1"}, %w2_1: !down4 {moe.name = "w2_1"}, %wr2: tensor<24x3xf32> {moe.name = "wr2"},
    %w1_2: !up3 {moe.name = "w1_2"}, %w2_2: !down3 {moe.name = "w2_2"})
    -> (!x {moe.name = "y"}, !e6 {moe.name = "routing_0"}, !e4 {moe.name = "routing_1"}, !e3 {moe.name = "routing_2"},
        !i {moe.name = "count"}) {
  %h0, %routing_0, %n0 = func.call @layer6(%x, %level, %wr0, %w1_0, %w2_0) : (!x, !t, tensor<24x6xf32>, !up6, !down6)
      -> (!x, !e6, !i)
  %h1, %routing_1, %n1 = func.call @layer4(%h0, %level, %wr1, %w1_1, %w2_1) : (!x, !t, tensor<24x4xf32>, !up4, !down4)
      -> (!x, !e4, !i)
  %y, %routing_2, %n2 = func.call @layer3(%h1, %level, %wr2, %w1_2, %w2_2) : (!x, !t, tensor<24x3xf32>, !up3, !down3)
      -> (!x, !e3, !i)
  %n01 = arith.addi %n0, %n1 : !i   %count = arith.addi %n01, %n2 : !i
  return %y, %routing_0, %routing_1, %routing_2, %count : !x, !e6, !e4, !e3, !i
}

// One layer of 6 experts: the weights, how many a token used, and the state behind it.
func.func private @layer6(%h: !x, %level: !t, %wr: tensor<24x6xf32>, %w1: !up6, %w2: !down6) -> (!x, !e6, !i) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %last = arith.constant 5 : index   %lastf = arith.constant 5.0 : f32
  %t = tensor.dim %h, %c0 : !x   %ze = tensor.splat %f0[%t] : !e6   %zt = tensor.splat %f0[%t] : !t
  %logits = linalg.matmul ins(%h, %wr : !x, tensor<24x6xf32>) outs(%ze : !e6) -> !e6
  %all = moe.route %logits : !e6   %p = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %sorted = moe.top_k %p k(6) : !moe.routing<?x6xf32>
  %idx, %down_order = moe.to_slots %sorted : !moe.routing<?x6xf32, max_per_row = 6>
  // The percentile: place level (E - 1) in ascending order, between two neighbours.
  %thr = linalg.map ins(%level : !t) outs(%zt : !t) (%at: f32, %init: f32) {
    %i = linalg.index 0 : index   %pos = arith.mulf %at, %lastf : f32   %low = math.floor %pos : f32
    %f = arith.subf %pos, %low : f32
    %nan_to_0 = arith.maxnumf %low, %f0 : f32   %place = arith.minnumf %nan_to_0, %lastf : f32
    %li = arith.fptoui %place : f32 to i32   %a = arith.index_cast %li : i32 to index   %b0 = arith.addi %a, %c1 : index
    %b = arith.minui %b0, %last : index
    %ra = arith.subi %last, %a : index   %rb = arith.subi %last, %b : index
    %va = tensor.extract %down_order[%i, %ra] : !e6   %vb = tensor.extract %down_order[%i, %rb] : !e6
    %step = arith.subf %vb, %va : f32   %part = arith.mulf %f, %step : f32   %v = arith.addf %va, %part : f32
    linalg.yield %v : f32
  }
  // Where nothing lies above (level 1), the best one stays: the threshold is the largest probability, which rank 0 has.
  %active = moe.select %p {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %least = tensor.extract %thr[%row] : !t   %above = arith.cmpf ogt, %key, %least : f32
    %best = arith.cmpi eq, %rank, %c0 : index   %in = arith.ori %above, %best : i1
    moe.yield %in : i1
  } : !moe.routing<?x6xf32>
  %r = moe.normalize %active by(sum) : !moe.routing<?x6xf32>   %routing = moe.to_dense %r : !moe.routing<?x6xf32>
  %o = moe.apply %r rows(%h) experts(%w1, %w2) weighted(after) out(sum) : !moe.routing<?x6xf32>, !x, !up6,
      !down6 -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %o = linalg.matmul ins(%g, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %next = arith.addf %h, %o : !x   %used = moe.counts %r per(row) : !moe.routing<?x6xf32>
  return %next, %routing, %used : !x, !e6, !i
}

// One layer of 4 experts: the weights, how many a token used, and the state behind it.
func.func private @layer4(%h: !x, %level: !t, %wr: tensor<24x4xf32>, %w1: !up4, %w2: !down4) -> (!x, !e4, !i) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %last = arith.constant 3 : index   %lastf = arith.constant 3.0 : f32
  %t = tensor.dim %h, %c0 : !x   %ze = tensor.splat %f0[%t] : !e4   %zt = tensor.splat %f0[%t] : !t
  %logits = linalg.matmul ins(%h, %wr : !x, tensor<24x4xf32>) outs(%ze : !e4) -> !e4
  %all = moe.route %logits : !e4   %p = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %sorted = moe.top_k %p k(4) : !moe.routing<?x4xf32>
  %idx, %down_order = moe.to_slots %sorted : !moe.routing<?x4xf32, max_per_row = 4>
  // The percentile: place level (E - 1) in ascending order, between two neighbours.
  %thr = linalg.map ins(%level : !t) outs(%zt : !t) (%at: f32, %init: f32) {
    %i = linalg.index 0 : index   %pos = arith.mulf %at, %lastf : f32   %low = math.floor %pos : f32
    %f = arith.subf %pos, %low : f32
    %nan_to_0 = arith.maxnumf %low, %f0 : f32   %place = arith.minnumf %nan_to_0, %lastf : f32
    %li = arith.fptoui %place : f32 to i32   %a = arith.index_cast %li : i32 to index   %b0 = arith.addi %a, %c1 : index
    %b = arith.minui %b0, %last : index
    %ra = arith.subi %last, %a : index   %rb = arith.subi %last, %b : index
    %va = tensor.extract %down_order[%i, %ra] : !e4   %vb = tensor.extract %down_order[%i, %rb] : !e4
    %step = arith.subf %vb, %va : f32   %part = arith.mulf %f, %step : f32   %v = arith.addf %va, %part : f32
    linalg.yield %v : f32
  }
  // Where nothing lies above (level 1), the best one stays: the threshold is the largest probability, which rank 0 has.
  %active = moe.select %p {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %least = tensor.extract %thr[%row] : !t   %above = arith.cmpf ogt, %key, %least : f32
    %best = arith.cmpi eq, %rank, %c0 : index   %in = arith.ori %above, %best : i1
    moe.yield %in : i1
  } : !moe.routing<?x4xf32>
  %r = moe.normalize %active by(sum) : !moe.routing<?x4xf32>   %routing = moe.to_dense %r : !moe.routing<?x4xf32>
  %o = moe.apply %r rows(%h) experts(%w1, %w2) weighted(after) out(sum) : !moe.routing<?x4xf32>, !x, !up4,
      !down4 -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %o = linalg.matmul ins(%g, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %next = arith.addf %h, %o : !x   %used = moe.counts %r per(row) : !moe.routing<?x4xf32>
  return %next, %routing, %used : !x, !e4, !i
}

// One layer of 3 experts: the weights, how many a token used, and the state behind it.
func.func private @layer3(%h: !x, %level: !t, %wr: tensor<24x3xf32>, %w1: !up3, %w2: !down3) -> (!x, !e3, !i) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %last = arith.constant 2 : index   %lastf = arith.constant 2.0 : f32
  %t = tensor.dim %h, %c0 : !x   %ze = tensor.splat %f0[%t] : !e3   %zt = tensor.splat %f0[%t] : !t
  %logits = linalg.matmul ins(%h, %wr : !x, tensor<24x3xf32>) outs(%ze : !e3) -> !e3
  %all = moe.route %logits : !e3   %p = moe.normalize %all by(softmax) : !moe.routing<?x3xf32>
  %sorted = moe.top_k %p k(3) : !moe.routing<?x3xf32>
  %idx, %down_order = moe.to_slots %sorted : !moe.routing<?x3xf32, max_per_row = 3>
  // The percentile: place level (E - 1) in ascending order, between two neighbours.
  %thr = linalg.map ins(%level : !t) outs(%zt : !t) (%at: f32, %init: f32) {
    %i = linalg.index 0 : index   %pos = arith.mulf %at, %lastf : f32   %low = math.floor %pos : f32
    %f = arith.subf %pos, %low : f32
    %nan_to_0 = arith.maxnumf %low, %f0 : f32   %place = arith.minnumf %nan_to_0, %lastf : f32
    %li = arith.fptoui %place : f32 to i32   %a = arith.index_cast %li : i32 to index   %b0 = arith.addi %a, %c1 : index
    %b = arith.minui %b0, %last : index
    %ra = arith.subi %last, %a : index   %rb = arith.subi %last, %b : index
    %va = tensor.extract %down_order[%i, %ra] : !e3   %vb = tensor.extract %down_order[%i, %rb] : !e3
    %step = arith.subf %vb, %va : f32   %part = arith.mulf %f, %step : f32   %v = arith.addf %va, %part : f32
    linalg.yield %v : f32
  }
  // Where nothing lies above (level 1), the best one stays: the threshold is the largest probability, which rank 0 has.
  %active = moe.select %p {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %least = tensor.extract %thr[%row] : !t   %above = arith.cmpf ogt, %key, %least : f32
    %best = arith.cmpi eq, %rank, %c0 : index   %in = arith.ori %above, %best : i1
    moe.yield %in : i1
  } : !moe.routing<?x3xf32>
  %r = moe.normalize %active by(sum) : !moe.routing<?x3xf32>   %routing = moe.to_dense %r : !moe.routing<?x3xf32>
  %o = moe.apply %r rows(%h) experts(%w1, %w2) weighted(after) out(sum) : !moe.routing<?x3xf32>, !x, !up3,
      !down3 -> !x {
  ^bb0(%v: !x, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %one = tensor.splat %f1[%n] : !h   %hf = tensor.splat %half[%n] : !h   %rt = tensor.splat %root2[%n] : !h
    %g_s = arith.mulf %a, %rt : !h   %g_f = math.erf %g_s : !h   %g_c = arith.addf %g_f, %one : !h
    %g_h = arith.mulf %a, %hf : !h   %g = arith.mulf %g_h, %g_c : !h
    %o = linalg.matmul ins(%g, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %next = arith.addf %h, %o : !x   %used = moe.counts %r per(row) : !moe.routing<?x3xf32>
  return %next, %routing, %used : !x, !e3, !i
}
