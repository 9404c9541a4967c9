// Pairs that are added to their targets: a task is some columns of all experts, one after the other, in this order.
//
// RUN: moe-opt %s --convert-grouped-matmul-to-vector --canonicalize --cse | FileCheck %s

// Panels [E][24][12][32]: one thread takes all of the 24 panels in one task, so that it reads the rows once; several threads
// have four tasks each.
// CHECK-LABEL: func.func @panels
// CHECK-SAME: %[[H:.*]]: memref<?x12xf32>, %[[W:.*]]: memref<8x24x12x32xf32>, %[[OFFSETS:.*]]: memref<9xindex>, %[[TO:.*]]: memref<?xindex>, %[[Y:.*]]: memref<?x768xf32>
// CHECK-DAG: %[[C0:.*]] = arith.constant 0 : index
// CHECK-DAG: %[[C1:.*]] = arith.constant 1 : index
// CHECK-DAG: %[[C4:.*]] = arith.constant 4 : index
// CHECK-DAG: %[[C8:.*]] = arith.constant 8 : index
// CHECK-DAG: %[[C24:.*]] = arith.constant 24 : index
// CHECK: %[[THREADS:.*]] = call @moe_host_threads() : () -> index
// CHECK: %[[SINGLE:.*]] = arith.cmpi eq, %[[THREADS]], %[[C1]]
// CHECK: %[[MANY:.*]] = arith.muli %[[THREADS]], %[[C4]]
// CHECK: %[[TASKS:.*]] = arith.select %[[SINGLE]], %[[C1]], %[[MANY]]
// CHECK: %[[EACH:.*]] = arith.divui %[[C24]], %[[TASKS]]
// CHECK: %[[FEW:.*]] = arith.minui %[[EACH]], %[[C24]]
// CHECK: %[[GRAIN:.*]] = arith.maxui %[[FEW]], %[[C1]]
// CHECK: scf.parallel (%[[PANEL:.*]]) = (%[[C0]]) to (%[[C24]]) step (%[[GRAIN]])
// CHECK: scf.for %[[E:.*]] = %[[C0]] to %[[C8]] step %[[C1]]
// CHECK: memref.load %[[OFFSETS]][%[[E]]]
// The next expert that has rows is where the stream of weights goes on.
// CHECK: scf.while
// CHECK: %[[TARGET:.*]] = memref.load %[[TO]]
// CHECK: %[[BEFORE:.*]] = vector.load %[[Y]][%[[TARGET]], %[[COLUMN:.*]]] : memref<?x768xf32>, vector<8xf32>
// CHECK: %[[SUM:.*]] = arith.addf %[[BEFORE]], %{{.*}} : vector<8xf32>
// CHECK: vector.store %[[SUM]], %[[Y]][%[[TARGET]], %[[COLUMN]]]
func.func @panels(%h: memref<?x12xf32>, %w: memref<8x24x12x32xf32>, %offsets: memref<9xindex>, %to: memref<?xindex>, %y: memref<?x768xf32>) {
  moe.grouped_matmul %h offsets(%offsets : memref<9xindex>) banks(%w : memref<8x24x12x32xf32>) outs(%y : memref<?x768xf32>) targets(%to : memref<?xindex>) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k, n mod 32)>], extra_maps = []} : memref<?x12xf32>
  return
}
