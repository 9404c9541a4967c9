// RUN: moe-opt %s --convert-grouped-matmul-to-vector --split-input-file | FileCheck %s

// 4 bits, a block of 32: the rows become bytes first; the products of a block are added up in 16 bits, 8 of them, and start
// at -8 times the sum of the row's codes.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @avx2
// CHECK: %[[CODES:.*]] = memref.alloc(%{{.*}}) : memref<?x8xi32>
// CHECK: %[[STEPS:.*]] = memref.alloc(%{{.*}}) : memref<?x1xf32>
// CHECK: %[[SUMS:.*]] = memref.alloc(%{{.*}}) : memref<?x1xi32>
// CHECK: scf.parallel
// CHECK: math.roundeven
// CHECK: vector.shuffle {{.*}} [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]
// CHECK: vector.store %{{.*}}, %[[CODES]]
// CHECK: scf.parallel
// CHECK: memref.load %[[STEPS]]
// CHECK: memref.load %[[SUMS]]
// CHECK-COUNT-8: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
// CHECK-NOT: psign
// CHECK: memref.dealloc
func.func @avx2(%x: memref<?x32xf32>, %o: memref<3xindex>, %w: memref<2x1x576xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x576xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64, moe.integer_rows}
    : memref<?x32xf32>
  return
}

// -----

// 8 bits: magnitudes times rows with the sign of the weight, two products at a time.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @signed
// CHECK: arith.maxsi {{.*}} : vector<32xi8>
// CHECK: llvm.call_intrinsic "llvm.x86.avx2.psign.b"
// CHECK: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
func.func @signed(%x: memref<?x32xf32>, %o: memref<3xindex>, %w: memref<2x1x1088xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x1088xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8, block = 32>], panels = 2 : i64, moe.integer_rows}
    : memref<?x32xf32>
  return
}

// -----

#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni"} {
  // CHECK-LABEL: func @vnni
  // CHECK: arith.xori {{.*}} : vector<16xi32>
  // CHECK-COUNT-8: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"({{.*}}) : (vector<16xi32>, vector<64xi8>, vector<64xi8>) -> vector<16xi32>
  // CHECK-NOT: psign
  func.func @vnni(%x: memref<?x32xf32>, %o: memref<3xindex>, %w: memref<2x1x1088xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x1088xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8, block = 32>], panels = 2 : i64, moe.integer_rows}
      : memref<?x32xf32>
    return
  }
}
