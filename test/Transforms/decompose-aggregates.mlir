// RUN: moe-opt %s --moe-decompose-aggregates | FileCheck %s

// A cast that was folded into the input of a softmax comes back: all parts have the shape of the result.
// CHECK-LABEL: func @softmax_with_static_input
func.func @softmax_with_static_input(%x: tensor<1x?xf32>, %init: tensor<?x?xf32>) -> tensor<?x?xf32> {
  // CHECK: tensor.cast %{{.*}} : tensor<1x?xf32> to tensor<?x?xf32>
  // CHECK-NOT: linalg.softmax
  // CHECK: return %{{.*}} : tensor<?x?xf32>
  %0 = linalg.softmax dimension(1) ins(%x : tensor<1x?xf32>) outs(%init : tensor<?x?xf32>) -> tensor<?x?xf32>
  return %0 : tensor<?x?xf32>
}
