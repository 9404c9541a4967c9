// RUN: moe-opt %s --moe-insert-checks --canonicalize --cse --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-insert-checks --split-input-file --moe-statistics 2>&1 >/dev/null | FileCheck %s --check-prefix=STATS

// STATS: 12 moe-insert-checks - run-time checks of sizes inserted

// CHECK-LABEL: func @rows
// CHECK-SAME: (%[[W:.*]]: tensor<?x4xf32>, %[[X:.*]]: tensor<?x8xf32>)
func.func @rows(%w: tensor<?x4xf32>, %x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK-DAG: %[[T:.*]] = tensor.dim %[[W]], %c0
  // CHECK-DAG: %[[N:.*]] = tensor.dim %[[X]], %c0
  // CHECK: %[[OK:.*]] = arith.cmpi eq, %[[N]], %[[T]] : index
  // CHECK: cf.assert %[[OK]], "moe.apply: 'rows' operand 0 must have one row per token of the routing"
  // CHECK: moe.apply
  %r = moe.route %w : tensor<?x4xf32>
  %k = moe.top_k %r k(2) : !moe.routing<?x4xf32>
  %y = moe.apply %k rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// -----

// A size that is compared with itself needs no check, static sizes neither.
// CHECK-LABEL: func @same
func.func @same(%w: tensor<?x4xf32>, %v: tensor<5x4xf32>, %x: tensor<5x8xf32>) -> (tensor<?x4xf32>, tensor<5x8xf32>) {
  // CHECK-NOT: cf.assert
  %r = moe.route %w : tensor<?x4xf32>
  %k = moe.top_k %r by(%w : tensor<?x4xf32>) k(2) : !moe.routing<?x4xf32>
  %d = moe.to_dense %k : !moe.routing<?x4xf32, max_per_row = 2>
  %s = moe.route %v : tensor<5x4xf32>
  %y = moe.apply %s rows(%x) out(sum) : !moe.routing<5x4xf32>, tensor<5x8xf32> -> tensor<5x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return %d, %y : tensor<?x4xf32>, tensor<5x8xf32>
}

// -----

// The tokens of a routing that comes from elsewhere are counted; maps are checked at their largest index.
// CHECK-LABEL: func private @maps
// CHECK-SAME: (%[[R:.*]]: !moe.routing<?x4xf32>, %[[X:.*]]: tensor<?x8xf32>, %[[B:.*]]: tensor<?x8xf32>)
func.func private @maps(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>, %b: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: %[[COUNTS:.*]] = moe.counts %[[R]] per(row)
  // CHECK: %[[T:.*]] = tensor.dim %[[COUNTS]]
  // CHECK: %[[LAST:.*]] = arith.{{addi|subi}} %[[T]]
  // CHECK: %[[MOST:.*]] = arith.floordivsi %[[LAST]], %c2
  // CHECK: %[[N:.*]] = tensor.dim %[[X]]
  // CHECK: %[[OK:.*]] = arith.cmpi slt, %[[MOST]], %[[N]]
  // CHECK: cf.assert %[[OK]], "moe.apply: 'rows' operand 0 must be large enough for its map"
  // CHECK: %[[M:.*]] = tensor.dim %[[B]]
  // CHECK: %[[OKB:.*]] = arith.cmpi sgt, %[[M]], %c5
  // CHECK: cf.assert %[[OKB]], "moe.apply: 'experts' operand 0 must be large enough for its map"
  %y = moe.apply %r rows(%x by (t, e) -> (t floordiv 2)) experts(%b by (e) -> (e + 2)) out(sum)
      : !moe.routing<?x4xf32>, tensor<?x8xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>, %be: tensor<8xf32>):
    %o = linalg.map ins(%rows : tensor<?x8xf32>) outs(%rows : tensor<?x8xf32>) (%v: f32, %init: f32) {
      %c0 = arith.constant 0 : index
      %z = tensor.extract %be[%c0] : tensor<8xf32>
      %s = arith.addf %v, %z : f32
      linalg.yield %s : f32
    }
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// -----

// CHECK-LABEL: func @every_op
func.func @every_op(%w: tensor<?x4xf32>, %m: tensor<?x1xi1>, %i: tensor<?x2xi32>, %sw: tensor<?x2xf32>,
                    %key: tensor<?x4xf32>, %ks: tensor<?xi32>, %caps: tensor<?xindex>, %p: tensor<?x4x8xf32>)
    -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  // CHECK: cf.assert %{{.*}}, "moe.route: 'mask' must have one row per token of 'weights'"
  %r = moe.route %w mask(%m : tensor<?x1xi1>) : tensor<?x4xf32>
  // CHECK: cf.assert %{{.*}}, "moe.from_slots: 'indices' must have the shape of 'weights'"
  %s = moe.from_slots %i, %sw experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  // CHECK: cf.assert %{{.*}}, "moe.concat: 'inputs' must have the same number of tokens"
  %c = moe.concat %r, %s : !moe.routing<?x4xf32>, !moe.routing<?x4xf32, max_per_row = 2>
  %d = moe.to_dense %c : !moe.routing<?x8xf32, max_per_row = 6>
  // CHECK: cf.assert %{{.*}}, "moe.top_k: 'key' must have one row per token of the routing"
  // CHECK: cf.assert %{{.*}}, "moe.top_k: 'k' must have one element per token"
  %t = moe.top_k %r by(%key : tensor<?x4xf32>) k(%ks : tensor<?xi32>) : !moe.routing<?x4xf32>
  // CHECK: cf.assert %{{.*}}, "moe.limit: 'key' must have one row per token of the routing"
  // CHECK: cf.assert %{{.*}}, "moe.limit: 'cap' must have one element per expert"
  %l = moe.limit %t by(%key : tensor<?x4xf32>) cap(%caps : tensor<?xindex>) order(key) : !moe.routing<?x4xf32>
  // CHECK: cf.assert %{{.*}}, "moe.select: 'key' must have one row per token of the routing"
  %q = moe.select %l by(%key : tensor<?x4xf32>) {
  ^bb0(%k: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %true = arith.constant true
    moe.yield %true : i1
  } : !moe.routing<?x4xf32>
  // CHECK: cf.assert %{{.*}}, "moe.apply: 'pairs' operand 0 must have one row per token of the routing"
  %y = moe.apply %q pairs(%p) out(sum) : !moe.routing<?x4xf32>, tensor<?x4x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return %d, %y : tensor<?x8xf32>, tensor<?x8xf32>
}
