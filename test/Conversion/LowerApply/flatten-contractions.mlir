// RUN: moe-opt %s --moe-flatten-contractions --moe-statistics --split-input-file 2>%t.stats | FileCheck %s
// RUN: FileCheck %s --check-prefix=STATS --input-file=%t.stats
// RUN: moe-opt %s --moe-flatten-contractions -o %t.mlir --split-input-file --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: moe-opt %s --moe-flatten-contractions --moe-normalize-bodies --canonicalize --moe-choose-lowering --moe-lower-apply --canonicalize --cse --split-input-file | FileCheck %s --check-prefix=FUSED

// STATS-DAG: moe-flatten-contractions - contractions that became matmuls

!x = tensor<?x8xf32>
!h = tensor<?x2x4xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// A projection to 2 heads of 4, and back: the columns, then k, are two dimensions that lie side by side.
// REMARK-COUNT-2: Function=heads | Remark="a contraction is a matmul of joined dimensions"
// CHECK-LABEL: func private @heads
// CHECK: %[[M:.*]] = tensor.collapse_shape %{{.*}} {{\[\[}}0], [1, 2]] : tensor<8x2x4xf32> into tensor<8x8xf32>
// CHECK: linalg.contract {{.*}} ins(%{{.*}}, %[[M]] : tensor<?x8xf32>, tensor<8x8xf32>)
// CHECK: tensor.expand_shape %{{.*}} {{\[\[}}0], [1, 2]] output_shape [%{{.*}}, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
// CHECK: tensor.collapse_shape %{{.*}} {{\[\[}}0], [1, 2]] : tensor<?x2x4xf32> into tensor<?x8xf32>
// CHECK: tensor.collapse_shape %{{.*}} {{\[\[}}0, 1], [2]] : tensor<2x4x8xf32> into tensor<8x8xf32>
// CHECK: linalg.contract {{.*}} : tensor<?x8xf32>, tensor<8x8xf32>)
// FUSED-LABEL: func private @heads
// FUSED: moe.plan
// FUSED-NOT: scf.for
// FUSED-COUNT-2: moe.grouped_matmul
// FUSED-NOT: scf.for
// FUSED: return
func.func private @heads(%r: !r, %x: !x, %wq: tensor<4x8x2x4xf32>, %wo: tensor<4x2x4x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%wq, %wo) weighted(after) out(sum) : !r, !x, tensor<4x8x2x4xf32>, tensor<4x2x4x8xf32> -> !x {
  ^bb0(%rows: !x, %q: tensor<8x2x4xf32>, %o: tensor<2x4x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !h
    %h = linalg.contract indexing_maps = [affine_map<(m, a, d, k) -> (m, k)>, affine_map<(m, a, d, k) -> (k, a, d)>,
        affine_map<(m, a, d, k) -> (m, a, d)>] ins(%rows, %q : !x, tensor<8x2x4xf32>) outs(%z : !h) -> !h
    %e = math.tanh %h : !h
    %v = tensor.splat %zero[%n] : !x
    %p = linalg.contract indexing_maps = [affine_map<(m, n, a, d) -> (m, a, d)>, affine_map<(m, n, a, d) -> (a, d, n)>,
        affine_map<(m, n, a, d) -> (m, n)>] ins(%e, %o : !h, tensor<2x4x8xf32>) outs(%v : !x) -> !x
    moe.yield %p : !x
  }
  return %y : !x
}

// -----

!b = tensor<?x3x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// Every row is a block of 3 positions: they are rows of the grouped matmul, three times as many.
// REMARK: Function=positions | Remark="a contraction is a matmul of joined dimensions"
// FUSED-LABEL: func private @positions
// FUSED: moe.plan
// FUSED: moe.grouped_matmul %{{.*}} offsets(%{{.*}} : tensor<5xindex>) banks(%{{.*}} : tensor<4x8x8xf32>)
// FUSED-NOT: scf.for
// FUSED: return
func.func private @positions(%r: !r, %x: !b, %w: tensor<4x8x8xf32>) -> !b {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, !b, tensor<4x8x8xf32> -> !b {
  ^bb0(%rows: !b, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !b
    %z = tensor.splat %zero[%n] : !b
    %o = linalg.contract indexing_maps = [affine_map<(m, s, n, k) -> (n, k)>, affine_map<(m, s, n, k) -> (m, s, k)>,
        affine_map<(m, s, n, k) -> (m, s, n)>] ins(%we, %rows : tensor<8x8xf32>, !b) outs(%z : !b) -> !b
    moe.yield %o : !b
  }
  return %y : !b
}

// -----

!x = tensor<?x8xf32>
!h = tensor<?x2x4xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// The head stands behind the feature in the parameter, in front of it in the result.
// REMARK: Function=turned | Remark="a contraction with a parameter of the expert stays as it is: its dimensions do not lie side by side as [row, positions, k] x [k, n] or [n, k] -> [row, positions, n]"
// CHECK-LABEL: func private @turned
// CHECK-NOT: tensor.collapse_shape
// CHECK: return
func.func private @turned(%r: !r, %x: !x, %w: tensor<4x8x4x2xf32>) -> !h {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<4x8x4x2xf32> -> !h {
  ^bb0(%rows: !x, %q: tensor<8x4x2xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !h
    %h = linalg.contract indexing_maps = [affine_map<(m, a, d, k) -> (m, k)>, affine_map<(m, a, d, k) -> (k, d, a)>,
        affine_map<(m, a, d, k) -> (m, a, d)>] ins(%rows, %q : !x, tensor<8x4x2xf32>) outs(%z : !h) -> !h
    moe.yield %h : !h
  }
  return %y : !h
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// A matmul stays as it is.
// CHECK-LABEL: func private @matmul
// CHECK: linalg.matmul
func.func private @matmul(%r: !r, %x: !x, %w: tensor<4x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %o = linalg.matmul ins(%rows, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    moe.yield %o : !x
  }
  return %y : !x
}
