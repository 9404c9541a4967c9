// RUN: moe-opt %s --convert-grouped-matmul-to-vector --canonicalize --split-input-file | FileCheck %s

// An expert with one row reads its panels as four runs of neighbours, a row of words of each in turn, and fetches a few
// steps ahead. Sums lie in the cache meanwhile: of 16 bits within a block, floats between blocks. Processors with AVX-512
// read one panel after the other.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @short_blocks
// CHECK: scf.parallel
// CHECK: scf.parallel
// CHECK: %[[SINGLE:.*]] = arith.cmpi eq, %{{.*}}, %c1 : index
// CHECK: scf.if %[[SINGLE]]
// CHECK: %[[TOTALS:.*]] = memref.alloca() {alignment = 64 : i64} : memref<4x32xf32>
// CHECK: %[[PARTIAL:.*]] = memref.alloca() {alignment = 64 : i64} : memref<4x64xi32>
// CHECK: %[[EACH:.*]] = arith.divui %{{.*}}, %c4 : index
// CHECK: %[[OFFSETS:.*]] = memref.alloca() : memref<4xindex>
// CHECK: scf.for
// CHECK: arith.muli %{{.*}}, %c1152 : index
// CHECK: memref.store %{{.*}}, %[[OFFSETS]]
// CHECK: arith.ceildivui %{{.*}}, %c4 : index
// CHECK: scf.for %[[ROUND:.*]] = %c0
// CHECK: %[[ALL:.*]] = arith.cmpi ult, %[[ROUND]], %[[EACH]] : index
// CHECK: %[[COUNT:.*]] = arith.select %[[ALL]], %c4, %{{.*}} : index
// CHECK: scf.for %[[BLOCK:[a-z0-9]+]] = %c0 to %c2
// The first of four rows of words.
// CHECK: scf.for %[[PANEL:[a-z0-9]+]] = %c0 to %[[COUNT]]
// CHECK: memref.load %[[OFFSETS]][%[[PANEL]]]
// CHECK: arith.addi %{{.*}}, %c512
// CHECK-COUNT-2: memref.prefetch %{{.*}}, read, locality<3>
// CHECK-COUNT-8: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK-COUNT-4: vector.store %{{.*}}, %[[PARTIAL]][%[[PANEL]],
// The last one: no sum of 16 bits has been widened before.
// CHECK-NOT: pmadd.wd
// CHECK-NOT: memref<4x32xf32>, vector<8xf32>
// CHECK: scf.for
// CHECK-COUNT-4: vector.load %[[PARTIAL]]
// CHECK-NOT: pmadd.wd
// CHECK: scf.for
// CHECK-COUNT-4: vector.load %[[PARTIAL]]
// CHECK-NOT: pmadd.wd
// CHECK: scf.for
// CHECK-COUNT-4: vector.load %[[TOTALS]]
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
// CHECK-NOT: vector.store %{{.*}}, %[[PARTIAL]]
// CHECK-COUNT-4: vector.store %{{.*}}, %[[TOTALS]]
func.func @short_blocks(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x9x1152xi8>, %y: memref<?x288xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x9x1152xi8>) outs(%y : memref<?x288xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64, moe.integer_rows}
    : memref<?x64xf32>
  return
}

// -----

// A block that is longer than a step: its sums of 32 bits lie in the cache as well, and are scaled at its end.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @long_blocks
// CHECK: %[[TOTALS:.*]] = memref.alloca() {alignment = 64 : i64} : memref<4x32xf32>
// CHECK: %[[PARTIAL:.*]] = memref.alloca() {alignment = 64 : i64} : memref<4x64xi32>
// CHECK: scf.for %{{.*}} = %c0 to %c16 step %c1
// CHECK: scf.for
// CHECK-COUNT-4: vector.load %[[PARTIAL]]
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx2.psign.b"
// CHECK-COUNT-4: vector.store %{{.*}}, %[[PARTIAL]]
// CHECK: arith.sitofp
// CHECK: vector.store %{{.*}}, %[[TOTALS]]
func.func @long_blocks(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x9x2112xi8>, %y: memref<?x288xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x9x2112xi8>) outs(%y : memref<?x288xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8>], panels = 2 : i64, moe.integer_rows}
    : memref<?x64xf32>
  return
}

// -----

// Exact products of 4 bits are bound by what decoding takes: one stream.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @decoding
// CHECK-NOT: memref<4x32xf32>
func.func @decoding(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x9x1152xi8>, %y: memref<?x288xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x9x1152xi8>) outs(%y : memref<?x288xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64}
    : memref<?x64xf32>
  return
}

// -----

#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni"} {
  // CHECK-LABEL: func @wide
  // CHECK-NOT: memref<4x32xf32>
  // CHECK: memref.prefetch
  func.func @wide(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x9x1152xi8>, %y: memref<?x288xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x9x1152xi8>) outs(%y : memref<?x288xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64, moe.integer_rows}
      : memref<?x64xf32>
    return
  }
}
