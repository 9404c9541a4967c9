// Linear layers become grouped matmuls of one expert, which has all rows.
//
// RUN: moe-opt %s --moe-plan-dense-matmuls="weights-only=false top-level min-depth=16" --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-plan-dense-matmuls="weights-only=false top-level min-depth=16" --moe-prepare-gpu --split-input-file \
// RUN:   | FileCheck %s --check-prefix=GPU
// RUN: moe-opt %s --moe-plan-dense-matmuls="weights-only=false top-level min-depth=16" --split-input-file --remark-policy=all \
// RUN:   --remark-format=emitRemark --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK

// A router whose matrix is stored [out, in]; what it is added to becomes an operand of the epilogue.
#x = affine_map<(m, n, k) -> (m, k)>
#t = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>
// CHECK-DAG: #[[W:.*]] = affine_map<(d0, d1, d2) -> (d2, d1)>
// CHECK-DAG: #[[ROWS:.*]] = affine_map<(d0, d1, d2) -> (d1, d2)>
// CHECK-LABEL: func.func @router
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf16>, %[[WEIGHT:.*]]: tensor<32x64xf16>, %[[BIAS:.*]]: tensor<?x32xf16>
// CHECK: %[[T:.*]] = tensor.dim %{{.*}}, %c0
// CHECK: %[[O:.*]] = tensor.from_elements %{{.*}}, %[[T]] : tensor<2xindex>
// CHECK: %[[Y:.*]] = moe.grouped_matmul %[[X]] offsets(%[[O]] : tensor<2xindex>) banks(%[[WEIGHT]] : tensor<32x64xf16>) extras(%[[BIAS]]
// CHECK-NEXT: ^bb0(%[[S:.*]]: f16, %[[B:.*]]: f16):
// CHECK-NEXT: %[[SUM:.*]] = arith.addf %[[S]], %[[B]]
// CHECK-NEXT: moe.yield %[[SUM]]
// CHECK: bank_maps = [#[[W]]], extra_maps = [#[[ROWS]]]
// CHECK: return %[[Y]]
// The offsets are one kernel's work.
// GPU-LABEL: func.func @router
// GPU: %[[T:.*]] = tensor.dim
// GPU: %[[O:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<2xindex>)
// GPU: %[[I:.*]] = linalg.index 0
// GPU: %[[ZERO:.*]] = arith.constant 0 : index
// GPU: %[[FIRST:.*]] = arith.cmpi eq, %[[I]], %[[ZERO]]
// GPU: %[[V:.*]] = arith.select %[[FIRST]], %c0{{.*}}, %[[T]]
// GPU: linalg.yield %[[V]] : index
// GPU: moe.grouped_matmul %{{.*}} offsets(%[[O]]
func.func @router(%x: tensor<?x64xf16>, %w: tensor<32x64xf16>, %bias: tensor<?x32xf16>) -> tensor<?x32xf16> {
  %y = linalg.matmul indexing_maps = [#x, #t, #y] ins(%x, %w : tensor<?x64xf16>, tensor<32x64xf16>)
      outs(%bias : tensor<?x32xf16>) -> tensor<?x32xf16>
  return %y : tensor<?x32xf16>
}

// -----

// Fewer columns than a tile pays for, and a matmul inside a loop, stay.
// REMARK: it has fewer than 16 columns
// REMARK: it is inside a loop, which is run as a whole
// CHECK-LABEL: func.func @left
// CHECK-NOT: moe.grouped_matmul
// CHECK-COUNT-2: linalg.matmul
func.func @left(%x: tensor<?x64xf16>, %w: tensor<64x8xf16>, %few: tensor<?x8xf16>, %square: tensor<64x64xf16>,
                %y: tensor<?x64xf16>, %n: index) -> (tensor<?x8xf16>, tensor<?x64xf16>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %narrow = linalg.matmul ins(%x, %w : tensor<?x64xf16>, tensor<64x8xf16>) outs(%few : tensor<?x8xf16>) -> tensor<?x8xf16>
  %looped = scf.for %i = %c0 to %n step %c1 iter_args(%v = %y) -> tensor<?x64xf16> {
    %next = linalg.matmul ins(%v, %square : tensor<?x64xf16>, tensor<64x64xf16>) outs(%y : tensor<?x64xf16>) -> tensor<?x64xf16>
    scf.yield %next : tensor<?x64xf16>
  }
  return %narrow, %looped : tensor<?x8xf16>, tensor<?x64xf16>
}
