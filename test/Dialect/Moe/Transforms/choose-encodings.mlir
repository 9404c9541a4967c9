// RUN: moe-opt %s --moe-choose-encodings --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-choose-encodings=force=slots --split-input-file | FileCheck %s --check-prefix=SLOTS
// RUN: moe-opt %s --moe-choose-encodings=force=dense --split-input-file | FileCheck %s --check-prefix=DENSE
// RUN: moe-opt %s --moe-choose-encodings --split-input-file -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: not moe-opt %s --moe-choose-encodings=force=magic 2>&1 | FileCheck %s --check-prefix=MAGIC
// MAGIC: moe-choose-encodings: expected 'force' to be slots or dense, got 'magic'

// Over the tokens the weights of an expert are a column. The k best of a row need slots, in front of which one conversion serves
// both; readers of the matrix need none.
// REMARK: remark: [Passed] RoutingEncoding | Category:moe-choose-encodings | Function=columns | Remark="dense: 2 ops know experts from places"
// CHECK-LABEL: func private @columns
// CHECK: %[[ALL:.*]] = moe.route
// CHECK: %[[D:.*]] = moe.convert %[[ALL]] : !moe.routing<?x4xf32> to !moe.routing<?x4xf32, dense>
// CHECK: %[[N:.*]] = moe.normalize %[[D]] by(softmax) axis(token) : !moe.routing<?x4xf32, dense>
// CHECK: %[[S:.*]] = moe.convert %[[N]] : !moe.routing<?x4xf32, dense> to !moe.routing<?x4xf32>
// CHECK: moe.top_k %[[S]] k(2) : !moe.routing<?x4xf32>
// CHECK: moe.top_k %[[S]] k(1) : !moe.routing<?x4xf32>
// CHECK: moe.to_dense %[[N]] : !moe.routing<?x4xf32, dense>
// SLOTS-LABEL: func private @columns
// SLOTS-NOT: moe.convert
// SLOTS: return
func.func private @columns(%w: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %all = moe.route %w : tensor<?x4xf32>
  %n = moe.normalize %all by(softmax) axis(token) : !moe.routing<?x4xf32>
  %k = moe.top_k %n k(2) : !moe.routing<?x4xf32>
  %k1 = moe.top_k %n k(1) : !moe.routing<?x4xf32>
  %a = moe.to_dense %k : !moe.routing<?x4xf32, max_per_row = 2>
  %b = moe.to_dense %k1 : !moe.routing<?x4xf32, max_per_row = 1>
  %c = moe.to_dense %n : !moe.routing<?x4xf32>
  return %a, %b, %c : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// Nothing gains: the usual router stays as it is, unless it is asked for.
// REMARK: remark: [Missed] RoutingEncoding | Category:moe-choose-encodings | Function=rows | Remark="slots: 0 ops know experts from places"
// CHECK-LABEL: func private @rows
// CHECK-NOT: moe.convert
// CHECK: return
// DENSE-LABEL: func private @rows
// DENSE: moe.convert %{{.*}} : !moe.routing<?x4xf32> to !moe.routing<?x4xf32, dense>
// DENSE: moe.normalize %{{.*}} by(softmax) : !moe.routing<?x4xf32, dense>
// DENSE: moe.convert %{{.*}} : !moe.routing<?x4xf32, dense> to !moe.routing<?x4xf32>
// DENSE: moe.top_k %{{.*}} k(2) : !moe.routing<?x4xf32>
// DENSE: moe.to_slots %{{.*}} : !moe.routing<?x4xf32, max_per_row = 2>
func.func private @rows(%w: tensor<?x4xf32>) -> (tensor<?x2xi32>, tensor<?x2xf32>) {
  %all = moe.route %w : tensor<?x4xf32>
  %n = moe.normalize %all by(softmax) : !moe.routing<?x4xf32>
  %k = moe.top_k %n k(2) : !moe.routing<?x4xf32>
  %i, %v = moe.to_slots %k : !moe.routing<?x4xf32, max_per_row = 2>
  return %i, %v : tensor<?x2xi32>, tensor<?x2xf32>
}

// -----

// A routing that a loop carries, and one that it may choose twice, keep their slots in whatever case.
// DENSE-LABEL: func private @carried
// DENSE: %[[D:.*]] = moe.convert
// DENSE: %[[S:.*]] = moe.convert %[[D]] : !moe.routing<?x4xf32, dense> to !moe.routing<?x4xf32>
// DENSE: scf.for {{.*}} iter_args(%{{.*}} = %[[S]]) -> (!moe.routing<?x4xf32>)
// DENSE: moe.from_slots
// DENSE-NOT: moe.convert
// DENSE: return
func.func private @carried(%w: tensor<?x4xf32>, %i: tensor<?x2xi32>, %v: tensor<?x2xf32>, %n: index) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %all = moe.route %w : tensor<?x4xf32>
  %r = scf.for %j = %c0 to %n step %c1 iter_args(%c = %all) -> (!moe.routing<?x4xf32>) {
    %m = moe.normalize %c by(sum) axis(token) : !moe.routing<?x4xf32>
    scf.yield %m : !moe.routing<?x4xf32>
  }
  %a = moe.to_dense %r : !moe.routing<?x4xf32>
  %s = moe.from_slots %i, %v experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
  %b = moe.to_dense %s : !moe.routing<?x4xf32, max_per_row = 2>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}
