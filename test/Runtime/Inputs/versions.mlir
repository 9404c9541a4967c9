// A gated layer whose sizes are multiples of no vector.
func.func @main(%x: tensor<?x40xf32> {moe.name = "x"}, %router: tensor<40x6xf32> {moe.name = "router"},
                %up: tensor<6x40x56xf32> {moe.name = "up"}, %down: tensor<6x56x40xf32> {moe.name = "down"})
    -> (tensor<?x40xf32> {moe.name = "y"}) {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : tensor<?x40xf32>
  %z = tensor.splat %zero[%t] : tensor<?x6xf32>
  %logits = linalg.matmul ins(%x, %router : tensor<?x40xf32>, tensor<40x6xf32>) outs(%z : tensor<?x6xf32>) -> tensor<?x6xf32>
  %all = moe.route %logits : tensor<?x6xf32>
  %top = moe.top_k %all k(2) : !moe.routing<?x6xf32>
  %gates = moe.normalize %top by(softmax) : !moe.routing<?x6xf32, max_per_row = 2>
  %y = moe.apply %gates rows(%x) experts(%up, %down) weighted(after) out(sum)
      : !moe.routing<?x6xf32, max_per_row = 2>, tensor<?x40xf32>, tensor<6x40x56xf32>, tensor<6x56x40xf32> -> tensor<?x40xf32> {
  ^bb0(%rows: tensor<?x40xf32>, %u: tensor<40x56xf32>, %d: tensor<56x40xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x40xf32>
    %zh = tensor.splat %zero[%n] : tensor<?x56xf32>
    %zo = tensor.splat %zero[%n] : tensor<?x40xf32>
    %a = linalg.matmul ins(%rows, %u : tensor<?x40xf32>, tensor<40x56xf32>) outs(%zh : tensor<?x56xf32>) -> tensor<?x56xf32>
    %h = math.tanh %a : tensor<?x56xf32>
    %o = linalg.matmul ins(%h, %d : tensor<?x56xf32>, tensor<56x40xf32>) outs(%zo : tensor<?x40xf32>) -> tensor<?x40xf32>
    moe.yield %o : tensor<?x40xf32>
  }
  return %y : tensor<?x40xf32>
}
