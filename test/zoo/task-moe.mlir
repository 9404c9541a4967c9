// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Beyond Distillation: Task-level Mixture-of-Experts for Efficient Inference
//
// The same experts routed three ways: by an embedding of the task, by the mean of a sentence, and token by token.
//
// Ops: top_k, normalize; one routing of sequences is used for their tokens by a broadcast of its dense weights,
// from_slots keeps the chosen experts; apply three times with the same body.

!x = tensor<3x?x24xf32>   !r = tensor<?x24xf32>   !h = tensor<?x40xf32>   !e = tensor<?x6xf32>   !s = tensor<3x6xf32>
!st = tensor<3x?x6xf32>   !up = tensor<24x40xf32>   !down = tensor<40x24xf32>   !w1 = tensor<6x24x40xf32>
!w2 = tensor<6x40x24xf32>   !q = !moe.routing<?x6xf32, max_per_row = 2>   !slots = tensor<?x2xf32>
!idx = tensor<?x2xi32>

func.func @main(%x: !x {moe.name = "x"}, %task: tensor<3xi32> {moe.name = "task"},
    %emb: tensor<7x10xf32> {moe.name = "emb"}, %wt: tensor<10x6xf32> {moe.name = "wt"},
    %wr: tensor<24x6xf32> {moe.name = "wr"}, %w1: !w1 {moe.name = "w1"}, %w2: !w2 {moe.name = "w2"})
    -> (!x {moe.name = "y_task"}, !s {moe.name = "routing_task"}, !x {moe.name = "y_sent"},
        !s {moe.name = "routing_sent"}, !x {moe.name = "y_tok"}, !st {moe.name = "routing_tok"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %c6 = arith.constant 6 : index
  %t = tensor.dim %x, %c1 : !x   %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !r
  %n = tensor.dim %rows, %c0 : !r
  %ze = tensor.splat %f0[%n] : !e   %zs = tensor.splat %f0 : !s
  // Embeddings of the tasks, and the sentences' means.
  %own = tensor.generate {
  ^bb0(%b: index, %i: index):
    %k = tensor.extract %task[%b] : tensor<3xi32>   %ki = arith.index_cast %k : i32 to index
    %v = tensor.extract %emb[%ki, %i] : tensor<7x10xf32>
    tensor.yield %v : f32
  } : tensor<3x10xf32>
  %task_logits = linalg.matmul ins(%own, %wt : tensor<3x10xf32>, tensor<10x6xf32>) outs(%zs : !s) -> !s
  %zd = tensor.splat %f0 : tensor<3x24xf32>
  %sums = linalg.reduce {arith.addf} ins(%x : !x) outs(%zd : tensor<3x24xf32>) dimensions = [1]
  %ti = arith.index_cast %t : index to i32   %tf = arith.sitofp %ti : i32 to f32
  %count = tensor.splat %tf : tensor<3x24xf32>   %means = arith.divf %sums, %count : tensor<3x24xf32>
  %sent_logits = linalg.matmul ins(%means, %wr : tensor<3x24xf32>, tensor<24x6xf32>) outs(%zs : !s) -> !s
  %tok_logits = linalg.matmul ins(%rows, %wr : !r, tensor<24x6xf32>) outs(%ze : !e) -> !e
  %y1 = func.call @tokens(%task_logits, %t) : (!s, index) -> !e
  %y2 = func.call @tokens(%sent_logits, %t) : (!s, index) -> !e
  %y_t, %g_t = func.call @layer(%rows, %y1, %w1, %w2) : (!r, !e, !w1, !w2) -> (!r, !e)
  %y_s, %g_s = func.call @layer(%rows, %y2, %w1, %w2) : (!r, !e, !w1, !w2) -> (!r, !e)
  %y_k, %g_k = func.call @layer(%rows, %tok_logits, %w1, %w2) : (!r, !e, !w1, !w2) -> (!r, !e)
  %y_task = tensor.expand_shape %y_t [[0, 1], [2]] output_shape [3, %t, 24] : !r into !x
  %y_sent = tensor.expand_shape %y_s [[0, 1], [2]] output_shape [3, %t, 24] : !r into !x
  %y_tok = tensor.expand_shape %y_k [[0, 1], [2]] output_shape [3, %t, 24] : !r into !x
  %routing_tok = tensor.expand_shape %g_k [[0, 1], [2]] output_shape [3, %t, 6] : !e into !st
  %routing_task = func.call @gates(%task_logits) : (!s) -> !s
  %routing_sent = func.call @gates(%sent_logits) : (!s) -> !s
  return %y_task, %routing_task, %y_sent, %routing_sent, %y_tok, %routing_tok : !x, !s, !x, !s, !x, !st
}

// The logits of the sequences, for each of their tokens.
func.func private @tokens(%l: !s, %t: index) -> !e {
  %init = tensor.empty(%t) : !st
  %all = linalg.broadcast ins(%l : !s) outs(%init : !st) dimensions = [1]
  %flat = tensor.collapse_shape %all [[0, 1], [2]] : !st into !e
  return %flat : !e
}

func.func private @gates(%l: !s) -> !s {
  %all = moe.route %l : !s   %p = moe.normalize %all by(softmax) : !moe.routing<3x6xf32>
  %top = moe.top_k %p k(2) : !moe.routing<3x6xf32>
  %g = moe.normalize %top by(sum) : !moe.routing<3x6xf32, max_per_row = 2>
  %dense = moe.to_dense %g : !moe.routing<3x6xf32, max_per_row = 2>
  return %dense : !s
}

func.func private @layer(%x: !r, %l: !e, %w1: !w1, %w2: !w2) -> (!r, !e) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32
  %all = moe.route %l : !e   %p = moe.normalize %all by(softmax) : !moe.routing<?x6xf32>
  %top = moe.top_k %p k(2) : !moe.routing<?x6xf32>   %g = moe.normalize %top by(sum) : !q
  %o = moe.apply %g rows(%x) experts(%w1, %w2) weighted(after) out(sum) : !q, !r, !w1, !w2 -> !r {
  ^bb0(%v: !r, %up: !up, %down: !down):
    %n = tensor.dim %v, %c0 : !r   %zh = tensor.splat %f0[%n] : !h   %zx = tensor.splat %f0[%n] : !r
    %a = linalg.matmul ins(%v, %up : !r, !up) outs(%zh : !h) -> !h
    %h = arith.maximumf %a, %zh : !h
    %o = linalg.matmul ins(%h, %down : !h, !down) outs(%zx : !r) -> !r
    moe.yield %o : !r
  }
  %y = arith.addf %x, %o : !r   %dense = moe.to_dense %g : !q
  return %y, %dense : !r, !e
}
