// How a bufferised function is divided between host and device.
//
// RUN: moe-opt %s --moe-map-to-gpu --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-map-to-gpu --split-input-file -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

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

// -----

// A parallel loop with parallel loops inside: a block of threads for each iteration, its buffer in shared memory. The rows
// are the threads' own in the last two stages, which need no barrier between them.
// CHECK-LABEL: func.func @block
// CHECK: gpu.launch {{.*}} threads({{.*}}) in (%{{.*}} = %c128{{[_0-9]*}}, {{.*}} dynamic_shared_memory_size %c48_i32
// CHECK: %[[SHARED:.*]] = gpu.dynamic_shared_memory : memref<?xi8, #gpu.address_space<workgroup>>
// CHECK: memref.view %[[SHARED]][%c0{{[_0-9]*}}][%{{.*}}] : memref<?xi8, #gpu.address_space<workgroup>> to memref<?x3xf32, #gpu.address_space<workgroup>>
// CHECK: scf.for
// CHECK: memref.store {{.*}} : memref<?x3xf32, #gpu.address_space<workgroup>>
// CHECK: gpu.barrier
// CHECK: scf.for
// CHECK: memref.load {{.*}} : memref<?x3xf32, #gpu.address_space<workgroup>>
// CHECK-NOT: gpu.barrier
// CHECK: scf.for
// CHECK-NOT: memref.dealloc
// CHECK: gpu.terminator
// CHECK-NOT: scf.parallel
#rest = affine_map<(d0)[s0] -> (4, -d0 + s0)>
func.func @block(%a: memref<?x3xf32>, %n: index) -> memref<?x1xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index
  %c4 = arith.constant 4 : index
  %out = memref.alloc(%n) : memref<?x1xf32>
  scf.parallel (%t) = (%c0) to (%n) step (%c4) {
    %size = affine.min #rest(%t)[%n]
    %row = memref.subview %out[%t, 0] [%size, 1] [1, 1] : memref<?x1xf32> to memref<?x1xf32, strided<[1, 1], offset: ?>>
    %s = memref.alloc(%size) : memref<?x3xf32>
    scf.parallel (%i, %j) = (%c0, %c0) to (%size, %c3) step (%c1, %c1) {
      %at = arith.addi %t, %i : index
      %v = memref.load %a[%at, %j] : memref<?x3xf32>
      memref.store %v, %s[%i, %j] : memref<?x3xf32>
    }
    scf.for %i = %c0 to %size step %c1 {
      %v = memref.load %s[%i, %c2] : memref<?x3xf32>
      memref.store %v, %row[%i, %c0] : memref<?x1xf32, strided<[1, 1], offset: ?>>
    }
    scf.for %i = %c0 to %size step %c1 {
      %v = memref.load %row[%i, %c0] : memref<?x1xf32, strided<[1, 1], offset: ?>>
      %w = arith.addf %v, %v : f32
      memref.store %w, %row[%i, %c0] : memref<?x1xf32, strided<[1, 1], offset: ?>>
    }
    memref.dealloc %s : memref<?x3xf32>
  }
  return %out : memref<?x1xf32>
}

// -----

// More than a block has: the host runs the loop, and launches its parts.
// CHECK-LABEL: func.func @too_much
// CHECK: scf.for
// CHECK: gpu.launch
// REMARK: no block of threads per iteration: its buffers take 80000 bytes, of 49152 that a block has
func.func @too_much(%a: memref<?x20000xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c20000 = arith.constant 20000 : index
  scf.parallel (%t) = (%c0) to (%n) step (%c1) {
    %s = memref.alloc() : memref<20000xf32>
    scf.parallel (%j) = (%c0) to (%c20000) step (%c1) {
      %v = memref.load %a[%t, %j] : memref<?x20000xf32>
      memref.store %v, %s[%j] : memref<20000xf32>
    }
    scf.parallel (%j) = (%c0) to (%c20000) step (%c1) {
      %v = memref.load %s[%j] : memref<20000xf32>
      memref.store %v, %a[%t, %j] : memref<?x20000xf32>
    }
    memref.dealloc %s : memref<20000xf32>
  }
  return
}
