// RUN: moe-opt %s --moe-plan-dense-matmuls --canonicalize --cse --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-plan-dense-matmuls --split-input-file --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-passed='.*' --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK

// A linear layer: one expert has all rows.
// CHECK-DAG: #[[W:.*]] = affine_map<(d0, d1, d2) -> (d1, d2)>
// CHECK-LABEL: func @linear
// CHECK-SAME: %[[X:.*]]: tensor<?x24xf32>, %[[WEIGHT:.*]]: tensor<24x40xf32>
// CHECK: %[[T:.*]] = tensor.dim %[[X]], %c0
// CHECK: %[[O:.*]] = tensor.from_elements %c0, %[[T]] : tensor<2xindex>
// CHECK-NOT: linalg
// CHECK: moe.grouped_matmul %[[X]] offsets(%[[O]] : tensor<2xindex>) banks(%[[WEIGHT]] : tensor<24x40xf32>) outs(%{{.*}} : tensor<?x40xf32>)
// CHECK: bank_maps = [#[[W]]], extra_maps = []
// REMARK: a grouped matmul of 1 expert(s)
func.func @linear(%x: tensor<?x24xf32>, %w: tensor<24x40xf32> {moe.weight = "w"}) -> tensor<?x40xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : tensor<?x24xf32>
  %empty = tensor.empty(%t) : tensor<?x40xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x40xf32>) -> tensor<?x40xf32>
  %y = linalg.matmul ins(%x, %w : tensor<?x24xf32>, tensor<24x40xf32>) outs(%zeros : tensor<?x40xf32>) -> tensor<?x40xf32>
  return %y : tensor<?x40xf32>
}

// -----

// Bias, activation and residual behind a reshape of the rows move into the epilogue. The weight is stored [out, in].
#x = affine_map<(m, n, k) -> (m, k)>
#t = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>
#all = affine_map<(a, b, n) -> (a, b, n)>
#last = affine_map<(a, b, n) -> (n)>
// CHECK-DAG: #[[W:.*]] = affine_map<(d0, d1, d2) -> (d2, d1)>
// CHECK-DAG: #[[ROWS:.*]] = affine_map<(d0, d1, d2) -> (d1, d2)>
// CHECK-DAG: #[[BIAS:.*]] = affine_map<(d0, d1, d2) -> (d2)>
// CHECK-LABEL: func @epilogue
// CHECK-SAME: %{{.*}}: tensor<6x24xf32>, %[[WEIGHT:.*]]: tensor<40x24xf32> {{.*}}, %[[B:.*]]: tensor<40xf32>, %[[R:.*]]: tensor<2x3x40xf32>
// CHECK: %[[FLAT:.*]] = tensor.collapse_shape %[[R]] {{\[}}[0, 1], [2]]
// CHECK: %[[Y:.*]] = moe.grouped_matmul {{.*}} banks(%[[WEIGHT]] : tensor<40x24xf32>) extras(%[[FLAT]], %[[B]] : tensor<6x40xf32>, tensor<40xf32>)
// CHECK-NEXT: ^bb0(%[[S:.*]]: f32, %[[E0:.*]]: f32, %[[E1:.*]]: f32):
// CHECK-NEXT: %[[BIASED:.*]] = arith.addf %[[S]], %[[E1]]
// CHECK-NEXT: %[[RELU:.*]] = arith.maximumf %[[BIASED]]
// CHECK-NEXT: arith.addf %[[E0]], %[[RELU]]
// CHECK: bank_maps = [#[[W]]], extra_maps = [#[[ROWS]], #[[BIAS]]]
// CHECK: tensor.expand_shape %[[Y]]
// CHECK-NOT: linalg
// REMARK: a grouped matmul of 1 expert(s)
func.func @epilogue(%x: tensor<6x24xf32>, %w: tensor<40x24xf32> {moe.weight = "w"}, %b: tensor<40xf32>,
                    %r: tensor<2x3x40xf32>) -> tensor<2x3x40xf32> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<6x40xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<6x40xf32>) -> tensor<6x40xf32>
  %y = linalg.matmul indexing_maps = [#x, #t, #y] ins(%x, %w : tensor<6x24xf32>, tensor<40x24xf32>)
      outs(%zeros : tensor<6x40xf32>) -> tensor<6x40xf32>
  %y3 = tensor.expand_shape %y [[0, 1], [2]] output_shape [2, 3, 40] : tensor<6x40xf32> into tensor<2x3x40xf32>
  %empty3 = tensor.empty() : tensor<2x3x40xf32>
  %biased = linalg.generic {indexing_maps = [#all, #last, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%y3, %b : tensor<2x3x40xf32>, tensor<40xf32>) outs(%empty3 : tensor<2x3x40xf32>) {
  ^bb0(%p: f32, %q: f32, %o: f32):
    %s = arith.addf %p, %q : f32
    linalg.yield %s : f32
  } -> tensor<2x3x40xf32>
  %z = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%r, %biased : tensor<2x3x40xf32>, tensor<2x3x40xf32>) outs(%empty3 : tensor<2x3x40xf32>) {
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.maximumf %q, %zero : f32
    %s = arith.addf %p, %m : f32
    linalg.yield %s : f32
  } -> tensor<2x3x40xf32>
  return %z : tensor<2x3x40xf32>
}

// -----

// Gate and up are one pass over the rows; the product that two ops read keeps its result.
#id = affine_map<(m, n) -> (m, n)>
// CHECK-LABEL: func @gated
// CHECK-SAME: %[[X:.*]]: tensor<5x24xf32>, %[[G:.*]]: tensor<24x40xf32> {{.*}}, %[[U:.*]]: tensor<24x40xf32> {{.*}}, %[[D:.*]]: tensor<40x24xf32>
// CHECK: %[[H:.*]] = moe.grouped_matmul %[[X]] {{.*}} banks(%[[G]], %[[U]] : tensor<24x40xf32>, tensor<24x40xf32>) outs
// CHECK: arith.mulf
// CHECK: %[[Y:.*]] = moe.grouped_matmul %[[H]] {{.*}} banks(%[[D]] : tensor<40x24xf32>) outs
// CHECK-NEXT: ^bb0(%[[S:.*]]: f32):
// CHECK-NEXT: moe.yield %[[S]]
// CHECK: linalg.generic {{.*}} ins(%[[Y]]
// CHECK: return %{{.*}}, %[[Y]]
func.func @gated(%x: tensor<5x24xf32>, %g: tensor<24x40xf32> {moe.weight = "g"}, %u: tensor<24x40xf32> {moe.weight = "u"},
                 %d: tensor<40x24xf32> {moe.weight = "d"}) -> (tensor<5x24xf32>, tensor<5x24xf32>) {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<5x40xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%e : tensor<5x40xf32>) -> tensor<5x40xf32>
  %gate = linalg.matmul ins(%x, %g : tensor<5x24xf32>, tensor<24x40xf32>) outs(%zeros : tensor<5x40xf32>) -> tensor<5x40xf32>
  %up = linalg.matmul ins(%x, %u : tensor<5x24xf32>, tensor<24x40xf32>) outs(%zeros : tensor<5x40xf32>) -> tensor<5x40xf32>
  %h = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%gate, %up : tensor<5x40xf32>, tensor<5x40xf32>) outs(%e : tensor<5x40xf32>) {
  ^bb0(%p: f32, %q: f32, %o: f32):
    %r = arith.maximumf %p, %zero : f32
    %s = arith.mulf %r, %q : f32
    linalg.yield %s : f32
  } -> tensor<5x40xf32>
  %e2 = tensor.empty() : tensor<5x24xf32>
  %zeros2 = linalg.fill ins(%zero : f32) outs(%e2 : tensor<5x24xf32>) -> tensor<5x24xf32>
  %y = linalg.matmul ins(%h, %d : tensor<5x40xf32>, tensor<40x24xf32>) outs(%zeros2 : tensor<5x24xf32>) -> tensor<5x24xf32>
  %z = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%y : tensor<5x24xf32>) outs(%e2 : tensor<5x24xf32>) {
  ^bb0(%p: f32, %o: f32):
    %s = arith.addf %p, %p : f32
    linalg.yield %s : f32
  } -> tensor<5x24xf32>
  return %z, %y : tensor<5x24xf32>, tensor<5x24xf32>
}

// -----

// bf16: sums in f32 that are rounded at once are given in bf16, and what follows works on that.
#id = affine_map<(m, n) -> (m, n)>
// CHECK-LABEL: func @rounded
// CHECK: moe.grouped_matmul {{.*}} outs(%{{.*}} : tensor<?x40xbf16>)
// CHECK-NEXT: ^bb0(%[[S:.*]]: bf16):
// CHECK-NEXT: %[[T:.*]] = arith.mulf %[[S]], %[[S]] : bf16
// CHECK-NEXT: moe.yield %[[T]]
// CHECK-NOT: arith.truncf
func.func @rounded(%x: tensor<?x24xbf16>, %w: tensor<24x40xbf16> {moe.weight = "w"}, %n: index) -> tensor<?x40xbf16> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty(%n) : tensor<?x40xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x40xf32>) -> tensor<?x40xf32>
  %y = linalg.matmul ins(%x, %w : tensor<?x24xbf16>, tensor<24x40xbf16>) outs(%zeros : tensor<?x40xf32>) -> tensor<?x40xf32>
  %narrow = tensor.empty(%n) : tensor<?x40xbf16>
  %z = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%y : tensor<?x40xf32>) outs(%narrow : tensor<?x40xbf16>) {
  ^bb0(%p: f32, %o: bf16):
    %r = arith.truncf %p : f32 to bf16
    %s = arith.mulf %r, %r : bf16
    linalg.yield %s : bf16
  } -> tensor<?x40xbf16>
  return %z : tensor<?x40xbf16>
}

// -----

// A stack of matrices: each has the same number of rows.
// CHECK-LABEL: func @batch
// CHECK-SAME: %[[X:.*]]: tensor<3x?x24xf32>, %[[WEIGHT:.*]]: tensor<3x24x40xf32> {{.*}}, %[[INIT:.*]]: tensor<3x?x40xf32>
// CHECK: %[[ROWS:.*]] = tensor.collapse_shape %[[X]] {{\[}}[0, 1], [2]]
// CHECK: tensor.from_elements %c0, %{{.*}}, %{{.*}}, %{{.*}} : tensor<4xindex>
// CHECK: moe.grouped_matmul %[[ROWS]] {{.*}} banks(%[[WEIGHT]] : tensor<3x24x40xf32>) extras(%{{.*}} : tensor<?x40xf32>)
// CHECK: arith.addf
func.func @batch(%x: tensor<3x?x24xf32>, %w: tensor<3x24x40xf32> {moe.weight = "w"}, %init: tensor<3x?x40xf32>) -> tensor<3x?x40xf32> {
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x?x24xf32>, tensor<3x24x40xf32>) outs(%init : tensor<3x?x40xf32>) -> tensor<3x?x40xf32>
  return %y : tensor<3x?x40xf32>
}

// -----

// What stays: a product of two computed tensors, one with few columns, one whose weight is read as a table as well.
// CHECK-LABEL: func @left
// CHECK-NOT: moe.grouped_matmul
// CHECK-COUNT-3: linalg.matmul
// REMARK-DAG: the product keeps its form: neither operand is (a part of) a weight
// REMARK-DAG: the product keeps its form: a panel would be mostly padding: it has fewer than 16 columns
// REMARK-DAG: the product keeps its form: the weight is also read by something else
func.func @left(%x: tensor<4x24xf32>, %z: tensor<24x40xf32>, %few: tensor<24x4xf32> {moe.weight = "few"},
                %table: tensor<24x40xf32> {moe.weight = "table"}, %i: index)
    -> (tensor<4x40xf32>, tensor<4x4xf32>, tensor<4x40xf32>, f32) {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x40xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%e : tensor<4x40xf32>) -> tensor<4x40xf32>
  %f = tensor.empty() : tensor<4x4xf32>
  %zerosFew = linalg.fill ins(%zero : f32) outs(%f : tensor<4x4xf32>) -> tensor<4x4xf32>
  %a = linalg.matmul ins(%x, %z : tensor<4x24xf32>, tensor<24x40xf32>) outs(%zeros : tensor<4x40xf32>) -> tensor<4x40xf32>
  %b = linalg.matmul ins(%x, %few : tensor<4x24xf32>, tensor<24x4xf32>) outs(%zerosFew : tensor<4x4xf32>) -> tensor<4x4xf32>
  %c = linalg.matmul ins(%x, %table : tensor<4x24xf32>, tensor<24x40xf32>) outs(%zeros : tensor<4x40xf32>) -> tensor<4x40xf32>
  %row = tensor.extract %table[%i, %i] : tensor<24x40xf32>
  return %a, %b, %c, %row : tensor<4x40xf32>, tensor<4x4xf32>, tensor<4x40xf32>, f32
}

// A product of products: the second one reads what has come in the place of the first, the third a tensor that holds the
// second twice.
// CHECK-LABEL: func @products_in_turn
// CHECK: %[[FIRST:.*]] = moe.grouped_matmul %arg0
// CHECK: %[[SECOND:.*]] = moe.grouped_matmul %[[FIRST]]
// CHECK: %[[HALF:.*]] = tensor.insert_slice %[[SECOND]]
// CHECK: %[[BOTH:.*]] = tensor.insert_slice %[[SECOND]] into %[[HALF]]
// CHECK: moe.grouped_matmul %[[BOTH]]
// CHECK-NOT: linalg.matmul
func.func @products_in_turn(%x: tensor<?x64xf32>, %a: tensor<64x128xf32> {moe.weight = "a"}, %b: tensor<128x32xf32> {moe.weight = "b"},
                            %c: tensor<64x128xf32> {moe.weight = "c"}) -> tensor<?x128xf32> {
  %cst = arith.constant 0.000000e+00 : f32
  %c0 = arith.constant 0 : index
  %dim = tensor.dim %x, %c0 : tensor<?x64xf32>
  %0 = tensor.empty(%dim) : tensor<?x128xf32>
  %1 = linalg.fill ins(%cst : f32) outs(%0 : tensor<?x128xf32>) -> tensor<?x128xf32>
  %2 = linalg.matmul ins(%x, %a : tensor<?x64xf32>, tensor<64x128xf32>) outs(%1 : tensor<?x128xf32>) -> tensor<?x128xf32>
  %3 = tensor.empty(%dim) : tensor<?x32xf32>
  %4 = linalg.fill ins(%cst : f32) outs(%3 : tensor<?x32xf32>) -> tensor<?x32xf32>
  %5 = linalg.matmul ins(%2, %b : tensor<?x128xf32>, tensor<128x32xf32>) outs(%4 : tensor<?x32xf32>) -> tensor<?x32xf32>
  %6 = tensor.empty(%dim) : tensor<?x64xf32>
  %7 = tensor.insert_slice %5 into %6[0, 0] [%dim, 32] [1, 1] : tensor<?x32xf32> into tensor<?x64xf32>
  %8 = tensor.insert_slice %5 into %7[0, 32] [%dim, 32] [1, 1] : tensor<?x32xf32> into tensor<?x64xf32>
  %9 = linalg.matmul ins(%8, %c : tensor<?x64xf32>, tensor<64x128xf32>) outs(%1 : tensor<?x128xf32>) -> tensor<?x128xf32>
  return %9 : tensor<?x128xf32>
}
