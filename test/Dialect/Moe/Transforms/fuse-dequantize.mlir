// RUN: moe-opt %s --moe-fuse-dequantize --canonicalize --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-fuse-dequantize --split-input-file --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK

#a = affine_map<(m, n, k) -> (m, k)>
#t = affine_map<(m, n, k) -> (n, k)>
#c = affine_map<(m, n, k) -> (m, n)>
// CHECK-LABEL: func @linear
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf32>, %[[CODES:.*]]: tensor<48x32xi8>, %[[S:.*]]: tensor<48x2xf32>, %[[T:.*]]: index
// CHECK: %[[O:.*]] = tensor.from_elements %c0, %[[T]] : tensor<2xindex>
// CHECK-NOT: moe.dequantize
// CHECK: moe.grouped_matmul %[[X]] offsets(%[[O]] : tensor<2xindex>) banks(%[[CODES]] : tensor<48x32xi8>) scales(%[[S]] : tensor<48x2xf32>) outs
// CHECK: formats = [#moe.quant<u4, block = 32>]
func.func @linear(%x: tensor<?x64xf32>, %codes: tensor<48x32xi8>, %s: tensor<48x2xf32>, %t: index) -> tensor<?x48xf32> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty(%t) : tensor<?x48xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x48xf32>) -> tensor<?x48xf32>
  %w = moe.dequantize %codes scales(%s : tensor<48x2xf32>) as <u4, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
  %y = linalg.matmul indexing_maps = [#a, #t, #c] ins(%x, %w : tensor<?x64xf32>, tensor<48x64xf32>)
      outs(%init : tensor<?x48xf32>) -> tensor<?x48xf32>
  return %y : tensor<?x48xf32>
}

// -----

// What stands in the initial value is added behind the product.
#a = affine_map<(m, n, k) -> (m, k)>
#t = affine_map<(m, n, k) -> (n, k)>
#c = affine_map<(m, n, k) -> (m, n)>
// CHECK-LABEL: func @added
// CHECK: moe.grouped_matmul %{{.*}} extras(%{{.*}} : tensor<?x48xf32>)
// CHECK: arith.addf
func.func @added(%x: tensor<?x64xf32>, %codes: tensor<48x64xi8>, %s: tensor<48x1xf32>, %init: tensor<?x48xf32>) -> tensor<?x48xf32> {
  %w = moe.dequantize %codes scales(%s : tensor<48x1xf32>) as <i8> : tensor<48x64xi8> -> tensor<48x64xf32>
  %y = linalg.matmul indexing_maps = [#a, #t, #c] ins(%x, %w : tensor<?x64xf32>, tensor<48x64xf32>)
      outs(%init : tensor<?x48xf32>) -> tensor<?x48xf32>
  return %y : tensor<?x48xf32>
}

// -----

// The matrix is not transposed: its rows run along the columns of the product.
// CHECK-LABEL: func @other_order
// CHECK: moe.dequantize
// CHECK: linalg.matmul
// REMARK: it has a user that is no matmul with its transpose
func.func @other_order(%x: tensor<?x48xf32>, %codes: tensor<48x64xi8>, %s: tensor<48x1xf32>, %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %w = moe.dequantize %codes scales(%s : tensor<48x1xf32>) as <i8> : tensor<48x64xi8> -> tensor<48x64xf32>
  %y = linalg.matmul ins(%x, %w : tensor<?x48xf32>, tensor<48x64xf32>) outs(%init : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
