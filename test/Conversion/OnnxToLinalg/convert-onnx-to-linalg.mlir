// RUN: moe-opt %s --convert-onnx-to-linalg --canonicalize --cse --split-input-file | FileCheck %s

// A shape subgraph becomes a collapse: no tensor of sizes is computed.
// CHECK-LABEL: func @flatten_tokens
// CHECK-NOT: tensor.from_elements
// CHECK: tensor.collapse_shape %{{.*}} {{\[\[}}0, 1], [2]] : tensor<?x?x16xf32> into tensor<?x16xf32>
func.func @flatten_tokens(%x: tensor<?x?x16xf32>) -> tensor<?x16xf32> {
  %s = onnx.node "Shape" since 15(%x) name "s" {start = 0 : i64, end = 1 : i64} : (tensor<?x?x16xf32>) -> tensor<1xi64>
  %t = onnx.node "Shape" since 15(%x) name "t" {start = 1 : i64, end = 2 : i64} : (tensor<?x?x16xf32>) -> tensor<1xi64>
  %p = onnx.node "Mul" since 14(%s, %t) name "p" {} : (tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>
  %h = onnx.constant dense<16> : tensor<1xi64>
  %c = onnx.node "Concat" since 13(%p, %h) name "c" {axis = 0 : i64} : (tensor<1xi64>, tensor<1xi64>) -> tensor<2xi64>
  %r = onnx.node "Reshape" since 14(%x, %c) name "r" {} : (tensor<?x?x16xf32>, tensor<2xi64>) -> tensor<?x16xf32>
  return %r : tensor<?x16xf32>
}

// -----

// Dimensions of one name are equal: no check. A static 1 is repeated by the map.
// CHECK-LABEL: func @broadcast_known
// CHECK-NOT: cf.assert
// CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<?x8xf32>, tensor<?xf32>)
func.func @broadcast_known(%x: tensor<?x8xf32> {moe.dim_names = ["T", ""]}, %y: tensor<?x1xf32> {moe.dim_names = ["T", ""]})
    -> tensor<?x8xf32> {
  %r = onnx.node "Add" since 14(%x, %y) name "a" {} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// -----

// Unknown whether one side is repeated: decided and checked when it runs.
// CHECK-LABEL: func @broadcast_unknown
// CHECK: cf.assert %{{.*}}, "node 'a' (Add): operands do not broadcast in dimension 0"
func.func @broadcast_unknown(%x: tensor<?x8xf32>, %y: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %r = onnx.node "Add" since 14(%x, %y) name "a" {} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// -----

// f16 is summed in f32.
// CHECK-LABEL: func @matmul_f16
// CHECK: linalg.matmul ins(%{{.*}}, %{{.*}} : tensor<?x8xf16>, tensor<8x4xf16>) outs(%{{.*}} : tensor<?x4xf32>)
// CHECK: arith.truncf
func.func @matmul_f16(%x: tensor<?x8xf16>, %w: tensor<8x4xf16>) -> tensor<?x4xf16> {
  %r = onnx.node "MatMul" since 13(%x, %w) name "m" {} : (tensor<?x8xf16>, tensor<8x4xf16>) -> tensor<?x4xf16>
  return %r : tensor<?x4xf16>
}

// -----

// A transposed weight stays as it is stored.
// CHECK-LABEL: func @gemm_transposed
// CHECK-NOT: linalg.transpose
// CHECK: linalg.matmul indexing_maps
func.func @gemm_transposed(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>) -> tensor<?x4xf32> {
  %r = onnx.node "Gemm" since 13(%x, %w) name "g" {transB = 1 : i64} : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}

// -----

// Indices from outside are checked, and clamped behind the check.
// CHECK-LABEL: func @gather
// CHECK: cf.assert %{{.*}}, "node 'e' (Gather): an index is out of bounds"
// CHECK: linalg.generic
// CHECK: arith.minsi
// CHECK: arith.maxsi
// CHECK: tensor.extract
func.func @gather(%table: tensor<10x4xf32>, %i: tensor<?xi64>) -> tensor<?x4xf32> {
  %r = onnx.node "Gather" since 13(%table, %i) name "e" {axis = 0 : i64} : (tensor<10x4xf32>, tensor<?xi64>) -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}
