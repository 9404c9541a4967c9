// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MaskMoE: Boosting Token-Level Learning via Routing Mask in Mixture-of-Experts
//
// Which experts a token may see is fixed by its vocabulary id: frequent tokens see several, rare ones a single expert.
// The softmax ranges over the visible experts only.
//
// Ops: route with a [T, E] mask, normalize, top_k, apply in scf.for over the layers.

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 3>   !seen = tensor<2x?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %ids: tensor<?xi32> {moe.name = "ids"},
    %mask: tensor<2x20x6xi1> {moe.name = "mask"}, %wr: tensor<2x24x6xf32> {moe.name = "wr"},
    %w1: tensor<2x6x24x40xf32> {moe.name = "w1"}, %w2: tensor<2x6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y"}, !seen {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32
  %rsqrt2 = arith.constant 0.70710678118654752 : f32   %false = arith.constant false
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zseen = tensor.splat %f0[%t] : !seen
  %none = tensor.splat %false[%t] : tensor<?x6xi1>
  %y, %routing = scf.for %l = %c0 to %c2 step %c1 iter_args(%hidden = %x, %seen = %zseen) -> (!x, !seen) {
    %wl = tensor.extract_slice %wr[%l, 0, 0] [1, 24, 6] [1, 1, 1] : tensor<2x24x6xf32> to tensor<24x6xf32>
    %w1_l = tensor.extract_slice %w1[%l, 0, 0, 0] [1, 6, 24, 40] [1, 1, 1, 1] : tensor<2x6x24x40xf32>
        to tensor<6x24x40xf32>
    %w2_l = tensor.extract_slice %w2[%l, 0, 0, 0] [1, 6, 40, 24] [1, 1, 1, 1] : tensor<2x6x40x24xf32>
        to tensor<6x40x24xf32>
    %visible = linalg.generic {indexing_maps = [affine_map<(t, e) -> (t)>, affine_map<(t, e) -> (t, e)>],
        iterator_types = ["parallel", "parallel"]}
        ins(%ids : tensor<?xi32>) outs(%none : tensor<?x6xi1>) {
    ^bb0(%id: i32, %init: i1):
      %word = arith.index_cast %id : i32 to index   %e = linalg.index 1 : index
      %ok = tensor.extract %mask[%l, %word, %e] : tensor<2x20x6xi1>
      linalg.yield %ok : i1
    } -> tensor<?x6xi1>
    %logits = linalg.matmul ins(%hidden, %wl : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    %every = moe.route %logits mask(%visible : tensor<?x6xi1>) : !e   %probs = moe.normalize %every by(softmax) : !all
    %r = moe.top_k %probs k(3) : !all
    %o = moe.apply %r rows(%hidden) experts(%w1_l, %w2_l) weighted(after) out(sum)
        : !r, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !x {
    ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
      %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
      %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
      %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
        %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
        %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
        linalg.yield %gelu : f32
      }
      %o = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
      moe.yield %o : !x
    }
    %hidden_next = arith.addf %hidden, %o : !x
    %dense = moe.to_dense %r : !r
    %seen_next = tensor.insert_slice %dense into %seen[%l, 0, 0] [1, %t, 6] [1, 1, 1] : !e into !seen
    scf.yield %hidden_next, %seen_next : !x, !seen
  }
  return %y, %routing : !x, !seen
}
