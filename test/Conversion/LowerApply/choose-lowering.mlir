// RUN: moe-opt %s --moe-choose-lowering --split-input-file --verify-diagnostics | FileCheck %s

!r = !moe.routing<?x3xf32>

// Rows that see each other keep the loop over experts.
// CHECK-LABEL: func private @coupled
// CHECK: moe.apply
// CHECK-SAME: moe.lowering = "reference"
func.func private @coupled(%r: !r, %x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %y = moe.apply %r rows(%x) out(sum) : !r, tensor<?x4xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>):
    %zero = arith.constant 0.0 : f32
    %z = tensor.splat %zero : tensor<4xf32>
    %s = linalg.reduce ins(%rows : tensor<?x4xf32>) outs(%z : tensor<4xf32>) dimensions = [0] (%a: f32, %b: f32) {
      %c = arith.addf %a, %b : f32
      linalg.yield %c : f32
    }
    %o = linalg.broadcast ins(%s : tensor<4xf32>) outs(%rows : tensor<?x4xf32>) dimensions = [0]
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x3xf32>

// Experts that are vectors are best served pair by pair.
// CHECK-LABEL: func private @vectors
// CHECK: moe.apply
// CHECK-SAME: moe.lowering = "pairwise"
func.func private @vectors(%r: !r, %x: tensor<?x4xf32>, %w: tensor<3x4xf32>) -> tensor<?x4xf32> {
  %y = moe.apply %r rows(%x) experts(%w) out(sum) : !r, tensor<?x4xf32>, tensor<3x4xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>, %we: tensor<4xf32>):
    %o = linalg.broadcast ins(%we : tensor<4xf32>) outs(%rows : tensor<?x4xf32>) dimensions = [0]
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x3xf32>

func.func private @illegal(%r: !r, %x: tensor<?x4xf32>) -> tensor<3x?x4xf32> {
  %c2 = arith.constant 2 : index
  // expected-error@+1 {{cannot have the lowering 'pairwise': buckets need the pairs sorted by expert}}
  %y = moe.apply %r rows(%x) out(buckets(%c2)) {moe.lowering = "pairwise"} : !r, tensor<?x4xf32> -> tensor<3x?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>):
    moe.yield %rows : tensor<?x4xf32>
  }
  return %y : tensor<3x?x4xf32>
}

// -----

!r = !moe.routing<?x3xf32>

func.func private @unknown(%r: !r, %x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error@+1 {{expected 'moe.lowering' to be reference, fused, pairwise or dense, got 'quick'}}
  %y = moe.apply %r rows(%x) out(sum) {moe.lowering = "quick"} : !r, tensor<?x4xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>):
    moe.yield %rows : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x3xf32>

func.func private @fused_sizes(%r: !r, %x: tensor<?x4xf32>, %w: tensor<4x7xf32>) -> tensor<?x4xf32> {
  // expected-error@+1 {{cannot have the lowering 'fused': its experts have different sizes}}
  %y = moe.apply %r rows(%x) experts(%w along 1 ragged([0, 1, 3, 7])) out(sum) {moe.lowering = "fused"}
      : !r, tensor<?x4xf32>, tensor<4x7xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>, %we: tensor<4x?xf32>):
    moe.yield %rows : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x3xf32>

func.func private @fused_cases(%r: !r, %x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error@+1 {{cannot have the lowering 'fused': the experts of a case are not neighbours}}
  %y = moe.apply %r rows(%x) cases([0, 1, 0]) out(sum) {moe.lowering = "fused"} : !r, tensor<?x4xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>):
    moe.yield %rows : tensor<?x4xf32>
  }, {
  ^bb0(%rows: tensor<?x4xf32>):
    moe.yield %rows : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x3xf32>

func.func private @fused_bank(%r: !r, %x: tensor<?x4xf32>, %w: tensor<3x4x4xi8>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  // expected-error@+1 {{cannot have the lowering 'fused': 'linalg.generic' with parameters of the expert is neither a matmul of rows nor elementwise}}
  %y = moe.apply %r rows(%x) experts(%w) out(sum) {moe.lowering = "fused"} : !r, tensor<?x4xf32>, tensor<3x4x4xi8> -> tensor<?xf32> {
  ^bb0(%rows: tensor<?x4xf32>, %we: tensor<4x4xi8>):
    %n = tensor.dim %rows, %c0 : tensor<?x4xf32>
    %z = tensor.splat %zero[%n] : tensor<?xf32>
    %o = linalg.generic {indexing_maps = [affine_map<(n, i, j) -> (n, i)>, affine_map<(n, i, j) -> (i, j)>, affine_map<(n, i, j) -> (n)>],
        iterator_types = ["parallel", "reduction", "reduction"]} ins(%rows, %we : tensor<?x4xf32>, tensor<4x4xi8>) outs(%z : tensor<?xf32>) {
    ^bb0(%a: f32, %b: i8, %sum: f32):
      %f = arith.sitofp %b : i8 to f32
      %p = arith.mulf %a, %f : f32
      %s = arith.addf %sum, %p : f32
      linalg.yield %s : f32
    } -> tensor<?xf32>
    moe.yield %o : tensor<?xf32>
  }
  return %y : tensor<?xf32>
}

// -----

!r = !moe.routing<?x3xf32>

func.func private @fused_elementwise(%r: !r, %x: tensor<?x4xf32>, %w: tensor<3x1xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  // expected-error@+1 {{cannot have the lowering 'fused': 'tensor.splat' computes with parameters of the expert}}
  %y = moe.apply %r rows(%x) experts(%w) out(sum) {moe.lowering = "fused"} : !r, tensor<?x4xf32>, tensor<3x1xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x4xf32>, %we: tensor<1xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x4xf32>
    %s = tensor.extract %we[%c0] : tensor<1xf32>
    %o = tensor.splat %s[%n] : tensor<?x4xf32>
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x512xf32, max_per_row = 2>

// Many tiny experts, of which few have two rows.
// CHECK-LABEL: func private @many_tiny
// CHECK: moe.apply
// CHECK-SAME: moe.lowering = "pairwise"
func.func private @many_tiny(%r: !r, %x: tensor<?x16xf32>, %w: tensor<512x16x4xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, tensor<?x16xf32>, tensor<512x16x4xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x16xf32>, %we: tensor<16x4xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x16xf32>
    %z = tensor.splat %zero[%n] : tensor<?x4xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x16xf32>, tensor<16x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<?x256xf32, max_per_row = 2>

// Not as many: a batch may fill them.
// CHECK-LABEL: func private @some_tiny
// CHECK: moe.apply
// CHECK-SAME: moe.lowering = "fused"
func.func private @some_tiny(%r: !r, %x: tensor<?x16xf32>, %w: tensor<256x16x4xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, tensor<?x16xf32>, tensor<256x16x4xf32> -> tensor<?x4xf32> {
  ^bb0(%rows: tensor<?x16xf32>, %we: tensor<16x4xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x16xf32>
    %z = tensor.splat %zero[%n] : tensor<?x4xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x16xf32>, tensor<16x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// -----

!r = !moe.routing<4x64xf32, max_per_row = 2>

// A batch that is known to be small against the number of experts.
// CHECK-LABEL: func private @few_pairs
// CHECK: moe.apply
// CHECK-SAME: moe.lowering = "pairwise"
func.func private @few_pairs(%r: !r, %x: tensor<4x16xf32>, %w: tensor<64x16x4xf32>) -> tensor<4x4xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, tensor<4x16xf32>, tensor<64x16x4xf32> -> tensor<4x4xf32> {
  ^bb0(%rows: tensor<?x16xf32>, %we: tensor<16x4xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x16xf32>
    %z = tensor.splat %zero[%n] : tensor<?x4xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x16xf32>, tensor<16x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<4x4xf32>
}

// -----

!r = !moe.routing<8x64xf32, max_per_row = 2>

// A larger one.
// CHECK-LABEL: func private @more_pairs
// CHECK: moe.apply
// CHECK-SAME: moe.lowering = "fused"
func.func private @more_pairs(%r: !r, %x: tensor<8x16xf32>, %w: tensor<64x16x4xf32>) -> tensor<8x4xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, tensor<8x16xf32>, tensor<64x16x4xf32> -> tensor<8x4xf32> {
  ^bb0(%rows: tensor<?x16xf32>, %we: tensor<16x4xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x16xf32>
    %z = tensor.splat %zero[%n] : tensor<?x4xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x16xf32>, tensor<16x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
    moe.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<8x4xf32>
}
