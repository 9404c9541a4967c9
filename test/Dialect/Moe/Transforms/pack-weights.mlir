// RUN: moe-opt %s --moe-pack-weights --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-pack-weights --split-input-file --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-passed='.*' --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK

// One bank: panels of 32 columns. The transposed stack gives the same form.
// CHECK-DAG: #[[PANELS:.*]] = affine_map<(d0, d1, d2) -> (d0, d2 floordiv 32, d1, d2 mod 32)>
// CHECK-LABEL: func @columns
// CHECK: %[[P:.*]] = linalg.pack %{{.*}} padding_value({{.*}}) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [32]
// CHECK-SAME: tensor<4x24x40xf32> -> tensor<4x2x24x32xf32>
// CHECK: banks(%[[P]] : tensor<4x2x24x32xf32>)
// CHECK: bank_maps = [#[[PANELS]]]
// REMARK: banks are packed in panels of 32 columns
func.func @columns(%x: tensor<?x24xf32>, %w: tensor<4x24x40xf32> {moe.weight = "w"}, %o: tensor<5xindex>,
                   %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : tensor<4x24x40xf32>) outs(%init : tensor<?x40xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x24xf32>
  return %h : tensor<?x40xf32>
}
// CHECK-LABEL: func @transposed
// CHECK: linalg.pack %{{.*}} outer_dims_perm = [0, 1, 2] inner_dims_pos = [1] inner_tiles = [32]
// CHECK-SAME: tensor<4x40x24xf32> -> tensor<4x2x24x32xf32>
// CHECK: bank_maps = [#[[PANELS]]]
func.func @transposed(%x: tensor<?x24xf32>, %w: tensor<4x40x24xf32> {moe.weight = "w"}, %o: tensor<5xindex>,
                      %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : tensor<4x40x24xf32>) outs(%init : tensor<?x40xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n, k)>], extra_maps = []} : tensor<?x24xf32>
  return %h : tensor<?x40xf32>
}

// -----

// Gate and up, interleaved in one bf16 weight: 16 columns of each side by side, pairs of k together.
// CHECK-DAG: #[[GATE:.*]] = affine_map<(d0, d1, d2) -> (d0, d2 floordiv 16, d1 floordiv 2, d2 mod 16, d1 mod 2)>
// CHECK-DAG: #[[UP:.*]] = affine_map<(d0, d1, d2) -> (d0, d2 floordiv 16, d1 floordiv 2, d2 mod 16 + 16, d1 mod 2)>
// CHECK-LABEL: func @gate_up
// CHECK: %[[G:.*]] = linalg.pack {{.*}} inner_dims_pos = [1, 2] inner_tiles = [16, 2] {{.*}} -> tensor<4x2x12x16x2xbf16>
// CHECK: %[[U:.*]] = linalg.pack
// CHECK: %[[P:.*]] = tensor.concat dim(3) %[[G]], %[[U]]
// CHECK: banks(%[[P]], %[[P]] : tensor<4x2x12x32x2xbf16>, tensor<4x2x12x32x2xbf16>)
// CHECK: bank_maps = [#[[GATE]], #[[UP]]]
func.func @gate_up(%x: tensor<?x24xf32>, %w: tensor<4x40x24xbf16> {moe.weight = "w"}, %o: tensor<5xindex>,
                   %init: tensor<?x20xf32>) -> tensor<?x20xf32> {
  %g = tensor.extract_slice %w[0, 0, 0] [4, 20, 24] [1, 2, 1] : tensor<4x40x24xbf16> to tensor<4x20x24xbf16>
  %u = tensor.extract_slice %w[0, 1, 0] [4, 20, 24] [1, 2, 1] : tensor<4x40x24xbf16> to tensor<4x20x24xbf16>
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%g, %u : tensor<4x20x24xbf16>, tensor<4x20x24xbf16>)
      outs(%init : tensor<?x20xf32>) {
  ^bb0(%a: f32, %b: f32):
    %m = arith.mulf %a, %b : f32
    moe.yield %m : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n, k)>, affine_map<(e, k, n) -> (e, n, k)>], extra_maps = []} : tensor<?x24xf32>
  return %h : tensor<?x20xf32>
}

// -----

// A weight that something else reads would be stored twice; a bank that is an input of the call is not a weight.
// CHECK-LABEL: func @left
// CHECK-NOT: linalg.pack
// REMARK: banks are not packed: bank 0 is not (a part of) a weight
// REMARK: banks are not packed: a weight is also read by 'func.return'
func.func @left(%x: tensor<?x24xf32>, %w: tensor<4x24x40xf32> {moe.weight = "w"}, %v: tensor<4x24x40xf32>,
                %o: tensor<5xindex>, %init: tensor<?x40xf32>) -> (tensor<?x40xf32>, tensor<4x24x40xf32>) {
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : tensor<4x24x40xf32>) outs(%init : tensor<?x40xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x24xf32>
  %i = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%v : tensor<4x24x40xf32>) outs(%h : tensor<?x40xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x24xf32>
  return %i, %w : tensor<?x40xf32>, tensor<4x24x40xf32>
}
