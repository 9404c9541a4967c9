// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %s --check-prefixes=CHECK,WIDE
// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8" | FileCheck %s --check-prefixes=CHECK,NARROW

// A task takes up to four panels; an expert without rows is a comparison. With AVX2 one row takes two panels at once. Else
// the rows go through the panels in blocks, through blocks of k in passes; the size of a pass and what it fetches decide
// on the kernel. Gate and up of 16 columns are multiplied in one stream.
// CHECK-LABEL: func @gate_up
// CHECK: scf.parallel (%[[E:.*]], %{{.*}}) = ({{.*}}) to (%c8, %c16{{.*}}) step (%c1{{.*}}, %c4{{.*}})
// CHECK: %[[ANY:.*]] = arith.cmpi sgt
// CHECK: scf.if %[[ANY]]
// CHECK: memref.alloca() {{.*}} : memref<192x32xf32>
// NARROW: scf.if
// NARROW: scf.for {{.*}} step %c2
// NARROW: func.call @moe_kernel_f32_f32_32_1_panels2
// NARROW: } else {
// The blocks of rows, the panels, the blocks of k, the passes.
// CHECK: arith.ceildivui
// CHECK: scf.for
// CHECK: arith.ceildivui
// CHECK: arith.divui
// CHECK: scf.for
// CHECK: vector.store
// No pass divides.
// CHECK-NOT: arith.{{.*}}div
// CHECK: scf.for {{.*}} = %c0{{.*}} to %c1024{{.*}} step %c512
// CHECK: scf.for
// CHECK-NOT: arith.{{.*}}div
// CHECK: scf.index_switch
// WIDE: func.call @moe_kernel_f32_f32_32_1_own
// NARROW: func.call @moe_kernel_f32_f32_32_1_share
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
// WIDE: func.call @moe_kernel_f32_f32_32_1_own_any
// NARROW: func.call @moe_kernel_f32_f32_32_1_panels2_any
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

// Rows of bf16 are widened once, before the loop; so there is one family of kernels for the weights.
// CHECK-LABEL: func @half
// CHECK: %[[WIDE:.*]] = memref.alloc(%{{.*}}) : memref<?x48xf32>
// CHECK: scf.parallel
// CHECK: arith.extf {{.*}} to vector
// CHECK: scf.parallel
// CHECK: func.call @moe_kernel_f32_bf16_32_1
// CHECK: memref.dealloc %[[WIDE]]
func.func @half(%h: memref<?x48xbf16>, %offsets: memref<9xindex>, %w: memref<8x2x24x32x2xbf16>,
                %out: memref<?x64xbf16>) {
  moe.grouped_matmul %h offsets(%offsets : memref<9xindex>) banks(%w : memref<8x2x24x32x2xbf16>)
      outs(%out : memref<?x64xbf16>) {
  ^bb0(%s: bf16):
    moe.yield %s : bf16
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x48xbf16>
  return
}

// Two panels side by side, nothing fetched: the processor follows both.
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_1_panels2(
// NARROW: %{{.*}}:8 = scf.for
// NARROW-NOT: memref.prefetch
// NARROW-COUNT-32: vector.fma
// NARROW: return

// One row: its own lines are fetched, all eight of four steps; with AVX2 half as many of the next block.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32_1_own(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_1_share(
// WIDE: scf.for {{.*}} -> (vector<16xf32>, vector<16xf32>)
// NARROW: scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// WIDE-COUNT-8: memref.prefetch {{.*}} locality<2>
// NARROW-COUNT-4: memref.prefetch {{.*}} locality<2>
// CHECK-NOT: memref.prefetch
// WIDE-COUNT-8: vector.fma
// NARROW-COUNT-16: vector.fma
// CHECK: return

// The most rows of a pass; each fetches lines from four places of the next block. Those beyond its share are the last of
// its lines again. Of so many rows, a step is a loop's body; of fewer, four steps are.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32_12_share(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_3_share(
// CHECK-SAME: %[[LINES:[a-z0-9]+]]: index) attributes
// CHECK: %[[LAST:.*]] = arith.subi %[[LINES]], %c1
// CHECK-COUNT-4: arith.minsi %[[LAST]]
// WIDE: %{{.*}}:24 = scf.for
// NARROW: %{{.*}}:12 = scf.for
// CHECK-COUNT-4: memref.prefetch
// WIDE: %{{.*}}:24 = scf.for {{.*}} step %c1
// WIDE-COUNT-24: vector.fma
// NARROW-COUNT-48: vector.fma
// CHECK-NOT: vector.fma
// CHECK-NOT: memref.prefetch
// CHECK: return
