// RUN: moe-opt %s --moe-fold-weight-packs | FileCheck %s

// The pack of a slice of a weight is an argument that says what it holds; the weight that nothing reads any more leaves.
// CHECK-LABEL: func @main
// CHECK-SAME: (%[[X:.*]]: tensor<4x24xf32>, %[[P:[a-z0-9]*]]: tensor<4x2x24x32xf32> {
// CHECK-SAME: moe.panels = [{columns = 32 : i64, offset = 960 : i64, sizes = array<i64: 4, 24, 40>, strides = array<i64: 960, 40, 1>, weight = "w"}]
// CHECK-SAME: moe.weight = "w.panels"})
// CHECK-NEXT: return %[[P]], %[[P]]
func.func @main(%w: tensor<5x24x40xf32> {moe.weight = "w"}, %x: tensor<4x24xf32>)
    -> (tensor<4x2x24x32xf32>, tensor<4x2x24x32xf32>) {
  %zero = arith.constant 0.0 : f32
  %part = tensor.extract_slice %w[1, 0, 0] [4, 24, 40] [1, 1, 1] : tensor<5x24x40xf32> to tensor<4x24x40xf32>
  %init = tensor.empty() : tensor<4x2x24x32xf32>
  %p = linalg.pack %part padding_value(%zero : f32) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [32]
      into %init : tensor<4x24x40xf32> -> tensor<4x2x24x32xf32>
  %q = linalg.pack %part padding_value(%zero : f32) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [32]
      into %init : tensor<4x24x40xf32> -> tensor<4x2x24x32xf32>
  return %p, %q : tensor<4x2x24x32xf32>, tensor<4x2x24x32xf32>
}

// Two banks of one panel, from two weights of different orders.
// CHECK-LABEL: func @pair
// CHECK-SAME: strides = array<i64: 960, 40, 1>, weight = "g"}, {
// CHECK-SAME: strides = array<i64: 960, 1, 24>, weight = "u"}
// CHECK-SAME: moe.weight = "g+u.panels"
// CHECK-NOT: tensor.concat
func.func @pair(%g: tensor<4x24x40xf32> {moe.weight = "g"}, %u: tensor<4x40x24xf32> {moe.weight = "u"})
    -> tensor<4x3x24x32xf32> {
  %zero = arith.constant 0.0 : f32
  %init = tensor.empty() : tensor<4x3x24x16xf32>
  %p = linalg.pack %g padding_value(%zero : f32) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [16]
      into %init : tensor<4x24x40xf32> -> tensor<4x3x24x16xf32>
  %q = linalg.pack %u padding_value(%zero : f32) outer_dims_perm = [0, 1, 2] inner_dims_pos = [1] inner_tiles = [16]
      into %init : tensor<4x40x24xf32> -> tensor<4x3x24x16xf32>
  %both = tensor.concat dim(3) %p, %q : (tensor<4x3x24x16xf32>, tensor<4x3x24x16xf32>) -> tensor<4x3x24x32xf32>
  return %both : tensor<4x3x24x32xf32>
}

// A pack of what is no weight stays.
// CHECK-LABEL: func @input
// CHECK: linalg.pack
func.func @input(%w: tensor<4x24x40xf32>) -> tensor<4x2x24x32xf32> {
  %zero = arith.constant 0.0 : f32
  %init = tensor.empty() : tensor<4x2x24x32xf32>
  %p = linalg.pack %w padding_value(%zero : f32) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [32]
      into %init : tensor<4x24x40xf32> -> tensor<4x2x24x32xf32>
  return %p : tensor<4x2x24x32xf32>
}
