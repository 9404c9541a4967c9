// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Mixture of A Million Experts
//
// Product keys: each half of a query takes its best sub-keys, the best sums of pairs name single-neuron experts. The
// rows of the routing are (token, head); both heads share the experts.
//
// Ops: route, top_k, to_slots (both halves), from_slots (expert = i N + j), top_k, normalize, apply (rows by token),
// to_dense.

!x = tensor<?x24xf32>   !q = tensor<?x8xf32>   !s = tensor<?x6xf32>   !half = !moe.routing<?x6xf32>
!half3 = !moe.routing<?x6xf32, max_per_row = 3>   !cand = !moe.routing<?x36xf32, max_per_row = 9>
!top = !moe.routing<?x36xf32, max_per_row = 3>
#row = affine_map<(r, i, j) -> (r, i)>
#col = affine_map<(r, i, j) -> (r, j)>
#out = affine_map<(r, i, j) -> (r, i, j)>
#pairs = {indexing_maps = [#row, #col, #out], iterator_types = ["parallel", "parallel", "parallel"]}

// The three best sub-keys of every (token, head).
func.func private @retrieve(%x: !x, %wq: tensor<2x24x8xf32>, %keys: tensor<6x8xf32>)
    -> (tensor<?x3xi32>, tensor<?x3xf32>) {
  %c0 = arith.constant 0 : index   %c2 = arith.constant 2 : index   %f0 = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : !x
  %rows = arith.muli %t, %c2 : index
  %zq = tensor.splat %f0[%t] : tensor<?x2x8xf32>   %zs = tensor.splat %f0[%rows] : !s
  %q3 = linalg.contract indexing_maps = [affine_map<(t, h, q, d) -> (t, d)>, affine_map<(t, h, q, d) -> (h, d, q)>,
      affine_map<(t, h, q, d) -> (t, h, q)>]
      ins(%x, %wq : !x, tensor<2x24x8xf32>) outs(%zq : tensor<?x2x8xf32>) -> tensor<?x2x8xf32>
  %q = tensor.collapse_shape %q3 [[0, 1], [2]] : tensor<?x2x8xf32> into !q
  %s = linalg.matmul indexing_maps = [affine_map<(r, i, q) -> (r, q)>, affine_map<(r, i, q) -> (i, q)>,
      affine_map<(r, i, q) -> (r, i)>]
      ins(%q, %keys : !q, tensor<6x8xf32>) outs(%zs : !s) -> !s
  %all = moe.route %s : !s   %best = moe.top_k %all k(3) : !half
  %i, %v = moe.to_slots %best : !half3
  return %i, %v : tensor<?x3xi32>, tensor<?x3xf32>
}

func.func @main(%x: !x {moe.name = "x"}, %wq: tensor<2x2x24x8xf32> {moe.name = "wq"},
    %k1: tensor<6x8xf32> {moe.name = "k1"}, %k2: tensor<6x8xf32> {moe.name = "k2"},
    %u: tensor<36x24xf32> {moe.name = "u"}, %v: tensor<36x24xf32> {moe.name = "v"})
    -> (!x {moe.name = "y"}, tensor<?x2x36xf32> {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %i6 = arith.constant 6 : i32   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %wq1 = tensor.extract_slice %wq[0, 0, 0, 0] [1, 2, 24, 8] [1, 1, 1, 1] : tensor<2x2x24x8xf32> to tensor<2x24x8xf32>
  %wq2 = tensor.extract_slice %wq[1, 0, 0, 0] [1, 2, 24, 8] [1, 1, 1, 1] : tensor<2x2x24x8xf32> to tensor<2x24x8xf32>
  %i1, %s1 = call @retrieve(%x, %wq1, %k1) : (!x, tensor<2x24x8xf32>, tensor<6x8xf32>) -> (tensor<?x3xi32>,
      tensor<?x3xf32>)
  %i2, %s2 = call @retrieve(%x, %wq2, %k2) : (!x, tensor<2x24x8xf32>, tensor<6x8xf32>) -> (tensor<?x3xi32>,
      tensor<?x3xf32>)
  %rows = tensor.dim %s1, %c0 : tensor<?x3xf32>   %ei = tensor.empty(%rows) : tensor<?x3x3xi32>
  %es = tensor.empty(%rows) : tensor<?x3x3xf32>
  %ids = linalg.generic #pairs ins(%i1, %i2 : tensor<?x3xi32>, tensor<?x3xi32>) outs(%ei : tensor<?x3x3xi32>) {
  ^bb0(%i: i32, %j: i32, %init: i32):
    %i36 = arith.muli %i, %i6 : i32   %e = arith.addi %i36, %j : i32
    linalg.yield %e : i32
  } -> tensor<?x3x3xi32>
  %sums = linalg.generic #pairs ins(%s1, %s2 : tensor<?x3xf32>, tensor<?x3xf32>) outs(%es : tensor<?x3x3xf32>) {
  ^bb0(%a: f32, %b: f32, %init: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<?x3x3xf32>
  %idx = tensor.collapse_shape %ids [[0], [1, 2]] : tensor<?x3x3xi32> into tensor<?x9xi32>
  %scores = tensor.collapse_shape %sums [[0], [1, 2]] : tensor<?x3x3xf32> into tensor<?x9xf32>
  %candidates = moe.from_slots %idx, %scores experts(36) : tensor<?x9xi32>, tensor<?x9xf32>
  %best = moe.top_k %candidates k(3) : !cand   %r = moe.normalize %best by(softmax) : !top
  %yh = moe.apply %r rows(%x by (r, e) -> (r floordiv 2)) experts(%u, %v) weighted(after) out(sum)
      : !top, !x, tensor<36x24xf32>, tensor<36x24xf32> -> !x {
  ^bb0(%in: !x, %ue: tensor<24xf32>, %ve: tensor<24xf32>):
    %n = tensor.dim %in, %c0 : !x   %zn = tensor.splat %f0[%n] : tensor<?xf32>   %zx = tensor.splat %f0[%n] : !x
    %one = tensor.splat %f1[%n] : tensor<?xf32>   %halves = tensor.splat %half[%n] : tensor<?xf32>
    %scale = tensor.splat %rsqrt2[%n] : tensor<?xf32>
    %a = linalg.matvec ins(%in, %ue : !x, tensor<24xf32>) outs(%zn : tensor<?xf32>) -> tensor<?xf32>
    %b = arith.mulf %a, %scale : tensor<?xf32>   %erf = math.erf %b : tensor<?xf32>
    %c = arith.addf %erf, %one : tensor<?xf32>   %d = arith.mulf %a, %halves : tensor<?xf32>
    %g = arith.mulf %c, %d : tensor<?xf32>
    %gx = linalg.broadcast ins(%g : tensor<?xf32>) outs(%zx : !x) dimensions = [1]
    %vx = linalg.broadcast ins(%ve : tensor<24xf32>) outs(%zx : !x) dimensions = [0]
    %o = arith.mulf %gx, %vx : !x
    moe.yield %o : !x
  }
  %t = tensor.dim %x, %c0 : !x   %zx = tensor.splat %f0[%t] : !x
  %yth = tensor.expand_shape %yh [[0, 1], [2]] output_shape [%t, 2, 24] : !x into tensor<?x2x24xf32>
  %y = linalg.reduce {arith.addf} ins(%yth : tensor<?x2x24xf32>) outs(%zx : !x) dimensions = [1]
  %d = moe.to_dense %r : !top
  %routing = tensor.expand_shape %d [[0, 1], [2]] output_shape [%t, 2, 36] : tensor<?x36xf32> into tensor<?x2x36xf32>
  return %y, %routing : !x, tensor<?x2x36xf32>
}
