// RUN: moe-opt %s --moe-fold-capacities --moe-statistics 2>%t.stats | FileCheck %s
// RUN: FileCheck %s --check-prefix=STATS --input-file=%t.stats
// RUN: moe-opt %s --moe-fold-capacities -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

// STATS-DAG: 3 moe-fold-capacities - capacities that became attributes
// STATS-DAG: 2 moe-fold-capacities - capacities that no expert can reach
// STATS-DAG: 1 moe-fold-capacities - capacities that joined the one before
// STATS-DAG: 3 moe-fold-capacities - capacities that are computed at run time

!r = !moe.routing<?x4xf32>

// REMARK: Function=constant | Remark="the capacity is 7"
// CHECK-LABEL: func private @constant
// CHECK: %[[L:.*]] = moe.limit %{{.*}} cap(7)
// CHECK: moe.cast %[[L]] : !moe.routing<?x4xf32, max_per_expert = 7> to !moe.routing<?x4xf32>
func.func private @constant(%r: !r) -> !r {
  %c7 = arith.constant 7 : index
  %l = moe.limit %r cap(%c7 : index) : !r
  return %l : !r
}

// ceil(12 tokens * 1.25 / 4 experts) of a static size.
// REMARK: Function=static_size | Remark="the capacity is 6"
// CHECK-LABEL: func private @static_size
// CHECK: moe.top_k %{{.*}} k(6) axis(token)
func.func private @static_size(%w: tensor<12x4xf32>) -> !moe.routing<12x4xf32> {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %t = tensor.dim %w, %c0 : tensor<12x4xf32>
  %cap = arith.divsi %t, %c2 : index
  %all = moe.route %w : tensor<12x4xf32>
  %k = moe.top_k %all k(%cap : index) axis(token) : !moe.routing<12x4xf32>
  return %k : !moe.routing<12x4xf32>
}

// An expert has at most one pair per token.
// REMARK: Function=out_of_reach | Remark="the capacity is out of reach: no expert can have more pairs"
// CHECK-LABEL: func private @out_of_reach
// CHECK-NOT: moe.limit
// CHECK: return
func.func private @out_of_reach(%w: tensor<?x4xf32>) -> !r {
  %c0 = arith.constant 0 : index
  %c3 = arith.constant 3 : index
  %t = tensor.dim %w, %c0 : tensor<?x4xf32>
  %cap = arith.addi %t, %c3 : index
  %all = moe.route %w : tensor<?x4xf32>
  %l = moe.limit %all cap(%cap : index) : !r
  return %l : !r
}

// One capacity per expert, none of which 5 tokens can reach.
// CHECK-LABEL: func private @tensor_out_of_reach
// CHECK-NOT: moe.limit
// CHECK: return
func.func private @tensor_out_of_reach(%w: tensor<5x4xf32>) -> !moe.routing<5x4xf32> {
  %caps = arith.constant dense<[5, 9, 7, 6]> : tensor<4xi32>
  %all = moe.route %w : tensor<5x4xf32>
  %l = moe.limit %all cap(%caps : tensor<4xi32>) : !moe.routing<5x4xf32>
  return %l : !moe.routing<5x4xf32>
}

// An expert may stand in a row twice: as many as there are tokens do not suffice.
// REMARK: Function=twice | Remark="the capacity is computed at run time"
// CHECK-LABEL: func private @twice
// CHECK: moe.limit
func.func private @twice(%i: tensor<?x2xi32>, %w: tensor<?x2xf32>) -> !moe.routing<?x4xf32, max_per_row = 2> {
  %c0 = arith.constant 0 : index
  %t = tensor.dim %w, %c0 : tensor<?x2xf32>
  %all = moe.from_slots %i, %w experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %l = moe.limit %all cap(%t : index) : !moe.routing<?x4xf32, max_per_row = 2>
  return %l : !moe.routing<?x4xf32, max_per_row = 2>
}

// Fewer than the tokens.
// REMARK: Function=in_reach | Remark="the capacity is computed at run time"
// CHECK-LABEL: func private @in_reach
// CHECK: moe.limit
func.func private @in_reach(%w: tensor<?x4xf32>) -> !r {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %t = tensor.dim %w, %c0 : tensor<?x4xf32>
  %cap = arith.divsi %t, %c2 : index
  %all = moe.route %w : tensor<?x4xf32>
  %l = moe.limit %all cap(%cap : index) : !r
  return %l : !r
}

// The first five of the first three are three.
// REMARK: Function=merged | Remark="joins the capacity before"
// CHECK-LABEL: func private @merged
// CHECK-COUNT-1: moe.limit %{{.*}} cap(3)
// CHECK-NOT: moe.limit
// CHECK: return
func.func private @merged(%r: !r) -> !moe.routing<?x4xf32, max_per_expert = 3> {
  %a = moe.limit %r cap(5) : !r
  %b = moe.limit %a cap(3) : !moe.routing<?x4xf32, max_per_expert = 5>
  return %b : !moe.routing<?x4xf32, max_per_expert = 3>
}

// Ranks move up where a pair was dropped: the second limit sees another order.
// CHECK-LABEL: func private @ranks
// CHECK-COUNT-2: moe.limit
func.func private @ranks(%r: !r) -> !moe.routing<?x4xf32, max_per_expert = 3> {
  %a = moe.limit %r cap(5) order(rank_then_row) : !r
  %b = moe.limit %a cap(3) order(rank_then_row) : !moe.routing<?x4xf32, max_per_expert = 5>
  return %b : !moe.routing<?x4xf32, max_per_expert = 3>
}

// A negative capacity is none at all.
// CHECK-LABEL: func private @negative
// CHECK: moe.limit %{{.*}} cap(0)
func.func private @negative(%r: !r) -> !r {
  %c = arith.constant -3 : index
  %l = moe.limit %r cap(%c : index) : !r
  return %l : !r
}

// CHECK-LABEL: func private @argument
// CHECK: moe.limit %{{.*}} cap(%
func.func private @argument(%r: !r, %cap: index) -> !r {
  %l = moe.limit %r cap(%cap : index) : !r
  return %l : !r
}
