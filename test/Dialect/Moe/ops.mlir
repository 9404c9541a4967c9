// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

// Every maker makes a routing whose type follows from its operands.
// CHECK-LABEL: func @makers
func.func @makers(%w: tensor<?x6xf32>, %idx: tensor<?x3xi32>, %sw: tensor<?x3xf32>) {
  // CHECK: %[[R:.*]] = moe.route %{{.*}} : tensor<?x6xf32>
  %r = moe.route %w : tensor<?x6xf32>
  // CHECK: %[[S:.*]] = moe.from_slots %{{.*}}, %{{.*}} experts(36) : tensor<?x3xi32>, tensor<?x3xf32>
  %s = moe.from_slots %idx, %sw experts(36) : tensor<?x3xi32>, tensor<?x3xf32>
  // CHECK: moe.to_dense %[[R]] : !moe.routing<?x6xf32>
  %d = moe.to_dense %r : !moe.routing<?x6xf32>
  // CHECK: moe.to_slots %[[S]] : !moe.routing<?x36xf32, max_per_row = 3>
  %i, %v = moe.to_slots %s : !moe.routing<?x36xf32, max_per_row = 3>
  return
}
