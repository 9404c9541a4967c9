// RUN: moe-opt %s --moe-specialise-ragged --canonicalize --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-specialise-ragged --split-input-file | FileCheck %s --check-prefix=KEPT
// RUN: moe-opt %s --moe-specialise-ragged --split-input-file -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

!x = tensor<?x6xf32>
!r = !moe.routing<?x3xf32>

// Two neighbours of four columns share a case, the expert of eight has its own.
// REMARK: remark: [Passed] SpecialiseRagged | Category:moe-specialise-ragged | Function=specialised | Remark="2 bodies, one per size of expert"
// CHECK-LABEL: func private @specialised
// CHECK-SAME: %[[W:[a-z0-9]+]]: tensor<6x16xf32>
// CHECK: %[[A:.*]] = tensor.extract_slice %[[W]][0, 0] [6, 8] [1, 1] : tensor<6x16xf32> to tensor<6x8xf32>
// CHECK: %[[B:.*]] = tensor.extract_slice %[[W]][0, 8] [6, 8] [1, 1] : tensor<6x16xf32> to tensor<6x8xf32>
// CHECK: moe.apply %{{.*}} experts(%[[A]] along 1 split(4) case(0), %[[B]] along 1 split(8) case(1)) cases([0, 0, 1]) out(sum)
// CHECK: ^bb0(%{{.*}}: tensor<?x6xf32>, %{{.*}}: tensor<6x4xf32>):
// CHECK: linalg.matmul ins(%{{.*}}, %{{.*}} : tensor<?x6xf32>, tensor<6x4xf32>)
// CHECK: ^bb0(%{{.*}}: tensor<?x6xf32>, %{{.*}}: tensor<6x8xf32>):
// CHECK: linalg.matmul ins(%{{.*}}, %{{.*}} : tensor<?x6xf32>, tensor<6x8xf32>)
func.func private @specialised(%r: !r, %x: !x, %w: tensor<6x16xf32>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %y = moe.apply %r rows(%x) experts(%w along 1 ragged([0, 4, 8, 16])) out(sum)
      : !r, !x, tensor<6x16xf32> -> tensor<?xf32> {
  ^bb0(%rows: !x, %we: tensor<6x?xf32>):
    %n = tensor.dim %rows, %c0 : !x
    %c = tensor.dim %we, %c1 : tensor<6x?xf32>
    %z = tensor.splat %zero[%n, %c] : tensor<?x?xf32>
    %z1 = tensor.splat %zero[%n] : tensor<?xf32>
    %h = linalg.matmul ins(%rows, %we : !x, tensor<6x?xf32>) outs(%z : tensor<?x?xf32>) -> tensor<?x?xf32>
    %o = linalg.reduce {arith.addf} ins(%h : tensor<?x?xf32>) outs(%z1 : tensor<?xf32>) dimensions = [1]
    moe.yield %o : tensor<?xf32>
  }
  return %y : tensor<?xf32>
}

// -----

!x = tensor<?x6xf32>
!r = !moe.routing<?x3xf32>

// An expert without columns keeps the one body.
// REMARK: remark: [Missed] SpecialiseRagged | Category:moe-specialise-ragged | Function=nothing | Remark="not specialised: an expert has no size at all"
// KEPT-LABEL: func private @nothing
// KEPT: moe.apply %{{.*}} experts(%{{.*}} along 1 ragged([0, 4, 4, 16])) out(sum)
func.func private @nothing(%r: !r, %x: !x, %w: tensor<6x16xf32>) -> !x {
  %y = moe.apply %r rows(%x) experts(%w along 1 ragged([0, 4, 4, 16])) out(sum) : !r, !x, tensor<6x16xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<6x?xf32>):
    moe.yield %rows : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x6xf32>
!r = !moe.routing<?x9xf32>

// REMARK: remark: [Missed] SpecialiseRagged | Category:moe-specialise-ragged | Function=too_many | Remark="not specialised: 9 bodies are more than max-cases = 8"
// KEPT-LABEL: func private @too_many
// KEPT-NOT: cases
func.func private @too_many(%r: !r, %x: !x, %w: tensor<6x45xf32>) -> !x {
  %y = moe.apply %r rows(%x) experts(%w along 1 ragged([0, 1, 3, 6, 10, 15, 21, 28, 36, 45])) out(sum)
      : !r, !x, tensor<6x45xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<6x?xf32>):
    moe.yield %rows : !x
  }
  return %y : !x
}

// -----

!x = tensor<?x6xf32>
!r = !moe.routing<?x2xf32>

// REMARK: remark: [Missed] SpecialiseRagged | Category:moe-specialise-ragged | Function=has_cases | Remark="not specialised: its experts have cases already"
// KEPT-LABEL: func private @has_cases
// KEPT: ragged([0, 4, 16])
func.func private @has_cases(%r: !r, %x: !x, %w: tensor<6x16xf32>) -> !x {
  %y = moe.apply %r rows(%x) experts(%w along 1 ragged([0, 4, 16])) cases([0, 1]) out(sum) : !r, !x, tensor<6x16xf32> -> !x {
  ^bb0(%rows: !x, %we: tensor<6x?xf32>):
    moe.yield %rows : !x
  }, {
  ^bb0(%rows: !x, %we: tensor<6x?xf32>):
    moe.yield %rows : !x
  }
  return %y : !x
}
