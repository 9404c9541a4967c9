// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Read-ME: Refactorizing LLMs as Router-Decoupled Mixture of Experts with System Co-Design
//
// One router for all layers, taken from the token ids alone: an embedding, one causal attention, an argmax. Every layer
// runs the same expert number for a token, with weight 1.
//
// Ops: top_k (k = 1), map (weight 1), to_slots, and one routing that is applied in scf.for over the layers.

!x = tensor<?x24xf32>   !q = tensor<?x12xf32>   !h = tensor<?x20xf32>   !hs = tensor<?x12xf32>   !e = tensor<?x5xf32>
!tt = tensor<?x?xf32>   !i = tensor<?xi32>   !g = tensor<24xf32>   !r = !moe.routing<?x5xf32, max_per_row = 1>
!w = tensor<12x12xf32>   !up = tensor<24x20xf32>   !down = tensor<20x24xf32>   !ups = tensor<5x24x20xf32>
!downs = tensor<5x20x24xf32>   !sg = tensor<24x12xf32>   !sd = tensor<12x24xf32>

// v / sqrt(mean(v^2) + 1.0e-6) * g
func.func private @rms(%v: !x, %g: !g) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %width = arith.constant 24.0 : f32
  %eps = arith.constant 1.0e-6 : f32
  %n = tensor.dim %v, %c0 : !x   %zt = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !x
  %vv = arith.mulf %v, %v : !x
  %sum = linalg.reduce {arith.addf} ins(%vv : !x) outs(%zt : tensor<?xf32>) dimensions = [1]
  %widths = tensor.splat %width[%n] : tensor<?xf32>   %epss = tensor.splat %eps[%n] : tensor<?xf32>
  %mean = arith.divf %sum, %widths : tensor<?xf32>   %safe = arith.addf %mean, %epss : tensor<?xf32>
  %root = math.sqrt %safe : tensor<?xf32>
  %roots = linalg.broadcast ins(%root : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
  %scales = linalg.broadcast ins(%g : !g) outs(%zx : !x) dimensions = [0]
  %unit = arith.divf %v, %roots : !x   %o = arith.mulf %unit, %scales : !x
  return %o : !x
}

func.func @main(%tokens: !i {moe.name = "tokens"}, %x: !x {moe.name = "x"},
    %r_emb: tensor<19x12xf32> {moe.name = "r_emb"}, %r_q: !w {moe.name = "r_q"}, %r_k: !w {moe.name = "r_k"},
    %r_v: !w {moe.name = "r_v"}, %r_o: tensor<12x5xf32> {moe.name = "r_o"},
    %g_norm: tensor<3x24xf32> {moe.name = "g_norm"}, %w_g: tensor<3x5x24x20xf32> {moe.name = "w_g"},
    %w_u: tensor<3x5x24x20xf32> {moe.name = "w_u"}, %w_d: tensor<3x5x20x24xf32> {moe.name = "w_d"},
    %s_g: tensor<3x24x12xf32> {moe.name = "s_g"}, %s_u: tensor<3x24x12xf32> {moe.name = "s_u"},
    %s_d: tensor<3x12x24xf32> {moe.name = "s_d"})
    -> (!x {moe.name = "y"}, !i {moe.name = "expert_id"}, !e {moe.name = "router_logits"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %minf = arith.constant 0xFF800000 : f32
  %scale = arith.constant 0.28867513459481287 : f32
  %t = tensor.dim %x, %c0 : !x   %zq = tensor.splat %f0[%t] : !q   %ztt = tensor.splat %f0[%t, %t] : !tt
  %ze = tensor.splat %f0[%t] : !e   %zx = tensor.splat %f0[%t] : !x   %zs = tensor.splat %f0[%t] : !hs
  %one_s = tensor.splat %f1[%t] : !hs
  %emb = tensor.generate %t {
  ^bb0(%i: index, %j: index):
    %token = tensor.extract %tokens[%i] : !i   %id = arith.index_cast %token : i32 to index
    %v = tensor.extract %r_emb[%id, %j] : tensor<19x12xf32>
    tensor.yield %v : f32
  } : !q
  %query = linalg.matmul ins(%emb, %r_q : !q, !w) outs(%zq : !q) -> !q
  %key = linalg.matmul ins(%emb, %r_k : !q, !w) outs(%zq : !q) -> !q
  %value = linalg.matmul ins(%emb, %r_v : !q, !w) outs(%zq : !q) -> !q
  %scores = linalg.contract indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>,
      affine_map<(i, j, d) -> (i, j)>] ins(%query, %key : !q, !q) outs(%ztt : !tt) -> !tt
  %causal = linalg.map ins(%scores : !tt) outs(%ztt : !tt) (%s: f32, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %past = arith.cmpi ule, %j, %i : index
    %sc = arith.mulf %s, %scale : f32   %k = arith.select %past, %sc, %minf : f32
    linalg.yield %k : f32
  }
  %a = linalg.softmax dimension(1) ins(%causal : !tt) outs(%ztt : !tt) -> !tt
  %u = linalg.matmul ins(%a, %value : !tt, !q) outs(%emb : !q) -> !q
  %router_logits = linalg.matmul ins(%u, %r_o : !q, tensor<12x5xf32>) outs(%ze : !e) -> !e
  %all = moe.route %router_logits : !e   %best = moe.top_k %all k(1) : !moe.routing<?x5xf32>
  %expert1, %w = moe.to_slots %best : !r
  %expert_id = tensor.collapse_shape %expert1 [[0, 1]] : tensor<?x1xi32> into !i
  %y = scf.for %l = %c0 to %c3 step %c1 iter_args(%h = %x) -> !x {
    %gl = tensor.extract_slice %g_norm[%l, 0] [1, 24] [1, 1] : tensor<3x24xf32> to !g
    %n = func.call @rms(%h, %gl) : (!x, !g) -> !x
    %gate = tensor.extract_slice %w_g[%l, 0, 0, 0] [1, 5, 24, 20] [1, 1, 1, 1] : tensor<3x5x24x20xf32> to !ups
    %up = tensor.extract_slice %w_u[%l, 0, 0, 0] [1, 5, 24, 20] [1, 1, 1, 1] : tensor<3x5x24x20xf32> to !ups
    %down = tensor.extract_slice %w_d[%l, 0, 0, 0] [1, 5, 20, 24] [1, 1, 1, 1] : tensor<3x5x20x24xf32> to !downs
    %sgl = tensor.extract_slice %s_g[%l, 0, 0] [1, 24, 12] [1, 1, 1] : tensor<3x24x12xf32> to !sg
    %sul = tensor.extract_slice %s_u[%l, 0, 0] [1, 24, 12] [1, 1, 1] : tensor<3x24x12xf32> to !sg
    %sdl = tensor.extract_slice %s_d[%l, 0, 0] [1, 12, 24] [1, 1, 1] : tensor<3x12x24xf32> to !sd
    %o = moe.apply %best rows(%n) experts(%gate, %up, %down) out(sum) : !r, !x, !ups, !ups, !downs -> !x {
    ^bb0(%v: !x, %ge: !up, %ue: !up, %de: !down):
      %m = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%m] : !h   %zo = tensor.splat %f0[%m] : !x
      %one = tensor.splat %f1[%m] : !h
      %p = linalg.matmul ins(%v, %ge : !x, !up) outs(%zh : !h) -> !h
      %b = linalg.matmul ins(%v, %ue : !x, !up) outs(%zh : !h) -> !h
      %act_n = arith.negf %p : !h   %act_e = math.exp %act_n : !h   %act_d = arith.addf %act_e, %one : !h
      %act = arith.divf %p, %act_d : !h   %hidden = arith.mulf %act, %b : !h
      %out = linalg.matmul ins(%hidden, %de : !h, !down) outs(%zo : !x) -> !x
      moe.yield %out : !x
    }
    %sa = linalg.matmul ins(%n, %sgl : !x, !sg) outs(%zs : !hs) -> !hs
    %sb = linalg.matmul ins(%n, %sul : !x, !sg) outs(%zs : !hs) -> !hs
    %ss_n = arith.negf %sa : !hs   %ss_e = math.exp %ss_n : !hs   %ss_d = arith.addf %ss_e, %one_s : !hs
    %ss = arith.divf %sa, %ss_d : !hs   %shared = arith.mulf %ss, %sb : !hs   %ho = arith.addf %h, %o : !x
    %next = linalg.matmul ins(%shared, %sdl : !hs, !sd) outs(%ho : !x) -> !x
    scf.yield %next : !x
  }
  return %y, %expert_id, %router_logits : !x, !i, !e
}
