// RUN: moe-opt %s --convert-linalg-to-vector="lanes=8" --moe-report-scalar-loops="fail" -o %t
// RUN: moe-opt %s --convert-linalg-to-vector="lanes=8" --canonicalize | FileCheck %s
// RUN: moe-opt %s --convert-linalg-to-vector="lanes=8" --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter='.*' 2>&1 >/dev/null | FileCheck %s --check-prefix=REMARK

#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
#column = affine_map<(d0, d1) -> (d1)>
#one = affine_map<(d0, d1) -> (d0, 0)>

// Contiguous loops run as one, in tasks; whole vectors, then one under a mask. No scalar arithmetic.
// CHECK-LABEL: func @silu_mul
// CHECK: memref.collapse_shape %{{.*}} : memref<?x4xf32> into memref<?xf32>
// CHECK: scf.parallel
// CHECK: scf.for
// CHECK: vector.load {{.*}} vector<8xf32>
// CHECK: math.exp %{{.*}} : vector<8xf32>
// CHECK: vector.store
// CHECK: scf.if
// CHECK: vector.create_mask
// CHECK: vector.maskedload
// CHECK: math.exp %{{.*}} : vector<8xf32>
// CHECK: vector.maskedstore
// CHECK-NOT: linalg
// REMARK: 8 lanes along loop 0 of 1, one result each
func.func @silu_mul(%a: memref<?x4xf32>, %b: memref<?x4xf32>, %o: memref<?x4xf32>) {
  %one = arith.constant 1.0 : f32
  linalg.map ins(%a, %b : memref<?x4xf32>, memref<?x4xf32>) outs(%o : memref<?x4xf32>) (%x: f32, %y: f32, %i: f32) {
    %n = arith.negf %x : f32
    %e = math.exp %n : f32
    %d = arith.addf %e, %one : f32
    %s = arith.divf %x, %d : f32
    %m = arith.mulf %s, %y : f32
    linalg.yield %m : f32
  }
  return
}

// What is the same for a row is computed once for it; a width of whole vectors needs no mask.
// CHECK-LABEL: func @rms_scale
// CHECK: scf.parallel
// CHECK: scf.for
// CHECK: math.rsqrt %{{.*}} : f32
// CHECK: scf.for
// CHECK-NOT: math.rsqrt
// CHECK: arith.mulf %{{.*}} : vector<8xf32>
// CHECK: arith.mulf %{{.*}} : vector<8xf32>
// CHECK: vector.store
// CHECK-NOT: mask
// CHECK: return
func.func @rms_scale(%a: memref<?x64xf32>, %s: memref<?xf32>, %g: memref<64xf32>, %o: memref<?x64xf32>) {
  linalg.generic {indexing_maps = [#id, #row, #column, #id], iterator_types = ["parallel", "parallel"]}
    ins(%a, %s, %g : memref<?x64xf32>, memref<?xf32>, memref<64xf32>) outs(%o : memref<?x64xf32>) {
  ^bb0(%x: f32, %ss: f32, %gg: f32, %acc: f32):
    %r = math.rsqrt %ss : f32
    %t = arith.mulf %x, %r : f32
    %u = arith.mulf %t, %gg : f32
    linalg.yield %u : f32
  }
  return
}

// Indices become vectors; i1 is written lane by lane, as its buffer has a byte per element.
// CHECK-LABEL: func @causal
// CHECK: vector.broadcast %{{.*}} : i32 to vector<8xi32>
// CHECK: arith.cmpi sle, %{{.*}} : vector<8xi32>
// CHECK-COUNT-8: memref.store {{.*}} memref<16x?xi1>
func.func @causal(%last: memref<16x1xi32>, %o: memref<16x?xi1>) {
  linalg.generic {indexing_maps = [#one, #id], iterator_types = ["parallel", "parallel"]}
    ins(%last : memref<16x1xi32>) outs(%o : memref<16x?xi1>) {
  ^bb0(%k: i32, %acc: i1):
    %i = linalg.index 1 : index
    %i32 = arith.index_cast %i : index to i32
    %c = arith.cmpi sle, %i32, %k : i32
    linalg.yield %c : i1
  }
  return
}

// A row that is looked up is read as vectors.
// CHECK-LABEL: func @lookup
// CHECK-SAME: %[[IDS:[^:]*]]: memref<?xi64>, %[[TABLE:[^:]*]]: memref
// CHECK: memref.load %[[IDS]]
// CHECK: vector.load %[[TABLE]][%{{.*}}, %{{.*}}] : memref<?x32xf32>, vector<8xf32>
func.func @lookup(%ids: memref<?xi64>, %table: memref<?x32xf32>, %o: memref<?x32xf32>) {
  linalg.generic {indexing_maps = [#row, #id], iterator_types = ["parallel", "parallel"]}
    ins(%ids : memref<?xi64>) outs(%o : memref<?x32xf32>) {
  ^bb0(%i: i64, %acc: f32):
    %n = arith.index_cast %i : i64 to index
    %d = linalg.index 1 : index
    %x = memref.load %table[%n, %d] : memref<?x32xf32>
    linalg.yield %x : f32
  }
  return
}

// Lanes follow the widest type; a small op is no task.
// CHECK-LABEL: func @narrow
// CHECK-NOT: scf.parallel
// CHECK: vector.load {{.*}} vector<32xi8>
func.func @narrow(%a: memref<64xi8>, %o: memref<64xi8>) {
  linalg.copy ins(%a : memref<64xi8>) outs(%o : memref<64xi8>)
  return
}

// Behind the end of a row the divisor is one, so nothing traps.
// CHECK-LABEL: func @divide
// CHECK: vector.constant_mask
// CHECK: %[[Y:.*]] = arith.select %{{.*}} : vector<8xi1>, vector<8xi32>
// CHECK: arith.divsi %{{.*}}, %[[Y]]
func.func @divide(%a: memref<5xi32>, %b: memref<5xi32>, %o: memref<5xi32>) {
  linalg.div ins(%a, %b : memref<5xi32>, memref<5xi32>) outs(%o : memref<5xi32>)
  return
}

// CHECK-LABEL: func @branches
// CHECK: linalg.generic
// REMARK: left to scalar loops: its body has 'scf.if', which has no vector form
func.func @branches(%a: memref<5xf32>, %o: memref<5xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.map ins(%a : memref<5xf32>) outs(%o : memref<5xf32>) (%x: f32, %i: f32) {
    %c = arith.cmpf ogt, %x, %zero : f32
    %y = scf.if %c -> f32 {
      scf.yield %x : f32
    } else {
      scf.yield %zero : f32
    }
    linalg.yield %y : f32
  }
  return
}
