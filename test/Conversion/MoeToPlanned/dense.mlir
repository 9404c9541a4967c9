// RUN: moe-opt %s --convert-moe-to-planned --canonicalize --cse --split-input-file | FileCheck %s

// Where slot e holds expert e, nothing is looked up: no loop over pairs.
// CHECK-LABEL: func @readers
// CHECK-NOT: scf.for
// CHECK: linalg.generic {{.*}} iterator_types = ["reduction", "parallel"]
// CHECK: arith.maximumf
// CHECK: linalg.generic {{.*}} iterator_types = ["reduction", "parallel"]
// CHECK: math.exp
// CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "parallel"]
// CHECK: arith.divf
// CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "parallel"]
// CHECK: arith.mulf
// CHECK: linalg.generic {{.*}} iterator_types = ["reduction", "parallel"]
// CHECK: arith.addi
// CHECK-NOT: scf.for
// CHECK: return
func.func @readers(%w: tensor<?x4xf32>, %m: tensor<?x4xi1>, %f: f32) -> (tensor<?x4xf32>, tensor<4xi32>, tensor<?x4xi1>) {
  %all = moe.route %w mask(%m : tensor<?x4xi1>) : tensor<?x4xf32>
  %d = moe.convert %all : !moe.routing<?x4xf32> to !moe.routing<?x4xf32, dense>
  %n = moe.normalize %d by(softmax) axis(token) : !moe.routing<?x4xf32, dense>
  %s = moe.map %n {
  ^bb0(%v: f32, %row: index, %expert: index):
    %p = arith.mulf %v, %f : f32
    moe.yield %p : f32
  } : !moe.routing<?x4xf32, dense>
  %a = moe.to_dense %s : !moe.routing<?x4xf32, dense>
  %c = moe.counts %d per(expert) : !moe.routing<?x4xf32, dense>
  %b = moe.to_dense %d of(mask) : !moe.routing<?x4xf32, dense>
  return %a, %c, %b : tensor<?x4xf32>, tensor<4xi32>, tensor<?x4xi1>
}

// -----

// Lists in another order are sorted by writing each pair to its place; back, a bound makes them lists again.
// CHECK-LABEL: func @converted
// CHECK: %[[E:.*]] = tensor.extract %{{.*}}[%[[T:[a-z0-9]+]], %[[S:[a-z0-9]+]]] : tensor<?x2xi32>
// CHECK: %[[AT:.*]] = arith.index_cast %[[E]]
// CHECK: tensor.insert %{{.*}} into %{{.*}}[%[[T]], %[[AT]]] : tensor<?x4xi32>
// CHECK: scf.for
// CHECK: tensor.insert %{{.*}} : tensor<?x2xi32>
func.func @converted(%i: tensor<?x2xi32>, %v: tensor<?x2xf32>) -> (tensor<?x2xi32>, tensor<?x2xf32>) {
  %r = moe.from_slots %i, %v experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %d = moe.convert %r : !moe.routing<?x4xf32, max_per_row = 2> to !moe.routing<?x4xf32, max_per_row = 2, dense>
  %s = moe.convert %d : !moe.routing<?x4xf32, max_per_row = 2, dense> to !moe.routing<?x4xf32, max_per_row = 2>
  %a, %b = moe.to_slots %s : !moe.routing<?x4xf32, max_per_row = 2>
  return %a, %b : tensor<?x2xi32>, tensor<?x2xf32>
}
