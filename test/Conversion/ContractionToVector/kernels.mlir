// RUN: moe-opt %s --convert-contraction-to-vector="lanes=8" --canonicalize | FileCheck %s
// RUN: moe-opt %s --convert-contraction-to-vector="lanes=8" --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-missed='.*' 2>&1 >/dev/null | FileCheck %s --check-prefix=REMARK

// Weights [in, out]: two vectors of columns per step, one broadcast per row, six rows, twelve accumulators.
// CHECK-LABEL: func @columns
// CHECK: scf.parallel
// CHECK-NOT: vector.maskedload
// CHECK: scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// CHECK-COUNT-2: vector.load
// CHECK: vector.broadcast
// CHECK-COUNT-2: vector.fma
// CHECK-NOT: linalg.matmul
func.func @columns(%a: memref<?x96xf32>, %b: memref<96x64xf32>, %c: memref<?x64xf32>) {
  linalg.matmul ins(%a, %b : memref<?x96xf32>, memref<96x64xf32>) outs(%c : memref<?x64xf32>)
  return
}

// A width that is no multiple of a panel: the last panel is masked.
// CHECK-LABEL: func @masked
// CHECK: vector.create_mask
// CHECK: vector.maskedload
// CHECK: vector.maskedstore
func.func @masked(%a: memref<?x96xf32>, %b: memref<96x70xf32>, %c: memref<?x70xf32>) {
  linalg.matmul ins(%a, %b : memref<?x96xf32>, memref<96x70xf32>) outs(%c : memref<?x70xf32>)
  return
}

// Weights [out, in]: both operands are read along the reduction.
#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (n, k)>
#c = affine_map<(m, n, k) -> (m, n)>
// CHECK-LABEL: func @dots
// CHECK: vector.fma
// CHECK: vector.reduction <add>
// CHECK-NOT: vector.create_mask
func.func @dots(%a: memref<?x32xf32>, %b: memref<64x32xf32>, %c: memref<?x64xf32>) {
  linalg.matmul indexing_maps = [#a, #b, #c]
    ins(%a, %b : memref<?x32xf32>, memref<64x32xf32>) outs(%c : memref<?x64xf32>)
  return
}

// Narrow operands are widened in registers.
// CHECK-LABEL: func @half
// CHECK: vector.load {{.*}} vector<8xf16>
// CHECK: arith.extf {{.*}} vector<8xf16> to vector<8xf32>
func.func @half(%a: memref<?x96xf16>, %b: memref<96x64xf16>, %c: memref<?x64xf32>) {
  linalg.matmul ins(%a, %b : memref<?x96xf16>, memref<96x64xf16>) outs(%c : memref<?x64xf32>)
  return
}

// CHECK-LABEL: func @integers
// CHECK: linalg.matmul
// REMARK: left to scalar loops: its body is not a float multiply-add
func.func @integers(%a: memref<4x8xi32>, %b: memref<8x8xi32>, %c: memref<4x8xi32>) {
  linalg.matmul ins(%a, %b : memref<4x8xi32>, memref<8x8xi32>) outs(%c : memref<4x8xi32>)
  return
}
