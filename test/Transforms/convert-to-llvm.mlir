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

// A tile that is carried around a loop.
// CHECK-LABEL: llvm.func @tiles
// CHECK-NOT: builtin.unrealized_conversion_cast {{.*}}amx
// CHECK: llvm.call_intrinsic "llvm.x86.tileloadd64.internal"
// CHECK: llvm.br ^{{.*}} : {{.*}}!llvm.x86_amx
// CHECK: ^{{.*}}(%{{.*}}: i64, %[[SUM:.*]]: !llvm.x86_amx):
// CHECK: llvm.call_intrinsic "llvm.x86.tdpbf16ps.internal"({{.*}}%[[SUM]]
// CHECK: llvm.call_intrinsic "llvm.x86.tilestored64.internal"
func.func @tiles(%a: memref<16x32xbf16>, %c: memref<16x16xf32>, %n: index) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %x = amx.tile_load %a[%zero, %zero] : memref<16x32xbf16> into !amx.tile<16x32xbf16>
  %sum = amx.tile_load %c[%zero, %zero] : memref<16x16xf32> into !amx.tile<16x16xf32>
  cf.br ^loop(%zero, %sum : index, !amx.tile<16x16xf32>)
^loop(%i: index, %before: !amx.tile<16x16xf32>):
  %after = amx.tile_mulf %x, %x, %before : !amx.tile<16x32xbf16>, !amx.tile<16x32xbf16>, !amx.tile<16x16xf32>
  %next = arith.addi %i, %one : index
  %more = arith.cmpi ult, %next, %n : index
  cf.cond_br %more, ^loop(%next, %after : index, !amx.tile<16x16xf32>), ^done
^done:
  amx.tile_store %c[%zero, %zero], %after : memref<16x16xf32>, !amx.tile<16x16xf32>
  return
}
