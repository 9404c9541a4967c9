// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoIIE: Mixture of Intra- and Inter-Modality Experts for Large Vision Language Models
//
// Experts belong to a modality or to both: a text token sees text and inter-modality experts, an image token image and
// inter-modality experts, and everything else is routed as usual within that set.
//
// Ops: route with a [T, E] mask, normalize, top_k, apply.

!x = tensor<?x24xf32>   !h = tensor<?x32xf32>   !e = tensor<?x8xf32>   !all = !moe.routing<?x8xf32>
!r = !moe.routing<?x8xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %modality: tensor<?xi32> {moe.name = "modality"},
    %wr: tensor<24x8xf32> {moe.name = "wr"}, %wg: tensor<8x24x32xf32> {moe.name = "wg"},
    %wu: tensor<8x24x32xf32> {moe.name = "wu"}, %wd: tensor<8x32x24xf32> {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %c3 = arith.constant 3 : index   %c6 = arith.constant 6 : index   %false = arith.constant false
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %none = tensor.splat %false[%t] : tensor<?x8xi1>
  %allowed = linalg.generic {indexing_maps = [affine_map<(t, e) -> (t)>, affine_map<(t, e) -> (t, e)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%modality : tensor<?xi32>) outs(%none : tensor<?x8xi1>) {
  ^bb0(%m: i32, %init: i1):
    %e = linalg.index 1 : index   %side = arith.divui %e, %c3 : index   %own = arith.index_cast %m : i32 to index
    %mine = arith.cmpi eq, %side, %own : index   %both = arith.cmpi uge, %e, %c6 : index
    %ok = arith.ori %mine, %both : i1
    linalg.yield %ok : i1
  } -> tensor<?x8xi1>
  %every = moe.route %logits mask(%allowed : tensor<?x8xi1>) : !e   %probs = moe.normalize %every by(softmax) : !all
  %top = moe.top_k %probs k(2) : !all   %r = moe.normalize %top by(sum) : !r
  %y = moe.apply %r rows(%x) experts(%wg, %wu, %wd) weighted(after) out(sum)
      : !r, !x, tensor<8x24x32xf32>, tensor<8x24x32xf32>, tensor<8x32x24xf32> -> !x {
  ^bb0(%v: !x, %gate: tensor<24x32xf32>, %up: tensor<24x32xf32>, %down: tensor<32x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
    %a = linalg.matmul ins(%v, %gate : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%v, %up : !x, tensor<24x32xf32>) outs(%zh : !h) -> !h
    %m = arith.negf %a : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %a, %den : !h   %h = arith.mulf %silu, %b : !h
    %o = linalg.matmul ins(%h, %down : !h, tensor<32x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !e
}
