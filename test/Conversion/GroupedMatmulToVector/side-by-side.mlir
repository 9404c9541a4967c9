// RUN: moe-opt %s --convert-grouped-matmul-to-vector --canonicalize --split-input-file | FileCheck %s

// An expert with one row reads four panels in turn, half a kilobyte of each, and fetches the next of it. Their sums lie in
// the cache meanwhile. Processors with AVX-512 read one panel after the other.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @short_blocks
// CHECK-DAG: %[[FOUR:.*]] = arith.constant 4 : index
// CHECK-DAG: %[[AHEAD:.*]] = arith.constant 768 : index
// CHECK: scf.parallel
// CHECK: scf.parallel
// CHECK: %[[SINGLE:.*]] = arith.cmpi eq, %{{.*}}, %c1 : index
// CHECK: scf.if %[[SINGLE]]
// CHECK: %[[TOTALS:.*]] = memref.alloca() {alignment = 64 : i64} : memref<4x32xf32>
// CHECK: scf.for {{.*}} step %[[FOUR]]
// CHECK: %[[COUNT:.*]] = arith.minsi %{{.*}}, %[[FOUR]]
// CHECK: scf.for %[[BLOCK:[a-z0-9]+]] =
// CHECK: scf.for %[[PANEL:[a-z0-9]+]] = %{{.*}} to %[[COUNT]]
// CHECK-COUNT-4: vector.load %[[TOTALS]][%[[PANEL]],
// CHECK: arith.addi %{{.*}}, %[[AHEAD]]
// CHECK: memref.prefetch
// CHECK-COUNT-4: vector.store %{{.*}}, %[[TOTALS]][%[[PANEL]],
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
// CHECK: %[[PARTIAL:.*]] = memref.alloca() {alignment = 64 : i64} : memref<4x40xi32>
// CHECK: scf.for {{.*}} step
// CHECK-COUNT-4: vector.load %[[PARTIAL]]
// CHECK-COUNT-16: llvm.call_intrinsic "llvm.x86.avx2.psign.b"
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
