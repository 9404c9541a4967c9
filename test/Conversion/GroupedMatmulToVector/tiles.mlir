// RUN: split-file %s %t
// RUN: moe-opt %t/bf16.mlir --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %t/bf16.mlir
// RUN: moe-opt %t/bf16.mlir --convert-grouped-matmul-to-vector="lanes=16" --moe-emulate-tiles | FileCheck %s --check-prefix=EMULATED
// RUN: moe-opt %t/f32.mlir --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %t/f32.mlir --check-prefix=EXACT
// RUN: moe-opt %t/f32.mlir --convert-grouped-matmul-to-vector="lanes=16 round-rows=true" | FileCheck %t/f32.mlir --check-prefix=ROUND
// RUN: moe-opt %t/sizes.mlir --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %t/sizes.mlir
// RUN: not moe-opt %t/f16.mlir --moe-emulate-tiles 2>&1 | FileCheck %t/f16.mlir

// EMULATED-NOT: amx.tile_{{load|store|mul}} {{%|zext}}
// EMULATED-NOT: !amx.tile
// EMULATED: func.func private @moe_tile_tdpbf16ps

//--- bf16.mlir
module attributes {moe.tile_types = ["bf16"]} {

// An expert of more than eight rows goes by tiles: its rows are copied in front of the panels, those behind them are zeros; a
// panel is one call. The last step has 39 - 32 pairs of k, which are copied as well, so that what lies behind the panel is not
// multiplied. Both ways end in one epilogue, and rows are never widened.
// CHECK-LABEL: func @half
// CHECK-NOT: memref.alloc(
// CHECK: scf.parallel
// CHECK: %[[TILES:.*]] = arith.cmpi ugt, %{{.*}}, %c8{{.*}}
// CHECK: %[[SCRATCH:.*]] = scf.if %[[TILES]] -> (memref<?xbf16>)
// CHECK: memref.alloc() {alignment = 64 : i64} : memref<18432xbf16>
// CHECK: scf.for
// CHECK: scf.if %[[TILES]]
// CHECK: vector.load %{{.*}} : memref<?x77xbf16>, vector<32xbf16>
// CHECK: vector.create_mask %c13{{.*}} : vector<32xi1>
// CHECK: vector.maskedload
// CHECK: scf.if %[[TILES]]
// CHECK: call @moe_tiles_bf16_32(%[[SCRATCH]]
// CHECK: vector.load %{{.*}} : memref<?xbf16>, vector<64xbf16>
// CHECK: call @moe_tiles_bf16_32(%[[SCRATCH]]
// CHECK: else
// CHECK-COUNT-8: call @moe_kernel_bf16_bf16_32_{{[1-8]}}_all_any
// CHECK-NOT: call @moe_kernel
// CHECK: arith.truncf
// CHECK: memref.dealloc %[[SCRATCH]]
func.func @half(%h: memref<?x77xbf16>, %offsets: memref<9xindex>, %w: memref<8x2x39x32x2xbf16>,
                %out: memref<?x64xbf16>) {
  moe.grouped_matmul %h offsets(%offsets : memref<9xindex>) banks(%w : memref<8x2x39x32x2xbf16>)
      outs(%out : memref<?x64xbf16>) {
  ^bb0(%s: bf16):
    moe.yield %s : bf16
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x77xbf16>
  return
}

// Blocks of k, pairs of tiles of rows, steps: four loads and four products, whose sums stay in registers. Some lines of the next
// block are fetched in each step. What is left is one tile of rows.
// CHECK-LABEL: func private @moe_tiles_bf16_32(
// CHECK: scf.for
// CHECK: scf.for
// CHECK-COUNT-4: amx.tile_load {{.*}} : memref<192x32xf32> into !amx.tile<16x16xf32>
// CHECK: %{{.*}}:4 = scf.for {{.*}} -> (!amx.tile<16x16xf32>, !amx.tile<16x16xf32>, !amx.tile<16x16xf32>, !amx.tile<16x16xf32>)
// CHECK: scf.for
// CHECK: memref.prefetch
// CHECK: amx.tile_load %arg0[{{.*}}], %c32{{.*}} into !amx.tile<16x32xbf16>
// CHECK: amx.tile_load %arg1[{{.*}}], %c64{{.*}} into !amx.tile<16x32xbf16>
// CHECK: amx.tile_mulf
// CHECK: amx.tile_load %arg1[{{.*}}], %c64
// CHECK: amx.tile_mulf
// CHECK: amx.tile_load %arg0[{{.*}}], %c32
// CHECK-NEXT: amx.tile_mulf
// CHECK-NEXT: amx.tile_mulf
// CHECK-NEXT: scf.yield
// CHECK-COUNT-4: amx.tile_store
// CHECK: scf.if
// CHECK-COUNT-2: amx.tile_load {{.*}} : memref<192x32xf32>
// CHECK: %{{.*}}:2 = scf.for
// CHECK-COUNT-2: amx.tile_mulf
// CHECK: scf.yield
// CHECK-COUNT-2: amx.tile_store
// CHECK-NOT: amx.tile_
// CHECK: return
}

//--- f32.mlir
module attributes {moe.tile_types = ["bf16", "int8"]} {
// f32 rows are three of bf16, unless they may be rounded: what is cut off, and what that leaves, which is zero behind an infinity.
// A panel whose sums are not all numbers is multiplied again by vectors, eight rows at a time.
// EXACT-LABEL: func @rows
// EXACT: memref.alloc() {{.*}} : memref<36864xbf16>
// EXACT: vector.load {{.*}} vector<32xf32>
// EXACT: arith.shrui
// EXACT: vector.store
// EXACT: arith.andi
// EXACT: arith.subf
// EXACT: arith.cmpi eq
// EXACT: arith.select
// EXACT: arith.shrui
// EXACT: vector.store
// EXACT: arith.subf
// EXACT: arith.shrui
// EXACT: vector.store
// EXACT-NOT: arith.subf
// EXACT: %[[AGAIN:.*]] = scf.if
// EXACT: call @moe_tiles_bf16_32_3parts
// EXACT: arith.cmpf uno
// EXACT: %[[NAN:.*]] = vector.reduction <or>
// EXACT-NEXT: scf.if %[[NAN]]
// EXACT: scf.yield %[[NAN]]
// EXACT: else
// EXACT: scf.yield %true
// EXACT: scf.if %[[AGAIN]]
// EXACT-COUNT-8: call @moe_kernel_f32_bf16_32_{{[1-8]}}_all
// EXACT-NOT: call @moe_kernel
// Two tiles of weights are loaded for all parts of two tiles of rows.
// EXACT-LABEL: func private @moe_tiles_bf16_32_3parts
// EXACT: %{{.*}}:4 = scf.for
// EXACT: scf.for
// EXACT: amx.tile_load %arg0
// EXACT-COUNT-2: amx.tile_load %arg1
// EXACT-NOT: amx.tile_load %arg1
// EXACT-COUNT-11: amx.tile_mulf
// EXACT-NEXT: scf.yield
// ROUND-LABEL: func @rows
// ROUND: vector.load {{.*}} vector<32xf32>
// ROUND-NOT: arith.shrui
// ROUND: arith.truncf {{.*}} : vector<32xf32> to vector<32xbf16>
// ROUND: call @moe_tiles_bf16_32
// ROUND: call @moe_kernel_f32_bf16_32_1_all
func.func @rows(%h: memref<?x64xf32>, %offsets: memref<2xindex>, %w: memref<1x2x32x32x2xbf16>, %out: memref<?x64xf32>) {
  moe.grouped_matmul %h offsets(%offsets : memref<2xindex>) banks(%w : memref<1x2x32x32x2xbf16>)
      outs(%out : memref<?x64xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x64xf32>
  return
}
}

//--- sizes.mlir
module attributes {moe.tile_types = ["bf16"]} {
// The rows of a block and their k take a megabyte, as long as these are 64 rows: 192, 128 and 64 of 2048, 4096 and 14336 k. Three
// banks are three tiles of columns, multiplied by one of rows.
// CHECK-LABEL: func @k2048
// CHECK: memref.alloc() {{.*}} : memref<393216xbf16>
// CHECK: call @moe_tiles_bf16_32
func.func @k2048(%h: memref<?x2048xbf16>, %offsets: memref<2xindex>, %w: memref<1x2x1024x32x2xbf16>, %out: memref<?x64xbf16>) {
  moe.grouped_matmul %h offsets(%offsets : memref<2xindex>) banks(%w : memref<1x2x1024x32x2xbf16>)
      outs(%out : memref<?x64xbf16>) {
  ^bb0(%s: bf16):
    moe.yield %s : bf16
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x2048xbf16>
  return
}
// CHECK-LABEL: func @k4096
// CHECK: memref.alloc() {{.*}} : memref<524288xbf16>
func.func @k4096(%h: memref<?x4096xbf16>, %offsets: memref<2xindex>, %w: memref<1x2x2048x32x2xbf16>, %out: memref<?x64xbf16>) {
  moe.grouped_matmul %h offsets(%offsets : memref<2xindex>) banks(%w : memref<1x2x2048x32x2xbf16>)
      outs(%out : memref<?x64xbf16>) {
  ^bb0(%s: bf16):
    moe.yield %s : bf16
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x4096xbf16>
  return
}
// CHECK-LABEL: func @k14336
// CHECK: memref.alloc() {{.*}} : memref<917504xbf16>
func.func @k14336(%h: memref<?x14336xbf16>, %offsets: memref<2xindex>, %w: memref<1x2x7168x32x2xbf16>, %out: memref<?x64xbf16>) {
  moe.grouped_matmul %h offsets(%offsets : memref<2xindex>) banks(%w : memref<1x2x7168x32x2xbf16>)
      outs(%out : memref<?x64xbf16>) {
  ^bb0(%s: bf16):
    moe.yield %s : bf16
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k floordiv 2, n mod 32, k mod 2)>], extra_maps = []}
    : memref<?x14336xbf16>
  return
}
// CHECK-LABEL: func @three
// CHECK: call @moe_tiles_bf16_48
func.func @three(%h: memref<?x64xbf16>, %offsets: memref<2xindex>, %w: memref<1x4x32x48x2xbf16>, %out: memref<?x64xbf16>) {
  moe.grouped_matmul %h offsets(%offsets : memref<2xindex>)
      banks(%w, %w, %w : memref<1x4x32x48x2xbf16>, memref<1x4x32x48x2xbf16>, memref<1x4x32x48x2xbf16>)
      outs(%out : memref<?x64xbf16>) {
  ^bb0(%x: bf16, %y: bf16, %z: bf16):
    moe.yield %x : bf16
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 16, k floordiv 2, n mod 16, k mod 2)>,
                  affine_map<(e, k, n) -> (e, n floordiv 16, k floordiv 2, n mod 16 + 16, k mod 2)>,
                  affine_map<(e, k, n) -> (e, n floordiv 16, k floordiv 2, n mod 16 + 32, k mod 2)>], extra_maps = []}
    : memref<?x64xbf16>
  return
}
// CHECK-LABEL: func private @moe_tiles_bf16_48(
// CHECK-COUNT-3: amx.tile_load
// CHECK: %{{.*}}:3 = scf.for
// CHECK-COUNT-3: amx.tile_mulf
// CHECK: scf.yield
// CHECK-COUNT-3: amx.tile_store
// CHECK-NOT: amx.tile_
// CHECK: return
}

//--- f16.mlir
// CHECK: error: 'amx.tile_mulf' op is emulated for bf16 only
func.func @f16(%a: memref<16x32xf16>, %c: memref<16x16xf32>) {
  %c0 = arith.constant 0 : index
  %x = amx.tile_load %a[%c0, %c0] : memref<16x32xf16> into !amx.tile<16x32xf16>
  %y = amx.tile_zero : !amx.tile<16x16xf32>
  %z = amx.tile_mulf %x, %x, %y : !amx.tile<16x32xf16>, !amx.tile<16x32xf16>, !amx.tile<16x16xf32>
  amx.tile_store %c[%c0, %c0], %z : memref<16x16xf32>, !amx.tile<16x16xf32>
  return
}
