// RUN: split-file %s %t
// RUN: moe-opt %t/each.mlir --moe-emulate-intrinsics | FileCheck %t/each.mlir
// RUN: moe-opt %t/kernel.mlir --convert-grouped-matmul-to-vector --moe-emulate-intrinsics | FileCheck %t/kernel.mlir
// RUN: not moe-opt %t/unknown.mlir --moe-emulate-intrinsics 2>&1 | FileCheck %t/unknown.mlir

//--- each.mlir
// Instructions on lanes of 128 bits: the halves by those of AVX2, put together.
// CHECK-LABEL: func @halves
// CHECK-DAG: %[[X0:.*]] = vector.shuffle %arg0, %arg0 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] : vector<32xi16>, vector<32xi16>
// CHECK-DAG: %[[Y0:.*]] = vector.shuffle %arg1, %arg1 [0, 1, 2,
// CHECK: %[[R0:.*]] = llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"(%[[X0]], %[[Y0]]) : (vector<16xi16>, vector<16xi16>) -> vector<8xi32>
// CHECK-DAG: %[[X1:.*]] = vector.shuffle %arg0, %arg0 [16, 17, {{.*}}, 31]
// CHECK-DAG: %[[Y1:.*]] = vector.shuffle %arg1, %arg1 [16, 17, {{.*}}, 31]
// CHECK: %[[R1:.*]] = llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"(%[[X1]], %[[Y1]])
// CHECK: %[[R:.*]] = vector.shuffle %[[R0]], %[[R1]] [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] : vector<8xi32>, vector<8xi32>
// CHECK: return %[[R]]
func.func @halves(%x: vector<32xi16>, %y: vector<32xi16>) -> vector<16xi32> {
  %r = llvm.call_intrinsic "llvm.x86.avx512.pmaddw.d.512"(%x, %y) : (vector<32xi16>, vector<32xi16>) -> vector<16xi32>
  return %r : vector<16xi32>
}

// The lowest four bits of an index count.
// CHECK-LABEL: func @permute
// CHECK: %[[AT:.*]] = arith.andi %arg1, %{{.*}} : vector<16xi32>
// CHECK-COUNT-16: arith.cmpi eq, %[[AT]]
// CHECK-NOT: arith.cmpi
func.func @permute(%table: vector<16xf32>, %at: vector<16xi32>) -> vector<16xf32> {
  %r = llvm.call_intrinsic "llvm.x86.avx512.permvar.sf.512"(%table, %at) : (vector<16xf32>, vector<16xi32>) -> vector<16xf32>
  return %r : vector<16xf32>
}

// AVX2's own instructions and what is no intrinsic of x86 stay.
// CHECK-LABEL: func @stay
// CHECK: llvm.call_intrinsic "llvm.x86.avx2.pshuf.b"
// CHECK: llvm.call_intrinsic "llvm.ctpop"
func.func @stay(%x: vector<32xi8>, %y: vector<32xi8>) -> vector<32xi8> {
  %z = llvm.call_intrinsic "llvm.x86.avx2.pshuf.b"(%x, %y) : (vector<32xi8>, vector<32xi8>) -> vector<32xi8>
  %r = llvm.call_intrinsic "llvm.ctpop"(%z) : (vector<32xi8>) -> vector<32xi8>
  return %r : vector<32xi8>
}

//--- kernel.mlir
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni"} {
  // CHECK-LABEL: func @kernel
  // CHECK-NOT: llvm.x86.avx512
  // CHECK: llvm.call_intrinsic "llvm.x86.avx2.pshuf.b"
  // CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
  // CHECK-NOT: llvm.x86.avx512
  func.func @kernel(%x: memref<?x32xf32>, %o: memref<3xindex>, %w: memref<2x1x576xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x576xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<e2m1, block = 32>], panels = 2 : i64, moe.integer_rows}
      : memref<?x32xf32>
    return
  }
}

//--- unknown.mlir
// CHECK: error: 'llvm.call_intrinsic' op calls 'llvm.x86.avx512.pavg.b.512', which has no emulation
func.func @unknown(%x: vector<64xi8>, %y: vector<64xi8>) -> vector<64xi8> {
  %r = llvm.call_intrinsic "llvm.x86.avx512.pavg.b.512"(%x, %y) : (vector<64xi8>, vector<64xi8>) -> vector<64xi8>
  return %r : vector<64xi8>
}
