// RUN: moe-opt %s --moe-normalize-bodies --moe-choose-lowering=force=reference --moe-lower-apply --canonicalize --cse | FileCheck %s --check-prefix=REF
// RUN: moe-opt %s --moe-normalize-bodies --canonicalize --moe-choose-lowering --moe-lower-apply --canonicalize --cse --moe-merge-matmuls | FileCheck %s --check-prefix=FUSED
// RUN: moe-opt %s --moe-normalize-bodies --moe-choose-lowering=force=pairwise --moe-lower-apply --canonicalize --cse | FileCheck %s --check-prefix=PAIR
// RUN: moe-opt %s --moe-normalize-bodies --moe-choose-lowering=force=dense --moe-lower-apply --canonicalize --cse | FileCheck %s --check-prefix=DENSE

// A gated MLP with a bias: gate and up are two banks of one grouped matmul, the activation is its epilogue.
// REF-LABEL: func @gated
// REF: moe.plan
// REF: scf.for
// REF:   scf.if
// REF:     linalg.matmul
// REF:   tensor.insert_slice
// REF: moe.combine(sum)

// FUSED-LABEL: func @gated
// FUSED: %[[OFFSETS:.*]], %[[ROWS:.*]], %{{.*}}, %{{.*}}, %[[INVERSE:.*]] = moe.plan %{{.*}} experts(4)
// FUSED-NOT: scf.for
// FUSED: %[[H:.*]] = moe.grouped_matmul %{{.*}} rows(%[[ROWS]] : tensor<?xindex>) offsets(%[[OFFSETS]] : tensor<5xindex>)
// FUSED-SAME: banks(%{{.*}}, %{{.*}} : tensor<4x24x40xf32>, tensor<4x24x40xf32>) extras(%{{.*}} : tensor<4x40xf32>)
// FUSED: arith.addf
// FUSED: math.exp
// FUSED: arith.mulf
// FUSED: moe.grouped_matmul %[[H]] offsets(%[[OFFSETS]] : tensor<5xindex>) banks(%{{.*}} : tensor<4x40x24xf32>)
// FUSED-NOT: scf.for
// FUSED: moe.combine(sum) %{{.*}} by(%[[INVERSE]] : tensor<?x2xindex>) weights(

// PAIR-LABEL: func @gated
// PAIR-NOT: moe.plan
// PAIR: scf.for
// PAIR:   scf.for
// PAIR:     scf.if
// PAIR:       linalg.matmul
// PAIR: moe.combine(sum)

// DENSE-LABEL: func @gated
// DENSE: moe.to_dense %{{.*}} of(mask)
// DENSE: scf.for
// DENSE:   linalg.matmul
// DENSE:   arith.select
// DENSE-NOT: moe.combine
func.func @gated(%p: tensor<?x4xf32>, %x: tensor<?x24xf32>, %g: tensor<4x24x40xf32>, %u: tensor<4x24x40xf32>,
                 %b: tensor<4x40xf32>, %d: tensor<4x40x24xf32>) -> tensor<?x24xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %all = moe.route %p : tensor<?x4xf32>
  %r = moe.top_k %all k(2) : !moe.routing<?x4xf32>
  %y = moe.apply %r rows(%x) experts(%g, %u, %b, %d) weighted(after) out(sum)
      : !moe.routing<?x4xf32, max_per_row = 2>, tensor<?x24xf32>, tensor<4x24x40xf32>, tensor<4x24x40xf32>,
        tensor<4x40xf32>, tensor<4x40x24xf32> -> tensor<?x24xf32> {
  ^bb0(%rows: tensor<?x24xf32>, %ge: tensor<24x40xf32>, %ue: tensor<24x40xf32>, %be: tensor<40xf32>,
       %de: tensor<40x24xf32>):
    %n = tensor.dim %rows, %c0 : tensor<?x24xf32>
    %z = tensor.splat %zero[%n] : tensor<?x40xf32>
    %zo = tensor.splat %zero[%n] : tensor<?x24xf32>
    %a0 = linalg.matmul ins(%rows, %ge : tensor<?x24xf32>, tensor<24x40xf32>) outs(%z : tensor<?x40xf32>) -> tensor<?x40xf32>
    %q = linalg.matmul ins(%rows, %ue : tensor<?x24xf32>, tensor<24x40xf32>) outs(%z : tensor<?x40xf32>) -> tensor<?x40xf32>
    %bb = linalg.broadcast ins(%be : tensor<40xf32>) outs(%z : tensor<?x40xf32>) dimensions = [0]
    %a = arith.addf %a0, %bb : tensor<?x40xf32>
    %h = linalg.map ins(%a, %q : tensor<?x40xf32>, tensor<?x40xf32>) outs(%z : tensor<?x40xf32>)
      (%v: f32, %w: f32, %o: f32) {
        %m = arith.negf %v : f32
        %e = math.exp %m : f32
        %s = arith.addf %e, %one : f32
        %t = arith.divf %v, %s : f32
        %k = arith.mulf %t, %w : f32
        linalg.yield %k : f32
      }
    %o = linalg.matmul ins(%h, %de : tensor<?x40xf32>, tensor<40x24xf32>) outs(%zo : tensor<?x24xf32>) -> tensor<?x24xf32>
    moe.yield %o : tensor<?x24xf32>
  }
  return %y : tensor<?x24xf32>
}
