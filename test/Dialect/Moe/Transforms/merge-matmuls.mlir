// RUN: moe-opt %s --moe-merge-matmuls --moe-statistics 2>%t.stats | FileCheck %s
// RUN: FileCheck %s --check-prefix=STATS --input-file=%t.stats
// RUN: moe-opt %s --moe-merge-matmuls -o %t.mlir --remark-policy=all --remark-format=emitRemark --remarks-filter-passed='.*' --remarks-filter-missed='.*' 2>&1 | FileCheck %s --check-prefix=REMARK

// STATS-DAG: 3 moe-merge-matmuls - matmuls that join another one with the same rows
// STATS-DAG: 4 moe-merge-matmuls - matmuls whose result another one reads from memory

!x = tensor<?x24xf32>
!h = tensor<?x40xf32>
!w = tensor<4x24x40xf32>
#bank = affine_map<(e, k, n) -> (e, k, n)>
#pair = affine_map<(e, p, n) -> (p, n)>
#bias = affine_map<(e, p, n) -> (e, n)>
#turned = affine_map<(e, p, n) -> (n, p)>

// Gate and up: one pass over the rows, with the gate's epilogue and its bias in front.
// REMARK: Function=gate_and_up | Remark="multiplies its rows with a sibling's matrix as well"
// CHECK-LABEL: func @gate_and_up
// CHECK-SAME: %[[X:.*]]: tensor<?x24xf32>, %[[O:.*]]: tensor<5xindex>, %[[G:[a-z0-9]+]]: {{.*}}, %[[U:[a-z0-9]+]]: {{.*}}, %[[B:[a-z0-9]+]]: tensor<4x40xf32>
// CHECK: moe.grouped_matmul %[[X]] offsets(%[[O]] : tensor<5xindex>) banks(%[[G]], %[[U]] : tensor<4x24x40xf32>, tensor<4x24x40xf32>)
// CHECK-SAME: extras(%[[B]] : tensor<4x40xf32>)
// CHECK-NEXT: ^bb0(%[[A:.*]]: f32, %[[C:.*]]: f32, %[[D:.*]]: f32):
// CHECK-NEXT: %[[S:.*]] = arith.addf %[[A]], %[[D]]
// CHECK-NEXT: %[[T:.*]] = math.tanh %[[S]]
// CHECK-NEXT: %[[M:.*]] = arith.mulf %[[T]], %[[C]]
// CHECK-NEXT: moe.yield %[[M]]
// CHECK-NOT: moe.grouped_matmul
// CHECK: return
func.func @gate_and_up(%x: !x, %o: tensor<5xindex>, %wg: !w, %wu: !w, %b: tensor<4x40xf32>, %i: !h) -> !h {
  %g = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wg : !w) extras(%b : tensor<4x40xf32>) outs(%i : !h) {
  ^bb0(%a: f32, %c: f32):
    %s = arith.addf %a, %c : f32
    %t = math.tanh %s : f32
    moe.yield %t : f32
  } {bank_maps = [#bank], extra_maps = [#bias]} : !x
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wu : !w) extras(%g : !h) outs(%i : !h) {
  ^bb0(%u: f32, %s: f32):
    %m = arith.mulf %s, %u : f32
    moe.yield %m : f32
  } {bank_maps = [#bank], extra_maps = [#pair]} : !x
  return %h : !h
}

// Three of them; the banks keep the order of the operands.
// CHECK-LABEL: func @three
// CHECK-SAME: %{{.*}}: tensor<5xindex>, %[[A:[a-z0-9]+]]: tensor<4x24x40xf32>, %[[B:[a-z0-9]+]]: tensor<4x24x40xf32>, %[[C:[a-z0-9]+]]: tensor<4x24x40xf32>
// CHECK: moe.grouped_matmul %{{.*}} banks(%[[A]], %[[B]], %[[C]] :
// CHECK-NEXT: ^bb0(%[[X:.*]]: f32, %[[Y:.*]]: f32, %[[Z:.*]]: f32):
// CHECK-NEXT: arith.mulf %[[X]], %[[Y]]
// CHECK-NEXT: arith.addf %{{.*}}, %[[Z]]
// CHECK-NOT: moe.grouped_matmul
// CHECK: return
func.func @three(%x: !x, %o: tensor<5xindex>, %wa: !w, %wb: !w, %wc: !w, %i: !h) -> !h {
  %a = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wa : !w) outs(%i : !h) {
  ^bb0(%v: f32):
    moe.yield %v : f32
  } {bank_maps = [#bank], extra_maps = []} : !x
  %b = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wb : !w) outs(%i : !h) {
  ^bb0(%v: f32):
    moe.yield %v : f32
  } {bank_maps = [#bank], extra_maps = []} : !x
  %c = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wc : !w) extras(%a, %b : !h, !h) outs(%i : !h) {
  ^bb0(%v: f32, %p: f32, %q: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %m, %v : f32
    moe.yield %s : f32
  } {bank_maps = [#bank], extra_maps = [#pair, #pair]} : !x
  return %c : !h
}

// REMARK: Function=other_rows | Remark="reads another matmul's result from memory: it multiplies other rows"
// CHECK-LABEL: func @other_rows
// CHECK-COUNT-2: moe.grouped_matmul
func.func @other_rows(%x: !x, %z: !x, %o: tensor<5xindex>, %w: !w, %i: !h) -> !h {
  %g = moe.grouped_matmul %z offsets(%o : tensor<5xindex>) banks(%w : !w) outs(%i : !h) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !x
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : !w) extras(%g : !h) outs(%i : !h) {
  ^bb0(%u: f32, %s: f32):
    %m = arith.mulf %s, %u : f32
    moe.yield %m : f32
  } {bank_maps = [#bank], extra_maps = [#pair]} : !x
  return %h : !h
}

// REMARK: Function=two_readers | Remark="reads another matmul's result from memory: something else reads its result"
// CHECK-LABEL: func @two_readers
// CHECK-COUNT-2: moe.grouped_matmul
func.func @two_readers(%x: !x, %o: tensor<5xindex>, %w: !w, %i: !h) -> (!h, !h) {
  %g = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : !w) outs(%i : !h) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !x
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : !w) extras(%g : !h) outs(%i : !h) {
  ^bb0(%u: f32, %s: f32):
    %m = arith.mulf %s, %u : f32
    moe.yield %m : f32
  } {bank_maps = [#bank], extra_maps = [#pair]} : !x
  return %g, %h : !h, !h
}

// The same rows by number, but those of other pairs.
// REMARK: Function=other_pairs | Remark="reads another matmul's result from memory: it multiplies other rows"
// CHECK-LABEL: func @other_pairs
// CHECK-COUNT-2: moe.grouped_matmul
func.func @other_pairs(%x: !x, %p: tensor<?xindex>, %q: tensor<?xindex>, %o: tensor<5xindex>, %w: !w, %i: !h) -> !h {
  %g = moe.grouped_matmul %x rows(%p : tensor<?xindex>) offsets(%o : tensor<5xindex>) banks(%w : !w) outs(%i : !h) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : !x
  %h = moe.grouped_matmul %x rows(%q : tensor<?xindex>) offsets(%o : tensor<5xindex>) banks(%w : !w) extras(%g : !h) outs(%i : !h) {
  ^bb0(%u: f32, %s: f32):
    %m = arith.mulf %s, %u : f32
    moe.yield %m : f32
  } {bank_maps = [#bank], extra_maps = [#pair]} : !x
  return %h : !h
}

// Element (p, n) of the one needs element (n, p) of the other.
// REMARK: Function=transposed | Remark="reads another matmul's result from memory: its result is not read element by element"
// CHECK-LABEL: func @transposed
// CHECK-COUNT-2: moe.grouped_matmul
func.func @transposed(%x: tensor<40x24xf32>, %o: tensor<5xindex>, %w: !w, %i: tensor<40x40xf32>) -> tensor<40x40xf32> {
  %g = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : !w) outs(%i : tensor<40x40xf32>) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [#bank], extra_maps = []} : tensor<40x24xf32>
  %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : !w) extras(%g : tensor<40x40xf32>) outs(%i : tensor<40x40xf32>) {
  ^bb0(%u: f32, %s: f32):
    %m = arith.mulf %s, %u : f32
    moe.yield %m : f32
  } {bank_maps = [#bank], extra_maps = [#turned]} : tensor<40x24xf32>
  return %h : tensor<40x40xf32>
}
