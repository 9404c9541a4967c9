// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Merging Experts into One: Improving Computational Efficiency of Mixture of Experts
//
// The experts chosen for a sequence are merged before use: their matrices are averaged with the gates, so that one
// expert runs. A token-level variant gates the merged expert's output.
//
// Ops: top_k, normalize, to_dense; merging is a contraction (nothing is applied per expert).

!x = tensor<3x?x24xf32>   !r = tensor<?x24xf32>   !y = tensor<3x?x28xf32>   !yr = tensor<?x28xf32>
!s = tensor<3x6xf32>   !b = tensor<3x28xf32>   !w = tensor<3x24x28xf32>   !u = tensor<?x8xf32>
!q = !moe.routing<3x6xf32, max_per_row = 3>

func.func @main(%x: !x {moe.name = "x"}, %wg: tensor<24x6xf32> {moe.name = "wg"},
    %w: tensor<6x24x28xf32> {moe.name = "w"}, %bias: tensor<6x28xf32> {moe.name = "bias"},
    %wdn: tensor<24x8xf32> {moe.name = "wdn"}, %wup: tensor<8x28xf32> {moe.name = "wup"})
    -> (!y {moe.name = "y_seq"}, !y {moe.name = "y_tok"}, !s {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %half = arith.constant 0.5 : f32   %root2 = arith.constant 0.70710678118654752 : f32
  %t = tensor.dim %x, %c1 : !x   %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !r
  %n = tensor.dim %rows, %c0 : !r
  %zs = tensor.splat %f0 : !s   %zb = tensor.splat %f0 : !b   %zw = tensor.splat %f0 : !w
  %zy = tensor.splat %f0[%t] : !y   %zu = tensor.splat %f0[%n] : !u   %zr = tensor.splat %f0[%n] : !yr
  %zm = tensor.splat %f0 : tensor<3x24xf32>
  %sums = linalg.reduce {arith.addf} ins(%x : !x) outs(%zm : tensor<3x24xf32>) dimensions = [1]
  %ti = arith.index_cast %t : index to i32   %tf = arith.sitofp %ti : i32 to f32
  %counts = tensor.splat %tf : tensor<3x24xf32>   %means = arith.divf %sums, %counts : tensor<3x24xf32>
  %logits = linalg.matmul ins(%means, %wg : tensor<3x24xf32>, tensor<24x6xf32>) outs(%zs : !s) -> !s
  %all = moe.route %logits : !s   %best = moe.top_k %all k(3) : !moe.routing<3x6xf32>
  %g = moe.normalize %best by(softmax) : !q   %routing = moe.to_dense %g : !q
  %wm = linalg.contract indexing_maps = [affine_map<(b, d, o, e) -> (b, e)>, affine_map<(b, d, o, e) -> (e, d, o)>,
      affine_map<(b, d, o, e) -> (b, d, o)>] ins(%routing, %w : !s, tensor<6x24x28xf32>) outs(%zw : !w) -> !w
  %bm = linalg.matmul ins(%routing, %bias : !s, tensor<6x28xf32>) outs(%zb : !b) -> !b
  %bias_t = linalg.broadcast ins(%bm : !b) outs(%zy : !y) dimensions = [1]
  %pre = linalg.contract indexing_maps = [affine_map<(b, t, o, d) -> (b, t, d)>, affine_map<(b, t, o, d) -> (b, d, o)>,
      affine_map<(b, t, o, d) -> (b, t, o)>] ins(%x, %wm : !x, !w) outs(%bias_t : !y) -> !y
  %one = tensor.splat %f1[%t] : !y   %hf = tensor.splat %half[%t] : !y   %rt = tensor.splat %root2[%t] : !y
  %y_seq_s = arith.mulf %pre, %rt : !y   %y_seq_f = math.erf %y_seq_s : !y   %y_seq_c = arith.addf %y_seq_f, %one : !y
  %y_seq_h = arith.mulf %pre, %hf : !y   %y_seq = arith.mulf %y_seq_h, %y_seq_c : !y
  %d = linalg.matmul ins(%rows, %wdn : !r, tensor<24x8xf32>) outs(%zu : !u) -> !u
  %dr = arith.maximumf %d, %zu : !u
  %l = linalg.matmul ins(%dr, %wup : !u, tensor<8x28xf32>) outs(%zr : !yr) -> !yr
  %ones = tensor.splat %f1[%n] : !yr   %al_n = arith.negf %l : !yr   %al_e = math.exp %al_n : !yr
  %al_d = arith.addf %al_e, %ones : !yr   %al = arith.divf %ones, %al_d : !yr
  %gate = tensor.expand_shape %al [[0, 1], [2]] output_shape [3, %t, 28] : !yr into !y
  %y_tok = arith.mulf %gate, %y_seq : !y
  return %y_seq, %y_tok, %routing : !y, !y, !s
}
