// RUN: moe-opt %s --moe-take-codes --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-take-codes --split-input-file --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK

// [k, n] = [64, 48], a scale for 32 k of each column: rows of 32 bytes, 2 scales each.
// CHECK-LABEL: func @blocks
// CHECK-NOT: moe.coded
// CHECK-SAME: %[[C:[^ ]*]]: tensor<48x32xi8> {moe.dtype = "u8", moe.recoded = {block = 32 : i64, offset = 0 : i64, part = "codes", shape = array<i64: 64, 48>, sizes = array<i64: 1, 48, 64>, source = {{.*}}, strides = array<i64: 0, 1, 48>}, moe.weight = "w.codes"}
// CHECK-SAME: %[[S:[^ ]*]]: tensor<48x2xf16>
// CHECK: %[[N:.*]] = moe.dequantize %[[C]] scales(%[[S]] : tensor<48x2xf16>) as <i4, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
// CHECK: linalg.matmul {{.*}} ins(%{{.*}}, %[[N]] :
func.func @blocks(%x: tensor<?x64xf32>, %init: tensor<?x48xf32>, %w: tensor<64x48xf32> {moe.weight = "w.numbers",
    moe.coded = {type = "i4", codes = ["w"], scales = ["s"], scale_type = f16, divisors = array<i64: 32, 1>}}) -> tensor<?x48xf32> {
  %y = linalg.matmul ins(%x, %w : tensor<?x64xf32>, tensor<64x48xf32>) outs(%init : tensor<?x48xf32>) -> tensor<?x48xf32>
  return %y : tensor<?x48xf32>
}

// -----

// Unsigned codes count from 0 in a file; bf16 scales become f32. One scale for the whole matrix.
// CHECK-LABEL: func @unsigned
// CHECK: moe.dequantize %{{.*}} scales(%{{.*}} : tensor<48x1xf32>) zero_points(%{{.*}} : tensor<48x1xi8>) as <u8, zero_points>
// The middle as common zero point needs none.
// CHECK: moe.dequantize %{{.*}} scales(%{{.*}} : tensor<48x1xf32>) as <u4> : tensor<48x32xi8>
func.func @unsigned(%x: tensor<?x64xf32>, %init: tensor<?x48xf32>,
    %w: tensor<48x64xf32> {moe.weight = "w", moe.coded = {type = "u8", codes = ["wq"], scales = [dense<2.0> : tensor<bf16>],
                           scale_type = bf16, divisors = array<i64: 0, 0>}},
    %v: tensor<48x64xf32> {moe.weight = "v", moe.coded = {type = "u4", codes = ["vq"], scales = [dense<2.0> : tensor<f32>],
                           zero_points = [["vz", 8]], scale_type = f32, divisors = array<i64: 0, 0>}}) -> (tensor<?x48xf32>, tensor<?x48xf32>) {
  %y = linalg.matmul indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>]
      ins(%x, %w : tensor<?x64xf32>, tensor<48x64xf32>) outs(%init : tensor<?x48xf32>) -> tensor<?x48xf32>
  %z = linalg.matmul indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>]
      ins(%x, %v : tensor<?x64xf32>, tensor<48x64xf32>) outs(%init : tensor<?x48xf32>) -> tensor<?x48xf32>
  return %y, %z : tensor<?x48xf32>, tensor<?x48xf32>
}

// -----

// Scales along the columns: the numbers are computed, by what the file stores.
// CHECK-LABEL: func @columns
// CHECK-SAME: tensor<64x48xi8> {moe.dtype = "i8", moe.recoded = {{.*}}part = "stored_codes"
// CHECK-NOT: moe.dequantize
// CHECK: linalg.generic
// CHECK: linalg.matmul
// REMARK: the numbers of 'w' are computed at run time: its scales run along the columns of the product
func.func @columns(%x: tensor<?x64xf32>, %init: tensor<?x48xf32>, %w: tensor<64x48xf32> {moe.weight = "w.numbers",
    moe.coded = {type = "i4", codes = ["w"], scales = ["s"], scale_type = f32, divisors = array<i64: 1, 16>}}) -> tensor<?x48xf32> {
  %y = linalg.matmul ins(%x, %w : tensor<?x64xf32>, tensor<64x48xf32>) outs(%init : tensor<?x48xf32>) -> tensor<?x48xf32>
  return %y : tensor<?x48xf32>
}

// -----

// Two halves of a matrix, gate and up: views of the same codes. A cut inside of a block is none.
// CHECK-LABEL: func @parts
// CHECK: offset = 24 : i64, part = "codes", {{.*}} sizes = array<i64: 1, 24, 64>
// CHECK: moe.dequantize
// CHECK-NOT: moe.dequantize
// REMARK: the numbers of 'w' are computed at run time: it is cut inside of a block of scales
func.func @parts(%x: tensor<?x64xf32>, %x8: tensor<?x56xf32>, %init: tensor<?x24xf32>, %w: tensor<64x48xf32> {moe.weight = "w",
    moe.coded = {type = "i8", codes = ["wq"], scales = ["s"], scale_type = f32, divisors = array<i64: 16, 1>}}) -> (tensor<?x24xf32>, tensor<?x24xf32>) {
  %up = tensor.extract_slice %w[0, 24] [64, 24] [1, 1] : tensor<64x48xf32> to tensor<64x24xf32>
  %cut = tensor.extract_slice %w[8, 0] [56, 24] [1, 1] : tensor<64x48xf32> to tensor<56x24xf32>
  %y = linalg.matmul ins(%x, %up : tensor<?x64xf32>, tensor<64x24xf32>) outs(%init : tensor<?x24xf32>) -> tensor<?x24xf32>
  %z = linalg.matmul ins(%x8, %cut : tensor<?x56xf32>, tensor<56x24xf32>) outs(%init : tensor<?x24xf32>) -> tensor<?x24xf32>
  return %y, %z : tensor<?x24xf32>, tensor<?x24xf32>
}
