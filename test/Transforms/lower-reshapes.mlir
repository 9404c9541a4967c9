// RUN: moe-opt %s --moe-lower-reshapes | FileCheck %s

// Two dynamic sizes in one group: the sizes are those that the op carries, the strides follow from them.
// CHECK-LABEL: func @two_dynamic
// CHECK-SAME: (%[[M:.*]]: memref<?x24xf32>, %[[B:.*]]: index, %[[S:.*]]: index)
func.func @two_dynamic(%m: memref<?x24xf32>, %b: index, %s: index) -> memref<?x?x3x8xf32> {
  // CHECK: %[[BASE:.*]], %{{.*}}, %{{.*}}:2, %{{.*}}:2 = memref.extract_strided_metadata %[[M]]
  // CHECK: %[[STRIDE:.*]] = affine.apply
  // CHECK: memref.reinterpret_cast %[[BASE]] to offset: [0], sizes: [%[[B]], %[[S]], 3, 8], strides: [%[[STRIDE]], 24, 8, 1]
  %0 = memref.expand_shape %m [[0, 1], [2, 3]] output_shape [%b, %s, 3, 8] : memref<?x24xf32> into memref<?x?x3x8xf32>
  return %0 : memref<?x?x3x8xf32>
}

// One dynamic size is left to upstream's pass.
// CHECK-LABEL: func @one_dynamic
func.func @one_dynamic(%m: memref<?x24xf32>, %b: index) -> memref<?x2x24xf32> {
  // CHECK: memref.expand_shape
  %0 = memref.expand_shape %m [[0, 1], [2]] output_shape [%b, 2, 24] : memref<?x24xf32> into memref<?x2x24xf32>
  return %0 : memref<?x2x24xf32>
}
