// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Mixture of Tunable Experts -- Behavior Modification of DeepSeek-R1 at Inference Time
//
// Experts of a trained model are switched off or forced by two masks: forced ones fill the k slots first, in the order
// of their biased score, then free ones; the weight is the plain score.
//
// Ops: route with masks, top_k by another key, to_dense of(rank) (the place of an expert among the forced or the free
// ones), normalize, map, apply.

!x = tensor<?x24xf32>   !h = tensor<?x20xf32>   !hs = tensor<?x12xf32>   !e = tensor<?x8xf32>   !i = tensor<?x8xi32>
!m = tensor<8xi1>   !r = !moe.routing<?x8xf32>   !ranked = !moe.routing<?x8xf32, max_per_row = 8>
!top = !moe.routing<?x8xf32, max_per_row = 3>   !up = tensor<24x20xf32>   !down = tensor<20x24xf32>
!ups = tensor<8x24x20xf32>   !downs = tensor<8x20x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %off: !m {moe.name = "off"}, %on: !m {moe.name = "on"},
    %w_gate: tensor<24x8xf32> {moe.name = "w_gate"}, %bias: tensor<8xf32> {moe.name = "bias"},
    %w_g: !ups {moe.name = "w_g"}, %w_u: !ups {moe.name = "w_u"}, %w_d: !downs {moe.name = "w_d"},
    %s_g: tensor<24x12xf32> {moe.name = "s_g"}, %s_u: tensor<24x12xf32> {moe.name = "s_u"},
    %s_d: tensor<12x24xf32> {moe.name = "s_d"}) -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %i8 = arith.constant 8 : i32   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %scale = arith.constant 2.5 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zy = tensor.splat %f0[%t] : !x
  %zs = tensor.splat %f0[%t] : !hs   %ones = tensor.splat %f1[%t] : !e   %one_s = tensor.splat %f1[%t] : !hs
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %score_n = arith.negf %logits : !e   %score_e = math.exp %score_n : !e   %score_d = arith.addf %score_e, %ones : !e
  %score = arith.divf %ones, %score_d : !e
  %biases = linalg.broadcast ins(%bias : tensor<8xf32>) outs(%ze : !e) dimensions = [0]
  %c = arith.addf %score, %biases : !e
  // The order of an expert: its rank among the forced ones, or 8 plus its rank among the free ones.
  %true8 = arith.constant dense<true> : !m   %usable = arith.xori %off, %true8 : !m
  %forced = arith.andi %on, %usable : !m   %free = arith.xori %forced, %usable : !m
  %all_forced = moe.route %score mask(%forced : !m) : !e   %all_free = moe.route %score mask(%free : !m) : !e
  %by_force = moe.top_k %all_forced by(%c : !e) k(8) : !r   %by_score = moe.top_k %all_free by(%c : !e) k(8) : !r
  %first = moe.to_dense %by_force of(rank) fill(1.6e1) : !ranked
  %second = moe.to_dense %by_score of(rank) fill(1.6e1) : !ranked
  %eights = tensor.splat %i8[%t] : !i   %later = arith.addi %second, %eights : !i
  %order = arith.minsi %first, %later : !i
  %place = arith.sitofp %order : !i to !e   %key = arith.negf %place : !e
  %all = moe.route %score mask(%usable : !m) : !e
  %best = moe.top_k %all by(%key : !e) k(3) : !r
  %share = moe.normalize %best by(sum) : !top
  %r = moe.map %share {
  ^bb0(%w: f32, %row: index, %expert: index):
    %scaled = arith.mulf %w, %scale : f32
    moe.yield %scaled : f32
  } : !top
  %sa = linalg.matmul ins(%x, %s_g : !x, tensor<24x12xf32>) outs(%zs : !hs) -> !hs
  %sb = linalg.matmul ins(%x, %s_u : !x, tensor<24x12xf32>) outs(%zs : !hs) -> !hs
  %ss_n = arith.negf %sa : !hs   %ss_e = math.exp %ss_n : !hs   %ss_d = arith.addf %ss_e, %one_s : !hs
  %ss = arith.divf %sa, %ss_d : !hs   %sh = arith.mulf %ss, %sb : !hs
  %shared = linalg.matmul ins(%sh, %s_d : !hs, tensor<12x24xf32>) outs(%zy : !x) -> !x
  %routed = moe.apply %r rows(%x) experts(%w_g, %w_u, %w_d) weighted(after) out(sum)
      : !top, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %one = tensor.splat %f1[%n] : !h
    %a = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
    %act_n = arith.negf %a : !h   %act_e = math.exp %act_n : !h   %act_d = arith.addf %act_e, %one : !h
    %act = arith.divf %a, %act_d : !h   %g = arith.mulf %act, %b : !h
    %o = linalg.matmul ins(%g, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %y = arith.addf %shared, %routed : !x   %routing = moe.to_dense %r : !top
  return %y, %routing : !x, !e
}
