// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8" | FileCheck %s
// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8 batch-invariant" | FileCheck %s --check-prefix=INVARIANT

// Weights of 16 bits: few rows read 128 bytes of each part of a panel at a time, and a pass without a share of the next block
// fetches those of the next visit but one into the first-level cache, no further than the weights go.

// bf16: a step is 128 bytes; four visits of all parts in an iteration.
// CHECK-LABEL: func.func private @moe_kernel_f32_bf16_32_1_near_parts(
// CHECK: scf.for {{.*}} step %c4
// CHECK: scf.for %[[PART:.*]] = %c0{{.*}} to %{{.*}} step %c1
// CHECK: memref.dim
// CHECK: arith.minsi
// CHECK-COUNT-2: memref.prefetch {{.*}}, read, locality<3>
// CHECK-COUNT-4: vector.load {{.*}} vector<16xbf16>
// CHECK-NOT: vector.load
// CHECK: scf.yield
// CHECK-COUNT-3: scf.for {{.*}} = %c0{{.*}} to %{{.*}} step %c1
// CHECK-NOT: scf.for
// CHECK: return

// A pass with a share fetches one line of each of its four places in as many visits, and nothing of its own.
// CHECK-LABEL: func.func private @moe_kernel_f32_bf16_32_2_share_parts(
// CHECK: scf.for {{.*}} step %c4
// CHECK: scf.for {{.*}} step %c1
// CHECK: memref.prefetch {{.*}}, read, locality<2>
// CHECK-NOT: memref.prefetch
// CHECK: scf.yield
// CHECK: scf.for {{.*}} step %c1
// CHECK: memref.prefetch {{.*}}, read, locality<2>

// f16: a step is 64 bytes; two visits.
// CHECK-LABEL: func.func private @moe_kernel_f32_f16_32_1_near_parts(
// CHECK: scf.for {{.*}} step %c4
// CHECK: scf.for {{.*}} step %c1
// CHECK-COUNT-2: memref.prefetch {{.*}}, read, locality<3>
// CHECK-COUNT-8: vector.load {{.*}} vector<8xf16>
// CHECK-NOT: vector.load
// CHECK: scf.yield
// CHECK: scf.for {{.*}} step %c1
// CHECK-NOT: scf.for
// CHECK: return

// In one piece there is one stream, which the processor follows.
// INVARIANT-NOT: _parts
// INVARIANT-NOT: locality<3>
func.func @pairs(%x: memref<?x128xf32>, %offsets: memref<9xindex>, %w: memref<8x2x64x32x2xbf16>, %out: memref<?x64xf32>) {
  moe.grouped_matmul %x offsets(%offsets : memref<9xindex>) banks(%w : memref<8x2x64x32x2xbf16>)
      outs(%out : memref<?x64xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x128xf32>
  return
}
func.func @halves(%x: memref<?x128xf32>, %offsets: memref<9xindex>, %w: memref<8x2x128x32xf16>, %out: memref<?x64xf32>) {
  moe.grouped_matmul %x offsets(%offsets : memref<9xindex>) banks(%w : memref<8x2x128x32xf16>)
      outs(%out : memref<?x64xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k, n mod 32)>], extra_maps = []} : memref<?x128xf32>
  return
}
