// RUN: moe-opt %s --moe-normalize-bodies --canonicalize --moe-choose-lowering --moe-lower-apply --canonicalize --cse --split-input-file | FileCheck %s

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// Each body runs once, on the pairs of its experts: a slice of the sorted pairs. The copying expert moves rows.
// CHECK-LABEL: func private @cases
// CHECK: %[[OFFSETS:[a-z_]+]], %[[ROWS:.*]], %{{.*}}, %{{.*}}, %{{.*}} = moe.plan %{{.*}} experts(4)
// CHECK-NOT: scf.for
// CHECK: %[[FFN:.*]] = tensor.extract_slice %[[ROWS]][%{{.*}}] [%[[N:.*]]] [1]
// CHECK: moe.grouped_matmul %{{.*}} rows(%[[FFN]] : tensor<?xindex>) offsets(%{{.*}} : tensor<4xindex>) banks(%{{.*}} : tensor<3x8x8xf32>)
// CHECK: tensor.insert_slice
// CHECK: %[[COPY:.*]] = tensor.extract_slice %[[ROWS]]
// CHECK: linalg.generic {{.*}} ins(%[[COPY]], %{{.*}} : tensor<?xindex>, tensor<?xindex>)
// CHECK: %[[ALL:.*]] = tensor.insert_slice
// CHECK: moe.combine(sum) %[[ALL]]
func.func private @cases(%r: !r, %x: !x, %w: tensor<3x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w case(0)) cases([0, 0, 0, 1]) weighted(after) out(sum)
      : !r, !x, tensor<3x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %o = linalg.matmul ins(%rows, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    moe.yield %o : !x
  }, {
  ^bb0(%rows: !x):
    moe.yield %rows : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// Codes are decoded once per expert that has rows, in front of the grouped matmul; the scale, which depends on the expert's
// number, becomes a vector over the experts that the epilogue reads.
// CHECK-LABEL: func private @decoded
// CHECK: %[[OFFSETS:[a-z_]+]], %{{.*}} = moe.plan
// CHECK: %[[DECODED:.*]]:2 = scf.for %[[E:.*]] = %c0 to %c4
// CHECK:   %[[FROM:.*]] = tensor.extract %[[OFFSETS]][%[[E]]]
// CHECK:   %[[HAS:.*]] = arith.cmpi slt, %[[FROM]]
// CHECK:   scf.if %[[HAS]]
// CHECK:     arith.sitofp
// CHECK:     tensor.insert_slice
// CHECK-NOT: scf.for
// CHECK: moe.grouped_matmul %{{.*}} banks(%[[DECODED]]#{{[01]}} : tensor<4x8x8xf32>) extras(%[[DECODED]]#{{[01]}} : tensor<4xf32>)
// CHECK-NOT: scf.for
// CHECK: moe.combine
func.func private @decoded(%r: !r, %x: !x, %codes: tensor<4x8x8xi8>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%codes) index(expert) weighted(after) out(sum) : !r, !x, tensor<4x8x8xi8> -> !x {
  ^bb0(%rows: !x, %c: tensor<8x8xi8>, %e: index):
    %w = arith.sitofp %c : tensor<8x8xi8> to tensor<8x8xf32>
    %ei = arith.index_cast %e : index to i32
    %scale = arith.sitofp %ei : i32 to f32
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %s = tensor.splat %scale[%n] : !x
    %p = linalg.matmul ins(%rows, %w : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    %o = arith.mulf %p, %s : !x
    moe.yield %o : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!w = tensor<8x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// Rows that see each other do so in a loop over the experts; the projections in front of it and behind are grouped matmuls.
// CHECK-LABEL: func private @coupled_middle
// CHECK: moe.plan
// CHECK: %[[V:.*]] = moe.grouped_matmul
// CHECK: %[[MIXED:.*]] = scf.for
// CHECK:   scf.if
// CHECK:     tensor.extract_slice %[[V]]
// CHECK:     linalg.reduce
// CHECK:     tensor.insert_slice
// CHECK: moe.grouped_matmul %[[MIXED]]
// CHECK-NOT: scf.for
// CHECK: moe.combine
func.func private @coupled_middle(%r: !r, %x: !x, %w: tensor<4x8x8xf32>, %u: tensor<4x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w, %u) out(sum) : !r, !x, tensor<4x8x8xf32>, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: !w, %ue: !w):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %z8 = tensor.splat %zero : tensor<8xf32>
    %v = linalg.matmul ins(%rows, %we : !x, !w) outs(%z : !x) -> !x
    %s = linalg.reduce {arith.addf} ins(%v : !x) outs(%z8 : tensor<8xf32>) dimensions = [0]
    %m = linalg.broadcast ins(%s : tensor<8xf32>) outs(%z : !x) dimensions = [0]
    %o = linalg.matmul ins(%m, %ue : !x, !w) outs(%z : !x) -> !x
    moe.yield %o : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>

// A row that reads itself at computed columns is a row of its own; a slice of a bank is read where it lies.
// CHECK-LABEL: func private @own_row
// CHECK-SAME: %[[W:[a-z0-9]+]]: tensor<4x8x16xf32>
// CHECK-NOT: scf.for
// CHECK: %[[HALF:.*]] = tensor.extract_slice %[[W]][0, 0, 8] [4, 8, 8] [1, 1, 1]
// CHECK: %[[V:.*]] = moe.grouped_matmul %{{.*}} banks(%[[HALF]] : tensor<4x8x8xf32>)
// CHECK: linalg.generic
// CHECK:   tensor.extract %[[V]]
// CHECK-NOT: scf.for
// CHECK: moe.combine
func.func private @own_row(%r: !r, %x: !x, %w: tensor<4x8x16xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %c4 = arith.constant 4 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) out(sum) : !r, !x, tensor<4x8x16xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x16xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %half = tensor.extract_slice %we[0, 8] [8, 8] [1, 1] : tensor<8x16xf32> to tensor<8x8xf32>
    %v = linalg.matmul ins(%rows, %half : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    %o = linalg.map ins(%v : !x) outs(%z : !x) (%own: f32, %init: f32) {
      %i = linalg.index 0 : index
      %j = linalg.index 1 : index
      %partner = arith.xori %j, %c4 : index
      %other = tensor.extract %v[%i, %partner] : !x
      %sum = arith.addf %own, %other : f32
      linalg.yield %sum : f32
    }
    moe.yield %o : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>
!own = !moe.routing<?x8xf32>

// A routing inside of a body that treats its rows one by one (which inputs of a row matter): it is made once, for all pairs.
// CHECK-LABEL: func private @routing_inside
// CHECK-NOT: scf.for
// CHECK: moe.top_k
// CHECK: moe.to_dense
// CHECK: moe.grouped_matmul
// CHECK-NOT: scf.for
// CHECK: return
func.func private @routing_inside(%r: !r, %x: !x, %w: tensor<4x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %all = moe.route %rows : !x
    %best = moe.top_k %all k(3) : !own
    %kept = moe.to_dense %best : !moe.routing<?x8xf32, max_per_row = 3>
    %o = linalg.matmul ins(%kept, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    moe.yield %o : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x8xf32>
!r = !moe.routing<?x4xf32, max_per_row = 2>
!own = !moe.routing<?x8xf32>

// The best rows of each input among those of the expert: the rows of an expert are needed together.
// CHECK-LABEL: func private @routing_of_rows
// CHECK: scf.for
// CHECK: moe.top_k {{.*}} axis(token)
func.func private @routing_of_rows(%r: !r, %x: !x, %w: tensor<4x8x8xf32>) -> !x {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : !r, !x, tensor<4x8x8xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<8x8xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %z = tensor.splat %zero[%n] : !x
    %all = moe.route %rows : !x
    %best = moe.top_k %all k(3) axis(token) : !own
    %kept = moe.to_dense %best : !moe.routing<?x8xf32, max_per_expert = 3>
    %o = linalg.matmul ins(%kept, %we : !x, tensor<8x8xf32>) outs(%z : !x) -> !x
    moe.yield %o : !x
  }
  return %y : !x
}
