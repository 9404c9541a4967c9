// RUN: moe-opt %s --convert-linalg-to-vector="lanes=8" --moe-report-scalar-loops="fail" -o %t
// RUN: moe-opt %s --convert-linalg-to-vector="lanes=8" --canonicalize | FileCheck %s
// RUN: moe-opt %s --convert-linalg-to-vector="lanes=8" --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter='.*' 2>&1 >/dev/null | FileCheck %s --check-prefix=REMARK

#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
#column = affine_map<(d0, d1) -> (d1)>

// Four vectors of partial sums from -0, a tree over them and over their lanes; the body in front is fused.
// CHECK-LABEL: func @sum_of_squares
// CHECK-DAG: %[[NEUTRAL:.*]] = arith.constant dense<-0.000000e+00> : vector<8xf32>
// CHECK: scf.parallel
// CHECK: scf.for {{.*}} iter_args(%{{.*}} = %[[NEUTRAL]], %{{.*}} = %[[NEUTRAL]], %{{.*}} = %[[NEUTRAL]], %{{.*}} = %[[NEUTRAL]])
// CHECK-COUNT-4: arith.mulf %{{.*}} : vector<8xf32>
// CHECK: scf.if
// CHECK: vector.maskedload
// CHECK: arith.select %{{.*}}, %{{.*}}, %[[NEUTRAL]]
// CHECK: arith.addf %{{.*}} : vector<8xf32>
// CHECK: vector.shuffle {{.*}} [0, 1, 2, 3]
// CHECK: arith.addf %{{.*}} : vector<4xf32>
// CHECK: arith.addf %{{.*}} : vector<2xf32>
// CHECK: arith.addf %{{.*}} : vector<1xf32>
// CHECK: memref.store
// REMARK: 8 lanes along loop 1 of 2, partial results
func.func @sum_of_squares(%a: memref<?x?xf32>, %o: memref<?xf32>) {
  linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]}
    ins(%a : memref<?x?xf32>) outs(%o : memref<?xf32>) {
  ^bb0(%x: f32, %acc: f32):
    %s = arith.mulf %x, %x : f32
    %m = arith.addf %acc, %s : f32
    linalg.yield %m : f32
  }
  return
}

// maximumf propagates NaN and starts from -inf; maxnumf skips NaN, so NaN is what it starts from.
// CHECK-LABEL: func @maxima
// CHECK: arith.constant dense<0xFF800000> : vector<8xf32>
// CHECK: arith.maximumf %{{.*}} : vector<8xf32>
func.func @maxima(%a: memref<4x128xf32>, %o: memref<4xf32>) {
  linalg.reduce {arith.maximumf} ins(%a : memref<4x128xf32>) outs(%o : memref<4xf32>) dimensions = [1]
  return
}
// CHECK-LABEL: func @maxima_of_numbers
// CHECK: arith.constant dense<0x7FC00000> : vector<8xf32>
// CHECK: arith.maxnumf %{{.*}} : vector<8xf32>
func.func @maxima_of_numbers(%a: memref<4x128xf32>, %o: memref<4xf32>) {
  linalg.reduce {arith.maxnumf} ins(%a : memref<4x128xf32>) outs(%o : memref<4xf32>) dimensions = [1]
  return
}

// Several loops of a contiguous buffer are one reduction.
// CHECK-LABEL: func @total
// CHECK: memref.collapse_shape
// CHECK: arith.addf %{{.*}} : vector<8xf32>
// CHECK-NOT: scf.parallel
func.func @total(%a: memref<?x?x4xf32>, %o: memref<f32>) {
  linalg.reduce {arith.addf} ins(%a : memref<?x?x4xf32>) outs(%o : memref<f32>) dimensions = [0, 1, 2]
  return
}

// A reduction over rows: lanes are columns, results stay in registers.
// CHECK-LABEL: func @columns
// CHECK: scf.for
// CHECK-COUNT-4: vector.load
// CHECK: scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// CHECK-COUNT-4: arith.addf %{{.*}} : vector<8xf32>
// CHECK-COUNT-4: vector.store
func.func @columns(%a: memref<?x32xf32>, %o: memref<32xf32>) {
  linalg.reduce {arith.addf} ins(%a : memref<?x32xf32>) outs(%o : memref<32xf32>) dimensions = [0]
  return
}

// Along columns any body will do, several results included.
// CHECK-LABEL: func @argmax_of_columns
// CHECK: scf.for {{.*}} -> (vector<8xf32>, vector<8xi32>)
// CHECK: arith.select %{{.*}} : vector<8xi1>, vector<8xi32>
func.func @argmax_of_columns(%a: memref<?x8xf32>, %best: memref<8xf32>, %at: memref<8xi32>) {
  linalg.generic {indexing_maps = [#id, #column, #column], iterator_types = ["reduction", "parallel"]}
    ins(%a : memref<?x8xf32>) outs(%best, %at : memref<8xf32>, memref<8xi32>) {
  ^bb0(%x: f32, %acc: f32, %i: i32):
    %k = linalg.index 0 : index
    %k32 = arith.index_cast %k : index to i32
    %c = arith.cmpf ogt, %x, %acc : f32
    %m = arith.select %c, %x, %acc : f32
    %n = arith.select %c, %k32, %i : i32
    linalg.yield %m, %n : f32, i32
  }
  return
}

// CHECK-LABEL: func @argmax_of_rows
// CHECK: linalg.generic
// REMARK: left to scalar loops: its reduction is not a single associative op
func.func @argmax_of_rows(%a: memref<4x8xf32>, %best: memref<f32>, %at: memref<i32>) {
  linalg.generic {indexing_maps = [#id, affine_map<(d0, d1) -> ()>, affine_map<(d0, d1) -> ()>],
                  iterator_types = ["reduction", "reduction"]}
    ins(%a : memref<4x8xf32>) outs(%best, %at : memref<f32>, memref<i32>) {
  ^bb0(%x: f32, %acc: f32, %i: i32):
    %k = linalg.index 0 : index
    %k32 = arith.index_cast %k : index to i32
    %c = arith.cmpf ogt, %x, %acc : f32
    %m = arith.select %c, %x, %acc : f32
    %n = arith.select %c, %k32, %i : i32
    linalg.yield %m, %n : f32, i32
  }
  return
}
