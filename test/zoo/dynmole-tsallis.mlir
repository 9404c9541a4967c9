// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// DynMoLE: Boosting Mixture of LoRA Experts Fine-Tuning with a Hybrid Routing Mechanism
//
// The Tsallis entropy of the router's distribution decides: an uncertain token keeps all LoRA experts, a sure one those
// whose cumulative probability stays within top-p, and at least the best two.
//
// Ops: route, normalize, select (three conditions in one predicate, one of them on a value per row), apply, to_dense.

!x = tensor<?x24xf32>   !y = tensor<?x20xf32>   !low = tensor<?x4xf32>   !e = tensor<?x6xf32>   !t = tensor<?xf32>
!r = !moe.routing<?x6xf32>   !as = tensor<6x24x4xf32>   !bs = tensor<6x4x20xf32>

func.func @main(%x: !x {moe.name = "x"}, %w0: tensor<24x20xf32> {moe.name = "w0"},
    %wr: tensor<24x6xf32> {moe.name = "wr"}, %a: !as {moe.name = "a"}, %b: !bs {moe.name = "b"})
    -> (!y {moe.name = "y"}, !e {moe.name = "routing"}, !t {moe.name = "entropy"}) {
  %c0 = arith.constant 0 : index   %c2 = arith.constant 2 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %q = arith.constant 1.2 : f32   %q1 = arith.constant 0.2 : f32
  %hmax = arith.constant 1.3 : f32   %topp = arith.constant 0.88 : f32   %scale = arith.constant 2.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zt = tensor.splat %f0[%t] : !t
  %ones = tensor.splat %f1[%t] : !t   %q1s = tensor.splat %q1[%t] : !t   %scales = tensor.splat %scale[%t] : !y
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %p = linalg.softmax dimension(1) ins(%logits : !e) outs(%ze : !e) -> !e
  %sums = linalg.generic {indexing_maps = [affine_map<(t, e) -> (t, e)>, affine_map<(t, e) -> (t)>],
      iterator_types = ["parallel", "reduction"]} ins(%p : !e) outs(%zt : !t) {
  ^bb0(%pe: f32, %sum: f32):
    %power = math.powf %pe, %q : f32   %next = arith.addf %sum, %power : f32
    linalg.yield %next : f32
  } -> !t
  %gap = arith.subf %ones, %sums : !t   %entropy = arith.divf %gap, %q1s : !t
  %all = moe.route %p : !e
  %kept = moe.select %all {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %h = tensor.extract %entropy[%row] : !t   %unsure = arith.cmpf ogt, %h, %hmax : f32
    %upto = arith.addf %before, %key : f32   %within = arith.cmpf ole, %upto, %topp : f32
    %first = arith.cmpi ult, %rank, %c2 : index   %some = arith.ori %within, %first : i1
    %in = arith.ori %some, %unsure : i1
    moe.yield %in : i1
  } : !r
  %lora = moe.apply %kept rows(%x) experts(%a, %b) weighted(after) out(sum) : !r, !x, !as, !bs -> !y {
  ^bb0(%v: !x, %down: tensor<24x4xf32>, %up: tensor<4x20xf32>):
    %n = tensor.dim %v, %c0 : !x   %zl = tensor.splat %f0[%n] : !low   %zy = tensor.splat %f0[%n] : !y
    %l = linalg.matmul ins(%v, %down : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
    %o = linalg.matmul ins(%l, %up : !low, tensor<4x20xf32>) outs(%zy : !y) -> !y
    moe.yield %o : !y
  }
  %scaled = arith.mulf %lora, %scales : !y
  %y = linalg.matmul ins(%x, %w0 : !x, tensor<24x20xf32>) outs(%scaled : !y) -> !y
  %routing = moe.to_dense %kept : !r
  return %y, %routing, %entropy : !y, !e, !t
}
