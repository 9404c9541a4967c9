// How a bufferised function is divided between host and device.
//
// RUN: moe-opt %s --moe-map-to-gpu --split-input-file | FileCheck %s

// A parallel loop: a thread per iteration, guarded; its number of blocks is known to the host.
// CHECK-LABEL: func.func @parallel
// CHECK: gpu.launch
// CHECK: gpu.block_id x
// CHECK: %[[INSIDE:.*]] = arith.cmpi slt
// CHECK: scf.if %[[INSIDE]]
// CHECK: memref.store
// CHECK-NOT: scf.parallel
func.func @parallel(%a: memref<?x8xf32>, %out: memref<?x8xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  scf.parallel (%i, %j) = (%c0, %c0) to (%n, %c8) step (%c1, %c1) {
    %v = memref.load %a[%i, %j] : memref<?x8xf32>
    memref.store %v, %out[%i, %j] : memref<?x8xf32>
  }
  return
}

// -----

// Iterations that touch rows of their own only: a thread each. The scratch buffer becomes the thread's own.
// CHECK-LABEL: func.func @own_rows
// CHECK: gpu.launch
// CHECK: memref.alloca() : memref<2xf32>
// CHECK: scf.if
// CHECK-NOT: memref.dealloc
// CHECK: gpu.terminator
func.func @own_rows(%a: memref<?x2xf32>, %n: index) -> memref<?x2xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %out = memref.alloc(%n) : memref<?x2xf32>
  scf.for %i = %c0 to %n step %c1 {
    %s = memref.alloc() : memref<2xf32>
    %v = memref.load %a[%i, %c1] : memref<?x2xf32>
    memref.store %v, %s[%c0] : memref<2xf32>
    %w = memref.load %s[%c0] : memref<2xf32>
    memref.store %w, %out[%i, %c0] : memref<?x2xf32>
    memref.dealloc %s : memref<2xf32>
  }
  return %out : memref<?x2xf32>
}

// -----

// Each iteration reads what the one before it wrote: one thread.
// CHECK-LABEL: func.func @running_sum
// CHECK: gpu.launch blocks({{.*}}) in ({{.*}} = %c1{{[_0-9]*}}, {{.*}} = %c1{{[_0-9]*}}, {{.*}} = %c1{{[_0-9]*}}) threads({{.*}}) in ({{.*}} = %c1{{[_0-9]*}},
// CHECK: scf.for
func.func @running_sum(%n: index) -> memref<?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %out = memref.alloc(%n) : memref<?xf32>
  scf.for %i = %c1 to %n step %c1 {
    %before = arith.subi %i, %c1 : index
    %v = memref.load %out[%before] : memref<?xf32>
    %w = memref.load %out[%i] : memref<?xf32>
    %s = arith.addf %v, %w : f32
    memref.store %s, %out[%i] : memref<?xf32>
  }
  return %out : memref<?xf32>
}

// -----

// What decides over an allocation is read by the host.
// CHECK-LABEL: func.func @host_read
// CHECK: llvm.call @moe_device_read(
// CHECK: memref.alloc
func.func @host_read(%sizes: memref<4xindex>) -> memref<?xf32> {
  %c2 = arith.constant 2 : index
  %n = memref.load %sizes[%c2] : memref<4xindex>
  %out = memref.alloc(%n) : memref<?xf32>
  return %out : memref<?xf32>
}
