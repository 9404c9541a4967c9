// RUN: moe-opt %s --moe-hoist-routers --moe-statistics 2>%t.stats | FileCheck %s
// RUN: FileCheck %s --check-prefix=STATS --input-file=%t.stats
// RUN: moe-opt %s --moe-hoist-routers -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: moe-opt %s --loop-invariant-code-motion | FileCheck %s --check-prefix=UPSTREAM

// STATS-DAG: 7 moe-hoist-routers - ops on routings that left a loop
// STATS-DAG: 12 moe-hoist-routers - ops that left a loop with them or for them
// STATS-DAG: 2 moe-hoist-routers - makers of routings that stay in a loop

// A router that does not depend on the loop leaves it; what depends on the loop stays.
// CHECK-LABEL: func @invariant
// CHECK: moe.route
// CHECK-NEXT: moe.top_k
// CHECK-NEXT: moe.map
// CHECK: scf.for
// CHECK: moe.apply
// CHECK: scf.yield
func.func @invariant(%w: tensor<?x4xf32>, %x: tensor<?x8xf32>, %n: index, %f: f32) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> (tensor<?x8xf32>) {
    %r = moe.route %w : tensor<?x4xf32>
    %k = moe.top_k %r k(2) : !moe.routing<?x4xf32>
    %s = moe.map %k {
    ^bb0(%v: f32, %row: index, %expert: index):
      %m = arith.mulf %v, %f : f32
      moe.yield %m : f32
    } : !moe.routing<?x4xf32, max_per_row = 2>
    %o = moe.apply %s rows(%h) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x8xf32> -> tensor<?x8xf32> {
    ^bb0(%rows: tensor<?x8xf32>):
      moe.yield %rows : tensor<?x8xf32>
    }
    scf.yield %o : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// A region that may divide by zero is not run where it might not have been.
// CHECK-LABEL: func @divides
// CHECK: scf.for
// CHECK: moe.map
// CHECK: arith.divsi
func.func @divides(%r: !moe.routing<?x4xf32>, %a: i32, %b: i32, %n: index, %d: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %d) -> (tensor<?x4xf32>) {
    %s = moe.map %r {
    ^bb0(%v: f32, %row: index, %expert: index):
      %q = arith.divsi %a, %b : i32
      %m = arith.sitofp %q : i32 to f32
      moe.yield %m : f32
    } : !moe.routing<?x4xf32>
    %o = moe.to_dense %s : !moe.routing<?x4xf32>
    scf.yield %o : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// The sizes of the softmax are dynamic, but agree: nothing in it can fail, so that the router leaves a loop that may never run.
// REMARK: Function=dynamic_gate | Remark="4 ops on routings leave the loop, 5 that they need"
// CHECK-LABEL: func @dynamic_gate
// CHECK: linalg.matmul
// CHECK: linalg.softmax
// CHECK: moe.route
// CHECK: moe.top_k
// CHECK: moe.normalize
// CHECK: moe.limit
// CHECK: scf.for
// CHECK-NOT: linalg
// CHECK: moe.apply
// UPSTREAM-LABEL: func @dynamic_gate
// UPSTREAM: scf.for
// UPSTREAM: linalg.softmax
// UPSTREAM: moe.route
func.func @dynamic_gate(%x: tensor<?x8xf32>, %w: tensor<8x4xf32>, %n: index) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> (tensor<?x8xf32>) {
    %t = tensor.dim %x, %c0 : tensor<?x8xf32>
    %z = tensor.splat %zero[%t] : tensor<?x4xf32>
    %l = linalg.matmul ins(%x, %w : tensor<?x8xf32>, tensor<8x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
    %e = tensor.empty(%t) : tensor<?x4xf32>
    %p = linalg.softmax dimension(1) ins(%l : tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
    %r = moe.route %p : tensor<?x4xf32>
    %k = moe.top_k %r k(2) : !moe.routing<?x4xf32>
    %s = moe.normalize %k by(sum) : !moe.routing<?x4xf32, max_per_row = 2>
    %m = moe.limit %s cap(5) : !moe.routing<?x4xf32, max_per_row = 2>
    %o = moe.apply %m rows(%h) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 2, max_per_expert = 5>, tensor<?x8xf32> -> tensor<?x8xf32> {
    ^bb0(%rows: tensor<?x8xf32>):
      moe.yield %rows : tensor<?x8xf32>
    }
    scf.yield %o : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// Nobody knows that the two have as many rows: the softmax might fail in a loop that never runs.
// REMARK: Function=other_sizes | Remark="stays in the loop: 'linalg.softmax' might fail where it would not have run"
// CHECK-LABEL: func @other_sizes
// CHECK: scf.for
// CHECK: linalg.softmax
// CHECK: moe.route
func.func @other_sizes(%x: tensor<?x4xf32>, %z: tensor<?x4xf32>, %n: index) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %z) -> (tensor<?x4xf32>) {
    %p = linalg.softmax dimension(1) ins(%x : tensor<?x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
    %r = moe.route %p : tensor<?x4xf32>
    %d = moe.to_dense %r of(rank) : !moe.routing<?x4xf32>
    %f = arith.sitofp %d : tensor<?x4xi32> to tensor<?x4xf32>
    scf.yield %f : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// REMARK: Function=carried | Remark="stays in the loop: it depends on what the loop carries"
// CHECK-LABEL: func @carried
// CHECK: scf.for
// CHECK: moe.route
func.func @carried(%z: tensor<?x4xf32>, %n: index) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %z) -> (tensor<?x4xf32>) {
    %r = moe.route %h : tensor<?x4xf32>
    %k = moe.top_k %r k(2) : !moe.routing<?x4xf32>
    %d = moe.to_dense %k : !moe.routing<?x4xf32, max_per_row = 2>
    scf.yield %d : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}
