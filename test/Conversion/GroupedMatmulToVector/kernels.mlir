// RUN: moe-opt %s --one-shot-bufferize="bufferize-function-boundaries=true function-boundary-type-conversion=identity-layout-map" \
// RUN:   | FileCheck %s --check-prefix=BUFFER
// RUN: moe-opt %s --one-shot-bufferize="bufferize-function-boundaries=true function-boundary-type-conversion=identity-layout-map" \
// RUN:   --convert-grouped-matmul-to-vector="lanes=8" --canonicalize | FileCheck %s

// Gate and up in one pass over gathered rows. Tiles of six, four, two and one rows leave their sums on the stack; the
// epilogue is there once for all of them.
// BUFFER-LABEL: func @gate_up
// BUFFER: moe.grouped_matmul %{{.*}} outs(%{{.*}} : memref<?x48xf32>)
// BUFFER-NOT: memref.copy
// CHECK-LABEL: func @gate_up
// CHECK: scf.parallel (%{{.*}}, %[[COLUMN:.*]]) = ({{.*}}) to (%c4, %c48) step (%c1, %c8)
// CHECK: %[[SUMS:.*]] = memref.alloca() {alignment = 64 : i64} : memref<24x16xf32>
// CHECK: scf.for %[[BLOCK:.*]] = %{{.*}} step %c24
// CHECK: scf.for
// CHECK: %[[ROW:.*]] = memref.load %{{.*}} : memref<?xindex>
// CHECK: %[[TILE:.*]]:12 = scf.for
// CHECK-COUNT-2: vector.load
// CHECK: memref.load %{{.*}}[%[[ROW]], %{{.*}}] : memref<?x24xf32>
// CHECK-COUNT-12: vector.fma
// CHECK: vector.store %[[TILE]]#0, %[[SUMS]]
// CHECK-COUNT-14: vector.fma
// CHECK-NOT: vector.fma
// CHECK: scf.for %[[PAIR:.*]] = %[[BLOCK]] to
// CHECK: %[[GATE:.*]] = vector.load %[[SUMS]]
// CHECK: %[[UP:.*]] = vector.load %[[SUMS]]
// CHECK: %[[PRODUCT:.*]] = arith.mulf %[[GATE]], %[[UP]] : vector<8xf32>
// CHECK: vector.store %[[PRODUCT]], %{{.*}}[%[[PAIR]],
// CHECK-NOT: arith.mulf
// CHECK-NOT: moe.grouped_matmul
func.func @gate_up(%x: tensor<?x24xf32>, %wg: tensor<4x24x48xf32>, %wu: tensor<4x24x48xf32>,
                   %rows: tensor<?xindex>, %offsets: tensor<5xindex>, %init: tensor<?x48xf32>) -> tensor<?x48xf32> {
  %h = moe.grouped_matmul %x rows(%rows : tensor<?xindex>) offsets(%offsets : tensor<5xindex>)
      banks(%wg, %wu : tensor<4x24x48xf32>, tensor<4x24x48xf32>) outs(%init : tensor<?x48xf32>) {
  ^bb0(%g: f32, %u: f32):
    %m = arith.mulf %g, %u : f32
    moe.yield %m : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>, affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []}
    : tensor<?x24xf32>
  return %h : tensor<?x48xf32>
}

// Banks [E, N, K]: vectors along the reduction, summed across lanes; the bias of the expert joins in the epilogue.
// CHECK-LABEL: func @transposed
// CHECK: vector.fma
// CHECK: vector.maskedload
// CHECK: %[[SUM:.*]] = vector.reduction <add>
// CHECK: %[[SUMS:.*]] = vector.from_elements %[[SUM]],
// CHECK: %[[BIAS:.*]] = vector.load %{{.*}} : memref<4x18xf32>, vector<4xf32>
// CHECK: arith.addf %[[SUMS]], %[[BIAS]]
func.func @transposed(%x: tensor<?x35xf32>, %w: tensor<4x18x35xf32>, %bias: tensor<4x18xf32>,
                      %offsets: tensor<5xindex>, %init: tensor<?x18xf32>) -> tensor<?x18xf32> {
  %h = moe.grouped_matmul %x offsets(%offsets : tensor<5xindex>) banks(%w : tensor<4x18x35xf32>)
      extras(%bias : tensor<4x18xf32>) outs(%init : tensor<?x18xf32>) {
  ^bb0(%s: f32, %b: f32):
    %o = arith.addf %s, %b : f32
    moe.yield %o : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n, k)>], extra_maps = [affine_map<(e, p, n) -> (e, n)>]}
    : tensor<?x35xf32>
  return %h : tensor<?x18xf32>
}

// A slice that bufferisation made a view with a stride is copied; no kernel reads it.
// CHECK-LABEL: func @strided
// CHECK: %[[COPY:.*]] = memref.alloc() : memref<4x24x48xf32>
// CHECK: memref.copy %{{.*}}, %[[COPY]]
// CHECK: vector.load %[[COPY]]
// CHECK: memref.dealloc %[[COPY]]
func.func @strided(%x: tensor<?x24xf32>, %w: tensor<4x24x96xf32>, %offsets: tensor<5xindex>,
                   %init: tensor<?x48xf32>) -> tensor<?x48xf32> {
  %part = tensor.extract_slice %w[0, 0, 0] [4, 24, 48] [1, 1, 2] : tensor<4x24x96xf32> to tensor<4x24x48xf32>
  %h = moe.grouped_matmul %x offsets(%offsets : tensor<5xindex>) banks(%part : tensor<4x24x48xf32>)
      outs(%init : tensor<?x48xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x24xf32>
  return %h : tensor<?x48xf32>
}
