// RUN: moe-opt %s --loop-invariant-code-motion | FileCheck %s

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
