// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Beyond Standard MoE: Mixture of Latent Experts for Resource-Efficient Language Models
//
// Experts are factorised: the projections into and out of a latent space are shared by the experts of a group, and an
// expert owns only the small matrices between.
//
// Ops: top_k, normalize, apply with banks of E experts and of G groups (affine maps of the expert number).

!x = tensor<?x24xf32>   !h = tensor<?x20xf32>   !e = tensor<?x8xf32>   !all = !moe.routing<?x8xf32>
!r = !moe.routing<?x8xf32, max_per_row = 3>   !l = tensor<?x8xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x8xf32> {moe.name = "wr"},
    %ag: tensor<2x24x8xf32> {moe.name = "ag"}, %au: tensor<2x24x8xf32> {moe.name = "au"},
    %bg: tensor<8x8x20xf32> {moe.name = "bg"}, %bu: tensor<8x8x20xf32> {moe.name = "bu"},
    %bd: tensor<8x20x8xf32> {moe.name = "bd"}, %ad: tensor<2x8x24xf32> {moe.name = "ad"})
    -> (!x {moe.name = "y"}, !l {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x8xf32>) outs(%ze : !e) -> !e
  %every = moe.route %logits : !e   %top = moe.top_k %every k(3) : !all   %r = moe.normalize %top by(softmax) : !r
  %y = moe.apply %r rows(%x) experts(%ag by (e) -> (e floordiv 4), %au by (e) -> (e floordiv 4), %bg, %bu, %bd,
      %ad by (e) -> (e floordiv 4))
      weighted(after) out(sum) : !r, !x, tensor<2x24x8xf32>, tensor<2x24x8xf32>, tensor<8x8x20xf32>, tensor<8x8x20xf32>,
          tensor<8x20x8xf32>, tensor<2x8x24xf32> -> !x {
  ^bb0(%v: !x, %age: tensor<24x8xf32>, %aue: tensor<24x8xf32>, %bge: tensor<8x20xf32>, %bue: tensor<8x20xf32>,
      %bde: tensor<20x8xf32>, %ade: tensor<8x24xf32>):
    %n = tensor.dim %v, %c0 : !x
    %zl = tensor.splat %f0[%n] : !l   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %one = tensor.splat %f1[%n] : !h
    %lg = linalg.matmul ins(%v, %age : !x, tensor<24x8xf32>) outs(%zl : !l) -> !l
    %lu = linalg.matmul ins(%v, %aue : !x, tensor<24x8xf32>) outs(%zl : !l) -> !l
    %a = linalg.matmul ins(%lg, %bge : !l, tensor<8x20xf32>) outs(%zh : !h) -> !h
    %b = linalg.matmul ins(%lu, %bue : !l, tensor<8x20xf32>) outs(%zh : !h) -> !h
    %m = arith.negf %a : !h   %exp = math.exp %m : !h   %den = arith.addf %exp, %one : !h
    %silu = arith.divf %a, %den : !h   %h = arith.mulf %silu, %b : !h
    %ld = linalg.matmul ins(%h, %bde : !h, tensor<20x8xf32>) outs(%zl : !l) -> !l
    %o = linalg.matmul ins(%ld, %ade : !l, tensor<8x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %routing = moe.to_dense %r : !r
  return %y, %routing : !x, !l
}
