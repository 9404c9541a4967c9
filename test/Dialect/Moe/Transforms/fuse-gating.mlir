// What a router does becomes one loop over tokens, as far as rows are apart.
//
// RUN: moe-opt %s --moe-decompose-aggregates --moe-fuse-gating --canonicalize --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-decompose-aggregates --moe-fuse-gating=rows=4 --canonicalize --split-input-file | FileCheck %s --check-prefix=BLOCK
// RUN: moe-opt %s --moe-decompose-aggregates --moe-fuse-gating=products --canonicalize --split-input-file | FileCheck %s --check-prefix=PRODUCT
// RUN: moe-opt %s --moe-decompose-aggregates --moe-fuse-gating --split-input-file -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

// The logits are a product with a kernel of its own. Behind it, everything happens in the row of a token: the softmax, the
// choice, whose table of positions is gone, and the sum of what was chosen.
// CHECK-LABEL: func.func @softmax_then_top_k
// CHECK: %[[LOGITS:.*]] = linalg.matmul
// CHECK: %[[R:.*]]:2 = scf.forall (%[[T:.*]]) in (%{{.*}}) shared_outs(%[[OI:.*]] = %{{.*}}, %[[OW:.*]] = %{{.*}}) -> (tensor<?x2xi32>, tensor<?x2xf32>) {
// CHECK: %[[ROW:.*]] = tensor.extract_slice %[[LOGITS]][%[[T]], 0] [1, 6] [1, 1]
// CHECK: linalg.generic{{.*}}iterator_types = ["parallel", "reduction"]}{{.*}}ins(%[[ROW]] : tensor<1x6xf32>)
// CHECK: math.exp
// CHECK-NOT: linalg.index
// CHECK: scf.for %[[S:.*]] = %{{.*}} to %c6
// CHECK: arith.index_cast %[[S]] : index to i32
// CHECK: iterator_types = ["parallel", "reduction"]{{.*}}ins(%{{.*}} : tensor<1x2xf32>) outs(%{{.*}} : tensor<1xf32>)
// CHECK: %[[W:.*]] = linalg.generic{{.*}}ins(%{{.*}}, %{{.*}} : tensor<1x2xf32>, tensor<1xf32>)
// CHECK: %[[PLACE:.*]] = tensor.extract_slice %[[OW]][%[[T]], 0] [1, 2] [1, 1]
// CHECK: %[[COPY:.*]] = linalg.copy ins(%[[W]] : tensor<1x2xf32>) outs(%[[PLACE]] : tensor<1x2xf32>)
// CHECK: scf.forall.in_parallel
// CHECK: tensor.parallel_insert_slice %{{.*}} into %[[OI]][%[[T]], 0] [1, 2] [1, 1]
// CHECK: tensor.parallel_insert_slice %[[COPY]] into %[[OW]][%[[T]], 0] [1, 2] [1, 1]
// CHECK-NOT: scf.for
// CHECK: moe.plan %[[R]]#0
//
// Blocks of four tokens, of which the last may be smaller.
// BLOCK-LABEL: func.func @softmax_then_top_k
// BLOCK: scf.forall (%[[T:.*]]) = (0) to (%[[N:.*]]) step (4)
// BLOCK: %[[SIZE:.*]] = affine.min {{.*}}(%[[T]])[%[[N]]]
// BLOCK: tensor.extract_slice %{{.*}}[%[[T]], 0] [%[[SIZE]], 6] [1, 1]
// BLOCK: scf.for %{{.*}} = %c0 to %[[SIZE]]
// BLOCK: tensor.parallel_insert_slice %{{.*}}[%[[T]], 0] [%[[SIZE]], 2] [1, 1] : tensor<?x2xi32>
//
// PRODUCT-LABEL: func.func @softmax_then_top_k
// PRODUCT-NOT: linalg.matmul
// PRODUCT: scf.forall
// PRODUCT: linalg.matmul ins(%{{.*}} : tensor<1x5xf32>, tensor<5x6xf32>)
//
// REMARK: [Passed] FuseGating | Category:moe-fuse-gating | Function=softmax_then_top_k | Remark="one loop over tokens for 7 ops"
#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
func.func @softmax_then_top_k(%x: tensor<?x5xf32>, %wr: tensor<5x6xf32>) -> (tensor<7xindex>, tensor<?x2xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c6 = arith.constant 6 : index
  %none = arith.constant -1 : i32
  %i0 = arith.constant 0 : i32
  %zero = arith.constant 0.0 : f32
  %n = tensor.dim %x, %c0 : tensor<?x5xf32>
  %e = tensor.empty(%n) : tensor<?x6xf32>
  %z = linalg.fill ins(%zero : f32) outs(%e : tensor<?x6xf32>) -> tensor<?x6xf32>
  %logits = linalg.matmul ins(%x, %wr : tensor<?x5xf32>, tensor<5x6xf32>) outs(%z : tensor<?x6xf32>) -> tensor<?x6xf32>
  %p = linalg.softmax dimension(1) ins(%logits : tensor<?x6xf32>) outs(%e : tensor<?x6xf32>) -> tensor<?x6xf32>
  %te = tensor.empty(%n) : tensor<?x6xi32>
  %table = linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%te : tensor<?x6xi32>) {
  ^bb0(%out: i32):
    %j = linalg.index 1 : index
    %v = arith.index_cast %j : index to i32
    linalg.yield %v : i32
  } -> tensor<?x6xi32>
  %ie = tensor.empty(%n) : tensor<?x2xi32>
  %we = tensor.empty(%n) : tensor<?x2xf32>
  %i = linalg.fill ins(%none : i32) outs(%ie : tensor<?x2xi32>) -> tensor<?x2xi32>
  %w = linalg.fill ins(%zero : f32) outs(%we : tensor<?x2xf32>) -> tensor<?x2xf32>
  %r:2 = scf.for %t = %c0 to %n step %c1 iter_args(%ri = %i, %rw = %w) -> (tensor<?x2xi32>, tensor<?x2xf32>) {
    %k:2 = scf.for %s = %c0 to %c6 step %c1 iter_args(%ki = %ri, %kw = %rw) -> (tensor<?x2xi32>, tensor<?x2xf32>) {
      %number = tensor.extract %table[%t, %s] : tensor<?x6xi32>
      %key = tensor.extract %p[%t, %s] : tensor<?x6xf32>
      %best = tensor.extract %kw[%t, %c0] : tensor<?x2xf32>
      %better = arith.cmpf ogt, %key, %best : f32
      %next:2 = scf.if %better -> (tensor<?x2xi32>, tensor<?x2xf32>) {
        %a = tensor.insert %number into %ki[%t, %c0] : tensor<?x2xi32>
        %b = tensor.insert %key into %kw[%t, %c0] : tensor<?x2xf32>
        scf.yield %a, %b : tensor<?x2xi32>, tensor<?x2xf32>
      } else {
        scf.yield %ki, %kw : tensor<?x2xi32>, tensor<?x2xf32>
      }
      scf.yield %next#0, %next#1 : tensor<?x2xi32>, tensor<?x2xf32>
    }
    scf.yield %k#0, %k#1 : tensor<?x2xi32>, tensor<?x2xf32>
  }
  // Sizes of results lead back to where they were said.
  %m = tensor.dim %r#0, %c0 : tensor<?x2xi32>
  %se = tensor.empty(%m) : tensor<?xf32>
  %sz = linalg.fill ins(%zero : f32) outs(%se : tensor<?xf32>) -> tensor<?xf32>
  %sum = linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]}
      ins(%r#1 : tensor<?x2xf32>) outs(%sz : tensor<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.addf %in, %out : f32
    linalg.yield %v : f32
  } -> tensor<?xf32>
  %ne = tensor.empty(%m) : tensor<?x2xf32>
  %norm = linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%r#1, %sum : tensor<?x2xf32>, tensor<?xf32>) outs(%ne : tensor<?x2xf32>) {
  ^bb0(%in: f32, %s: f32, %out: f32):
    %v = arith.divf %in, %s : f32
    linalg.yield %v : f32
  } -> tensor<?x2xf32>
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %r#0 experts(6) : tensor<?x2xi32>
  return %offsets, %norm : tensor<7xindex>, tensor<?x2xf32>
}

// -----

// Groups of experts: a row is split into parts of two, and joined again. A static number of tokens.
// CHECK-LABEL: func.func @groups
// CHECK: scf.forall (%[[T:.*]]) in (3)
// CHECK: %[[ROW:.*]] = tensor.extract_slice %{{.*}}[%[[T]], 0] [1, 4] [1, 1] : tensor<3x4xf32> to tensor<1x4xf32>
// CHECK: tensor.expand_shape %{{.*}} {{\[\[}}0], [1, 2]] output_shape [1, 2, 2] : tensor<1x4xf32> into tensor<1x2x2xf32>
// CHECK: tensor.collapse_shape %{{.*}} {{\[\[}}0, 1], [2]] : tensor<1x2x2xf32> into tensor<2x2xf32>
// CHECK: scf.for {{.*}} = %c0 to %c2 {{.*}}iter_args({{.*}}) -> (tensor<2x1xf32>)
// CHECK: tensor.expand_shape %{{.*}} {{\[\[}}0, 1], [2]] output_shape [1, 2, 1] : tensor<2x1xf32> into tensor<1x2x1xf32>
// CHECK: linalg.generic
// CHECK: tensor.parallel_insert_slice %{{.*}}[%[[T]], 0, 0] [1, 2, 1] [1, 1, 1] : tensor<1x2x1xf32> into tensor<3x2x1xf32>
#id = affine_map<(d0, d1) -> (d0, d1)>
#id3 = affine_map<(d0, d1, d2) -> (d0, d1, d2)>
func.func @groups(%logits: tensor<3x4xf32>) -> tensor<3x2x1xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c6 = arith.constant 6 : index
  %e = tensor.empty() : tensor<3x4xf32>
  %p = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%logits : tensor<3x4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = math.tanh %in : f32
    linalg.yield %v : f32
  } -> tensor<3x4xf32>
  %parts = tensor.expand_shape %p [[0], [1, 2]] output_shape [3, 2, 2] : tensor<3x4xf32> into tensor<3x2x2xf32>
  %rows = tensor.collapse_shape %parts [[0, 1], [2]] : tensor<3x2x2xf32> into tensor<6x2xf32>
  %be = tensor.empty() : tensor<6x1xf32>
  %best = scf.for %g = %c0 to %c6 step %c1 iter_args(%o = %be) -> tensor<6x1xf32> {
    %a = tensor.extract %rows[%g, %c0] : tensor<6x2xf32>
    %b = tensor.extract %rows[%g, %c1] : tensor<6x2xf32>
    %m = arith.maximumf %a, %b : f32
    %r = tensor.insert %m into %o[%g, %c0] : tensor<6x1xf32>
    scf.yield %r : tensor<6x1xf32>
  }
  %groups = tensor.expand_shape %best [[0, 1], [2]] output_shape [3, 2, 1] : tensor<6x1xf32> into tensor<3x2x1xf32>
  %ge = tensor.empty() : tensor<3x2x1xf32>
  %twice = linalg.generic {indexing_maps = [#id3, #id3], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%groups : tensor<3x2x1xf32>) outs(%ge : tensor<3x2x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.addf %in, %in : f32
    linalg.yield %v : f32
  } -> tensor<3x2x1xf32>
  return %twice : tensor<3x2x1xf32>
}

// -----

// A capacity couples tokens, and so does the mean of a batch: what stands in front of them is fused, they are not, and
// nothing that needs their results is part of the first loop. The number of a token is the same inside.
// CHECK-LABEL: func.func @capacity
// CHECK: scf.forall (%[[T:.*]]) in
// CHECK: %[[NUMBER:.*]] = arith.index_cast %[[T]] : index to i32
// CHECK: scf.forall.in_parallel
// CHECK: scf.for {{.*}}iter_args({{.*}}) -> (tensor<?x1xi32>, tensor<4xindex>)
// CHECK: moe.plan
// REMARK: 'scf.for': it touches other rows of its results than its own
// REMARK: Function=capacity | Remark="one loop over tokens for 2 ops"
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @capacity(%scores: tensor<?x4xf32>) -> (tensor<5xindex>, tensor<?x1xi32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %none = arith.constant -1 : i32
  %n = tensor.dim %scores, %c0 : tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %p = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%scores : tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = math.tanh %in : f32
    linalg.yield %v : f32
  } -> tensor<?x4xf32>
  %ie = tensor.empty(%n) : tensor<?x1xi32>
  %choice = scf.for %t = %c0 to %n step %c1 iter_args(%o = %ie) -> tensor<?x1xi32> {
    %a = tensor.extract %p[%t, %c1] : tensor<?x4xf32>
    %b = arith.fptosi %a : f32 to i32
    %number = arith.index_cast %t : index to i32
    %v = arith.addi %b, %number : i32
    %r = tensor.insert %v into %o[%t, %c0] : tensor<?x1xi32>
    scf.yield %r : tensor<?x1xi32>
  }
  %counts = arith.constant dense<0> : tensor<4xindex>
  %limited:2 = scf.for %t = %c0 to %n step %c1 iter_args(%o = %choice, %taken = %counts) -> (tensor<?x1xi32>, tensor<4xindex>) {
    %expert = tensor.extract %choice[%t, %c0] : tensor<?x1xi32>
    %at = arith.index_cast %expert : i32 to index
    %before = tensor.extract %taken[%at] : tensor<4xindex>
    %room = arith.cmpi slt, %before, %c2 : index
    %v = arith.select %room, %expert, %none : i32
    %r = tensor.insert %v into %o[%t, %c0] : tensor<?x1xi32>
    %after = arith.addi %before, %c1 : index
    %c = tensor.insert %after into %taken[%at] : tensor<4xindex>
    scf.yield %r, %c : tensor<?x1xi32>, tensor<4xindex>
  }
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %limited#0 experts(4) : tensor<?x1xi32>
  return %offsets, %choice : tensor<5xindex>, tensor<?x1xi32>
}

// -----

// No op moves over a check of what it reads: two loops.
// CHECK-LABEL: func.func @check
// CHECK: scf.forall
// CHECK: linalg.generic{{.*}}iterator_types = ["reduction", "reduction"]
// CHECK: cf.assert
// CHECK: scf.forall
// REMARK: Function=check | Remark="one loop over tokens for 2 ops"
// REMARK: Function=check | Remark="the loop ends before 'scf.for'"
// REMARK: Function=check | Remark="one loop over tokens for 2 ops"
#id = affine_map<(d0, d1) -> (d0, d1)>
#none = affine_map<(d0, d1) -> ()>
func.func @check(%numbers: tensor<?x2xi64>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %one = arith.constant 1.0 : f32
  %zero = arith.constant 0.0 : f32
  %four = arith.constant 4 : i64
  %true = arith.constant true
  %n = tensor.dim %numbers, %c0 : tensor<?x2xi64>
  %e = tensor.empty(%n) : tensor<?x2xi64>
  %p = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%numbers : tensor<?x2xi64>) outs(%e : tensor<?x2xi64>) {
  ^bb0(%in: i64, %out: i64):
    %v = arith.addi %in, %in : i64
    linalg.yield %v : i64
  } -> tensor<?x2xi64>
  %q = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%p : tensor<?x2xi64>) outs(%e : tensor<?x2xi64>) {
  ^bb0(%in: i64, %out: i64):
    %v = arith.subi %in, %four : i64
    linalg.yield %v : i64
  } -> tensor<?x2xi64>
  %be = tensor.empty() : tensor<i1>
  %bt = linalg.fill ins(%true : i1) outs(%be : tensor<i1>) -> tensor<i1>
  %inside = linalg.generic {indexing_maps = [#id, #none], iterator_types = ["reduction", "reduction"]}
      ins(%q : tensor<?x2xi64>) outs(%bt : tensor<i1>) {
  ^bb0(%in: i64, %out: i1):
    %v = arith.cmpi ult, %in, %four : i64
    %w = arith.andi %v, %out : i1
    linalg.yield %w : i1
  } -> tensor<i1>
  %ok = tensor.extract %inside[] : tensor<i1>
  cf.assert %ok, "an index is out of bounds"
  %fe = tensor.empty(%n) : tensor<?x4xf32>
  %f = linalg.fill ins(%zero : f32) outs(%fe : tensor<?x4xf32>) -> tensor<?x4xf32>
  %hot = scf.for %t = %c0 to %n step %c1 iter_args(%o = %f) -> tensor<?x4xf32> {
    %i = tensor.extract %q[%t, %c0] : tensor<?x2xi64>
    %at = arith.index_cast %i : i64 to index
    %r = tensor.insert %one into %o[%t, %at] : tensor<?x4xf32>
    scf.yield %r : tensor<?x4xf32>
  }
  %s = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%hot : tensor<?x4xf32>) outs(%fe : tensor<?x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.addf %in, %in : f32
    linalg.yield %v : f32
  } -> tensor<?x4xf32>
  return %s : tensor<?x4xf32>
}

// -----

// Not rows of their own: the loop reads the row before.
// CHECK-LABEL: func.func @recurrence
// CHECK-NOT: scf.forall
// REMARK: Function=recurrence | Remark="outside of the loop over tokens: 'scf.for': it touches other rows of its results than its own"
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @recurrence(%x: tensor<?x2xi32>) -> tensor<3xindex> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %x, %c0 : tensor<?x2xi32>
  %r = scf.for %t = %c0 to %n step %c1 iter_args(%o = %x) -> tensor<?x2xi32> {
    %before = arith.maxsi %t, %c1 : index
    %u = arith.subi %before, %c1 : index
    %v = tensor.extract %o[%u, %c0] : tensor<?x2xi32>
    %w = tensor.insert %v into %o[%t, %c1] : tensor<?x2xi32>
    scf.yield %w : tensor<?x2xi32>
  }
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %r experts(2) : tensor<?x2xi32>
  return %offsets : tensor<3xindex>
}
