// RUN: moe-opt %s --moe-outline-parallel --split-input-file | FileCheck %s

// A loop of unknown length: the task gets the buffers by a struct, and one task runs without the host.
// CHECK-LABEL: func.func private @long_task_0(%{{.*}}: !llvm.ptr, %{{.*}}: i64)
// CHECK: scf.for
// CHECK: memref.store
// CHECK-LABEL: func.func @long
// CHECK: llvm.alloca
// CHECK: scf.if
// CHECK: func.constant @long_task_0
// CHECK: llvm.call @moe_host_parallel_for
// CHECK: else
// CHECK: call @long_task_0
func.func @long(%a: memref<?xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    %v = memref.load %a[%i] : memref<?xf32>
    %w = arith.addf %v, %v : f32
    memref.store %w, %a[%i] : memref<?xf32>
  }
  return
}

// -----

// Of buffers, the struct holds what their types do not say: pointers, dynamic sizes, and the place of a view.
// CHECK-LABEL: func.func private @buffers_task_0(
// CHECK: llvm.load %{{.*}} : !llvm.ptr -> !llvm.ptr
// CHECK: llvm.mlir.constant(24 : index)
// CHECK-LABEL: func.func @buffers
// CHECK: llvm.alloca %{{.*}} x !llvm.struct<(ptr, ptr, i64, ptr, i64, i64, i64, i64, i64, i64, i64)>
func.func @buffers(%a: memref<24x8xf32>, %b: memref<?x8xf32>, %c: memref<?x8xf32, strided<[?, 1], offset: ?>>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    %u = memref.load %a[%i, %c0] : memref<24x8xf32>
    %v = memref.load %b[%i, %c0] : memref<?x8xf32>
    %w = arith.addf %u, %v : f32
    memref.store %w, %c[%i, %c0] : memref<?x8xf32, strided<[?, 1], offset: ?>>
  }
  return
}

// -----

// Too little work, known beforehand: stays.
// CHECK-LABEL: func.func @short
// CHECK: scf.parallel
// CHECK-NOT: llvm.call
// CHECK: return
func.func @short(%a: memref<8xf32>, %f: f32) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  scf.parallel (%i) = (%c0) to (%c8) step (%c1) {
    memref.store %f, %a[%i] : memref<8xf32>
  }
  return
}

// -----

// A reduction would depend on how it is split: stays.
// CHECK-LABEL: func.func @reduction
// CHECK: scf.parallel
// CHECK-NOT: llvm.call
// CHECK: return
func.func @reduction(%a: memref<?xf32>, %n: index, %f: f32) -> f32 {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %s = scf.parallel (%i) = (%c0) to (%n) step (%c1) init (%f) -> f32 {
    %v = memref.load %a[%i] : memref<?xf32>
    scf.reduce(%v : f32) {
    ^bb0(%x: f32, %y: f32):
      %z = arith.addf %x, %y : f32
      scf.reduce.return %z : f32
    }
  }
  return %s : f32
}

// -----

// Equal loops share one task.
// CHECK: func.func private @twice_task_0
// CHECK-NOT: func.func private @twice_task_1
// CHECK-LABEL: func.func @twice
func.func @twice(%a: memref<?xf32>, %b: memref<?xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %f = arith.constant 1.0 : f32
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    memref.store %f, %a[%i] : memref<?xf32>
  }
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    memref.store %f, %b[%i] : memref<?xf32>
  }
  return
}
