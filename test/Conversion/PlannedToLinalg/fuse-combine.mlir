// RUN: moe-opt %s --moe-fuse-combine=min-columns=32 --moe-statistics 2>%t.stats | FileCheck %s
// RUN: FileCheck %s --check-prefix=STATS --input-file=%t.stats
// RUN: moe-opt %s --moe-fuse-combine=min-columns=32 -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: moe-opt %s --moe-fuse-combine -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=NARROW

// Without a kernel the same in loops.
// RUN: moe-opt %s --moe-fuse-combine=min-columns=32 --convert-moe-planned-to-linalg=keep-kernels=false | FileCheck %s --check-prefix=LOOPS

// STATS-DAG: 2 moe-fuse-combine - Combines that their grouped matmul does
// STATS-DAG: 5 moe-fuse-combine - Combines of pairs that are in memory
// NARROW: Function=weighted | Remark="reads the pairs from memory: there are fewer than 512 columns to share among threads"

#bank = affine_map<(e, k, n) -> (e, k, n)>
#bias = affine_map<(e, p, n) -> (e, n)>
!h = tensor<?x24xf32>
!w = tensor<4x24x40xf32>
!y = tensor<?x40xf32>

// A weight per pair in the epilogue; the pairs are added to the plan's rows.
// REMARK: Function=weighted | Remark="the matmul adds its pairs to their rows"
// CHECK-LABEL: func @weighted
// CHECK-SAME: %[[H:.*]]: tensor<?x24xf32>, %[[IDX:[a-z0-9]+]]: {{.*}}, %[[WEIGHTS:[a-z0-9]+]]: {{.*}}, %[[W:[a-z0-9]+]]: {{.*}}, %[[B:[a-z0-9]+]]: tensor<4x40xf32>, %[[I:[a-z0-9]+]]: tensor<?x40xf32>
// CHECK: %[[O:.*]], %[[ROWS:.*]], %[[SLOTS:.*]], %{{.*}}, %{{.*}} = moe.plan %[[IDX]]
// CHECK: %[[ZERO:.*]] = linalg.fill ins(%{{.*}} : f32) outs(%[[I]] : tensor<?x40xf32>)
// CHECK: %[[EACH:.*]] = linalg.generic {{.*}} ins(%[[ROWS]], %[[SLOTS]] :
// CHECK-NEXT: ^bb0(%[[T:.*]]: index, %[[S:.*]]: index, %{{.*}}: f32):
// CHECK-NEXT: tensor.extract %[[WEIGHTS]][%[[T]], %[[S]]]
// CHECK: moe.grouped_matmul %[[H]] offsets(%[[O]] : tensor<5xindex>) banks(%[[W]] : tensor<4x24x40xf32>)
// CHECK-SAME: extras(%[[B]], %[[EACH]] : tensor<4x40xf32>, tensor<?xf32>) outs(%[[ZERO]] : tensor<?x40xf32>) targets(%[[ROWS]] : tensor<?xindex>)
// CHECK-NEXT: ^bb0(%[[A:.*]]: f32, %[[BIAS:.*]]: f32, %[[WEIGHT:.*]]: f32):
// CHECK-NEXT: %[[SUM:.*]] = arith.addf %[[A]], %[[BIAS]]
// CHECK-NEXT: %[[M:.*]] = arith.mulf %[[SUM]], %[[WEIGHT]]
// CHECK-NEXT: moe.yield %[[M]]
// CHECK-NEXT: extra_maps = [#{{.*}}, #[[$PAIR:.*]]]
// CHECK-NOT: moe.combine
// CHECK: return

// LOOPS-LABEL: func @weighted
// LOOPS: scf.for
// LOOPS: linalg.matmul
// LOOPS: scf.for
// LOOPS: tensor.extract_slice
// LOOPS: linalg.add
// LOOPS: tensor.insert_slice
// LOOPS: return
func.func @weighted(%h: !h, %idx: tensor<?x2xi32>, %weights: tensor<?x2xf32>, %w: !w, %b: tensor<4x40xf32>, %i: !y, %p: !y) -> !y {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %pairs = moe.grouped_matmul %h offsets(%offsets : tensor<5xindex>) banks(%w : !w) extras(%b : tensor<4x40xf32>) outs(%p : !y) {
  ^bb0(%a: f32, %c: f32):
    %s = arith.addf %a, %c : f32
    moe.yield %s : f32
  } {bank_maps = [#bank], extra_maps = [#bias]} : !h
  %y = moe.combine(sum) %pairs by(%inverse : tensor<?x2xindex>) weights(%weights : tensor<?x2xf32>) outs(%i : !y) : !y
  return %y : !y
}

// REMARK: Function=plain | Remark="the matmul adds its pairs to their rows"
// CHECK-LABEL: func @plain
// CHECK-NOT: linalg.generic
// CHECK: moe.grouped_matmul {{.*}} targets(
// CHECK-NOT: moe.combine
// CHECK: return
func.func @plain(%h: !h, %idx: tensor<?x2xi32>, %w: !w, %i: !y, %p: !y) -> !y {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %pairs = moe.grouped_matmul %h offsets(%offsets : tensor<5xindex>) banks(%w : !w) outs(%p : !y) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !h
  %y = moe.combine(sum) %pairs by(%inverse : tensor<?x2xindex>) outs(%i : !y) : !y
  return %y : !y
}

// REMARK: Function=largest | Remark="reads the pairs from memory: their max is asked for"
// CHECK-LABEL: func @largest
// CHECK: moe.combine(max)
func.func @largest(%h: !h, %idx: tensor<?x2xi32>, %w: !w, %i: !y, %p: !y) -> !y {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %pairs = moe.grouped_matmul %h offsets(%offsets : tensor<5xindex>) banks(%w : !w) outs(%p : !y) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !h
  %y = moe.combine(max) %pairs by(%inverse : tensor<?x2xindex>) outs(%i : !y) : !y
  return %y : !y
}

// REMARK: Function=read_again | Remark="reads the pairs from memory: something else reads them"
// CHECK-LABEL: func @read_again
// CHECK: moe.combine(sum)
func.func @read_again(%h: !h, %idx: tensor<?x2xi32>, %w: !w, %i: !y, %p: !y) -> (!y, !y) {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %pairs = moe.grouped_matmul %h offsets(%offsets : tensor<5xindex>) banks(%w : !w) outs(%p : !y) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !h
  %y = moe.combine(sum) %pairs by(%inverse : tensor<?x2xindex>) outs(%i : !y) : !y
  return %y, %pairs : !y, !y
}

// REMARK: Function=other_numbers | Remark="reads the pairs from memory: they are not numbered by the plan of the routing"
// CHECK-LABEL: func @other_numbers
// CHECK: moe.combine(sum)
func.func @other_numbers(%h: !h, %idx: tensor<?x2xi32>, %o: tensor<5xindex>, %w: !w, %i: !y, %p: !y) -> !y {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %pairs = moe.grouped_matmul %h offsets(%o : tensor<5xindex>) banks(%w : !w) outs(%p : !y) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !h
  %y = moe.combine(sum) %pairs by(%inverse : tensor<?x2xindex>) outs(%i : !y) : !y
  return %y : !y
}

// REMARK: Function=halves | Remark="reads the pairs from memory: sums of narrow floats are rounded once"
// CHECK-LABEL: func @halves
// CHECK: moe.combine(sum)
func.func @halves(%h: tensor<?x24xbf16>, %idx: tensor<?x2xi32>, %w: tensor<4x24x40xbf16>, %i: tensor<?x40xbf16>) -> tensor<?x40xbf16> {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %pairs = moe.grouped_matmul %h offsets(%offsets : tensor<5xindex>) banks(%w : tensor<4x24x40xbf16>) outs(%i : tensor<?x40xbf16>) {
  ^bb0(%a: bf16):
    moe.yield %a : bf16
  } {bank_maps = [#bank], extra_maps = []} : tensor<?x24xbf16>
  %y = moe.combine(sum) %pairs by(%inverse : tensor<?x2xindex>) outs(%i : tensor<?x40xbf16>) : tensor<?x40xbf16>
  return %y : tensor<?x40xbf16>
}

// REMARK: Function=not_a_product | Remark="reads the pairs from memory: no grouped matmul makes them"
// CHECK-LABEL: func @not_a_product
// CHECK: moe.combine(sum)
func.func @not_a_product(%idx: tensor<?x2xi32>, %i: !y, %pairs: !y) -> !y {
  %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(4) : tensor<?x2xi32>
  %y = moe.combine(sum) %pairs by(%inverse : tensor<?x2xindex>) outs(%i : !y) : !y
  return %y : !y
}
