// RUN: moe-opt %s --moe-convert-to-llvm | FileCheck %s

// Ops of all these dialects in one conversion, without a cast between two of them; memory is asked of the host.
// CHECK-DAG: llvm.func @_mlir_memref_to_llvm_alloc(i64) -> !llvm.ptr
// CHECK-DAG: llvm.func @_mlir_memref_to_llvm_free(!llvm.ptr)
// CHECK-LABEL: llvm.func @all
// CHECK-SAME: (%{{.*}}: i64, %{{.*}}: i1, %[[X:.*]]: f32) -> f32
// CHECK-NOT: builtin.unrealized_conversion_cast
// CHECK: llvm.call @_mlir_memref_to_llvm_alloc
// CHECK: llvm.cond_br
// CHECK: llvm.intr.sqrt(%[[X]]) : (f32) -> f32
// CHECK: llvm.store
// CHECK: llvm.mlir.poison : f32
// CHECK: llvm.call @_mlir_memref_to_llvm_free
// CHECK: llvm.return
func.func @all(%n: index, %c: i1, %x: f32) -> f32 {
  %buffer = memref.alloc(%n) : memref<?xf32>
  %last = index.constant 3
  %at = arith.addi %n, %last : index
  cf.cond_br %c, ^store, ^load
^store:
  %root = math.sqrt %x : f32
  memref.store %root, %buffer[%at] : memref<?xf32>
  cf.br ^load
^load:
  %value = memref.load %buffer[%at] : memref<?xf32>
  %any = ub.poison : f32
  %sum = arith.addf %value, %any : f32
  memref.dealloc %buffer : memref<?xf32>
  return %sum : f32
}
