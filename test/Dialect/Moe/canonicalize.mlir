// RUN: moe-opt %s --canonicalize --cse --split-input-file | FileCheck %s

// CHECK-LABEL: func @cast_of_cast
// CHECK-SAME: %[[R:.*]]: !moe.routing<4x8xf32, max_per_row = 2>
func.func @cast_of_cast(%r: !moe.routing<4x8xf32, max_per_row = 2>) -> (!moe.routing<?x8xf32>, !moe.routing<4x8xf32, max_per_row = 2>) {
  // CHECK: %[[C:.*]] = moe.cast %[[R]] : !moe.routing<4x8xf32, max_per_row = 2> to !moe.routing<?x8xf32>
  // CHECK: return %[[C]], %[[R]]
  %0 = moe.cast %r : !moe.routing<4x8xf32, max_per_row = 2> to !moe.routing<4x8xf32>
  %1 = moe.cast %0 : !moe.routing<4x8xf32> to !moe.routing<?x8xf32>
  %2 = moe.cast %r : !moe.routing<4x8xf32, max_per_row = 2> to !moe.routing<4x8xf32, max_per_row = 2>
  return %1, %2 : !moe.routing<?x8xf32>, !moe.routing<4x8xf32, max_per_row = 2>
}

// -----

// A constant k tightens the bounds of all that follows; only what leaves the function keeps the wide type.
// CHECK-LABEL: func @constant_k
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x8xf32>)
func.func @constant_k(%r: !moe.routing<?x8xf32>) -> (!moe.routing<?x8xf32>, tensor<8xi32>) {
  // CHECK-NEXT: %[[K:.*]] = moe.top_k %[[R]] k(3) : !moe.routing<?x8xf32>
  // CHECK-NEXT: %[[N:.*]] = moe.normalize %[[K]] by(sum) : !moe.routing<?x8xf32, max_per_row = 3>
  // CHECK-NEXT: %[[C:.*]] = moe.cast %[[N]] : !moe.routing<?x8xf32, max_per_row = 3> to !moe.routing<?x8xf32>
  // CHECK-NEXT: %[[L:.*]] = moe.counts %[[K]] per(expert)
  // CHECK-NEXT: return %[[C]], %[[L]]
  %k = arith.constant 3 : index
  %0 = moe.top_k %r k(%k : index) : !moe.routing<?x8xf32>
  %1 = moe.normalize %0 by(sum) : !moe.routing<?x8xf32>
  %2 = moe.counts %1 per(expert) : !moe.routing<?x8xf32>
  return %1, %2 : !moe.routing<?x8xf32>, tensor<8xi32>
}

// -----

// CHECK-LABEL: func @constant_k_tensor
func.func @constant_k_tensor(%r: !moe.routing<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: moe.top_k %{{.*}} k(5) axis(token) : !moe.routing<?x8xf32>
  // CHECK-NEXT: moe.to_dense %{{.*}} : !moe.routing<?x8xf32, max_per_expert = 5>
  %k = arith.constant dense<5> : tensor<8xi32>
  %0 = moe.top_k %r k(%k : tensor<8xi32>) axis(token) : !moe.routing<?x8xf32>
  %1 = moe.to_dense %0 : !moe.routing<?x8xf32>
  return %1 : tensor<?x8xf32>
}

// -----

// A negative number that is computed counts as 0.
// CHECK-LABEL: func @negative_constants
func.func @negative_constants(%r: !moe.routing<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  // CHECK: moe.top_k %{{.*}} k(0)
  // CHECK: moe.limit %{{.*}} cap(0) order(rank_then_row)
  %k = arith.constant -4 : index
  %0 = moe.top_k %r k(%k : index) : !moe.routing<?x8xf32>
  %1 = moe.limit %r cap(%k : index) order(rank_then_row) : !moe.routing<?x8xf32>
  %2 = moe.to_dense %0 : !moe.routing<?x8xf32>
  %3 = moe.to_dense %1 : !moe.routing<?x8xf32>
  return %2, %3 : tensor<?x8xf32>, tensor<?x8xf32>
}

// -----

// CHECK-LABEL: func @constant_cap
func.func @constant_cap(%r: !moe.routing<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: moe.limit %{{.*}} cap(2) : !moe.routing<?x8xf32>
  %k = arith.constant dense<2> : tensor<8xindex>
  %0 = moe.limit %r cap(%k : tensor<8xindex>) : !moe.routing<?x8xf32>
  %1 = moe.to_dense %0 : !moe.routing<?x8xf32>
  return %1 : tensor<?x8xf32>
}

// -----

// Capacities that differ stay an operand.
// CHECK-LABEL: func @caps_differ
func.func @caps_differ(%r: !moe.routing<?x2xf32>) -> tensor<?x2xf32> {
  // CHECK: moe.limit %{{.*}} cap(%{{.*}} : tensor<2xindex>)
  %k = arith.constant dense<[2, 3]> : tensor<2xindex>
  %0 = moe.limit %r cap(%k : tensor<2xindex>) : !moe.routing<?x2xf32>
  %1 = moe.to_dense %0 : !moe.routing<?x2xf32>
  return %1 : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func @top_k_of_top_k
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x8xf32>,
func.func @top_k_of_top_k(%r: !moe.routing<?x8xf32>, %key: tensor<?x8xf32>) -> (tensor<?x2xi32>, tensor<?x2xi32>, tensor<?x2xi32>) {
  // CHECK-DAG: %[[A:.*]] = moe.top_k %[[R]] k(2) : !moe.routing<?x8xf32>
  // CHECK-DAG: moe.to_slots %[[A]]
  %0 = moe.top_k %r k(4) : !moe.routing<?x8xf32>
  %1 = moe.top_k %0 k(2) : !moe.routing<?x8xf32, max_per_row = 4>
  %i1, %w1 = moe.to_slots %1 : !moe.routing<?x8xf32, max_per_row = 2>
  // Other keys choose others.
  // CHECK-DAG: %[[B:.*]] = moe.top_k %[[R]] k(4) : !moe.routing<?x8xf32>
  // CHECK-DAG: moe.top_k %[[B]] by(%{{.*}} : tensor<?x8xf32>) k(2)
  %2 = moe.top_k %0 by(%key : tensor<?x8xf32>) k(2) : !moe.routing<?x8xf32, max_per_row = 4>
  %i2, %w2 = moe.to_slots %2 : !moe.routing<?x8xf32, max_per_row = 2>
  // The lists of groups are not in the order of the keys; those of chosen groups are.
  // CHECK: %[[G:.*]] = moe.top_k %{{.*}} k(1) groups(4) :
  // CHECK: moe.top_k %[[G]] k(2)
  %3 = moe.top_k %r k(1) groups(4) : !moe.routing<?x8xf32>
  %4 = moe.top_k %3 k(2) : !moe.routing<?x8xf32, max_per_row = 4>
  %i4, %w4 = moe.to_slots %4 : !moe.routing<?x8xf32, max_per_row = 2>
  return %i1, %i2, %i4 : tensor<?x2xi32>, tensor<?x2xi32>, tensor<?x2xi32>
}

// -----

// k >= E only sorts. Who cannot see the order reads the input; the slots see it.
// CHECK-LABEL: func @k_of_all
// CHECK-SAME: (%[[W:.*]]: tensor<?x4xf32>)
func.func @k_of_all(%w: tensor<?x4xf32>) -> (tensor<?x4xi1>, tensor<4xi32>, tensor<?x4xf32>, tensor<?x4xi32>) {
  // CHECK: %[[R:.*]] = moe.route %[[W]]
  // CHECK: %[[K:.*]] = moe.top_k %[[R]] k(4)
  // CHECK: %[[M:.*]] = moe.to_dense %[[R]] of(mask)
  // CHECK: %[[C:.*]] = moe.counts %[[R]] per(expert)
  // CHECK: %[[I:.*]], %{{.*}} = moe.to_slots %[[K]]
  // CHECK: return %[[M]], %[[C]], %[[W]], %[[I]]
  %r = moe.route %w : tensor<?x4xf32>
  %k = moe.top_k %r k(9) : !moe.routing<?x4xf32>
  %0 = moe.to_dense %k of(mask) : !moe.routing<?x4xf32, max_per_row = 4>
  %1 = moe.counts %k per(expert) : !moe.routing<?x4xf32, max_per_row = 4>
  %2 = moe.to_dense %k : !moe.routing<?x4xf32, max_per_row = 4>
  %3, %4 = moe.to_slots %k : !moe.routing<?x4xf32, max_per_row = 4>
  return %0, %1, %2, %3 : tensor<?x4xi1>, tensor<4xi32>, tensor<?x4xf32>, tensor<?x4xi32>
}

// -----

// The weights of an expert that is chosen twice add in the list's order, so that the order can be seen.
// CHECK-LABEL: func @k_of_all_twice
func.func @k_of_all_twice(%i: tensor<?x3xi32>, %w: tensor<?x3xf32>) -> tensor<?x4xf32> {
  // CHECK: moe.top_k
  %r = moe.from_slots %i, %w experts(4) : tensor<?x3xi32>, tensor<?x3xf32>
  %k = moe.top_k %r k(3) : !moe.routing<?x4xf32, max_per_row = 3>
  %0 = moe.to_dense %k : !moe.routing<?x4xf32, max_per_row = 3>
  return %0 : tensor<?x4xf32>
}

// -----

// A capacity for all the tokens there are limits nothing.
// CHECK-LABEL: func @capacity_of_all
// CHECK-SAME: (%[[W:.*]]: tensor<5x4xf32>
func.func @capacity_of_all(%w: tensor<5x4xf32>, %x: tensor<5x8xf32>, %b: !moe.routing<?x4xf32, max_per_expert = 7>)
    -> (tensor<5x8xf32>, tensor<5x4xf32>, !moe.routing<?x4xf32, max_per_expert = 7>) {
  // CHECK-NEXT: %[[R:.*]] = moe.route %[[W]]
  // CHECK-NEXT: moe.apply %[[R]]
  // CHECK-NOT: moe.limit
  %r = moe.route %w : tensor<5x4xf32>
  %l = moe.limit %r cap(5) : !moe.routing<5x4xf32>
  %y = moe.apply %l rows(%x) out(sum) : !moe.routing<5x4xf32, max_per_expert = 5>, tensor<5x8xf32> -> tensor<5x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  %d = moe.to_dense %l : !moe.routing<5x4xf32, max_per_expert = 5>
  %bl = moe.limit %b cap(7) : !moe.routing<?x4xf32, max_per_expert = 7>
  %bk = moe.top_k %bl k(8) axis(token) : !moe.routing<?x4xf32, max_per_expert = 7>
  return %y, %d, %bk : tensor<5x8xf32>, tensor<5x4xf32>, !moe.routing<?x4xf32, max_per_expert = 7>
}

// -----

// CHECK-LABEL: func @capacity_that_limits
func.func @capacity_that_limits(%w: tensor<5x4xf32>) -> tensor<5x4xf32> {
  // CHECK: moe.limit
  %r = moe.route %w : tensor<5x4xf32>
  %l = moe.limit %r cap(4) : !moe.routing<5x4xf32>
  %d = moe.to_dense %l : !moe.routing<5x4xf32, max_per_expert = 4>
  return %d : tensor<5x4xf32>
}

// -----

// CHECK-LABEL: func @normalize_of_normalize
func.func @normalize_of_normalize(%r: !moe.routing<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  // CHECK: %[[S:.*]] = moe.normalize %{{.*}} by(softmax)
  // CHECK-NEXT: moe.to_dense %[[S]]
  %0 = moe.normalize %r by(softmax) : !moe.routing<?x4xf32>
  %1 = moe.normalize %0 by(sum) : !moe.routing<?x4xf32>
  %2 = moe.normalize %1 by(sum) : !moe.routing<?x4xf32>
  %d2 = moe.to_dense %2 : !moe.routing<?x4xf32>
  // Another axis, or something added to the divisor, is another thing.
  // CHECK: moe.normalize %[[S]] by(sum) axis(token)
  %3 = moe.normalize %0 by(sum) axis(token) : !moe.routing<?x4xf32>
  %d3 = moe.to_dense %3 : !moe.routing<?x4xf32>
  // CHECK: moe.normalize %[[S]] by(sum) eps(
  %4 = moe.normalize %0 by(sum) eps(0.25) : !moe.routing<?x4xf32>
  %d4 = moe.to_dense %4 : !moe.routing<?x4xf32>
  return %d2, %d3, %d4 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func @maps
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x4xf32>, %[[A:.*]]: f32, %[[B:.*]]: f32)
func.func @maps(%r: !moe.routing<?x4xf32>, %a: f32, %b: f32) -> tensor<?x4xf32> {
  // CHECK: %[[M:.*]] = moe.map %[[R]] {
  // CHECK-NEXT: ^bb0(%[[W:.*]]: f32, %{{.*}}: index, %{{.*}}: index):
  // CHECK-NEXT: %[[P:.*]] = arith.mulf %[[W]], %[[A]]
  // CHECK-NEXT: %[[S:.*]] = arith.addf %[[P]], %[[B]]
  // CHECK-NEXT: moe.yield %[[S]]
  // CHECK: moe.to_dense %[[M]]
  %0 = moe.map %r {
  ^bb0(%w: f32, %row: index, %expert: index):
    %p = arith.mulf %w, %a : f32
    moe.yield %p : f32
  } : !moe.routing<?x4xf32>
  %1 = moe.map %0 {
  ^bb0(%w: f32, %row: index, %expert: index):
    moe.yield %w : f32
  } : !moe.routing<?x4xf32>
  %2 = moe.map %1 {
  ^bb0(%w: f32, %row: index, %expert: index):
    %s = arith.addf %w, %b : f32
    moe.yield %s : f32
  } : !moe.routing<?x4xf32>
  %d = moe.to_dense %2 : !moe.routing<?x4xf32>
  return %d : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func @slots_and_back
// CHECK-SAME: %[[R:.*]]: !moe.routing<?x4xf32, max_per_row = 2>
func.func @slots_and_back(%r: !moe.routing<?x4xf32, max_per_row = 2>, %other: tensor<?x2xf32>)
    -> (!moe.routing<?x4xf32, max_per_row = 2>, tensor<?x4xf32>, tensor<?x5xf32>) {
  // CHECK: moe.from_slots %{{.*}}, %{{.*}} experts(4)
  // CHECK: moe.from_slots %{{.*}}, %{{.*}} experts(5)
  // CHECK: return %[[R]],
  %i, %w = moe.to_slots %r : !moe.routing<?x4xf32, max_per_row = 2>
  %0 = moe.from_slots %i, %w experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %1 = moe.from_slots %i, %other experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %2 = moe.from_slots %i, %w experts(5) : tensor<?x2xi32>, tensor<?x2xf32>
  %d1 = moe.to_dense %1 : !moe.routing<?x4xf32, max_per_row = 2>
  %d2 = moe.to_dense %2 : !moe.routing<?x5xf32, max_per_row = 2>
  return %0, %d1, %d2 : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x4xf32>, tensor<?x5xf32>
}

// -----

// CHECK-LABEL: func @concats
// CHECK-SAME: (%[[A:.*]]: !moe.routing<?x4xf32>, %[[B:.*]]: !moe.routing<?x2xf32>)
func.func @concats(%a: !moe.routing<?x4xf32>, %b: !moe.routing<?x2xf32>) -> (tensor<?x10xf32>, tensor<?x4xf32>) {
  // CHECK: %[[C:.*]] = moe.concat %[[A]], %[[A]], %[[B]]
  // CHECK-NEXT: moe.to_dense %[[C]]
  // CHECK-NEXT: moe.to_dense %[[A]]
  %0 = moe.concat %a, %b : !moe.routing<?x4xf32>, !moe.routing<?x2xf32>
  %1 = moe.concat %a, %0 : !moe.routing<?x4xf32>, !moe.routing<?x6xf32, max_per_row = 6>
  %2 = moe.concat %a : !moe.routing<?x4xf32>
  %d1 = moe.to_dense %1 : !moe.routing<?x10xf32, max_per_row = 10>
  %d2 = moe.to_dense %2 : !moe.routing<?x4xf32, max_per_row = 4>
  return %d1, %d2 : tensor<?x10xf32>, tensor<?x4xf32>
}

// -----

// What reads the support alone is not held up by what changes weights alone.
// CHECK-LABEL: func @support_readers
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x4xf32>
func.func @support_readers(%r: !moe.routing<?x4xf32>, %f: f32) -> (tensor<4xi32>, tensor<?x4xi32>, tensor<?x4xi1>) {
  // CHECK-DAG: moe.counts %[[R]] per(expert)
  // CHECK-DAG: moe.to_dense %[[R]] of(rank)
  // CHECK-DAG: moe.to_dense %[[R]] of(mask)
  // CHECK-NOT: moe.normalize
  %0 = moe.normalize %r by(sum) : !moe.routing<?x4xf32>
  %1 = moe.map %0 {
  ^bb0(%w: f32, %row: index, %expert: index):
    %s = arith.addf %w, %f : f32
    moe.yield %s : f32
  } : !moe.routing<?x4xf32>
  %2 = moe.counts %1 per(expert) : !moe.routing<?x4xf32>
  %3 = moe.to_dense %1 of(rank) : !moe.routing<?x4xf32>
  %4 = moe.to_dense %0 of(mask) : !moe.routing<?x4xf32>
  return %2, %3, %4 : tensor<4xi32>, tensor<?x4xi32>, tensor<?x4xi1>
}
