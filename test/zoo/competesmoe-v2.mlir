// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// CompeteSMoE -- Statistically Guaranteed Mixture of Experts Training via Competition
//
// Experts compete with what they answer: the score of an expert is the mean softplus of its output, and the winners'
// outputs are combined. A cheap router learns to guess the winners; its result is the second one.
//
// Ops: apply of all experts with a dense result, top_k, normalize, two applies with pairs (no expert runs twice).

!x = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !all = !moe.routing<?x6xf32>
!r = !moe.routing<?x6xf32, max_per_row = 2>   !o = tensor<?x6x24xf32>

func.func @main(%x: !x {moe.name = "x"}, %wr: tensor<24x6xf32> {moe.name = "wr"},
    %w1: tensor<6x24x40xf32> {moe.name = "w1"}, %w2: tensor<6x40x24xf32> {moe.name = "w2"})
    -> (!x {moe.name = "y_comp"}, !e {moe.name = "routing_comp"}, !x {moe.name = "y_router"},
        !e {moe.name = "routing_router"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32   %rsqrt2 = arith.constant 0.70710678118654752 : f32
  %width = arith.constant 24.0 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e
  %logits = linalg.matmul ins(%x, %wr : !x, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %every = moe.route %logits : !e
  %o = moe.apply %every rows(%x) experts(%w1, %w2) out(dense)
      : !all, !x, tensor<6x24x40xf32>, tensor<6x40x24xf32> -> !o {
  ^bb0(%v: !x, %up: tensor<24x40xf32>, %down: tensor<40x24xf32>):
    %n = tensor.dim %v, %c0 : !x   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !x
    %a = linalg.matmul ins(%v, %up : !x, tensor<24x40xf32>) outs(%zh : !h) -> !h
    %h = linalg.map ins(%a : !h) outs(%zh : !h) (%p: f32, %init: f32) {
      %scaled = arith.mulf %p, %rsqrt2 : f32   %erf = math.erf %scaled : f32   %cdf2 = arith.addf %erf, %f1 : f32
      %ph = arith.mulf %p, %half : f32   %gelu = arith.mulf %ph, %cdf2 : f32
      linalg.yield %gelu : f32
    }
    %out = linalg.matmul ins(%h, %down : !h, tensor<40x24xf32>) outs(%zx : !x) -> !x
    moe.yield %out : !x
  }
  %scores = linalg.generic {indexing_maps = [affine_map<(t, e, d) -> (t, e, d)>, affine_map<(t, e, d) -> (t, e)>],
      iterator_types = ["parallel", "parallel", "reduction"]} ins(%o : !o) outs(%ze : !e) {
  ^bb0(%v: f32, %sum: f32):
    %size = math.absf %v : f32   %m = arith.negf %size : f32   %exp = math.exp %m : f32   %log = math.log1p %exp : f32
    %pos = arith.maximumf %v, %f0 : f32   %softplus = arith.addf %pos, %log : f32
    %part = arith.divf %softplus, %width : f32   %next = arith.addf %sum, %part : f32
    linalg.yield %next : f32
  } -> !e
  %contest = moe.route %scores : !e   %winners = moe.top_k %contest k(2) : !all
  %rc = moe.normalize %winners by(sum) : !r
  %guess = moe.top_k %every k(2) : !all   %rr = moe.normalize %guess by(softmax) : !r
  %y_comp = moe.apply %rc pairs(%o) weighted(after) out(sum) : !r, !o -> !x {
  ^bb0(%out: !x):
    moe.yield %out : !x
  }
  %y_router = moe.apply %rr pairs(%o) weighted(after) out(sum) : !r, !o -> !x {
  ^bb0(%out: !x):
    moe.yield %out : !x
  }
  %routing_comp = moe.to_dense %rc : !r
  %routing_router = moe.to_dense %rr : !r
  return %y_comp, %routing_comp, %y_router, %routing_router : !x, !e, !x, !e
}
