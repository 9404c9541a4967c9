// RUN: moe-opt %s --pass-pipeline='builtin.module(func.func(moe-stack-buffers))' | FileCheck %s
// RUN: moe-opt %s --pass-pipeline='builtin.module(func.func(moe-stack-buffers,moe-hoist-allocas))' | FileCheck %s --check-prefix=HOIST

// A small buffer of each iteration is on the stack; one that is large, of unknown size, or outside stays.
// CHECK-LABEL: func.func @buffers
// CHECK: memref.alloc() : memref<4xf32>
// CHECK: scf.for
// CHECK-NEXT: memref.alloca() {alignment = 64 : i64} : memref<8xf32>
// CHECK: memref.alloc() : memref<4096xf32>
// CHECK: memref.alloc(%{{.*}}) : memref<?xf32>
// CHECK-NOT: memref.dealloc %{{.*}} : memref<8xf32>

// One place for all iterations.
// HOIST-LABEL: func.func @buffers
// HOIST-NEXT: memref.alloca() {alignment = 64 : i64} : memref<8xf32>
// HOIST: scf.for
// HOIST-NOT: memref.alloca
func.func @buffers(%n: index, %f: f32) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %outside = memref.alloc() : memref<4xf32>
  scf.for %i = %c0 to %n step %c1 {
    %small = memref.alloc() : memref<8xf32>
    %large = memref.alloc() : memref<4096xf32>
    %dynamic = memref.alloc(%n) : memref<?xf32>
    memref.store %f, %small[%c0] : memref<8xf32>
    memref.store %f, %large[%c0] : memref<4096xf32>
    memref.store %f, %dynamic[%c0] : memref<?xf32>
    memref.dealloc %small : memref<8xf32>
    memref.dealloc %large : memref<4096xf32>
    memref.dealloc %dynamic : memref<?xf32>
  }
  memref.dealloc %outside : memref<4xf32>
  return
}
