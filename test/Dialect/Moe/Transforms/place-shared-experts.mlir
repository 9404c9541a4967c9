// RUN: moe-opt %s --moe-place-shared-experts --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-place-shared-experts --canonicalize --split-input-file | FileCheck %s --check-prefix=DENSE
// RUN: moe-opt %s --moe-place-shared-experts --split-input-file -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

!x = tensor<8x8xf32>
!r = !moe.routing<8x5xf32, max_per_row = 3>

// The shared expert comes last: its result is added last, and it canonicalises to a matmul of all rows.
// REMARK: Function=taken_out | Remark="1 shared expert as dense code"
// CHECK-LABEL: func private @taken_out
// CHECK-NOT: moe.concat
// CHECK: %[[A:.*]] = tensor.extract_slice %{{.*}}[0, 0, 0] [4, 8, 8] [1, 1, 1]
// CHECK: %[[R:.*]] = moe.apply %{{.*}} experts(%[[A]]) weighted(after) out(sum) : !moe.routing<8x4xf32, max_per_row = 2>
// CHECK: %[[B:.*]] = tensor.extract_slice %{{.*}}[4, 0, 0] [1, 8, 8] [1, 1, 1]
// CHECK: %[[S:.*]] = moe.apply %{{.*}} experts(%[[B]]) weighted(after) out(sum) : !moe.routing<8x1xf32>
// CHECK: arith.addf %[[R]], %[[S]] : tensor<8x8xf32>
// DENSE-LABEL: func private @taken_out
// DENSE: moe.apply
// DENSE-NOT: moe.apply
// DENSE: linalg.matmul
// DENSE: arith.addf
func.func private @taken_out(%routed: !moe.routing<8x4xf32, max_per_row = 2>, %one: tensor<8x1xf32>, %x: !x, %w: tensor<5x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %shared = moe.route %one : tensor<8x1xf32>
  %all = moe.concat %routed, %shared : !moe.routing<8x4xf32, max_per_row = 2>, !moe.routing<8x1xf32>
  %y = moe.apply %all rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<5x8x8xf32> -> !x {
  ^bb0(%rows: tensor<?x8xf32>, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x8xf32>
    %z = tensor.splat %zero[%n] : tensor<?x8xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xf32>, tensor<8x8xf32>) outs(%z : tensor<?x8xf32>) -> tensor<?x8xf32>
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x5xf32, max_per_row = 3>

// Nobody knows how many tokens there are.
// REMARK: Function=dynamic | Remark="kept in the routing: the number of tokens is dynamic"
// CHECK-LABEL: func private @dynamic
// CHECK: moe.concat
// CHECK: moe.apply
// CHECK-NOT: moe.apply
// CHECK: return
func.func private @dynamic(%routed: !moe.routing<?x4xf32, max_per_row = 2>, %one: tensor<?x1xf32>, %x: !x, %w: tensor<5x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %shared = moe.route %one : tensor<?x1xf32>
  %all = moe.concat %routed, %shared : !moe.routing<?x4xf32, max_per_row = 2>, !moe.routing<?x1xf32>
  %y = moe.apply %all rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<5x8x8xf32> -> !x {
  ^bb0(%rows: tensor<?x8xf32>, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x8xf32>
    %z = tensor.splat %zero[%n] : tensor<?x8xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xf32>, tensor<8x8xf32>) outs(%z : tensor<?x8xf32>) -> tensor<?x8xf32>
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : !x
}

// -----

!x = tensor<64x8xf32>
!r = !moe.routing<64x5xf32, max_per_row = 3>

// With many tokens the grouped matmul is as good, and the combine serves all.
// REMARK: Function=many | Remark="kept in the routing: 64 tokens are outside of [4, 32]"
// CHECK-LABEL: func private @many
// CHECK: moe.concat
// CHECK: moe.apply
// CHECK-NOT: moe.apply
// CHECK: return
func.func private @many(%routed: !moe.routing<64x4xf32, max_per_row = 2>, %one: tensor<64x1xf32>, %x: !x, %w: tensor<5x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %shared = moe.route %one : tensor<64x1xf32>
  %all = moe.concat %routed, %shared : !moe.routing<64x4xf32, max_per_row = 2>, !moe.routing<64x1xf32>
  %y = moe.apply %all rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<5x8x8xf32> -> !x {
  ^bb0(%rows: tensor<?x8xf32>, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x8xf32>
    %z = tensor.splat %zero[%n] : tensor<?x8xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xf32>, tensor<8x8xf32>) outs(%z : tensor<?x8xf32>) -> tensor<?x8xf32>
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : !x
}

// -----

!x = tensor<8x8xf32>
!r = !moe.routing<8x5xf32, max_per_row = 3>

// A shared expert in front would change the order of the sum.
// REMARK: Function=first | Remark="kept in the routing: they do not come last in the list"
// CHECK-LABEL: func private @first
// CHECK: moe.concat
// CHECK: moe.apply
// CHECK-NOT: moe.apply
// CHECK: return
func.func private @first(%routed: !moe.routing<8x4xf32, max_per_row = 2>, %one: tensor<8x1xf32>, %x: !x, %w: tensor<5x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %shared = moe.route %one : tensor<8x1xf32>
  %all = moe.concat %shared, %routed : !moe.routing<8x1xf32>, !moe.routing<8x4xf32, max_per_row = 2>
  %y = moe.apply %all rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<5x8x8xf32> -> !x {
  ^bb0(%rows: tensor<?x8xf32>, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x8xf32>
    %z = tensor.splat %zero[%n] : tensor<?x8xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xf32>, tensor<8x8xf32>) outs(%z : tensor<?x8xf32>) -> tensor<?x8xf32>
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : !x
}

// -----

!x = tensor<8x8xbf16>
!r = !moe.routing<8x5xf32, max_per_row = 3>

// The combine adds in f32 and rounds once.
// REMARK: Function=narrow | Remark="kept in the routing: the sum would be rounded in between"
// CHECK-LABEL: func private @narrow
// CHECK: moe.concat
// CHECK: moe.apply
// CHECK-NOT: moe.apply
// CHECK: return
func.func private @narrow(%routed: !moe.routing<8x4xf32, max_per_row = 2>, %one: tensor<8x1xf32>, %x: !x, %w: tensor<5x8x8xbf16>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : bf16
  %shared = moe.route %one : tensor<8x1xf32>
  %all = moe.concat %routed, %shared : !moe.routing<8x4xf32, max_per_row = 2>, !moe.routing<8x1xf32>
  %y = moe.apply %all rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<5x8x8xbf16> -> !x {
  ^bb0(%rows: tensor<?x8xbf16>, %we: tensor<8x8xbf16>):
    %n = tensor.dim %rows, %c0 : tensor<?x8xbf16>
    %z = tensor.splat %zero[%n] : tensor<?x8xbf16>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xbf16>, tensor<8x8xbf16>) outs(%z : tensor<?x8xbf16>) -> tensor<?x8xbf16>
    moe.yield %o : tensor<?x8xbf16>
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// Dense code that is the fifth expert, on all rows: nothing is copied, and one plan and combine serve all.
// REMARK: Function=moved_in | Remark="1 shared expert joins the routing"
// CHECK-LABEL: func private @moved_in
// CHECK: %[[ONES:.*]] = tensor.splat %{{.*}} : tensor<?x1xf32>
// CHECK: %[[S:.*]] = moe.route %[[ONES]]
// CHECK: %[[ALL:.*]] = moe.concat %{{.*}}, %[[S]]
// CHECK: moe.apply %[[ALL]] rows(%{{.*}}) experts(%arg2) weighted(after) out(sum)
// CHECK-NOT: arith.addf
// CHECK: return
func.func private @moved_in(%r: !r, %x: !x, %w: tensor<5x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %experts = tensor.extract_slice %w[0, 0, 0] [4, 8, 8] [1, 1, 1] : tensor<5x8x8xf32> to tensor<4x8x8xf32>
  %own = tensor.extract_slice %w[4, 0, 0] [1, 8, 8] [1, 1, 1] : tensor<5x8x8xf32> to tensor<8x8xf32>
  %y = moe.apply %r rows(%x) experts(%experts) weighted(after) out(sum) : !r, !x, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %o = linalg.matmul ins(%rows, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    %a = math.tanh %o : !x
    moe.yield %a : !x
  }
  %n = tensor.dim %x, %c0 : !x
  %z = tensor.splat %zero[%n] : !x
  %o = linalg.matmul ins(%x, %own : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
  %a = math.tanh %o : !x
  %s = arith.addf %a, %y : !x
  return %s : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// A matrix of its own would have to be copied behind the others.
// REMARK: Function=beside | Remark="kept dense: its matrices do not stand behind the experts' in one tensor, and stacking would copy them"
// CHECK-LABEL: func private @beside
// CHECK-NOT: moe.concat
// CHECK: arith.addf
func.func private @beside(%r: !r, %x: !x, %w: tensor<4x8x8xf32>, %own: tensor<8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %o = linalg.matmul ins(%rows, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    moe.yield %o : !x
  }
  %n = tensor.dim %x, %c0 : !x
  %z = tensor.splat %zero[%n] : !x
  %o = linalg.matmul ins(%x, %own : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
  %s = arith.addf %y, %o : !x
  return %s : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// The routed experts read another row than the dense code does.
// CHECK-LABEL: func private @other_rows
// CHECK-NOT: moe.concat
// CHECK: arith.addf
func.func private @other_rows(%r: !r, %x: !x, %w: tensor<5x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %experts = tensor.extract_slice %w[0, 0, 0] [4, 8, 8] [1, 1, 1] : tensor<5x8x8xf32> to tensor<4x8x8xf32>
  %own = tensor.extract_slice %w[4, 0, 0] [1, 8, 8] [1, 1, 1] : tensor<5x8x8xf32> to tensor<8x8xf32>
  %y = moe.apply %r rows(%x by (t, e) -> (t floordiv 2)) experts(%experts) weighted(after) out(sum) : !r, !x, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %o = linalg.matmul ins(%rows, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    moe.yield %o : !x
  }
  %n = tensor.dim %x, %c0 : !x
  %z = tensor.splat %zero[%n] : !x
  %o = linalg.matmul ins(%x, %own : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
  %s = arith.addf %y, %o : !x
  return %s : !x
}
