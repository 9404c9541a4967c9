// RUN: moe-opt %s --canonicalize --cse --split-input-file | FileCheck %s

// Operands, index arguments and results that nobody reads leave.
// CHECK-LABEL: func @unused
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x3xf32>, %[[X:.*]]: tensor<?x8xf32>, %[[X2:.*]]: tensor<?x6xf32>, %[[A:.*]]: tensor<3x8xf32>, %[[B:.*]]: tensor<2x8xf32>, %[[P:.*]]: tensor<?x3x8xf32>
func.func @unused(%r: !moe.routing<?x3xf32>, %x: tensor<?x8xf32>, %x2: tensor<?x6xf32>, %a: tensor<3x8xf32>,
                  %b: tensor<2x8xf32>, %p: tensor<?x3x8xf32>, %c: index) -> (tensor<?x8xf32>, tensor<3x?x8xf32>) {
  // CHECK: %[[Y:.*]]:2 = moe.apply %[[R]] rows(%[[X]]) experts(%[[B]] case(0)) cases([0, 1, 0]) index(expert) out(sum, buckets(%{{.*}})) : !moe.routing<?x3xf32>, tensor<?x8xf32>, tensor<2x8xf32> -> (tensor<?x8xf32>, tensor<3x?x8xf32>) {
  // CHECK-NEXT: ^bb0(%[[ROWS:.*]]: tensor<?x8xf32>, %[[BE:.*]]: tensor<8xf32>, %[[E:.*]]: index):
  // CHECK: moe.yield %{{.*}}, %[[ROWS]] : tensor<?x8xf32>, tensor<?x8xf32>
  // CHECK-NEXT: }, {
  // CHECK-NEXT: ^bb0(%[[ROWS1:.*]]: tensor<?x8xf32>, %[[E1:.*]]: index):
  // CHECK-NEXT: moe.yield %[[ROWS1]], %[[ROWS1]]
  // CHECK: return %[[Y]]#0, %[[Y]]#1
  %y:4 = moe.apply %r rows(%x2, %x) experts(%a, %b case(0)) pairs(%p) cases([0, 1, 0]) index(row, expert, rank)
      out(sum, dense, buckets(%c), buckets(%c))
      : !moe.routing<?x3xf32>, tensor<?x6xf32>, tensor<?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>, tensor<?x3x8xf32>
      -> (tensor<?x8xf32>, tensor<?x3x8xf32>, tensor<3x?x8xf32>, tensor<3x?x8xf32>) {
  ^bb0(%rows2: tensor<?x6xf32>, %rows: tensor<?x8xf32>, %ae: tensor<8xf32>, %be: tensor<8xf32>, %pe: tensor<?x8xf32>,
       %t: tensor<?xindex>, %e: index, %k: tensor<?xindex>):
    %i = arith.index_cast %e : index to i32
    %f = arith.sitofp %i : i32 to f32
    %o = linalg.map ins(%rows : tensor<?x8xf32>) outs(%rows : tensor<?x8xf32>) (%v: f32, %init: f32) {
      %c0 = arith.constant 0 : index
      %z = tensor.extract %be[%c0] : tensor<8xf32>
      %s = arith.addf %v, %f : f32
      %s2 = arith.addf %s, %z : f32
      linalg.yield %s2 : f32
    }
    moe.yield %o, %rows, %o, %rows : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
  }, {
  ^bb0(%rows2: tensor<?x6xf32>, %rows: tensor<?x8xf32>, %ae: tensor<8xf32>, %pe: tensor<?x8xf32>,
       %t: tensor<?xindex>, %e: index, %k: tensor<?xindex>):
    moe.yield %rows, %rows, %rows, %rows : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
  }
  return %y#0, %y#3 : tensor<?x8xf32>, tensor<3x?x8xf32>
}

// -----

// An apply is free of effects: unused, it leaves.
// CHECK-LABEL: func @dead
func.func @dead(%r: !moe.routing<?x3xf32>, %x: tensor<?x8xf32>) {
  // CHECK-NEXT: return
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x3xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

// Without weights, weights do not matter: the two applies are over one support.
// CHECK-LABEL: func @support
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x3xf32, max_per_row = 2>
func.func @support(%r: !moe.routing<?x3xf32, max_per_row = 2>, %x: tensor<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  // CHECK: %[[N:.*]] = moe.normalize %[[R]]
  // CHECK: moe.apply %[[R]] rows(%{{.*}}) out(max)
  // CHECK: moe.apply %[[N]] rows(%{{.*}}) weighted(after) out(sum)
  %n = moe.normalize %r by(sum) : !moe.routing<?x3xf32, max_per_row = 2>
  %w = moe.cast %n : !moe.routing<?x3xf32, max_per_row = 2> to !moe.routing<?x3xf32>
  %y = moe.apply %w rows(%x) out(max) : !moe.routing<?x3xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  %z = moe.apply %w rows(%x) weighted(after) out(sum) : !moe.routing<?x3xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return %y, %z : tensor<?x8xf32>, tensor<?x8xf32>
}

// -----

// The only expert, chosen by all with weight one, is its body.
// CHECK-LABEL: func @only_expert
// CHECK-SAME: (%[[X:.*]]: tensor<5x8xf32>, %[[W:.*]]: tensor<1x8x6xf32>)
func.func @only_expert(%x: tensor<5x8xf32>, %w: tensor<1x8x6xf32>) -> tensor<5x6xf32> {
  // CHECK-NOT: moe.
  // CHECK: %[[PART:.*]] = tensor.extract_slice %[[W]][0, 0, 0] [1, 8, 6] [1, 1, 1] : tensor<1x8x6xf32> to tensor<8x6xf32>
  // CHECK: linalg.matmul ins(%{{.*}}, %[[PART]]
  // CHECK-NOT: linalg.generic
  // CHECK: return
  %one = arith.constant dense<1.0> : tensor<5x1xf32>
  %r = moe.route %one : tensor<5x1xf32>
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum)
      : !moe.routing<5x1xf32>, tensor<5x8xf32>, tensor<1x8x6xf32> -> tensor<5x6xf32> {
  ^bb0(%rows: tensor<?x8xf32>, %we: tensor<8x6xf32>):
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %n = tensor.dim %rows, %c0 : tensor<?x8xf32>
    %i = tensor.splat %zero[%n] : tensor<?x6xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xf32>, tensor<8x6xf32>) outs(%i : tensor<?x6xf32>) -> tensor<?x6xf32>
    moe.yield %o : tensor<?x6xf32>
  }
  return %y : tensor<5x6xf32>
}

// -----

// Other weights multiply; sums narrower than f32 in f32.
// CHECK-LABEL: func @only_expert_weighted
func.func @only_expert_weighted(%g: tensor<?x1xf32>, %x: tensor<?x8xbf16>) -> tensor<?x8xbf16> {
  // CHECK-NOT: moe.
  // CHECK: linalg.generic
  // CHECK: ^bb0(%[[V:.*]]: bf16, %[[W:.*]]: f32, %{{.*}}: bf16):
  // CHECK: %[[WIDE:.*]] = arith.extf %[[V]] : bf16 to f32
  // CHECK: %[[M:.*]] = arith.mulf %[[WIDE]], %[[W]] : f32
  // CHECK: arith.truncf %[[M]] : f32 to bf16
  %r = moe.route %g : tensor<?x1xf32>
  %y = moe.apply %r rows(%x) weighted(after) out(mean) : !moe.routing<?x1xf32>, tensor<?x8xbf16> -> tensor<?x8xbf16> {
  ^bb0(%rows: tensor<?x8xbf16>):
    moe.yield %rows : tensor<?x8xbf16>
  }
  return %y : tensor<?x8xbf16>
}

// -----

// The body runs only if there are tokens, and then it may divide by zero.
// CHECK-LABEL: func @only_expert_divides
func.func @only_expert_divides(%g: tensor<?x1xf32>, %x: tensor<?x8xi32>, %a: i32, %b: i32) -> tensor<?x8xi32> {
  // CHECK: moe.apply
  %r = moe.route %g : tensor<?x1xf32>
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x1xf32>, tensor<?x8xi32> -> tensor<?x8xi32> {
  ^bb0(%rows: tensor<?x8xi32>):
    %q = arith.divsi %a, %b : i32
    %c0 = arith.constant 0 : index
    %n = tensor.dim %rows, %c0 : tensor<?x8xi32>
    %o = tensor.splat %q[%n] : tensor<?x8xi32>
    moe.yield %o : tensor<?x8xi32>
  }
  return %y : tensor<?x8xi32>
}
