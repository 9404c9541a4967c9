// The tile is a function of the shape, the rows and the chip: threads of a block and bytes of shared memory per choice.
//
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu="rows=8" | FileCheck %s --check-prefixes=CHECK,FEW
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu="rows=128" | FileCheck %s --check-prefixes=CHECK,FEW
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu="rows=256" | FileCheck %s --check-prefixes=CHECK,SIXTEEN
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu="rows=260" | FileCheck %s --check-prefixes=CHECK,SOME
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu="rows=5000" | FileCheck %s --check-prefixes=CHECK,MANY
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu="rows=5000 shared-limit=40000" | FileCheck %s --check-prefixes=CHECK,SMALL
//
// Without a number of rows the host chooses among all.
// RUN: moe-opt %s --convert-grouped-matmul-to-gpu | FileCheck %s --check-prefix=ALL

// 4 stages of (16 + 64) x 64, 4 of (16 + 128) x 32, 4 of (64 + 128) x 32, 3 of (128 + 128) x 32 elements of 2 bytes.
// CHECK-LABEL: func.func @half
// FEW-DAG: arith.constant 64 : index
// FEW-DAG: arith.constant 40960 : i32
// SIXTEEN-DAG: arith.constant 128 : index
// SIXTEEN-DAG: arith.constant 36864 : i32
// SOME-DAG: arith.constant 49152 : i32
// MANY-DAG: arith.constant 49152 : i32
// SMALL-DAG: arith.constant 36864 : i32
// CHECK: gpu.launch
// Four steps of 16 along the depth, four fragments of eight columns per warp.
// FEW-COUNT-16: nvvm.mma.sync
// FEW-NOT: nvvm.mma.sync
// SIXTEEN-COUNT-4: nvvm.mma.sync
// SOME: nvvm.mma.sync
// CHECK-NOT: moe.grouped_matmul
// ALL-LABEL: func.func @half
// ALL: arith.cmpi sle, %{{.*}}, %c128
// ALL: scf.if
// ALL: gpu.launch
// ALL: arith.cmpi sle, %{{.*}}, %c256
// ALL: scf.if
// ALL: gpu.launch
// ALL: arith.cmpi sle, %{{.*}}, %c512
// ALL: gpu.launch
// ALL: gpu.launch
func.func @half(%a: memref<?x64xf16>, %rows: memref<?xindex>, %offsets: memref<9xindex>, %bank: memref<8x64x256xf16>,
                %out: memref<?x256xf16>) {
  moe.grouped_matmul %a rows(%rows : memref<?xindex>) offsets(%offsets : memref<9xindex>)
      banks(%bank : memref<8x64x256xf16>) outs(%out : memref<?x256xf16>) {
  ^bb0(%s: f16):
    moe.yield %s : f16
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : memref<?x64xf16>
  return
}
