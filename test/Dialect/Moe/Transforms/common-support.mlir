// RUN: moe-opt %s --moe-lower-apply --convert-moe-to-planned --canonicalize --cse | FileCheck %s

// Four applies over one choice of experts, with other weights: one plan sorts the pairs for all of them.
// CHECK-LABEL: func @one_plan
// CHECK-COUNT-1: moe.plan
// CHECK-NOT: moe.plan
// CHECK: return
func.func @one_plan(%w: tensor<?x4xf32>, %x: tensor<?x8xf32>, %f: f32)
    -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>) {
  %r = moe.route %w : tensor<?x4xf32>
  %k = moe.top_k %r k(2) : !moe.routing<?x4xf32>
  %n = moe.normalize %k by(sum) : !moe.routing<?x4xf32, max_per_row = 2>
  %m = moe.map %n {
  ^bb0(%v: f32, %row: index, %expert: index):
    %p = arith.mulf %v, %f : f32
    moe.yield %p : f32
  } : !moe.routing<?x4xf32, max_per_row = 2>
  %a = moe.apply %k rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  %b = moe.apply %n rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  %c = moe.apply %m rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  %d = moe.apply %m rows(%x) out(max) : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return %a, %b, %c, %d : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
}
