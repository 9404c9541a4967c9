// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %s --check-prefixes=CHECK,WIDE
// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8" | FileCheck %s --check-prefixes=CHECK,NARROW
// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8 batch-invariant" | FileCheck %s --check-prefix=INVARIANT

// A task takes up to sixteen panels, fewer for more threads and where one expert has more rows than others (the panels of all
// rows over eight tasks per thread, if all had as many rows as the largest expert); an expert without rows is a comparison. The rows go through the panels in blocks, through
// blocks of k in passes; the size of a pass and what it fetches decide on the kernel. With AVX2 a block of k has a piece of
// each quarter of the panel for few rows; with AVX-512 two panels are multiplied side by side. Gate and up of 16 columns are multiplied in one stream.
// CHECK-LABEL: func @gate_up
// CHECK: %[[THREADS:.*]] = call @moe_host_threads() : () -> index
// CHECK: %[[TASKS:.*]] = arith.muli %[[THREADS]], %c8
// CHECK: %[[ROWS:.*]]:2 = scf.for {{.*}} iter_args(%{{.*}} = %c1{{.*}}, %{{.*}} = %c0
// CHECK: arith.maxui
// WIDE: %[[WORK:.*]] = arith.muli %[[ROWS]]#1, %c8
// NARROW: %[[WORK:.*]] = arith.muli %[[ROWS]]#1, %c16
// CHECK: %[[OF_LARGEST:.*]] = arith.muli %[[TASKS]], %[[ROWS]]#0
// CHECK: %[[EACH:.*]] = arith.divui %[[WORK]], %[[OF_LARGEST]]
// CHECK: arith.minui %[[EACH]]
// CHECK: %[[GRAIN:.*]] = arith.maxui
// WIDE: scf.parallel (%[[E:.*]], %{{.*}}) = ({{.*}}) to (%c8{{.*}}, %c8{{.*}}) step (%c1{{.*}}, %[[GRAIN]])
// NARROW: scf.parallel (%[[E:.*]], %{{.*}}) = ({{.*}}) to (%c8, %c16{{.*}}) step (%c1{{.*}}, %[[GRAIN]])
// CHECK: %[[ANY:.*]] = arith.cmpi sgt
// CHECK: scf.if %[[ANY]]
// WIDE: memref.alloca() {{.*}} : memref<192x64xf32>
// NARROW: memref.alloca() {{.*}} : memref<192x32xf32>
// The blocks of rows, the panels, the blocks of k, the passes.
// CHECK: arith.ceildivui
// CHECK: scf.for
// CHECK: arith.ceildivui
// CHECK: arith.divui
// Few rows have short blocks.
// WIDE: arith.select {{.*}}, %c1024{{.*}}, %c1024
// NARROW: arith.select {{.*}}, %c32{{.*}}, %c512
// CHECK: %[[BLOCKS:.*]] = arith.ceildivui
// CHECK: scf.for
// CHECK: vector.store
// No pass divides.
// CHECK-NOT: arith.{{.*}}div
// CHECK: scf.for {{.*}} = %c0{{.*}} to %[[BLOCKS]]
// CHECK: scf.for
// CHECK-NOT: arith.{{.*}}div
// CHECK: scf.index_switch
// WIDE: func.call @moe_kernel_f32_f32_32x2_1_all(
// WIDE: func.call @moe_kernel_f32_f32_32x2_6_all(
// WIDE: func.call @moe_kernel_f32_f32_32x2_3_share(
// WIDE: func.call @moe_kernel_f32_f32_32x2_6_share(
// NARROW: func.call @moe_kernel_f32_f32_32_1_near_parts
// NARROW: func.call @moe_kernel_f32_f32_32_2_share_parts
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
// WIDE: func.call @moe_kernel_f32_f32_32x2_1_all_any
// NARROW: func.call @moe_kernel_f32_f32_32_1_near_parts_any
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

// Rows of bf16 are widened once, before the loop; so there is one family of kernels for the weights. With AVX2, an expert
// of many rows has the weights of a block widened once too, and the kernels of f32 weights read those.
// CHECK-LABEL: func @half
// CHECK: %[[WIDE:.*]] = memref.alloc(%{{.*}}) : memref<?x48xf32>
// CHECK: scf.parallel
// CHECK: arith.extf {{.*}} to vector
// CHECK: scf.parallel
// NARROW: %[[MANY:.*]] = arith.cmpi uge, %{{.*}}, %c20
// NARROW: scf.if %[[MANY]] {
// NARROW-NEXT: func.call @moe_widen_bf16_32
// WIDE-NOT: func.call @moe_widen
// CHECK: func.call @moe_kernel_f32_bf16_32_1
// NARROW: func.call @moe_kernel_f32_bf16_32_2_share(
// NARROW: func.call @moe_kernel_f32_f32_32_3_bf16_share
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

// One row. With AVX-512 all sixteen lines that four steps of two panels have are fetched of the next block, from as many
// places. With AVX2 nothing is fetched: four steps of each part of the panel follow one another, and the processor follows
// the parts.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32x2_1_all(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_1_near_parts(
// NARROW-SAME: %[[PARTS:[a-z0-9]+]]: index, %[[DISTANCE:[a-z0-9]+]]: index, %{{[a-z0-9]+}}: index, %{{[a-z0-9]+}}: index) attributes
// WIDE: scf.for {{.*}} step %c4{{.*}} -> (vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>)
// NARROW: scf.for {{.*}} step %c4{{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// NARROW: scf.for %[[PART:.*]] = %c0{{.*}} to %[[PARTS]] step %c1
// NARROW: arith.muli %[[PART]], %[[DISTANCE]]
// WIDE-COUNT-16: memref.prefetch {{.*}} locality<3>
// CHECK-NOT: memref.prefetch
// WIDE-COUNT-8: vector.fma
// NARROW-COUNT-16: vector.fma
// CHECK: return

// The most rows of a pass; each fetches lines from four places of the next block (with AVX-512 eight, in turn from both
// panels). Those beyond its share are the last of its lines again. With AVX2 the places are in the parts in turn. Of so many rows, a step is a loop's body; of fewer, four
// steps are.
// WIDE-LABEL: func private @moe_kernel_f32_f32_32x2_6_share(
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_3_share_parts(
// CHECK-SAME: %[[LINES:[a-z0-9]+]]: index, %{{[a-z0-9]+}}: index, %{{[a-z0-9]+}}: index, %[[BESIDE:[a-z0-9]+]]: index, %[[WINDOW:[a-z0-9]+]]: index) attributes
// CHECK: %[[LAST:.*]] = arith.subi %[[LINES]], %c1
// WIDE-COUNT-8: arith.muli %{{.*}}, %[[WINDOW]]
// NARROW-COUNT-4: arith.remui
// WIDE: %{{.*}}:24 = scf.for
// NARROW: %{{.*}}:12 = scf.for
// WIDE-COUNT-8: memref.prefetch
// NARROW-COUNT-4: memref.prefetch
// WIDE: %{{.*}}:24 = scf.for {{.*}} step %c1
// WIDE: arith.addi %{{.*}}, %[[BESIDE]]
// WIDE-COUNT-24: vector.fma
// NARROW-COUNT-48: vector.fma
// CHECK-NOT: vector.fma
// CHECK-NOT: memref.prefetch
// CHECK: return

// Many rows read a panel in one piece: one loop, and lines from places of the next block one behind the other.
// NARROW-LABEL: func private @moe_kernel_f32_f32_32_3_share(
// NARROW: %{{.*}}:12 = scf.for
// NARROW-COUNT-4: memref.prefetch
// NARROW-COUNT-48: vector.fma
// NARROW-NOT: scf.for
// NARROW: return

// Words of two k become two rows of floats.
// NARROW-LABEL: func private @moe_widen_bf16_32(
// NARROW: scf.for
// NARROW-COUNT-4: vector.load {{.*}} vector<16xbf16>
// NARROW-NOT: vector.load
// NARROW: vector.store {{.*}} vector<8xf32>
// NARROW: return

// Batch-invariant: so do all.
// INVARIANT-LABEL: func @gate_up
// INVARIANT: func.call @moe_kernel_f32_f32_32_1_near(
// INVARIANT-NOT: _parts
