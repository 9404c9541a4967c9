// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %s --check-prefixes=CHECK,WIDE
// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8" | FileCheck %s --check-prefixes=CHECK,NARROW

// A task takes up to four panels; an expert without rows is a comparison. The rows decide the number of passes, and the
// size of a pass and its kind of fetching the kernel. Gate and up of 16 columns are multiplied in one stream.
// CHECK-LABEL: func @gate_up
// CHECK: scf.parallel (%[[E:.*]], %{{.*}}) = ({{.*}}) to (%c8, %c16{{.*}}) step (%c1{{.*}}, %c4{{.*}})
// CHECK: %[[ANY:.*]] = arith.cmpi sgt
// CHECK: scf.if %[[ANY]]
// CHECK: memref.alloca() {{.*}} : memref<[[ROWS:12|6]]x32xf32>
// CHECK: scf.for
// CHECK: arith.ceildivui
// CHECK: scf.index_switch
// CHECK-NEXT: case 1 {
// CHECK: func.call @moe_kernel_f32_f32_32_1_0
// CHECK: arith.mulf %{{.*}} : vector
func.func @gate_up(%x: memref<?x1024xf32>, %rows: memref<?xindex>, %offsets: memref<9xindex>,
                   %w: memref<8x16x1024x32xf32>, %out: memref<?x256xf32>) {
  moe.grouped_matmul %x rows(%rows : memref<?xindex>) offsets(%offsets : memref<9xindex>)
      banks(%w, %w : memref<8x16x1024x32xf32>, memref<8x16x1024x32xf32>) outs(%out : memref<?x256xf32>) {
  ^bb0(%g: f32, %u: f32):
    %m = arith.mulf %g, %u : f32
    moe.yield %m : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 16, k, n mod 16)>,
                  affine_map<(e, k, n) -> (e, n floordiv 16, k, n mod 16 + 16)>], extra_maps = []} : memref<?x1024xf32>
  return
}

// The second op has the same kernels but those for k that is no multiple of four; what its last panel has too much
// is not stored.
// CHECK-LABEL: func @down
// CHECK: func.call @moe_kernel_f32_f32_32_1_0_any
// CHECK: vector.create_mask
// CHECK: vector.maskedstore
func.func @down(%h: memref<?x51xf32>, %offsets: memref<9xindex>, %w: memref<8x2x51x32xf32>, %out: memref<?x60xf32>) {
  moe.grouped_matmul %h offsets(%offsets : memref<9xindex>) banks(%w : memref<8x2x51x32xf32>)
      outs(%out : memref<?x60xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k, n mod 32)>], extra_maps = []} : memref<?x51xf32>
  return
}

// One row: its own lines are fetched, all eight of four steps. AVX2 holds a row in four registers.
// CHECK-LABEL: func private @moe_kernel_f32_f32_32_1_0(
// WIDE: scf.for {{.*}} -> (vector<16xf32>, vector<16xf32>)
// NARROW: scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// CHECK-COUNT-8: memref.prefetch {{.*}} locality<2>
// CHECK-NOT: memref.prefetch
// WIDE-COUNT-8: vector.fma
// NARROW-COUNT-16: vector.fma
// CHECK: return

// The most rows of a pass.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32_12_0(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_6_0(
// WIDE: %{{.*}}:24 = scf.for
// NARROW: %{{.*}}:12 = scf.for

// Two passes: half of the lines each, from four places of the next panel.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32_12_1(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_6_1(
// CHECK-COUNT-4: memref.prefetch
// CHECK-NOT: memref.prefetch
// CHECK: return
// More of them: a third.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32_12_2(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_6_2(
// CHECK-COUNT-3: memref.prefetch
// CHECK-NOT: memref.prefetch
// CHECK: return
