// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Optimizing Mixture of Block Attention
//
// Every attention query picks its best past key blocks by their mean keys and attends to them and to its own block. The
// number of blocks is known at run time only, the queries of one block are 4 positions times 3 heads: so the 12 queries
// of a block stand as the experts, each of which chooses its best tokens, the past blocks.
//
// Ops: route, top_k along the tokens, to_dense of the mask, inside scf.for over the sequences and their query blocks.
// The attention over chosen positions is upstream.

!x = tensor<?x?x24xf32>   !xh = tensor<?x?x3x8xf32>   !att = tensor<?x3x?x?xf32>   !blocks = tensor<?x?x4x3x8xf32>
!sum = tensor<?x?x3x8xf32>   !score = tensor<?x?x?x4x3xf32>   !chosen = tensor<?x?x?x4x3xi1>
#bsd = affine_map<(b, s, c, d) -> (b, s, d)>
#dc = affine_map<(b, s, c, d) -> (d, c)>
#bsc = affine_map<(b, s, c, d) -> (b, s, c)>
#project = [#bsd, #dc, #bsc]

func.func @main(%x: !x {moe.name = "x"}, %wq: tensor<24x24xf32> {moe.name = "wq"},
    %wk: tensor<24x24xf32> {moe.name = "wk"}, %wv: tensor<24x24xf32> {moe.name = "wv"},
    %kw: tensor<3x24xf32> {moe.name = "kw"}, %wo: tensor<24x24xf32> {moe.name = "wo"})
    -> (!x {moe.name = "y"}, !att {moe.name = "attended"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %c3 = arith.constant 3 : index
  %c4 = arith.constant 4 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %quarter = arith.constant 0.25 : f32   %scale = arith.constant 0.35355339059327379 : f32
  %minf = arith.constant 0xFF800000 : f32   %false = arith.constant false
  %b = tensor.dim %x, %c0 : !x   %s = tensor.dim %x, %c1 : !x
  %nb = arith.ceildivui %s, %c4 : index   %s4 = arith.muli %nb, %c4 : index   %rest = arith.subi %s4, %s : index
  %zx = tensor.splat %f0[%b, %s] : !x   %za = tensor.splat %f0[%b, %s, %s] : !att
  %q0 = linalg.contract indexing_maps = #project ins(%x, %wq : !x, tensor<24x24xf32>) outs(%zx : !x) -> !x
  %k0 = linalg.contract indexing_maps = #project ins(%x, %wk : !x, tensor<24x24xf32>) outs(%zx : !x) -> !x
  %v0 = linalg.contract indexing_maps = #project ins(%x, %wv : !x, tensor<24x24xf32>) outs(%zx : !x) -> !x
  // k = k0 + silu(causal depthwise convolution of k0)
  %k1 = linalg.map ins(%k0 : !x) outs(%zx : !x) (%own: f32, %init: f32) {
    %bi = linalg.index 0 : index   %si = linalg.index 1 : index   %ci = linalg.index 2 : index
    %before = arith.addi %si, %c1 : index   %taps = arith.minui %before, %c3 : index
    %sum = scf.for %w = %c0 to %taps step %c1 iter_args(%acc = %f0) -> f32 {
      %at = arith.subi %si, %w : index   %past = tensor.extract %k0[%bi, %at, %ci] : !x
      %tap = tensor.extract %kw[%w, %ci] : tensor<3x24xf32>   %next = math.fma %past, %tap, %acc : f32
      scf.yield %next : f32
    }
    %neg = arith.negf %sum : f32   %exp = math.exp %neg : f32   %den = arith.addf %exp, %f1 : f32
    %silu = arith.divf %sum, %den : f32   %k = arith.addf %own, %silu : f32
    linalg.yield %k : f32
  }
  %q = tensor.expand_shape %q0 [[0], [1], [2, 3]] output_shape [%b, %s, 3, 8] : !x into !xh
  %k = tensor.expand_shape %k1 [[0], [1], [2, 3]] output_shape [%b, %s, 3, 8] : !x into !xh
  %v = tensor.expand_shape %v0 [[0], [1], [2, 3]] output_shape [%b, %s, 3, 8] : !x into !xh
  // Scores of all queries (block, position, head) with the mean keys of all blocks; only past, hence full, blocks are
  // used.
  %qp = tensor.pad %q low[0, 0, 0, 0] high[0, %rest, 0, 0] {
  ^bb0(%i0: index, %i1: index, %i2: index, %i3: index):
    tensor.yield %f0 : f32
  } : !xh to !xh
  %kp = tensor.pad %k low[0, 0, 0, 0] high[0, %rest, 0, 0] {
  ^bb0(%i0: index, %i1: index, %i2: index, %i3: index):
    tensor.yield %f0 : f32
  } : !xh to !xh
  %qb = tensor.expand_shape %qp [[0], [1, 2], [3], [4]] output_shape [%b, %nb, 4, 3, 8] : !xh into !blocks
  %kb = tensor.expand_shape %kp [[0], [1, 2], [3], [4]] output_shape [%b, %nb, 4, 3, 8] : !xh into !blocks
  %zsum = tensor.splat %f0[%b, %nb] : !sum   %zscore = tensor.splat %f0[%b, %nb, %nb] : !score
  %quarters = tensor.splat %quarter[%b, %nb] : !sum
  %sums = linalg.reduce {arith.addf} ins(%kb : !blocks) outs(%zsum : !sum) dimensions = [2]
  %means = arith.mulf %sums, %quarters : !sum
  %scores = linalg.contract indexing_maps = [affine_map<(b, j, i, p, h, d) -> (b, i, p, h, d)>,
      affine_map<(b, j, i, p, h, d) -> (b, j, h, d)>, affine_map<(b, j, i, p, h, d) -> (b, j, i, p, h)>]
      ins(%qb, %means : !blocks, !sum) outs(%zscore : !score) -> !score
  %none = tensor.splat %false[%b, %nb, %nb] : !chosen
  %chosen = scf.for %bi = %c0 to %b step %c1 iter_args(%all = %none) -> !chosen {
    %of_sequence = scf.for %i = %c0 to %nb step %c1 iter_args(%sofar = %all) -> !chosen {
      %past = tensor.extract_slice %scores[%bi, 0, %i, 0, 0] [1, %i, 1, 4, 3] [1, 1, 1, 1, 1] : !score
          to tensor<?x4x3xf32>
      %flat = tensor.collapse_shape %past [[0], [1, 2]] : tensor<?x4x3xf32> into tensor<?x12xf32>
      %every = moe.route %flat : tensor<?x12xf32>   %best = moe.top_k %every k(2) axis(token) : !moe.routing<?x12xf32>
      %mask = moe.to_dense %best of(mask) : !moe.routing<?x12xf32, max_per_expert = 2>
      %m3 = tensor.expand_shape %mask [[0], [1, 2]] output_shape [%i, 4, 3] : tensor<?x12xi1> into tensor<?x4x3xi1>
      %next = tensor.insert_slice %m3 into %sofar[%bi, 0, %i, 0, 0] [1, %i, 1, 4, 3] [1, 1, 1, 1, 1] : tensor<?x4x3xi1>
          into !chosen
      scf.yield %next : !chosen
    }
    scf.yield %of_sequence : !chosen
  }
  %attended = linalg.map outs(%za : !att) (%init: f32) {
    %bi = linalg.index 0 : index   %h = linalg.index 1 : index   %si = linalg.index 2 : index
    %j = linalg.index 3 : index   %sb = arith.divui %si, %c4 : index   %jb = arith.divui %j, %c4 : index
    %p = arith.remui %si, %c4 : index   %picked = tensor.extract %chosen[%bi, %jb, %sb, %p, %h] : !chosen
    %own = arith.cmpi eq, %sb, %jb : index   %causal = arith.cmpi ule, %j, %si : index
    %seen = arith.select %own, %causal, %picked : i1   %one = arith.uitofp %seen : i1 to f32
    linalg.yield %one : f32
  }
  %qk = linalg.contract indexing_maps = [affine_map<(b, h, s, j, d) -> (b, s, h, d)>,
      affine_map<(b, h, s, j, d) -> (b, j, h, d)>, affine_map<(b, h, s, j, d) -> (b, h, s, j)>]
      ins(%q, %k : !xh, !xh) outs(%za : !att) -> !att
  %masked = linalg.map ins(%qk, %attended : !att, !att) outs(%za : !att) (%score: f32, %seen: f32, %init: f32) {
    %scaled = arith.mulf %score, %scale : f32   %in = arith.cmpf ogt, %seen, %f0 : f32
    %m = arith.select %in, %scaled, %minf : f32
    linalg.yield %m : f32
  }
  %p = linalg.softmax dimension(3) ins(%masked : !att) outs(%za : !att) -> !att
  %zo = tensor.splat %f0[%b, %s] : !xh
  %o = linalg.contract indexing_maps = [affine_map<(b, s, h, d, j) -> (b, h, s, j)>,
      affine_map<(b, s, h, d, j) -> (b, j, h, d)>, affine_map<(b, s, h, d, j) -> (b, s, h, d)>]
      ins(%p, %v : !att, !xh) outs(%zo : !xh) -> !xh
  %oh = tensor.collapse_shape %o [[0], [1], [2, 3]] : !xh into !x
  %y = linalg.contract indexing_maps = #project ins(%oh, %wo : !x, tensor<24x24xf32>) outs(%zx : !x) -> !x
  return %y, %attended : !x, !att
}
