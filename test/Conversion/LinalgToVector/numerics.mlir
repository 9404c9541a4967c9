// RUN: moe-compile %s -o %t.moe
// RUN: %python %S/Inputs/numerics.py moe-run %t.moe %t.dir

// Each function is compiled, run on many shapes and compared with numpy by Inputs/numerics.py.

#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
#column = affine_map<(d0, d1) -> (d1)>
#one = affine_map<(d0, d1) -> (d0, 0)>
#element = affine_map<(d0) -> (d0)>

func.func @silu_mul(%a: tensor<?x?xf32> {moe.name = "a"}, %b: tensor<?x?xf32> {moe.name = "b"})
    -> (tensor<?x?xf32> {moe.name = "y"}) {
  %one = arith.constant 1.0 : f32
  %y = linalg.map ins(%a, %b : tensor<?x?xf32>, tensor<?x?xf32>) outs(%a : tensor<?x?xf32>) (%p: f32, %q: f32, %i: f32) {
    %n = arith.negf %p : f32
    %e = math.exp %n : f32
    %d = arith.addf %e, %one : f32
    %s = arith.divf %p, %d : f32
    %m = arith.mulf %s, %q : f32
    linalg.yield %m : f32
  }
  return %y : tensor<?x?xf32>
}

// The maximum that propagates NaN, the one that skips it, the sum and the sum of squares of each row.
func.func @row_reductions(%a: tensor<?x?xf32> {moe.name = "a"})
    -> (tensor<?xf32> {moe.name = "maximum"}, tensor<?xf32> {moe.name = "maxnum"}, tensor<?xf32> {moe.name = "sum"},
        tensor<?xf32> {moe.name = "squares"}) {
  %c0 = arith.constant 0 : index
  %inf = arith.constant 0xFF800000 : f32
  %nan = arith.constant 0x7FC00000 : f32
  %zero = arith.constant 0.0 : f32
  %n = tensor.dim %a, %c0 : tensor<?x?xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %i0 = linalg.fill ins(%inf : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %i1 = linalg.fill ins(%nan : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %i2 = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %m = linalg.reduce {arith.maximumf} ins(%a : tensor<?x?xf32>) outs(%i0 : tensor<?xf32>) dimensions = [1]
  %x = linalg.reduce {arith.maxnumf} ins(%a : tensor<?x?xf32>) outs(%i1 : tensor<?xf32>) dimensions = [1]
  %s:2 = linalg.generic {indexing_maps = [#id, #row, #row], iterator_types = ["parallel", "reduction"]}
      ins(%a : tensor<?x?xf32>) outs(%i2, %i2 : tensor<?xf32>, tensor<?xf32>) {
  ^bb0(%v: f32, %p: f32, %q: f32):
    %vv = arith.mulf %v, %v : f32
    %ps = arith.addf %p, %v : f32
    %qs = arith.addf %vv, %q : f32
    linalg.yield %ps, %qs : f32, f32
  } -> (tensor<?xf32>, tensor<?xf32>)
  return %m, %x, %s#0, %s#1 : tensor<?xf32>, tensor<?xf32>, tensor<?xf32>, tensor<?xf32>
}

func.func @softmax(%a: tensor<?x?xf32> {moe.name = "a"}) -> (tensor<?x?xf32> {moe.name = "y"}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %a, %c0 : tensor<?x?xf32>
  %m = tensor.dim %a, %c1 : tensor<?x?xf32>
  %e = tensor.empty(%n, %m) : tensor<?x?xf32>
  %y = linalg.softmax dimension(1) ins(%a : tensor<?x?xf32>) outs(%e : tensor<?x?xf32>) -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}

// Sums of columns, the column's largest element and where it is, the sum of everything.
func.func @column_reductions(%a: tensor<?x?xf32> {moe.name = "a"})
    -> (tensor<?xf32> {moe.name = "sum"}, tensor<?xf32> {moe.name = "best"}, tensor<?xi32> {moe.name = "at"},
        tensor<f32> {moe.name = "total"}) {
  %c1 = arith.constant 1 : index
  %inf = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0.0 : f32
  %none = arith.constant -1 : i32
  %n = tensor.dim %a, %c1 : tensor<?x?xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %ei = tensor.empty(%n) : tensor<?xi32>
  %e0 = tensor.empty() : tensor<f32>
  %i0 = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %i1 = linalg.fill ins(%inf : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %i2 = linalg.fill ins(%none : i32) outs(%ei : tensor<?xi32>) -> tensor<?xi32>
  %i3 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<f32>) -> tensor<f32>
  %s = linalg.reduce {arith.addf} ins(%a : tensor<?x?xf32>) outs(%i0 : tensor<?xf32>) dimensions = [0]
  %b:2 = linalg.generic {indexing_maps = [#id, #column, #column], iterator_types = ["reduction", "parallel"]}
      ins(%a : tensor<?x?xf32>) outs(%i1, %i2 : tensor<?xf32>, tensor<?xi32>) {
  ^bb0(%x: f32, %acc: f32, %i: i32):
    %k = linalg.index 0 : index
    %k32 = arith.index_cast %k : index to i32
    %c = arith.cmpf ogt, %x, %acc : f32
    %m = arith.select %c, %x, %acc : f32
    %j = arith.select %c, %k32, %i : i32
    linalg.yield %m, %j : f32, i32
  } -> (tensor<?xf32>, tensor<?xi32>)
  %t = linalg.reduce {arith.addf} ins(%a : tensor<?x?xf32>) outs(%i3 : tensor<f32>) dimensions = [0, 1]
  return %s, %b#0, %b#1, %t : tensor<?xf32>, tensor<?xf32>, tensor<?xi32>, tensor<f32>
}

func.func @transpose(%a: tensor<?x?xf32> {moe.name = "a"}) -> (tensor<?x?xf32> {moe.name = "y"}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %a, %c0 : tensor<?x?xf32>
  %m = tensor.dim %a, %c1 : tensor<?x?xf32>
  %e = tensor.empty(%m, %n) : tensor<?x?xf32>
  %y = linalg.transpose ins(%a : tensor<?x?xf32>) outs(%e : tensor<?x?xf32>) permutation = [1, 0]
  return %y : tensor<?x?xf32>
}

// a where the column is at most last[row] and a is positive; the mask itself as well.
func.func @masked(%a: tensor<?x?xf32> {moe.name = "a"}, %last: tensor<?x1xi32> {moe.name = "last"})
    -> (tensor<?x?xi1> {moe.name = "mask"}, tensor<?x?xf32> {moe.name = "y"}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %n = tensor.dim %a, %c0 : tensor<?x?xf32>
  %m = tensor.dim %a, %c1 : tensor<?x?xf32>
  %e = tensor.empty(%n, %m) : tensor<?x?xi1>
  %f = tensor.empty(%n, %m) : tensor<?x?xf32>
  %mask = linalg.generic {indexing_maps = [#id, #one, #id], iterator_types = ["parallel", "parallel"]}
      ins(%a, %last : tensor<?x?xf32>, tensor<?x1xi32>) outs(%e : tensor<?x?xi1>) {
  ^bb0(%x: f32, %k: i32, %o: i1):
    %i = linalg.index 1 : index
    %i32 = arith.index_cast %i : index to i32
    %c = arith.cmpi sle, %i32, %k : i32
    %d = arith.cmpf ogt, %x, %zero : f32
    %r = arith.andi %c, %d : i1
    linalg.yield %r : i1
  } -> tensor<?x?xi1>
  %y = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%mask, %a : tensor<?x?xi1>, tensor<?x?xf32>) outs(%f : tensor<?x?xf32>) {
  ^bb0(%c: i1, %x: f32, %o: f32):
    %r = arith.select %c, %x, %zero : f32
    linalg.yield %r : f32
  } -> tensor<?x?xf32>
  return %mask, %y : tensor<?x?xi1>, tensor<?x?xf32>
}

// Rows of a table by number; and one element of its row for each number.
func.func @lookup(%table: tensor<?x?xf32> {moe.name = "table"}, %rows: tensor<?xi64> {moe.name = "rows"},
                  %at: tensor<?x?xi64> {moe.name = "at"})
    -> (tensor<?x?xf32> {moe.name = "y"}, tensor<?x?xf32> {moe.name = "z"}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %rows, %c0 : tensor<?xi64>
  %m = tensor.dim %table, %c1 : tensor<?x?xf32>
  %k = tensor.dim %at, %c1 : tensor<?x?xi64>
  %e = tensor.empty(%n, %m) : tensor<?x?xf32>
  %f = tensor.empty(%n, %k) : tensor<?x?xf32>
  %y = linalg.generic {indexing_maps = [#row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%rows : tensor<?xi64>) outs(%e : tensor<?x?xf32>) {
  ^bb0(%i: i64, %o: f32):
    %r = arith.index_cast %i : i64 to index
    %d = linalg.index 1 : index
    %x = tensor.extract %table[%r, %d] : tensor<?x?xf32>
    linalg.yield %x : f32
  } -> tensor<?x?xf32>
  %z = linalg.generic {indexing_maps = [#row, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%rows, %at : tensor<?xi64>, tensor<?x?xi64>) outs(%f : tensor<?x?xf32>) {
  ^bb0(%i: i64, %j: i64, %o: f32):
    %r = arith.index_cast %i : i64 to index
    %d = arith.index_cast %j : i64 to index
    %x = tensor.extract %table[%r, %d] : tensor<?x?xf32>
    linalg.yield %x : f32
  } -> tensor<?x?xf32>
  return %y, %z : tensor<?x?xf32>, tensor<?x?xf32>
}

// Integer division, with divisors that are zero nowhere but behind the end of a vector.
func.func @divide(%a: tensor<?xi32> {moe.name = "a"}, %b: tensor<?xi32> {moe.name = "b"})
    -> (tensor<?xi32> {moe.name = "quotient"}, tensor<?xi32> {moe.name = "rest"}) {
  %y:2 = linalg.generic {indexing_maps = [#element, #element, #element, #element], iterator_types = ["parallel"]}
      ins(%a, %b : tensor<?xi32>, tensor<?xi32>) outs(%a, %a : tensor<?xi32>, tensor<?xi32>) {
  ^bb0(%x: i32, %y: i32, %u: i32, %w: i32):
    %s = arith.divsi %x, %y : i32
    %t = arith.remsi %x, %y : i32
    linalg.yield %s, %t : i32, i32
  } -> (tensor<?xi32>, tensor<?xi32>)
  return %y#0, %y#1 : tensor<?xi32>, tensor<?xi32>
}

func.func @square_half(%a: tensor<?x?xf16> {moe.name = "a"})
    -> (tensor<?x?xf32> {moe.name = "wide"}, tensor<?x?xf16> {moe.name = "narrow"}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %a, %c0 : tensor<?x?xf16>
  %m = tensor.dim %a, %c1 : tensor<?x?xf16>
  %e = tensor.empty(%n, %m) : tensor<?x?xf32>
  %y:2 = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%a : tensor<?x?xf16>) outs(%e, %a : tensor<?x?xf32>, tensor<?x?xf16>) {
  ^bb0(%x: f16, %o: f32, %r: f16):
    %w = arith.extf %x : f16 to f32
    %s = arith.mulf %w, %w : f32
    %t = arith.truncf %s : f32 to f16
    linalg.yield %s, %t : f32, f16
  } -> (tensor<?x?xf32>, tensor<?x?xf16>)
  return %y#0, %y#1 : tensor<?x?xf32>, tensor<?x?xf16>
}
