// RUN: moe-opt %s --moe-share-supports --moe-statistics 2>%t.stats | FileCheck %s
// RUN: FileCheck %s --check-prefix=STATS --input-file=%t.stats
// RUN: moe-opt %s --moe-share-supports --moe-lower-apply --convert-moe-to-planned --canonicalize --cse | FileCheck %s --check-prefix=PLAN
// RUN: moe-opt %s --moe-share-supports -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

// STATS-DAG: 4 moe-share-supports - applies that take the plan of an earlier one
// STATS-DAG: 6 moe-share-supports - applies with a plan of their own

!x = tensor<?x8xf32>
!w = tensor<?x4xf32>
!all = !moe.routing<?x4xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// Two choices by one key, of routings with other weights.
// REMARK: Function=same_key | Remark="has a plan of its own: it is the first"
// REMARK: Function=same_key | Remark="takes the plan of an earlier apply"
// CHECK-LABEL: func @same_key
// CHECK: %[[A:.*]] = moe.top_k %{{.*}} by(%{{.*}}) k(2)
// CHECK: %[[B:.*]] = moe.top_k %{{.*}} by(%{{.*}}) k(2)
// CHECK: moe.apply %[[A]]
// CHECK: %[[I:.*]], %{{.*}} = moe.to_slots %[[A]]
// CHECK: %{{.*}}, %[[W:.*]] = moe.to_slots %[[B]]
// CHECK: %[[C:.*]] = moe.from_slots %[[I]], %[[W]] experts(4)
// CHECK: moe.apply %[[C]]
// PLAN-LABEL: func @same_key
// PLAN-COUNT-1: moe.plan
// PLAN-NOT: moe.plan
// PLAN: return
func.func @same_key(%v: !w, %u: !w, %key: !w, %x: !x) -> (!x, !x) {
  %c0 = arith.constant 0 : index
  %one = arith.constant 1.0 : f32
  %sums = arith.addf %v, %u : !w
  %vs = moe.route %v : !w
  %us = moe.route %sums : !w
  %n = moe.normalize %us by(softmax) : !all
  %a = moe.top_k %vs by(%key : !w) k(2) : !all
  %b = moe.top_k %n by(%key : !w) k(2) : !all
  %y = moe.apply %a rows(%x) weighted(after) out(sum) : !r, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  %z = moe.apply %b rows(%x) weighted(after) out(sum) : !r, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  return %y, %z : !x, !x
}

// The weights are the keys: the choices are others.
// REMARK: Function=other_keys | Remark="has a plan of its own: it is the first"
// REMARK: Function=other_keys | Remark="has a plan of its own: the rows choose by something else"
// CHECK-LABEL: func @other_keys
// CHECK-NOT: moe.to_slots
// CHECK: return
// PLAN-LABEL: func @other_keys
// PLAN-COUNT-2: moe.plan
// PLAN: return
func.func @other_keys(%v: !w, %u: !w, %x: !x) -> (!x, !x) {
  %vs = moe.route %v : !w
  %us = moe.route %u : !w
  %a = moe.top_k %vs k(2) : !all
  %b = moe.top_k %us k(2) : !all
  %y = moe.apply %a rows(%x) weighted(after) out(sum) : !r, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  %z = moe.apply %b rows(%x) weighted(after) out(sum) : !r, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  return %y, %z : !x, !x
}

// The same numbers in the slots, and the same limit by row.
// REMARK: Function=same_numbers | Remark="takes the plan of an earlier apply"
// CHECK-LABEL: func @same_numbers
// CHECK-COUNT-2: moe.limit
// CHECK: moe.apply
// CHECK: moe.from_slots
// CHECK: moe.apply
// PLAN-LABEL: func @same_numbers
// PLAN-COUNT-1: moe.plan
// PLAN-NOT: moe.plan
// PLAN: return
func.func @same_numbers(%i: tensor<?x2xi32>, %v: tensor<?x2xf32>, %u: tensor<?x2xf32>, %x: !x) -> (!x, !x) {
  %a = moe.from_slots %i, %v experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %b = moe.from_slots %i, %u experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %la = moe.limit %a cap(3) : !r
  %lb = moe.limit %b cap(3) : !r
  %y = moe.apply %la rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2, max_per_expert = 3>, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  %z = moe.apply %lb rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2, max_per_expert = 3>, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  return %y, %z : !x, !x
}

// One choice, with its own weights and with normalised ones: nothing has to be done.
// REMARK: Function=one_choice | Remark="takes the plan of an earlier apply"
// CHECK-LABEL: func @one_choice
// CHECK-NOT: moe.to_slots
// CHECK: return
func.func @one_choice(%v: !w, %x: !x) -> (!x, !x) {
  %vs = moe.route %v : !w
  %a = moe.top_k %vs k(2) : !all
  %b = moe.normalize %a by(sum) : !r
  %y = moe.apply %a rows(%x) weighted(after) out(sum) : !r, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  %z = moe.apply %b rows(%x) weighted(after) out(sum) : !r, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  return %y, %z : !x, !x
}

// A mask decides; the weights are of tensors with as many rows.
// REMARK: Function=same_mask | Remark="takes the plan of an earlier apply"
// PLAN-LABEL: func @same_mask
// PLAN-COUNT-1: moe.plan
// PLAN-NOT: moe.plan
// PLAN: return
func.func @same_mask(%v: !w, %m: tensor<?x4xi1>, %x: !x) -> (!x, !x) {
  %e = math.exp %v : !w
  %a = moe.route %v mask(%m : tensor<?x4xi1>) : !w
  %b = moe.route %e mask(%m : tensor<?x4xi1>) : !w
  %y = moe.apply %a rows(%x) weighted(after) out(sum) : !all, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  %z = moe.apply %b rows(%x) weighted(after) out(sum) : !all, !x -> !x {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  return %y, %z : !x, !x
}
