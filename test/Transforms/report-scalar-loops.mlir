// RUN: moe-opt %s --moe-report-scalar-loops -verify-diagnostics -o %t
// RUN: not moe-opt %s --moe-report-scalar-loops="fail" -o %t 2>&1 | FileCheck %s


func.func @loops(%a: memref<?xf32>, %v: memref<?xvector<8xf32>>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %n step %c1 {
    // CHECK: error: innermost loop with scalar float arithmetic: arith.mulf, arith.addf
    // expected-remark @+1 {{innermost loop with scalar float arithmetic: arith.mulf, arith.addf}}
    scf.for %j = %c0 to %n step %c1 {
      %x = memref.load %a[%j] : memref<?xf32>
      %y = arith.mulf %x, %x : f32
      %z = arith.addf %y, %x : f32
      memref.store %z, %a[%j] : memref<?xf32>
    }
  }
  // Vectors, with a scalar per vector.
  scf.for %i = %c0 to %n step %c1 {
    %x = memref.load %a[%i] : memref<?xf32>
    %y = arith.negf %x : f32
    %s = vector.broadcast %y : f32 to vector<8xf32>
    %w = memref.load %v[%i] : memref<?xvector<8xf32>>
    %z = arith.mulf %s, %w : vector<8xf32>
    memref.store %z, %v[%i] : memref<?xvector<8xf32>>
  }
  // A search.
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%best = %c0) -> index {
    %x = memref.load %a[%i] : memref<?xf32>
    %y = memref.load %a[%best] : memref<?xf32>
    %c = arith.cmpf ogt, %x, %y : f32
    %b = arith.select %c, %i, %best : index
    scf.yield %b : index
  }
  return
}

func.func @op(%a: memref<?xf32>, %o: memref<?xf32>) {
  // CHECK: error: innermost loop with scalar float arithmetic: math.exp
  // expected-remark @+1 {{innermost loop with scalar float arithmetic: math.exp}}
  linalg.exp ins(%a : memref<?xf32>) outs(%o : memref<?xf32>)
  return
}
