// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// WINA: Weight Informed Neuron Activation for Accelerating Large Language Model Inference
//
// Inside every chosen expert, only the inputs of a linear layer whose magnitude times the norm of their weight row is
// largest are kept, a fixed number per layer, each layer with its own mask.
//
// Ops: top_k, normalize, apply with a second result (what was kept); the masks inside the body are routings as well:
// route, top_k by a key, to_dense, whose expert is an input column.

!x = tensor<?x22xf32>   !h = tensor<?x30xf32>   !e = tensor<?x5xf32>   !r = !moe.routing<?x5xf32, max_per_row = 2>
!up = tensor<22x30xf32>   !down = tensor<30x22xf32>   !ups = tensor<5x22x30xf32>   !downs = tensor<5x30x22xf32>
!rx = !moe.routing<?x22xf32, max_per_row = 13>   !rh = !moe.routing<?x30xf32, max_per_row = 16>

func.func @main(%x: !x {moe.name = "x"}, %w_gate: tensor<22x5xf32> {moe.name = "w_gate"}, %w_g: !ups {moe.name = "w_g"},
    %w_u: !ups {moe.name = "w_u"}, %w_d: !downs {moe.name = "w_d"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !x {moe.name = "kept"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %w_gate : !x, tensor<22x5xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %best = moe.top_k %all k(2) : !moe.routing<?x5xf32>
  %r = moe.normalize %best by(softmax) : !r
  %y, %kept = moe.apply %r rows(%x) experts(%w_g, %w_u, %w_d) weighted(after) out(sum, sum)
      : !r, !x, !ups, !ups, !downs -> (!x, !x) {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %one = tensor.splat %f1[%n] : !h
    %vg, %mg = func.call @best_x(%v, %gate) : (!x, !up) -> (!x, !x)
    %vu, %mu = func.call @best_x(%v, %up) : (!x, !up) -> (!x, !x)
    %a = linalg.matmul ins(%vg, %gate : !x, !up) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%vu, %up : !x, !up) outs(%zh : !h) -> !h
    %s_n = arith.negf %a : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %one : !h
    %s = arith.divf %a, %s_d : !h   %g = arith.mulf %s, %b : !h   %gd = func.call @best_h(%g, %down) : (!h, !down) -> !h
    %o = linalg.matmul ins(%gd, %down : !h, !down) outs(%zx : !x) -> !x
    moe.yield %o, %mg : !x, !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing, %kept : !x, !e, !x
}

// The inputs of a linear that matter, and which these are (1 or 0).
func.func private @best_x(%v: !x, %w: !up) -> (!x, !x) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zx = tensor.splat %f0[%n] : !x   %zw = tensor.splat %f0 : tensor<22xf32>
  %ones = tensor.splat %f1[%n] : !x
  %ww = arith.mulf %w, %w : !up
  %sq = linalg.reduce {arith.addf} ins(%ww : !up) outs(%zw : tensor<22xf32>) dimensions = [1]
  %norm = math.sqrt %sq : tensor<22xf32>
  %norms = linalg.broadcast ins(%norm : tensor<22xf32>) outs(%zx : !x) dimensions = [0]
  %size = math.absf %v : !x   %key = arith.mulf %size, %norms : !x
  %all = moe.route %ones : !x   %best = moe.top_k %all by(%key : !x) k(13) : !moe.routing<?x22xf32>
  %mask = moe.to_dense %best : !rx
  %kept = arith.mulf %v, %mask : !x
  return %kept, %mask : !x, !x
}

func.func private @best_h(%v: !h, %w: !down) -> !h {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !h   %zh = tensor.splat %f0[%n] : !h   %zw = tensor.splat %f0 : tensor<30xf32>
  %ones = tensor.splat %f1[%n] : !h
  %ww = arith.mulf %w, %w : !down
  %sq = linalg.reduce {arith.addf} ins(%ww : !down) outs(%zw : tensor<30xf32>) dimensions = [1]
  %norm = math.sqrt %sq : tensor<30xf32>
  %norms = linalg.broadcast ins(%norm : tensor<30xf32>) outs(%zh : !h) dimensions = [0]
  %size = math.absf %v : !h   %key = arith.mulf %size, %norms : !h
  %all = moe.route %ones : !h   %best = moe.top_k %all by(%key : !h) k(16) : !moe.routing<?x30xf32>
  %mask = moe.to_dense %best : !rh
  %kept = arith.mulf %v, %mask : !h
  return %kept : !h
}
