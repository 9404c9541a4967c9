// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Learning Heterogeneous Mixture of Scene Experts for Large-scale Neural Radiance Fields
//
// Sample points are encoded by multi-resolution hash tables. A gate with its own table sends each point to one of three
// experts, which own hash tables of different sizes and resolutions; density and colour are rendered along each ray.
//
// Ops: top_k, apply with one body per expert (cases; each body captures its own table), weighted(after).

!p = tensor<?x3xf32>   !e = tensor<?x3xf32>   !o = tensor<?x4xf32>   !rn = tensor<?x6xf32>   !rno = tensor<?x6x4xf32>
!w1 = tensor<4x16xf32>   !w2 = tensor<16x4xf32>   !res = tensor<2xi32>   !tab = tensor<?x?x2xf32>
!r = !moe.routing<?x3xf32, max_per_row = 1>

func.func @main(%p: tensor<?x6x3xf32> {moe.name = "p"}, %delta: !rn {moe.name = "delta"},
    %gres: tensor<3xi32> {moe.name = "gres"}, %gtab: tensor<3x67x2xf32> {moe.name = "gtab"},
    %gw1: tensor<6x8xf32> {moe.name = "gw1"}, %gw2: tensor<8x3xf32> {moe.name = "gw2"},
    %eres: tensor<3x2xi32> {moe.name = "eres"}, %tab0: tensor<2x61x2xf32> {moe.name = "tab0"},
    %tab1: tensor<2x97x2xf32> {moe.name = "tab1"}, %tab2: tensor<2x151x2xf32> {moe.name = "tab2"},
    %w1: tensor<3x4x16xf32> {moe.name = "w1"}, %w2: tensor<3x16x4xf32> {moe.name = "w2"})
    -> (tensor<?x3xf32> {moe.name = "rgb"}, tensor<?xf32> {moe.name = "opacity"}, tensor<?x6xi32> {moe.name = "expert"},
        !rn {moe.name = "gate_weight"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %rays = tensor.dim %p, %c0 : tensor<?x6x3xf32>
  %points = tensor.collapse_shape %p [[0, 1], [2]] : tensor<?x6x3xf32> into !p
  %n = tensor.dim %points, %c0 : !p
  %gtab_any = tensor.cast %gtab : tensor<3x67x2xf32> to !tab
  %gres_any = tensor.cast %gres : tensor<3xi32> to tensor<?xi32>
  %g_any = func.call @encode(%points, %gtab_any, %gres_any) : (!p, !tab, tensor<?xi32>) -> tensor<?x?xf32>
  %g = tensor.cast %g_any : tensor<?x?xf32> to !rn
  %zh = tensor.splat %f0[%n] : tensor<?x8xf32>   %ze = tensor.splat %f0[%n] : !e
  %ga = linalg.matmul ins(%g, %gw1 : !rn, tensor<6x8xf32>) outs(%zh : tensor<?x8xf32>) -> tensor<?x8xf32>
  %gh = arith.maximumf %ga, %zh : tensor<?x8xf32>
  %z = linalg.matmul ins(%gh, %gw2 : tensor<?x8xf32>, tensor<8x3xf32>) outs(%ze : !e) -> !e
  %all = moe.route %z : !e   %probs = moe.normalize %all by(softmax) : !moe.routing<?x3xf32>
  %r = moe.top_k %probs k(1) : !moe.routing<?x3xf32>
  %o = moe.apply %r rows(%points) experts(%eres, %w1, %w2) cases([0, 1, 2]) weighted(after) out(sum)
      : !r, !p, tensor<3x2xi32>, tensor<3x4x16xf32>, tensor<3x16x4xf32> -> !o {
  ^bb0(%v: !p, %res: !res, %up: !w1, %down: !w2):
    %table = tensor.cast %tab0 : tensor<2x61x2xf32> to !tab
    %out = func.call @expert(%v, %table, %res, %up, %down) : (!p, !tab, !res, !w1, !w2) -> !o
    moe.yield %out : !o
  }, {
  ^bb0(%v: !p, %res: !res, %up: !w1, %down: !w2):
    %table = tensor.cast %tab1 : tensor<2x97x2xf32> to !tab
    %out = func.call @expert(%v, %table, %res, %up, %down) : (!p, !tab, !res, !w1, !w2) -> !o
    moe.yield %out : !o
  }, {
  ^bb0(%v: !p, %res: !res, %up: !w1, %down: !w2):
    %table = tensor.cast %tab2 : tensor<2x151x2xf32> to !tab
    %out = func.call @expert(%v, %table, %res, %up, %down) : (!p, !tab, !res, !w1, !w2) -> !o
    moe.yield %out : !o
  }

  // Rendering: through[r, n] is what the samples before n let pass.
  %raw = tensor.expand_shape %o [[0, 1], [2]] output_shape [%rays, 6, 4] : !o into !rno
  %density = tensor.extract_slice %raw[0, 0, 0] [%rays, 6, 1] [1, 1, 1] : !rno to !rn
  %zrn = tensor.splat %f0[%rays] : !rn
  %alpha = linalg.map ins(%density, %delta : !rn, !rn) outs(%zrn : !rn) (%s: f32, %d: f32, %init: f32) {
    %size = math.absf %s : f32   %m = arith.negf %size : f32   %exp = math.exp %m : f32   %log = math.log1p %exp : f32
    %pos = arith.maximumf %s, %f0 : f32   %sigma = arith.addf %pos, %log : f32   %depth = arith.mulf %sigma, %d : f32
    %minus = arith.negf %depth : f32   %left = math.exp %minus : f32   %a = arith.subf %f1, %left : f32
    linalg.yield %a : f32
  }
  %ones = tensor.splat %f1[%rays] : !rn
  %through = linalg.generic {indexing_maps = [affine_map<(r, n, m) -> (r, m)>, affine_map<(r, n, m) -> (r, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]} ins(%alpha : !rn) outs(%ones : !rn) {
  ^bb0(%a: f32, %product: f32):
    %i = linalg.index 1 : index   %j = linalg.index 2 : index   %before = arith.cmpi ult, %j, %i : index
    %left = arith.subf %f1, %a : f32   %factor = arith.select %before, %left, %f1 : f32
    %next = arith.mulf %product, %factor : f32
    linalg.yield %next : f32
  } -> !rn
  %weight = arith.mulf %through, %alpha : !rn
  %z1 = tensor.splat %f0[%rays] : tensor<?xf32>
  %opacity = linalg.reduce { arith.addf } ins(%weight : !rn) outs(%z1 : tensor<?xf32>) dimensions = [1]
  %logits = tensor.extract_slice %raw[0, 0, 1] [%rays, 6, 3] [1, 1, 1] : !rno to tensor<?x6x3xf32>
  %z3 = tensor.splat %f0[%rays] : tensor<?x3xf32>
  %rgb = linalg.generic {indexing_maps = [affine_map<(r, c, n) -> (r, n)>, affine_map<(r, c, n) -> (r, n, c)>,
      affine_map<(r, c, n) -> (r, c)>],
      iterator_types = ["parallel", "parallel", "reduction"]} ins(%weight, %logits : !rn, tensor<?x6x3xf32>) outs(%z3
          : tensor<?x3xf32>) {
  ^bb0(%w: f32, %l: f32, %sum: f32):
    %m = arith.negf %l : f32   %exp = math.exp %m : f32   %den = arith.addf %exp, %f1 : f32
    %colour = arith.divf %w, %den : f32   %next = arith.addf %sum, %colour : f32
    linalg.yield %next : f32
  } -> tensor<?x3xf32>
  %idx, %gate = moe.to_slots %r : !r
  %idx1 = tensor.collapse_shape %idx [[0, 1]] : tensor<?x1xi32> into tensor<?xi32>
  %gate1 = tensor.collapse_shape %gate [[0, 1]] : tensor<?x1xf32> into tensor<?xf32>
  %expert = tensor.expand_shape %idx1 [[0, 1]] output_shape [%rays, 6] : tensor<?xi32> into tensor<?x6xi32>
  %gate_weight = tensor.expand_shape %gate1 [[0, 1]] output_shape [%rays, 6] : tensor<?xf32> into !rn
  return %rgb, %opacity, %expert, %gate_weight : tensor<?x3xf32>, tensor<?xf32>, tensor<?x6xi32>, !rn
}

func.func private @expert(%v: !p, %table: !tab, %res: !res, %w1: !w1, %w2: !w2) -> !o {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %n = tensor.dim %v, %c0 : !p   %zh = tensor.splat %f0[%n] : tensor<?x16xf32>   %zo = tensor.splat %f0[%n] : !o
  %res_any = tensor.cast %res : !res to tensor<?xi32>
  %enc_any = func.call @encode(%v, %table, %res_any) : (!p, !tab, tensor<?xi32>) -> tensor<?x?xf32>
  %enc = tensor.cast %enc_any : tensor<?x?xf32> to !o
  %a = linalg.matmul ins(%enc, %w1 : !o, !w1) outs(%zh : tensor<?x16xf32>) -> tensor<?x16xf32>
  %h = arith.maximumf %a, %zh : tensor<?x16xf32>
  %o = linalg.matmul ins(%h, %w2 : tensor<?x16xf32>, !w2) outs(%zo : !o) -> !o
  return %o : !o
}

// The hash encoding: for every level and feature, the sum over the corners of the point's cell.
func.func private @encode(%p: !p, %table: !tab, %res: tensor<?xi32>) -> tensor<?x?xf32> {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %prime1 = arith.constant -1640531535 : i32  // 2654435761 mod 2^32
  %prime2 = arith.constant 805459861 : i32
  %n = tensor.dim %p, %c0 : !p   %levels = tensor.dim %table, %c0 : !tab   %entries = tensor.dim %table, %c1 : !tab
  %m = arith.index_cast %entries : index to i32
  %corners = tensor.empty() : tensor<2x2x2xf32>   %zero = tensor.splat %f0[%n, %levels] : tensor<?x?x2xf32>
  %features = linalg.generic {indexing_maps = [affine_map<(n, l, f, a, b, g) -> (l)>,
      affine_map<(n, l, f, a, b, g) -> (a, b, g)>,
      affine_map<(n, l, f, a, b, g) -> (n, l, f)>], iterator_types = ["parallel", "parallel", "parallel", "reduction",
          "reduction", "reduction"]}
      ins(%res, %corners : tensor<?xi32>, tensor<2x2x2xf32>) outs(%zero : tensor<?x?x2xf32>) {
  ^bb0(%resolution: i32, %window: f32, %sum: f32):
    %point = linalg.index 0 : index   %level = linalg.index 1 : index   %feature = linalg.index 2 : index
    %a = linalg.index 3 : index   %b = linalg.index 4 : index   %g = linalg.index 5 : index
    %cx, %wx = func.call @axis(%p, %point, %c0, %resolution, %a) : (!p, index, index, i32, index) -> (i32, f32)
    %cy, %wy = func.call @axis(%p, %point, %c1, %resolution, %b) : (!p, index, index, i32, index) -> (i32, f32)
    %cz, %wz = func.call @axis(%p, %point, %c2, %resolution, %g) : (!p, index, index, i32, index) -> (i32, f32)
    %hy = arith.muli %cy, %prime1 : i32   %hz = arith.muli %cz, %prime2 : i32   %hxy = arith.xori %cx, %hy : i32
    %hash = arith.xori %hxy, %hz : i32   %entry = arith.remui %hash, %m : i32
    %at = arith.index_cast %entry : i32 to index   %value = tensor.extract %table[%level, %at, %feature] : !tab
    %wxy = arith.mulf %wx, %wy : f32   %w = arith.mulf %wxy, %wz : f32   %part = arith.mulf %w, %value : f32
    %next = arith.addf %sum, %part : f32
    linalg.yield %next : f32
  } -> tensor<?x?x2xf32>
  %flat = tensor.collapse_shape %features [[0], [1, 2]] : tensor<?x?x2xf32> into tensor<?x?xf32>
  return %flat : tensor<?x?xf32>
}

// The coordinate of a corner (0 or 1 along the axis) of a point's cell, and its weight.
func.func private @axis(%p: !p, %point: index, %axis: index, %resolution: i32, %corner: index) -> (i32, f32) {
  %c0 = arith.constant 0 : index   %f1 = arith.constant 1.0 : f32
  %x = tensor.extract %p[%point, %axis] : !p   %n = arith.sitofp %resolution : i32 to f32
  %pos = arith.mulf %x, %n : f32   %floor = math.floor %pos : f32   %f = arith.subf %pos, %floor : f32
  %rest = arith.subf %f1, %f : f32   %low = arith.cmpi eq, %corner, %c0 : index
  %w = arith.select %low, %rest, %f : f32   %cell = arith.fptosi %floor : f32 to i32
  %d = arith.index_cast %corner : index to i32   %c = arith.addi %cell, %d : i32
  return %c, %w : i32, f32
}
