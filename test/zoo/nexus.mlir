// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Nexus: Specialization meets Adaptability for Efficiently Training Mixture of Experts
//
// The router's columns are projections of the experts' domain embeddings, so that a new expert can be added by its
// embedding; both the layer before and after the extension are results.
//
// Ops: top_k on probabilities, apply; the extended layer has banks of one expert more.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x4xf32>   !f = tensor<?x5xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>   !rx = !moe.routing<?x5xf32, max_per_row = 2>   !up = tensor<24x32xf32>
!down = tensor<32x24xf32>   !ups = tensor<4x24x32xf32>   !downs = tensor<4x32x24xf32>   !ups5 = tensor<5x24x32xf32>
!downs5 = tensor<5x32x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %dom: tensor<4x10xf32> {moe.name = "dom"},
    %pa: tensor<10x14xf32> {moe.name = "pa"}, %pb: tensor<10x14xf32> {moe.name = "pb"},
    %pc: tensor<14x24xf32> {moe.name = "pc"}, %w1: !ups {moe.name = "w1"}, %w3: !ups {moe.name = "w3"},
    %w2: !downs {moe.name = "w2"}, %ws1: !up {moe.name = "ws1"}, %ws3: !up {moe.name = "ws3"},
    %ws2: !down {moe.name = "ws2"}, %dom_new: tensor<10xf32> {moe.name = "dom_new"}, %w1_new: !up {moe.name = "w1_new"},
    %w3_new: !up {moe.name = "w3_new"}, %w2_new: !down {moe.name = "w2_new"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, !x {moe.name = "y_ext"}, !f {moe.name = "routing_ext"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zf = tensor.splat %f0[%t] : !f
  %shared = func.call @swiglu(%x, %ws1, %ws3, %ws2) : (!x, !up, !up, !down) -> !x
  %new = tensor.expand_shape %dom_new [[0, 1]] output_shape [1, 10] : tensor<10xf32> into tensor<1x10xf32>
  %doms = tensor.concat dim(0) %dom, %new : (tensor<4x10xf32>, tensor<1x10xf32>) -> tensor<5x10xf32>
  %columns = func.call @project(%doms, %pa, %pb, %pc) : (tensor<5x10xf32>, tensor<10x14xf32>, tensor<10x14xf32>,
      tensor<14x24xf32>) -> tensor<5x24xf32>
  %logits = linalg.contract indexing_maps = [affine_map<(t, e, d) -> (t, d)>, affine_map<(t, e, d) -> (e, d)>,
      affine_map<(t, e, d) -> (t, e)>] ins(%x, %columns : !x, tensor<5x24xf32>) outs(%zf : !f) -> !f
  %base_logits = tensor.extract_slice %logits[0, 0] [%t, 4] [1, 1] : !f to !e
  %all = moe.route %base_logits : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %r = moe.top_k %p k(2) : !moe.routing<?x4xf32>
  %o = moe.apply %r rows(%x) experts(%w1, %w3, %w2) weighted(after) out(sum) : !r, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %ffn = func.call @swiglu(%v, %gate, %up, %down) : (!x, !up, !up, !down) -> !x
    moe.yield %ffn : !x
  }
  %y = arith.addf %shared, %o : !x   %routing = moe.to_dense %r : !r
  %all_ext = moe.route %logits : !f   %p_ext = moe.normalize %all_ext by(softmax) : !moe.routing<?x5xf32>
  %r_ext = moe.top_k %p_ext k(2) : !moe.routing<?x5xf32>
  %o_ext = moe.apply %r_ext rows(%x) experts(%w1 case(0), %w3 case(0), %w2 case(0)) cases([0, 0, 0, 0, 1])
      weighted(after) out(sum) : !rx, !x, !ups, !ups, !downs -> !x {
  ^bb0(%v: !x, %gate: !up, %up: !up, %down: !down):
    %ffn = func.call @swiglu(%v, %gate, %up, %down) : (!x, !up, !up, !down) -> !x
    moe.yield %ffn : !x
  }, {
  ^bb0(%v: !x):
    %ffn = func.call @swiglu(%v, %w1_new, %w3_new, %w2_new) : (!x, !up, !up, !down) -> !x
    moe.yield %ffn : !x
  }
  %y_ext = arith.addf %shared, %o_ext : !x   %routing_ext = moe.to_dense %r_ext : !rx
  return %y, %routing, %y_ext, %routing_ext : !x, !e, !x, !f
}

func.func private @project(%d: tensor<5x10xf32>, %pa: tensor<10x14xf32>, %pb: tensor<10x14xf32>, %pc: tensor<14x24xf32>)
    -> tensor<5x24xf32> {
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %z14 = tensor.splat %f0 : tensor<5x14xf32>   %z24 = tensor.splat %f0 : tensor<5x24xf32>
  %one = tensor.splat %f1 : tensor<5x14xf32>
  %a = linalg.matmul ins(%d, %pa : tensor<5x10xf32>, tensor<10x14xf32>)
      outs(%z14 : tensor<5x14xf32>) -> tensor<5x14xf32>
  %b = linalg.matmul ins(%d, %pb : tensor<5x10xf32>, tensor<10x14xf32>)
      outs(%z14 : tensor<5x14xf32>) -> tensor<5x14xf32>
  %s_n = arith.negf %a : tensor<5x14xf32>   %s_e = math.exp %s_n : tensor<5x14xf32>
  %s_d = arith.addf %s_e, %one : tensor<5x14xf32>   %s = arith.divf %a, %s_d : tensor<5x14xf32>
  %g = arith.mulf %s, %b : tensor<5x14xf32>
  %o = linalg.matmul ins(%g, %pc : tensor<5x14xf32>, tensor<14x24xf32>)
      outs(%z24 : tensor<5x24xf32>) -> tensor<5x24xf32>
  return %o : tensor<5x24xf32>
}

func.func private @swiglu(%v: !x, %gate: !up, %up: !up, %down: !down) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
  %one = tensor.splat %f1[%n] : !h
  %a = linalg.matmul ins(%v, %gate : !x, !up) outs(%zh : !h) -> !h
  %b = linalg.matmul ins(%v, %up : !x, !up) outs(%zh : !h) -> !h
  %s_n = arith.negf %a : !h   %s_e = math.exp %s_n : !h   %s_d = arith.addf %s_e, %one : !h
  %s = arith.divf %a, %s_d : !h   %g = arith.mulf %s, %b : !h
  %o = linalg.matmul ins(%g, %down : !h, !down) outs(%zx : !x) -> !x
  return %o : !x
}
