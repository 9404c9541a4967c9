// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// MoDES: Accelerating Mixture-of-Experts Multimodal Large Language Models via Dynamic Expert Skipping
//
// An expert of the top-k is skipped when its gate, scaled by what its layer matters, stays below a threshold of the
// token's modality. The gates that remain are not renormalised; a token may keep none.
//
// Ops: top_k, normalize, select by a threshold per token and layer, counts, apply in scf.for over the layers.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !e = tensor<?x8xf32>   !all = !moe.routing<?x8xf32>
!r = !moe.routing<?x8xf32, max_per_row = 3>   !seen = tensor<2x?x8xf32>

func.func @main(%x: !x {moe.name = "x"}, %modality: tensor<?xi32> {moe.name = "modality"},
    %alpha: tensor<2xf32> {moe.name = "alpha"}, %tau: tensor<2xf32> {moe.name = "tau"},
    %wr: tensor<2x24x8xf32> {moe.name = "wr"}, %wg: tensor<2x8x24x30xf32> {moe.name = "wg"},
    %wu: tensor<2x8x24x30xf32> {moe.name = "wu"}, %wd: tensor<2x8x30x24xf32> {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !seen {moe.name = "routing"}, tensor<2x?xi32> {moe.name = "kept"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32   %i0 = arith.constant 0 : i32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zseen = tensor.splat %f0[%t] : !seen
  %zcounts = tensor.splat %i0[%t] : tensor<2x?xi32>
  %y, %routing, %counts_out = scf.for %l = %c0 to %c2 step %c1 iter_args(%hidden = %x, %seen = %zseen,
      %counts = %zcounts) -> (!x, !seen, tensor<2x?xi32>) {
    %wl = tensor.extract_slice %wr[%l, 0, 0] [1, 24, 8] [1, 1, 1] : tensor<2x24x8xf32> to tensor<24x8xf32>
    %wg_l = tensor.extract_slice %wg[%l, 0, 0, 0] [1, 8, 24, 30] [1, 1, 1, 1] : tensor<2x8x24x30xf32>
        to tensor<8x24x30xf32>
    %wu_l = tensor.extract_slice %wu[%l, 0, 0, 0] [1, 8, 24, 30] [1, 1, 1, 1] : tensor<2x8x24x30xf32>
        to tensor<8x24x30xf32>
    %wd_l = tensor.extract_slice %wd[%l, 0, 0, 0] [1, 8, 30, 24] [1, 1, 1, 1] : tensor<2x8x30x24xf32>
        to tensor<8x30x24xf32>
    %logits = linalg.matmul ins(%hidden, %wl : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
    %factor = tensor.extract %alpha[%l] : tensor<2xf32>
    %every = moe.route %logits : !e   %top = moe.top_k %every k(3) : !all   %gates = moe.normalize %top by(softmax) : !r
    %r = moe.select %gates {
    ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
      %m = tensor.extract %modality[%row] : tensor<?xi32>   %mode = arith.index_cast %m : i32 to index
      %least = tensor.extract %tau[%mode] : tensor<2xf32>
      %scaled = arith.mulf %factor, %key : f32   %in = arith.cmpf oge, %scaled, %least : f32
      moe.yield %in : i1
    } : !r
    %count = moe.counts %r per(row) : !r
    %counts_next = tensor.insert_slice %count into %counts[%l, 0] [1, %t] [1, 1] : tensor<?xi32> into tensor<2x?xi32>
    %o = moe.apply %r rows(%hidden) experts(%wg_l, %wu_l, %wd_l) weighted(after) out(sum)
        : !r, !x, tensor<8x24x30xf32>, tensor<8x24x30xf32>, tensor<8x30x24xf32> -> !x {
    ^bb0(%v: !x, %gate: tensor<24x30xf32>, %up: tensor<24x30xf32>, %down: tensor<30x24xf32>):
      %n = tensor.dim %v, %c0 : !x
      %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
      %a = linalg.matmul ins(%v, %gate : !x, tensor<24x30xf32>) outs(%zh : !h) -> !h
      %b = linalg.matmul ins(%v, %up : !x, tensor<24x30xf32>) outs(%zh : !h) -> !h
      %m = arith.negf %a : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
      %silu = arith.divf %a, %den : !h   %h = arith.mulf %silu, %b : !h
      %o = linalg.matmul ins(%h, %down : !h, tensor<30x24xf32>) outs(%zx : !x) -> !x
      moe.yield %o : !x
    }
    %hidden_next = arith.addf %hidden, %o : !x
    %dense = moe.to_dense %r : !r
    %seen_next = tensor.insert_slice %dense into %seen[%l, 0, 0] [1, %t, 8] [1, 1, 1] : !e into !seen
    scf.yield %hidden_next, %seen_next, %counts_next : !x, !seen, tensor<2x?xi32>
  }
  return %y, %routing, %counts_out : !x, !seen, tensor<2x?xi32>
}
