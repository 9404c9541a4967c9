// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Large Language Lobotomy: Jailbreaking Mixture-of-Experts via Expert Silencing
//
// Experts that know only one language are silenced by a mask: the router's softmax ranges over the others, and a layer
// all of whose experts are silent adds nothing.
//
// Ops: route with a mask over the experts, normalize, top_k, counts, apply in scf.for over the layers.

!x = tensor<?x24xf32>   !h = tensor<?x30xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !seen = tensor<2x?x6xf32>

func.func @main(%x: !x {moe.name = "x"}, %silenced: tensor<2x6xi1> {moe.name = "silenced"},
    %wr: tensor<2x24x6xf32> {moe.name = "wr"}, %wg: tensor<2x6x24x30xf32> {moe.name = "wg"},
    %wu: tensor<2x6x24x30xf32> {moe.name = "wu"}, %wd: tensor<2x6x30x24xf32> {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !seen {moe.name = "routing"}, tensor<2x6xi32> {moe.name = "load"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %true = arith.constant dense<true> : tensor<6xi1>
  %zload = arith.constant dense<0> : tensor<2x6xi32>
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zseen = tensor.splat %f0[%t] : !seen
  %y, %routing, %load_out = scf.for %l = %c0 to %c2 step %c1 iter_args(%hidden = %x, %seen = %zseen, %load = %zload)
      -> (!x, !seen, tensor<2x6xi32>) {
    %wl = tensor.extract_slice %wr[%l, 0, 0] [1, 24, 6] [1, 1, 1] : tensor<2x24x6xf32> to tensor<24x6xf32>
    %wg_l = tensor.extract_slice %wg[%l, 0, 0, 0] [1, 6, 24, 30] [1, 1, 1, 1] : tensor<2x6x24x30xf32>
        to tensor<6x24x30xf32>
    %wu_l = tensor.extract_slice %wu[%l, 0, 0, 0] [1, 6, 24, 30] [1, 1, 1, 1] : tensor<2x6x24x30xf32>
        to tensor<6x24x30xf32>
    %wd_l = tensor.extract_slice %wd[%l, 0, 0, 0] [1, 6, 30, 24] [1, 1, 1, 1] : tensor<2x6x30x24xf32>
        to tensor<6x30x24xf32>
    %off = tensor.extract_slice %silenced[%l, 0] [1, 6] [1, 1] : tensor<2x6xi1> to tensor<6xi1>
    %on = arith.xori %off, %true : tensor<6xi1>
    %logits = linalg.matmul ins(%hidden, %wl : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
    %every = moe.route %logits mask(%on : tensor<6xi1>) : !e   %top = moe.top_k %every k(2) : !all
    %r = moe.normalize %top by(softmax) : !r
    %count = moe.counts %r per(expert) : !r
    %load_next = tensor.insert_slice %count into %load[%l, 0] [1, 6] [1, 1] : tensor<6xi32> into tensor<2x6xi32>
    %o = moe.apply %r rows(%hidden) experts(%wg_l, %wu_l, %wd_l) weighted(after) out(sum)
        : !r, !x, tensor<6x24x30xf32>, tensor<6x24x30xf32>, tensor<6x30x24xf32> -> !x {
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
    %seen_next = tensor.insert_slice %dense into %seen[%l, 0, 0] [1, %t, 6] [1, 1, 1] : !e into !seen
    scf.yield %hidden_next, %seen_next, %load_next : !x, !seen, tensor<2x6xi32>
  }
  return %y, %routing, %load_out : !x, !seen, tensor<2x6xi32>
}
