// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Layerwise Recurrent Router for Mixture-of-Experts
//
// The routers of successive layers are linked: a GRU that all layers share carries a router state of each token across
// depth, and each layer's logits are read from that state.
//
// Ops: scf.for over the layers around route, normalize, top_k and apply; the GRU is upstream arithmetic.

!x = tensor<?x24xf32>   !h = tensor<?x28xf32>   !s = tensor<?x10xf32>   !s3 = tensor<?x30xf32>
!rzn = tensor<?x3x10xf32>   !e = tensor<?x6xf32>   !all = tensor<3x?x6xf32>   !up = tensor<6x24x28xf32>
!down = tensor<6x28x24xf32>   !r = !moe.routing<?x6xf32, max_per_row = 2>

func.func @main(%x: !x {moe.name = "x"}, %wp: tensor<3x24x10xf32> {moe.name = "wp"},
    %wi: tensor<10x30xf32> {moe.name = "wi"}, %wh: tensor<10x30xf32> {moe.name = "wh"},
    %bi: tensor<30xf32> {moe.name = "bi"}, %bh: tensor<30xf32> {moe.name = "bh"},
    %wo: tensor<3x10x6xf32> {moe.name = "wo"}, %wg: tensor<3x6x24x28xf32> {moe.name = "wg"},
    %wu: tensor<3x6x24x28xf32> {moe.name = "wu"}, %wd: tensor<3x6x28x24xf32> {moe.name = "wd"})
    -> (!x {moe.name = "y"}, !all {moe.name = "routing"}, !s {moe.name = "state"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zs = tensor.splat %f0[%t] : !s
  %z3 = tensor.splat %f0[%t] : !s3   %za = tensor.splat %f0[%t] : !all
  %bis = linalg.broadcast ins(%bi : tensor<30xf32>) outs(%z3 : !s3) dimensions = [0]
  %bhs = linalg.broadcast ins(%bh : tensor<30xf32>) outs(%z3 : !s3) dimensions = [0]
  %y, %routing, %state = scf.for %l = %c0 to %c3 step %c1 iter_args(%v = %x, %seen = %za, %c = %zs) -> (!x, !all, !s) {
    %wpl = tensor.extract_slice %wp[%l, 0, 0] [1, 24, 10] [1, 1, 1] : tensor<3x24x10xf32> to tensor<24x10xf32>
    %wol = tensor.extract_slice %wo[%l, 0, 0] [1, 10, 6] [1, 1, 1] : tensor<3x10x6xf32> to tensor<10x6xf32>
    %wgl = tensor.extract_slice %wg[%l, 0, 0, 0] [1, 6, 24, 28] [1, 1, 1, 1] : tensor<3x6x24x28xf32> to !up
    %wul = tensor.extract_slice %wu[%l, 0, 0, 0] [1, 6, 24, 28] [1, 1, 1, 1] : tensor<3x6x24x28xf32> to !up
    %wdl = tensor.extract_slice %wd[%l, 0, 0, 0] [1, 6, 28, 24] [1, 1, 1, 1] : tensor<3x6x28x24xf32> to !down
    // The GRU: a and q hold the parts r, z and n.
    %u = linalg.matmul ins(%v, %wpl : !x, tensor<24x10xf32>) outs(%zs : !s) -> !s
    %a = linalg.matmul ins(%u, %wi : !s, tensor<10x30xf32>) outs(%bis : !s3) -> !s3
    %q = linalg.matmul ins(%c, %wh : !s, tensor<10x30xf32>) outs(%bhs : !s3) -> !s3
    %a3 = tensor.expand_shape %a [[0], [1, 2]] output_shape [%t, 3, 10] : !s3 into !rzn
    %q3 = tensor.expand_shape %q [[0], [1, 2]] output_shape [%t, 3, 10] : !s3 into !rzn
    %c_next = linalg.generic {indexing_maps = [affine_map<(t, i) -> (t, 0, i)>, affine_map<(t, i) -> (t, 1, i)>,
        affine_map<(t, i) -> (t, 2, i)>,
        affine_map<(t, i) -> (t, 0, i)>, affine_map<(t, i) -> (t, 1, i)>, affine_map<(t, i) -> (t, 2, i)>,
            affine_map<(t, i) -> (t, i)>,
        affine_map<(t, i) -> (t, i)>], iterator_types = ["parallel", "parallel"]}
        ins(%a3, %a3, %a3, %q3, %q3, %q3, %c : !rzn, !rzn, !rzn, !rzn, !rzn, !rzn, !s) outs(%zs : !s) {
    ^bb0(%ar: f32, %az: f32, %an: f32, %qr: f32, %qz: f32, %qn: f32, %old: f32, %init: f32):
      %rs = arith.addf %ar, %qr : f32   %rm = arith.negf %rs : f32   %re = math.exp %rm : f32
      %rd = arith.addf %re, %f1 : f32   %rq = arith.divf %qn, %rd : f32   %ns = arith.addf %an, %rq : f32
      %n = math.tanh %ns : f32   %zsum = arith.addf %az, %qz : f32   %zm = arith.negf %zsum : f32
      %zexp = math.exp %zm : f32   %zd = arith.addf %zexp, %f1 : f32   %gap = arith.subf %old, %n : f32
      %part = arith.divf %gap, %zd : f32   %new = arith.addf %n, %part : f32
      linalg.yield %new : f32
    } -> !s
    %logits = linalg.matmul ins(%c_next, %wol : !s, tensor<10x6xf32>) outs(%ze : !e) -> !e
    %every = moe.route %logits : !e   %top = moe.top_k %every k(2) : !moe.routing<?x6xf32>
    %r = moe.normalize %top by(softmax) : !r
    %o = moe.apply %r rows(%v) experts(%wgl, %wul, %wdl) weighted(after) out(sum) : !r, !x, !up, !up, !down -> !x {
    ^bb0(%rows: !x, %gate: tensor<24x28xf32>, %up: tensor<24x28xf32>, %down: tensor<28x24xf32>):
      %n = tensor.dim %rows, %c0 : !x
      %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x   %one = tensor.splat %f1[%n] : !h
      %g = linalg.matmul ins(%rows, %gate : !x, tensor<24x28xf32>) outs(%zh : !h) -> !h
      %b = linalg.matmul ins(%rows, %up : !x, tensor<24x28xf32>) outs(%zh : !h) -> !h
      %m = arith.negf %g : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
      %silu = arith.divf %g, %den : !h   %h = arith.mulf %silu, %b : !h
      %out = linalg.matmul ins(%h, %down : !h, tensor<28x24xf32>) outs(%zx : !x) -> !x
      moe.yield %out : !x
    }
    %v_next = arith.addf %v, %o : !x
    %dense = moe.to_dense %r : !r
    %seen_next = tensor.insert_slice %dense into %seen[%l, 0, 0] [1, %t, 6] [1, 1, 1] : !e into !all
    scf.yield %v_next, %seen_next, %c_next : !x, !all, !s
  }
  return %y, %routing, %state : !x, !all, !s
}
