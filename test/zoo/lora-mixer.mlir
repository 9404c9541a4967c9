// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// LoRA-Mixer: Coordinate Modular LoRA Experts Through Serial Attention Routing
//
// Routed LoRA experts sit on the query, key, value and output projection of an attention block; one routing decision
// per token, taken from the block's input, is used by all four.
//
// Ops: top_k, normalize, four applies of one routing (one plan: it depends on the support only); attention is upstream.

!x = tensor<?x24xf32>   !low = tensor<?x4xf32>   !w = tensor<24x24xf32>   !a = tensor<4x24x4xf32>
!b = tensor<4x4x24xf32>   !r = !moe.routing<?x4xf32, max_per_row = 2>   !bsd = tensor<?x?x24xf32>
!heads = tensor<?x?x3x8xf32>   !scores = tensor<?x3x?x?xf32>

func.func @main(%x: !bsd {moe.name = "x"}, %wr: tensor<24x4xf32> {moe.name = "wr"},
    %w: tensor<4x24x24xf32> {moe.name = "w"}, %a: tensor<4x4x24x4xf32> {moe.name = "a"},
    %b: tensor<4x4x4x24xf32> {moe.name = "b"}) -> (!bsd {moe.name = "y"}, tensor<?x?x4xf32> {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index   %f0 = arith.constant 0.0 : f32   %minf = arith.constant 0xFF800000 : f32
  %scale = arith.constant 0.35355339059327376 : f32  // 1 / sqrt(DH)
  %batch = tensor.dim %x, %c0 : !bsd   %seq = tensor.dim %x, %c1 : !bsd
  %tokens = tensor.collapse_shape %x [[0, 1], [2]] : !bsd into !x
  %t = tensor.dim %tokens, %c0 : !x   %zl = tensor.splat %f0[%t] : !low
  %logits = linalg.matmul ins(%tokens, %wr : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
  %all = moe.route %logits : !low   %probs = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %top = moe.top_k %probs k(2) : !moe.routing<?x4xf32>   %r = moe.normalize %top by(sum) : !r

  %q = func.call @linear(%tokens, %r, %w, %a, %b, %c0) : (!x, !r, tensor<4x24x24xf32>, tensor<4x4x24x4xf32>,
      tensor<4x4x4x24xf32>, index) -> !x
  %k = func.call @linear(%tokens, %r, %w, %a, %b, %c1) : (!x, !r, tensor<4x24x24xf32>, tensor<4x4x24x4xf32>,
      tensor<4x4x4x24xf32>, index) -> !x
  %v = func.call @linear(%tokens, %r, %w, %a, %b, %c2) : (!x, !r, tensor<4x24x24xf32>, tensor<4x4x24x4xf32>,
      tensor<4x4x4x24xf32>, index) -> !x
  %qh = tensor.expand_shape %q [[0, 1], [2, 3]] output_shape [%batch, %seq, 3, 8] : !x into !heads
  %kh = tensor.expand_shape %k [[0, 1], [2, 3]] output_shape [%batch, %seq, 3, 8] : !x into !heads
  %vh = tensor.expand_shape %v [[0, 1], [2, 3]] output_shape [%batch, %seq, 3, 8] : !x into !heads
  %zs = tensor.splat %f0[%batch, %seq, %seq] : !scores
  %qk = linalg.contract indexing_maps = [affine_map<(b, h, s, j, d) -> (b, s, h, d)>,
      affine_map<(b, h, s, j, d) -> (b, j, h, d)>,
                                         affine_map<(b, h, s, j, d) -> (b, h, s, j)>]
      ins(%qh, %kh : !heads, !heads) outs(%zs : !scores) -> !scores
  %causal = linalg.map ins(%qk : !scores) outs(%zs : !scores) (%s: f32, %o: f32) {
    %i = linalg.index 2 : index   %j = linalg.index 3 : index   %seen = arith.cmpi ule, %j, %i : index
    %scaled = arith.mulf %s, %scale : f32   %kept = arith.select %seen, %scaled, %minf : f32
    linalg.yield %kept : f32
  }
  %attention = linalg.softmax dimension(3) ins(%causal : !scores) outs(%zs : !scores) -> !scores
  %zh = tensor.splat %f0[%batch, %seq] : !heads
  %mixed = linalg.contract indexing_maps = [affine_map<(b, s, h, d, j) -> (b, h, s, j)>,
      affine_map<(b, s, h, d, j) -> (b, j, h, d)>,
                                            affine_map<(b, s, h, d, j) -> (b, s, h, d)>]
      ins(%attention, %vh : !scores, !heads) outs(%zh : !heads) -> !heads
  %c = tensor.collapse_shape %mixed [[0, 1], [2, 3]] : !heads into !x
  %o = func.call @linear(%c, %r, %w, %a, %b, %c3) : (!x, !r, tensor<4x24x24xf32>, tensor<4x4x24x4xf32>,
      tensor<4x4x4x24xf32>, index) -> !x
  %y = tensor.expand_shape %o [[0, 1], [2]] output_shape [%batch, %seq, 24] : !x into !bsd
  %dense = moe.to_dense %r : !r
  %routing = tensor.expand_shape %dense [[0, 1], [2]] output_shape [%batch, %seq, 4] : !low into tensor<?x?x4xf32>
  return %y, %routing : !bsd, tensor<?x?x4xf32>
}

// Projection n with its LoRA experts.
func.func private @linear(%v: !x, %r: !r, %ws: tensor<4x24x24xf32>, %as: tensor<4x4x24x4xf32>,
    %bs: tensor<4x4x4x24xf32>, %n: index) -> !x {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %scale = arith.constant 1.5 : f32
  %w = tensor.extract_slice %ws[%n, 0, 0] [1, 24, 24] [1, 1, 1] : tensor<4x24x24xf32> to !w
  %a = tensor.extract_slice %as[%n, 0, 0, 0] [1, 4, 24, 4] [1, 1, 1, 1] : tensor<4x4x24x4xf32> to !a
  %b = tensor.extract_slice %bs[%n, 0, 0, 0] [1, 4, 4, 24] [1, 1, 1, 1] : tensor<4x4x4x24xf32> to !b
  %lora = moe.apply %r rows(%v) experts(%a, %b) weighted(after) out(sum) : !r, !x, !a, !b -> !x {
  ^bb0(%rows: !x, %down: tensor<24x4xf32>, %up: tensor<4x24xf32>):
    %m = tensor.dim %rows, %c0 : !x   %zl = tensor.splat %f0[%m] : !low   %zx = tensor.splat %f0[%m] : !x
    %h = linalg.matmul ins(%rows, %down : !x, tensor<24x4xf32>) outs(%zl : !low) -> !low
    %o = linalg.matmul ins(%h, %up : !low, tensor<4x24xf32>) outs(%zx : !x) -> !x
    moe.yield %o : !x
  }
  %t = tensor.dim %v, %c0 : !x   %scales = tensor.splat %scale[%t] : !x
  %scaled = arith.mulf %lora, %scales : !x
  %out = linalg.matmul ins(%v, %w : !x, !w) outs(%scaled : !x) -> !x
  return %out : !x
}
