// RUN: moe-opt %s --moe-eliminate-dead-experts --canonicalize --cse --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-eliminate-dead-experts --split-input-file --moe-statistics 2>&1 >/dev/null | FileCheck %s --check-prefix=STATS
// RUN: moe-opt %s --moe-eliminate-dead-experts --split-input-file -o %t --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

// STATS-DAG: 5 moe-eliminate-dead-experts - experts removed from routings
// STATS-DAG: 2 moe-eliminate-dead-experts - routings with excluded experts that could not shrink
// REMARK: [Passed] DeadExpertsEliminated{{.*}}2 of 4 experts eliminated
// REMARK: [Passed] DeadExpertsEliminated{{.*}}3 of 6 experts eliminated
// REMARK: [Missed] DeadExpertsKept{{.*}}experts that the mask excludes stay because of 'moe.to_slots': the number of experts shows in it
// REMARK: [Missed] DeadExpertsKept{{.*}}experts that the mask excludes stay because of 'moe.top_k': its groups are cut from all experts

// Experts 0 and 3 can never be chosen: their columns and parts are not read any more.
// CHECK-LABEL: func @middle
// CHECK-SAME: (%[[P:.*]]: tensor<?x4xf32>, %[[X:.*]]: tensor<?x8xf32>, %[[W:.*]]: tensor<4x8x6xf32>
func.func @middle(%p: tensor<?x4xf32>, %x: tensor<?x8xf32>, %w: tensor<4x8x6xf32>) -> tensor<?x6xf32> {
  // CHECK: %[[COLUMNS:.*]] = tensor.extract_slice %[[P]][0, 1] [%{{.*}}, 2] [1, 1] : tensor<?x4xf32> to tensor<?x2xf32>
  // CHECK: %[[R:.*]] = moe.route %[[COLUMNS]] : tensor<?x2xf32>
  // CHECK: %[[K:.*]] = moe.top_k %[[R]] k(1) : !moe.routing<?x2xf32>
  // CHECK: %[[N:.*]] = moe.normalize %[[K]] by(sum)
  // CHECK: %[[PART:.*]] = tensor.extract_slice %[[W]][1, 0, 0] [2, 8, 6] [1, 1, 1] : tensor<4x8x6xf32> to tensor<2x8x6xf32>
  // CHECK: moe.apply %[[N]] rows(%[[X]]) experts(%[[PART]]) weighted(after) out(sum) : !moe.routing<?x2xf32, max_per_row = 1>, tensor<?x8xf32>, tensor<2x8x6xf32> -> tensor<?x6xf32>
  %mask = arith.constant dense<[false, true, true, false]> : tensor<4xi1>
  %r = moe.route %p mask(%mask : tensor<4xi1>) : tensor<?x4xf32>
  %k = moe.top_k %r k(1) : !moe.routing<?x4xf32>
  %n = moe.normalize %k by(sum) : !moe.routing<?x4xf32, max_per_row = 1>
  %y = moe.apply %n rows(%x) experts(%w) weighted(after) out(sum)
      : !moe.routing<?x4xf32, max_per_row = 1>, tensor<?x8xf32>, tensor<4x8x6xf32> -> tensor<?x6xf32> {
  ^bb0(%rows: tensor<?x8xf32>, %we: tensor<8x6xf32>):
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %m = tensor.dim %rows, %c0 : tensor<?x8xf32>
    %i = tensor.splat %zero[%m] : tensor<?x6xf32>
    %o = linalg.matmul ins(%rows, %we : tensor<?x8xf32>, tensor<8x6xf32>) outs(%i : tensor<?x6xf32>) -> tensor<?x6xf32>
    moe.yield %o : tensor<?x6xf32>
  }
  return %y : tensor<?x6xf32>
}

// -----

// All kinds of operands: experts 2 to 4 of 6 stay, 3 of them masked; body 0 has no expert left.
// CHECK-LABEL: func @everything
// CHECK-SAME: (%[[P:[a-z0-9]*]]: tensor<?x6xf32>, %[[KEY:[a-z0-9]*]]: tensor<?x6xf32>, %[[CAP:[a-z0-9]*]]: tensor<6xindex>, %[[X:[a-z0-9]*]]: tensor<?x6x8xf32>, %[[A:[a-z0-9]*]]: tensor<12x8xf32>, %[[B:[a-z0-9]*]]: tensor<7x9xf32>, %[[C:[a-z0-9]*]]: tensor<4x8xf32>, %[[D:[a-z0-9]*]]: tensor<2x8xf32>, %[[Q:[a-z0-9]*]]: tensor<?x6x8xf32>)
func.func @everything(%p: tensor<?x6xf32>, %key: tensor<?x6xf32>, %cap: tensor<6xindex>, %x: tensor<?x6x8xf32>,
                      %a: tensor<12x8xf32>, %b: tensor<7x9xf32>, %c: tensor<4x8xf32>, %d: tensor<2x8xf32>,
                      %q: tensor<?x6x8xf32>) -> tensor<?x8xf32> {
  // CHECK-DAG: %[[MASK:.*]] = arith.constant dense<[true, false, true]> : tensor<3xi1>
  // CHECK-DAG: %[[C2:.*]] = arith.constant 2 : index
  // CHECK: moe.route %{{.*}} mask(%[[MASK]] : tensor<3xi1>) : tensor<?x3xf32>
  // CHECK: %[[KEYS:.*]] = tensor.extract_slice %[[KEY]][0, 2] [%{{.*}}, 3] [1, 1]
  // CHECK: moe.top_k %{{.*}} by(%[[KEYS]] : tensor<?x3xf32>) k(2)
  // CHECK: %[[CAPS:.*]] = tensor.extract_slice %[[CAP]][2] [3] [1]
  // CHECK: moe.limit %{{.*}} cap(%[[CAPS]] : tensor<3xindex>)
  // CHECK: moe.select
  // CHECK: ^bb0(%{{.*}}: f32, %{{.*}}: index, %{{.*}}: f32, %{{.*}}: index, %[[E:.*]]: index):
  // CHECK: %[[OLD:.*]] = arith.addi %[[E]], %[[C2]]
  // CHECK: arith.cmpi ult, %[[OLD]]
  // CHECK-DAG: %[[AS:.*]] = tensor.extract_slice %[[A]][4, 0] [6, 8] [1, 1]
  // CHECK-DAG: %[[CS:.*]] = tensor.extract_slice %[[C]][0, 0] [3, 8] [1, 1]
  // CHECK-DAG: %[[QS:.*]] = tensor.extract_slice %[[Q]][0, 2, 0]
  // CHECK: moe.apply %{{.*}} rows(%[[X]] by (d0, d1) -> (d0, d1 + 2)) experts(%[[AS]] along 0 split(2), %[[B]] along 1 ragged([2, 4, 5, 8]), %[[CS]] case(0)) pairs(%[[QS]]) cases([0, 0, 0]) index(expert)
  // CHECK: ^bb0(%{{.*}}, %[[BE:.*]]: index):
  // CHECK: arith.addi %[[BE]], %[[C2]]
  // CHECK-NOT: }, {
  %mask = arith.constant dense<[false, false, true, false, true, false]> : tensor<6xi1>
  %r = moe.route %p mask(%mask : tensor<6xi1>) : tensor<?x6xf32>
  %k = moe.top_k %r by(%key : tensor<?x6xf32>) k(2) : !moe.routing<?x6xf32>
  %l = moe.limit %k cap(%cap : tensor<6xindex>) : !moe.routing<?x6xf32, max_per_row = 2>
  %s = moe.select %l {
  ^bb0(%v: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %c4 = arith.constant 4 : index
    %in = arith.cmpi ult, %expert, %c4 : index
    moe.yield %in : i1
  } : !moe.routing<?x6xf32, max_per_row = 2>
  %y = moe.apply %s rows(%x by (t, e) -> (t, e))
      experts(%a along 0 split(2), %b along 1 ragged([0, 1, 2, 4, 5, 8, 9]), %c case(1), %d case(0)) pairs(%q)
      cases([0, 0, 1, 1, 1, 1]) index(expert) out(sum)
      : !moe.routing<?x6xf32, max_per_row = 2>, tensor<?x6x8xf32>, tensor<12x8xf32>, tensor<7x9xf32>, tensor<4x8xf32>,
        tensor<2x8xf32>, tensor<?x6x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>, %ae: tensor<2x8xf32>, %be: tensor<7x?xf32>, %de: tensor<8xf32>, %qe: tensor<?x8xf32>, %e: index):
    moe.yield %rows : tensor<?x8xf32>
  }, {
  ^bb0(%rows: tensor<?x8xf32>, %ae: tensor<2x8xf32>, %be: tensor<7x?xf32>, %ce: tensor<8xf32>, %qe: tensor<?x8xf32>, %e: index):
    %c0 = arith.constant 0 : index
    %n = tensor.dim %be, %c0 : tensor<7x?xf32>
    %o = linalg.map ins(%rows, %qe : tensor<?x8xf32>, tensor<?x8xf32>) outs(%rows : tensor<?x8xf32>) (%v: f32, %u: f32, %init: f32) {
      %f = tensor.extract %ae[%c0, %c0] : tensor<2x8xf32>
      %g = tensor.extract %be[%c0, %c0] : tensor<7x?xf32>
      %h = tensor.extract %ce[%e] : tensor<8xf32>
      %0 = arith.addf %v, %f : f32
      %1 = arith.addf %0, %g : f32
      %2 = arith.addf %1, %h : f32
      %3 = arith.addf %2, %u : f32
      linalg.yield %3 : f32
    }
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// -----

// The numbers of the experts leave the program: nothing changes.
// CHECK-LABEL: func @numbers_show
func.func @numbers_show(%p: tensor<?x4xf32>) -> (tensor<?x1xi32>, tensor<?x1xi32>) {
  // CHECK: moe.route %{{.*}} mask(%{{.*}} : tensor<4xi1>) : tensor<?x4xf32>
  %mask = arith.constant dense<[false, true, true, false]> : tensor<4xi1>
  %r = moe.route %p mask(%mask : tensor<4xi1>) : tensor<?x4xf32>
  %k = moe.top_k %r k(1) : !moe.routing<?x4xf32>
  %i, %w = moe.to_slots %k : !moe.routing<?x4xf32, max_per_row = 1>
  // No expert is excluded here, and here nothing is left.
  %all = arith.constant dense<true> : tensor<4xi1>
  %none = arith.constant dense<false> : tensor<4xi1>
  %r2 = moe.route %p mask(%all : tensor<4xi1>) : tensor<?x4xf32>
  %r3 = moe.route %p mask(%none : tensor<4xi1>) : tensor<?x4xf32>
  %c2 = moe.counts %r2 per(row) : !moe.routing<?x4xf32>
  %c3 = moe.counts %r3 per(row) : !moe.routing<?x4xf32>
  %e = tensor.empty() : tensor<0xi32>
  return %i, %i : tensor<?x1xi32>, tensor<?x1xi32>
}

// -----

// CHECK-LABEL: func @groups
func.func @groups(%p: tensor<?x4xf32>) -> tensor<?xi32> {
  // CHECK: moe.top_k %{{.*}} k(1) groups(2) : !moe.routing<?x4xf32>
  %mask = arith.constant dense<[false, true, true, false]> : tensor<4xi1>
  %r = moe.route %p mask(%mask : tensor<4xi1>) : tensor<?x4xf32>
  %k = moe.top_k %r k(1) groups(2) : !moe.routing<?x4xf32>
  %c = moe.counts %k per(row) : !moe.routing<?x4xf32, max_per_row = 2>
  return %c : tensor<?xi32>
}
