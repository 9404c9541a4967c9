// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// D^{2}MoE: Dual Routing and Dynamic Scheduling for Efficient On-Device MoE-based LLM Serving
//
// Two routers: the usual top-k over experts, and per chosen expert the number of bits of its nested 8-bit codes. So
// (expert, bit width) is a virtual expert: three share one bank and decode it differently.
//
// Ops: route, normalize, top_k, top_k of each group (the bit width of each expert), map, apply with an expert map,
// to_dense.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x5xf32>   !v = tensor<?x15xf32>
!all = !moe.routing<?x5xf32>   !top = !moe.routing<?x5xf32, max_per_row = 2>   !virt = !moe.routing<?x15xf32>
!one = !moe.routing<?x15xf32, max_per_row = 5>
#io = affine_map<(i, o) -> (i, o)>
#o = affine_map<(i, o) -> (o)>
#decode = {indexing_maps = [#io, #o, #o, #io], iterator_types = ["parallel", "parallel"]}

// scale (code_b - zero), code_b the upper b = 8 - shift bits of the code and, for the lost ones, the middle of their
// range.
func.func private @value(%code: i32, %scale: f32, %zero: f32, %shift: i32) -> f32 {
  %one = arith.constant 1 : i32
  %high = arith.shrui %code, %shift : i32   %prefix = arith.shli %high, %shift : i32
  %range = arith.shli %one, %shift : i32   %middle = arith.shrui %range, %one : i32
  %used = arith.addi %prefix, %middle : i32   %float = arith.sitofp %used : i32 to f32
  %centred = arith.subf %float, %zero : f32   %value = arith.mulf %centred, %scale : f32
  return %value : f32
}

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x5xf32> {moe.name = "wr"},
    %wb: tensor<5x24x3xf32> {moe.name = "wb"}, %code1: tensor<5x24x32xi32> {moe.name = "c1"},
    %s1: tensor<5x32xf32> {moe.name = "s1"}, %z1: tensor<5x32xf32> {moe.name = "z1"},
    %code2: tensor<5x32x24xi32> {moe.name = "c2"}, %s2: tensor<5x24xf32> {moe.name = "s2"},
    %z2: tensor<5x24xf32> {moe.name = "z2"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}, tensor<?x5xi32> {moe.name = "bits"}) {
  %c0 = arith.constant 0 : index   %c2 = arith.constant 2 : index   %c3 = arith.constant 3 : index
  %c8 = arith.constant 8 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x5xf32>) outs(%ze : !e) -> !e
  %all = moe.route %logits : !e   %p = moe.normalize %all by(softmax) : !all   %best = moe.top_k %p k(2) : !all
  %r = moe.normalize %best by(sum) : !top
  %routing = moe.to_dense %r : !top
  // The bit-width logits of the chosen experts; the best of each group of three is one virtual expert e * 3 + j.
  %zb = tensor.splat %f0[%t] : tensor<?x5x3xf32>
  %b3 = linalg.contract indexing_maps = [affine_map<(t, e, n, d) -> (t, d)>, affine_map<(t, e, n, d) -> (e, d, n)>,
      affine_map<(t, e, n, d) -> (t, e, n)>]
      ins(%x, %wb : !x, tensor<5x24x3xf32>) outs(%zb : tensor<?x5x3xf32>) -> tensor<?x5x3xf32>
  %blogits = tensor.collapse_shape %b3 [[0], [1, 2]] : tensor<?x5x3xf32> into !v
  %chosen = moe.to_dense %r of(mask) : !top
  %m0 = tensor.empty(%t) : tensor<?x5x3xi1>
  %m3 = linalg.broadcast ins(%chosen : tensor<?x5xi1>) outs(%m0 : tensor<?x5x3xi1>) dimensions = [2]
  %mask = tensor.collapse_shape %m3 [[0], [1, 2]] : tensor<?x5x3xi1> into tensor<?x15xi1>
  %options = moe.route %blogits mask(%mask : tensor<?x15xi1>) : !v   %pick = moe.top_k %options k(1) groups(5) : !virt
  %virtual = moe.map %pick {
  ^bb0(%w: f32, %row: index, %v: index):
    %e = arith.divui %v, %c3 : index   %g = tensor.extract %routing[%row, %e] : !e
    moe.yield %g : f32
  } : !one
  %y = moe.apply %virtual rows(%x) experts(%code1 by (v) -> (v floordiv 3), %s1 by (v) -> (v floordiv 3),
      %z1 by (v) -> (v floordiv 3),
      %code2 by (v) -> (v floordiv 3), %s2 by (v) -> (v floordiv 3),
          %z2 by (v) -> (v floordiv 3)) index(expert) weighted(after) out(sum)
      : !one, !x, tensor<5x24x32xi32>, tensor<5x32xf32>, tensor<5x32xf32>, tensor<5x32x24xi32>, tensor<5x24xf32>,
          tensor<5x24xf32> -> !x {
  ^bb0(%rows: !x, %k1: tensor<24x32xi32>, %sc1: tensor<32xf32>, %ze1: tensor<32xf32>, %k2: tensor<32x24xi32>,
      %sc2: tensor<24xf32>, %ze2: tensor<24xf32>, %v: index):
    %j = arith.remui %v, %c3 : index   %b = arith.shli %c2, %j : index   %lost = arith.subi %c8, %b : index
    %shift = arith.index_cast %lost : index to i32
    %e1 = tensor.empty() : tensor<24x32xf32>   %e2 = tensor.empty() : tensor<32x24xf32>
    %w1 = linalg.generic #decode ins(%k1, %sc1, %ze1 : tensor<24x32xi32>, tensor<32xf32>, tensor<32xf32>)
        outs(%e1 : tensor<24x32xf32>) {
    ^bb0(%code: i32, %scale: f32, %zero: f32, %init: f32):
      %value = func.call @value(%code, %scale, %zero, %shift) : (i32, f32, f32, i32) -> f32
      linalg.yield %value : f32
    } -> tensor<24x32xf32>
    %w2 = linalg.generic #decode ins(%k2, %sc2, %ze2 : tensor<32x24xi32>, tensor<24xf32>, tensor<24xf32>)
        outs(%e2 : tensor<32x24xf32>) {
    ^bb0(%code: i32, %scale: f32, %zero: f32, %init: f32):
      %value = func.call @value(%code, %scale, %zero, %shift) : (i32, f32, f32, i32) -> f32
      linalg.yield %value : f32
    } -> tensor<32x24xf32>
    %n = tensor.dim %rows, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %ones = tensor.splat %f1[%n] : !h
    %u = linalg.matmul ins(%rows, %w1 : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
    %neg = arith.negf %u : !h   %exp = math.exp %neg : !h   %den = arith.addf %exp, %ones : !h
    %silu = arith.divf %u, %den : !h
    %o = linalg.matmul ins(%silu, %w2 : !h, tensor<32x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  // bits[t, e] = 2, 4 or 8 for the virtual expert that was taken.
  %widths = moe.map %pick {
  ^bb0(%w: f32, %row: index, %v: index):
    %j = arith.remui %v, %c3 : index   %b = arith.shli %c2, %j : index   %i = arith.index_cast %b : index to i32
    %f = arith.sitofp %i : i32 to f32
    moe.yield %f : f32
  } : !one
  %wide = moe.to_dense %widths : !one
  %w3 = tensor.expand_shape %wide [[0], [1, 2]] output_shape [%t, 5, 3] : !v into tensor<?x5x3xf32>
  %sum = linalg.reduce {arith.addf} ins(%w3 : tensor<?x5x3xf32>) outs(%ze : !e) dimensions = [2]
  %bits = arith.fptosi %sum : !e to tensor<?x5xi32>
  return %y, %routing, %bits : !x, !e, tensor<?x5xi32>
}
