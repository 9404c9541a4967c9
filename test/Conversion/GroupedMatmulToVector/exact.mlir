// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=16" --split-input-file | FileCheck %s --check-prefixes=CHECK,WIDE
// RUN: moe-opt %s --convert-grouped-matmul-to-vector="lanes=8" --split-input-file | FileCheck %s --check-prefixes=CHECK,NARROW

// 4 bits in blocks of 32. More rows than a tile in registers has are many: 128 k of a panel are decoded, by a call for each
// block of scales, and then multiplied by the kernels of floats, which fetch nothing. Few rows decode in registers.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @blocks
// CHECK: scf.parallel
// WIDE: %[[MANY:.*]] = arith.cmpi sge, %{{.*}}, %c5
// NARROW: %[[MANY:.*]] = arith.cmpi sge, %{{.*}}, %c3
// CHECK: scf.if %[[MANY]]
// CHECK: memref.alloca() {{.*}} : memref<192x32xf32>
// CHECK: memref.alloca() {{.*}} : memref<4096xf32>
// CHECK: scf.for {{.*}} = %c0{{.*}} to %c160{{.*}} step %c128
// CHECK: scf.for {{.*}} step %c32
// CHECK: func.call @moe_decode_int4_scale16_32(
// CHECK: scf.for
// CHECK: scf.index_switch
// CHECK: case 1
// CHECK: func.call @moe_kernel_f32_f32_32_1_near(
// WIDE: case 12
// WIDE: func.call @moe_kernel_f32_f32_32_12_near(
// NARROW: case 3
// NARROW: func.call @moe_kernel_f32_f32_32_3_near(
// NARROW-NOT: case 4
// CHECK: default
// CHECK: llvm.intr.trap
// CHECK: } else {
// CHECK-NOT: func.call
// With AVX-512 a block of nine lines fetches one line of each of nine places of the next panels, which are thirteen here.
// WIDE: arith.remui %{{.*}}, %c13
// WIDE: arith.divui %{{.*}}, %c576
// WIDE-COUNT-9: memref.prefetch {{.*}} locality<3>
// WIDE-NOT: memref.prefetch
// NARROW: memref.prefetch
// CHECK: vector.fma
// CHECK-NOT: func.call
// CHECK: return
func.func @blocks(%x: memref<?x160xf32>, %o: memref<3xindex>, %w: memref<2x1x2880xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x2880xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64}
    : memref<?x160xf32>
  return
}

// A row of words of every column is 8 k; its lines are fetched ahead.
// CHECK-LABEL: func private @moe_decode_int4_scale16_32(
// CHECK: arith.extf {{.*}} : vector<{{8|16}}xf16>
// CHECK: scf.for
// CHECK-COUNT-2: memref.prefetch
// WIDE: llvm.call_intrinsic "llvm.x86.avx512.permvar.sf.512"
// WIDE-COUNT-16: vector.store
// NARROW: arith.sitofp
// NARROW-COUNT-32: vector.store
// CHECK-NOT: vector.store
// CHECK: return

// -----

// One scale for each column, 8 bits, zero points, rows of f16, which are widened once. All k have their scales in one
// place, so there is one call for each 128 of them.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @columns
// CHECK: memref.alloc(%{{.*}}) : memref<?x150xf32>
// CHECK: scf.parallel
// CHECK: arith.extf
// CHECK: scf.parallel
// CHECK: scf.for {{.*}} = %c0{{.*}} to %c150{{.*}} step %c128
// CHECK: scf.for {{.*}} step %c128
// CHECK: func.call @moe_decode_int8_scale16_zero_32(
// CHECK: func.call @moe_kernel_f32_f32_32_1_near_any(
// CHECK-LABEL: func private @moe_decode_int8_scale16_zero_32(
// CHECK: arith.negf
// CHECK: scf.for
// CHECK: vector.fma
func.func @columns(%x: memref<?x150xf16>, %o: memref<3xindex>, %w: memref<2x1x4992xi8>, %y: memref<?x32xf16>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x4992xi8>) outs(%y : memref<?x32xf16>) {
  ^bb0(%acc: f16):
    moe.yield %acc : f16
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8, zero_points>], panels = 2 : i64} : memref<?x150xf16>
  return
}
