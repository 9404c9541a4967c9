// RUN: moe-opt %s --pass-pipeline='builtin.module(func.func(moe-parallelize-loops))' --split-input-file | FileCheck %s

// Each row's best score: the iteration reads and writes its own row alone, through elements and subviews.
// CHECK-LABEL: func.func @rows
// CHECK: scf.parallel
// CHECK: scf.for
// CHECK: memref.subview
// CHECK: linalg.generic
#id = affine_map<(d) -> (d)>
func.func @rows(%x: memref<?x16xf32>, %t: index) -> (memref<?xf32>, memref<?x16xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c16 = arith.constant 16 : index
  %best = memref.alloc(%t) : memref<?xf32>
  %twice = memref.alloc(%t) : memref<?x16xf32>
  scf.for %i = %c0 to %t step %c1 {
    scf.for %j = %c0 to %c16 step %c1 {
      %v = memref.load %x[%i, %j] : memref<?x16xf32>
      %b = memref.load %best[%i] : memref<?xf32>
      %m = arith.maximumf %v, %b : f32
      memref.store %m, %best[%i] : memref<?xf32>
    }
    %row = memref.subview %x[%i, 0] [1, 16] [1, 1] : memref<?x16xf32> to memref<16xf32, strided<[1], offset: ?>>
    %out = memref.subview %twice[%i, 0] [1, 16] [1, 1] : memref<?x16xf32> to memref<16xf32, strided<[1], offset: ?>>
    linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
        ins(%row : memref<16xf32, strided<[1], offset: ?>>) outs(%out : memref<16xf32, strided<[1], offset: ?>>) {
    ^bb0(%a: f32, %o: f32):
      %s = arith.addf %a, %a : f32
      linalg.yield %s : f32
    }
  }
  return %best, %twice : memref<?xf32>, memref<?x16xf32>
}

// -----

// A histogram: two rows may count at the same place.
// CHECK-LABEL: func.func @histogram
// CHECK-NOT: scf.parallel
func.func @histogram(%e: memref<?xi32>, %t: index) -> memref<8xindex> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %counts = memref.alloc() : memref<8xindex>
  scf.for %i = %c0 to %t step %c1 {
    %v = memref.load %e[%i] : memref<?xi32>
    %at = arith.index_cast %v : i32 to index
    %n = memref.load %counts[%at] : memref<8xindex>
    %m = arith.addi %n, %c1 : index
    memref.store %m, %counts[%at] : memref<8xindex>
  }
  return %counts : memref<8xindex>
}

// -----

// A row that reads the one before it, a row seen through two views, a written argument that may be the other one,
// and a step of two: all serial.
// CHECK-LABEL: func.func @serial
// CHECK-NOT: scf.parallel
func.func @serial(%x: memref<?xf32>, %y: memref<?xf32>, %t: index, %f: f32) -> (memref<?xf32>, memref<?x2xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %sum = memref.alloc(%t) : memref<?xf32>
  scf.for %i = %c1 to %t step %c1 {
    %before = arith.subi %i, %c1 : index
    %v = memref.load %sum[%before] : memref<?xf32>
    memref.store %v, %sum[%i] : memref<?xf32>
  }
  %pairs = memref.alloc(%t) : memref<?x2xf32>
  %flat = memref.collapse_shape %pairs [[0, 1]] : memref<?x2xf32> into memref<?xf32>
  scf.for %i = %c0 to %t step %c1 {
    memref.store %f, %flat[%i] : memref<?xf32>
    memref.store %f, %pairs[%i, %c0] : memref<?x2xf32>
  }
  scf.for %i = %c0 to %t step %c1 {
    %v = memref.load %x[%c0] : memref<?xf32>
    memref.store %v, %y[%i] : memref<?xf32>
  }
  scf.for %i = %c0 to %t step %c2 {
    memref.store %f, %sum[%i] : memref<?xf32>
  }
  return %sum, %pairs : memref<?xf32>, memref<?x2xf32>
}
