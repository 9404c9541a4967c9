// RUN: moe-opt %s --convert-moe-to-planned | FileCheck %s

!r = !moe.routing<?x4xf32>

// A routing is two tensors, through loops, branches, calls and private functions.
// CHECK-LABEL: func private @halve
// CHECK-SAME: (%[[I:.*]]: tensor<?x4xi32>, %{{.*}}: tensor<?x4xf32>) -> (tensor<?x4xi32>, tensor<?x4xf32>)
// CHECK: return %[[I]], %{{.*}} : tensor<?x4xi32>, tensor<?x4xf32>
func.func private @halve(%r: !r) -> !r {
  %half = arith.constant 0.5 : f32
  %s = moe.map %r {
  ^bb0(%w: f32, %row: index, %expert: index):
    %d = arith.mulf %w, %half : f32
    moe.yield %d : f32
  } : !r
  return %s : !r
}

// CHECK-LABEL: func @carried
// CHECK: scf.for {{.*}} -> (tensor<?x4xi32>, tensor<?x4xf32>)
// CHECK:   scf.if {{.*}} -> (tensor<?x4xi32>, tensor<?x4xf32>)
// CHECK:   call @halve({{.*}}) : (tensor<?x4xi32>, tensor<?x4xf32>) -> (tensor<?x4xi32>, tensor<?x4xf32>)
// CHECK-NOT: moe.
func.func @carried(%p: tensor<?x4xf32>, %n: index, %c: i1) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = moe.route %p : tensor<?x4xf32>
  %last = scf.for %i = %c0 to %n step %c1 iter_args(%x = %r) -> (!r) {
    %y = scf.if %c -> (!r) {
      %h = func.call @halve(%x) : (!r) -> !r
      scf.yield %h : !r
    } else {
      scf.yield %x : !r
    }
    scf.yield %y : !r
  }
  %d = moe.to_dense %last : !r
  return %d : tensor<?x4xf32>
}

// Dropping a bound adds empty slots.
// CHECK-LABEL: func @cast
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 0] [%{{.*}}, 2] [1, 1] : tensor<?x2xi32> into tensor<?x4xi32>
func.func @cast(%i: tensor<?x2xi32>, %w: tensor<?x2xf32>) -> tensor<?x4xf32> {
  %r = moe.from_slots %i, %w experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %c = moe.cast %r : !moe.routing<?x4xf32, max_per_row = 2> to !r
  %d = moe.to_dense %c : !r
  return %d : tensor<?x4xf32>
}
