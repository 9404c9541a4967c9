// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s
// RUN: moe-opt %s --emit-bytecode | moe-opt | FileCheck %s

// Every op prints as it was written, from its own, the generic and the binary form; result types follow from the operands.

// CHECK-LABEL: func @makers
func.func @makers(%w: tensor<?x6xf32>, %idx: tensor<?x3xi32>, %sw: tensor<?x3xf32>,
                  %m1: tensor<6xi1>, %m2: tensor<?x6xi1>, %m3: tensor<?x1xi1>) {
  // CHECK: %[[R:.*]] = moe.route %{{.*}} : tensor<?x6xf32>
  %r = moe.route %w : tensor<?x6xf32>
  // CHECK: moe.route %{{.*}} mask(%{{.*}} : tensor<6xi1>) : tensor<?x6xf32>
  %r1 = moe.route %w mask(%m1 : tensor<6xi1>) : tensor<?x6xf32>
  // CHECK: moe.route %{{.*}} mask(%{{.*}} : tensor<?x6xi1>) : tensor<?x6xf32>
  %r2 = moe.route %w mask(%m2 : tensor<?x6xi1>) : tensor<?x6xf32>
  // CHECK: moe.route %{{.*}} mask(%{{.*}} : tensor<?x1xi1>) : tensor<?x6xf32>
  %r3 = moe.route %w mask(%m3 : tensor<?x1xi1>) : tensor<?x6xf32>
  // CHECK: %[[S:.*]] = moe.from_slots %{{.*}}, %{{.*}} experts(36) : tensor<?x3xi32>, tensor<?x3xf32>
  %s = moe.from_slots %idx, %sw experts(36) : tensor<?x3xi32>, tensor<?x3xf32>
  // CHECK: moe.to_dense %[[R]] : !moe.routing<?x6xf32>
  %d = moe.to_dense %r : !moe.routing<?x6xf32>
  // CHECK: moe.to_slots %[[S]] : !moe.routing<?x36xf32, max_per_row = 3>
  %i, %v = moe.to_slots %s : !moe.routing<?x36xf32, max_per_row = 3>
  return
}

// CHECK-LABEL: func @changers
func.func @changers(%r: !moe.routing<?x8xf32>, %key: tensor<?x8xf32>, %k: index, %ks: tensor<?xi32>,
                    %caps: tensor<8xindex>, %p: f32) {
  // CHECK: moe.top_k %{{.*}} k(2) : !moe.routing<?x8xf32>
  %0 = moe.top_k %r k(2) : !moe.routing<?x8xf32>
  // CHECK: moe.top_k %{{.*}} k(%{{.*}} : index) axis(token) ties(highest) : !moe.routing<?x8xf32>
  %1 = moe.top_k %r k(%k : index) axis(token) ties(highest) : !moe.routing<?x8xf32>
  // CHECK: moe.top_k %{{.*}} by(%{{.*}} : tensor<?x8xf32>) k(%{{.*}} : tensor<?xi32>) : !moe.routing<?x8xf32>
  %2 = moe.top_k %r by(%key : tensor<?x8xf32>) k(%ks : tensor<?xi32>) : !moe.routing<?x8xf32>
  // CHECK: moe.top_k %{{.*}} k(4) groups(4) keep(2) score(sum2) : !moe.routing<?x8xf32>
  %3 = moe.top_k %r k(4) groups(4) keep(2) score(sum2) : !moe.routing<?x8xf32>
  // CHECK: moe.top_k %{{.*}} k(3) axis(all) : !moe.routing<?x8xf32>
  %4 = moe.top_k %r k(3) axis(all) : !moe.routing<?x8xf32>
  // CHECK: moe.select %{{.*}} {
  // CHECK-NEXT: ^bb0(%{{.*}}: f32, %{{.*}}: index, %[[BEFORE:.*]]: f32, %{{.*}}: index, %{{.*}}: index):
  // CHECK-NEXT: arith.cmpf ole, %[[BEFORE]]
  // CHECK-NEXT: moe.yield %{{.*}} : i1
  // CHECK-NEXT: } : !moe.routing<?x8xf32>
  %5 = moe.select %r {
  ^bb0(%key0: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %in = arith.cmpf ole, %before, %p : f32
    moe.yield %in : i1
  } : !moe.routing<?x8xf32>
  // CHECK: moe.limit %{{.*}} cap(3) : !moe.routing<?x8xf32>{{$}}
  %6 = moe.limit %r cap(3) : !moe.routing<?x8xf32>
  // CHECK: moe.limit %{{.*}} by(%{{.*}} : tensor<?x8xf32>) cap(%{{.*}} : tensor<8xindex>) order(key)
  %7 = moe.limit %r by(%key : tensor<?x8xf32>) cap(%caps : tensor<8xindex>) order(key) : !moe.routing<?x8xf32>
  // CHECK: moe.normalize %{{.*}} by(sum) axis(token) eps({{.*}}) : !moe.routing<?x8xf32>
  %8 = moe.normalize %r by(sum) axis(token) eps(1.0e-6) : !moe.routing<?x8xf32>
  // CHECK: moe.map %{{.*}} {
  // CHECK: moe.yield %{{.*}} : f32
  // CHECK-NEXT: } : !moe.routing<?x8xf32>
  %9 = moe.map %r {
  ^bb0(%w: f32, %row: index, %expert: index):
    %s = arith.mulf %w, %p : f32
    moe.yield %s : f32
  } : !moe.routing<?x8xf32>
  // CHECK: moe.concat %{{.*}}, %{{.*}} : !moe.routing<?x8xf32>, !moe.routing<?x8xf32, max_per_row = 2>
  %10 = moe.concat %r, %0 : !moe.routing<?x8xf32>, !moe.routing<?x8xf32, max_per_row = 2>
  // CHECK: moe.convert %{{.*}} : !moe.routing<?x16xf32, max_per_row = 10> to !moe.routing<?x16xf32, max_per_row = 10, dense>
  %dense = moe.convert %10 : !moe.routing<?x16xf32, max_per_row = 10> to !moe.routing<?x16xf32, max_per_row = 10, dense>
  // CHECK: moe.cast %{{.*}} : !moe.routing<?x16xf32, max_per_row = 10> to !moe.routing<?x16xf32>
  %11 = moe.cast %10 : !moe.routing<?x16xf32, max_per_row = 10> to !moe.routing<?x16xf32>
  return
}

// The bounds of a result's type.
// CHECK-LABEL: func @bounds
func.func @bounds(%r: !moe.routing<?x8xf32>, %dup: !moe.routing<?x4xf32, max_per_row = 9>) -> (
    !moe.routing<?x8xf32, max_per_row = 6>, !moe.routing<?x8xf32, max_per_row = 2>,
    !moe.routing<?x8xf32, max_per_row = 8>, !moe.routing<?x4xf32, max_per_row = 6>,
    !moe.routing<?x8xf32, max_per_expert = 3>, !moe.routing<?x8xf32, max_per_row = 3, max_per_expert = 3>,
    !moe.routing<?x8xf32, max_per_expert = 5>, !moe.routing<?x12xf32, max_per_row = 17>) {
  // Two of each of three groups would be six, of four groups eight.
  %0 = moe.top_k %r k(3) groups(2) : !moe.routing<?x8xf32>
  %1 = moe.top_k %r k(2) groups(4) keep(2) : !moe.routing<?x8xf32>
  %2 = moe.top_k %r k(9223372036854775807) groups(4) : !moe.routing<?x8xf32>
  // A row that holds experts twice may keep more pairs than there are experts.
  %3 = moe.top_k %dup k(6) : !moe.routing<?x4xf32, max_per_row = 9>
  %4 = moe.top_k %r k(3) axis(token) : !moe.routing<?x8xf32>
  %5 = moe.top_k %r k(3) axis(all) : !moe.routing<?x8xf32>
  %6 = moe.limit %r cap(5) : !moe.routing<?x8xf32>
  %7 = moe.concat %r, %dup : !moe.routing<?x8xf32>, !moe.routing<?x4xf32, max_per_row = 9>
  return %0, %1, %2, %3, %4, %5, %6, %7 : !moe.routing<?x8xf32, max_per_row = 6>, !moe.routing<?x8xf32, max_per_row = 2>,
    !moe.routing<?x8xf32, max_per_row = 8>, !moe.routing<?x4xf32, max_per_row = 6>,
    !moe.routing<?x8xf32, max_per_expert = 3>, !moe.routing<?x8xf32, max_per_row = 3, max_per_expert = 3>,
    !moe.routing<?x8xf32, max_per_expert = 5>, !moe.routing<?x12xf32, max_per_row = 17>
}

// CHECK-LABEL: func @readers
func.func @readers(%r: !moe.routing<?x8xf32, max_per_row = 2>)
    -> (tensor<?x8xf32>, tensor<?x8xi1>, tensor<?x8xi32>, tensor<8xi32>, tensor<?xi32>, tensor<?x2xi32>, tensor<?x2xf32>) {
  // CHECK: moe.to_dense %{{.*}} fill(5.000000e-01) : !moe.routing<?x8xf32, max_per_row = 2>
  %0 = moe.to_dense %r fill(0.5) : !moe.routing<?x8xf32, max_per_row = 2>
  // CHECK: moe.to_dense %{{.*}} of(mask) : !moe.routing<?x8xf32, max_per_row = 2>
  %1 = moe.to_dense %r of(mask) : !moe.routing<?x8xf32, max_per_row = 2>
  // CHECK: moe.to_dense %{{.*}} of(rank) : !moe.routing<?x8xf32, max_per_row = 2>
  %2 = moe.to_dense %r of(rank) : !moe.routing<?x8xf32, max_per_row = 2>
  // CHECK: moe.counts %{{.*}} per(expert) : !moe.routing<?x8xf32, max_per_row = 2>
  %3 = moe.counts %r per(expert) : !moe.routing<?x8xf32, max_per_row = 2>
  // CHECK: moe.counts %{{.*}} per(row) : !moe.routing<?x8xf32, max_per_row = 2>
  %4 = moe.counts %r per(row) : !moe.routing<?x8xf32, max_per_row = 2>
  // CHECK: moe.to_slots %{{.*}} : !moe.routing<?x8xf32, max_per_row = 2>
  %5, %6 = moe.to_slots %r : !moe.routing<?x8xf32, max_per_row = 2>
  return %0, %1, %2, %3, %4, %5, %6 : tensor<?x8xf32>, tensor<?x8xi1>, tensor<?x8xi32>, tensor<8xi32>, tensor<?xi32>, tensor<?x2xi32>, tensor<?x2xf32>
}

// CHECK-LABEL: func @apply_mlp
func.func @apply_mlp(%r: !moe.routing<?x4xf32, max_per_row = 1>, %x: tensor<?x24xf32>, %w1: tensor<4x24x40xf32>) -> tensor<?x40xf32> {
  // CHECK: moe.apply %{{.*}} rows(%{{.*}}) experts(%{{.*}}) weighted(after) out(sum) : !moe.routing<?x4xf32, max_per_row = 1>, tensor<?x24xf32>, tensor<4x24x40xf32> -> tensor<?x40xf32> {
  %y = moe.apply %r rows(%x) experts(%w1) weighted(after) out(sum)
      : !moe.routing<?x4xf32, max_per_row = 1>, tensor<?x24xf32>, tensor<4x24x40xf32> -> tensor<?x40xf32> {
  // CHECK-NEXT: ^bb0(%{{.*}}: tensor<?x24xf32>, %{{.*}}: tensor<24x40xf32>):
  ^bb0(%rows: tensor<?x24xf32>, %u: tensor<24x40xf32>):
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %n = tensor.dim %rows, %c0 : tensor<?x24xf32>
    %e = tensor.empty(%n) : tensor<?x40xf32>
    %i = linalg.fill ins(%zero : f32) outs(%e : tensor<?x40xf32>) -> tensor<?x40xf32>
    %o = linalg.matmul ins(%rows, %u : tensor<?x24xf32>, tensor<24x40xf32>) outs(%i : tensor<?x40xf32>) -> tensor<?x40xf32>
    moe.yield %o : tensor<?x40xf32>
  }
  return %y : tensor<?x40xf32>
}

// Every kind of operand, slice and result at once.
// CHECK-LABEL: func @apply_everything
func.func @apply_everything(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>, %img: tensor<?x4x3x5xf32>,
                            %a: tensor<2x8xf32>, %b: tensor<7x6xf32>, %c: tensor<12xf32>, %d: tensor<3xf32>,
                            %p: tensor<?x4x2xf32>, %cap: index)
    -> (tensor<?x8xf32>, tensor<?x4x8xf32>, tensor<4x?x8xf32>) {
  // CHECK: moe.apply %{{.*}} rows(%{{.*}}, %{{.*}} by (d0, d1) -> (d0, d1)) experts(%{{.*}} by (d0) -> (d0 floordiv 2), %{{.*}} along 1 ragged([0, 0, 2, 5, 6]), %{{.*}} along 0 split(3), %{{.*}} case(1)) pairs(%{{.*}}) cases([1, 0, 1, 1]) index(row, expert, weight, rank) weighted(before) out(mean, dense, buckets(%{{.*}})) {moe.note = "kept"} : !moe.routing<?x4xf32>, tensor<?x8xf32>, tensor<?x4x3x5xf32>, tensor<2x8xf32>, tensor<7x6xf32>, tensor<12xf32>, tensor<3xf32>, tensor<?x4x2xf32> -> (tensor<?x8xf32>, tensor<?x4x8xf32>, tensor<4x?x8xf32>) {
  %y:3 = moe.apply %r rows(%x, %img by (t, e) -> (t, e))
      experts(%a by (e) -> (e floordiv 2), %b along 1 ragged([0, 0, 2, 5, 6]), %c along 0 split(3), %d case(1))
      pairs(%p) cases([1, 0, 1, 1]) index(row, expert, weight, rank) weighted(before) out(mean, dense, buckets(%cap))
      {moe.note = "kept"}
      : !moe.routing<?x4xf32>, tensor<?x8xf32>, tensor<?x4x3x5xf32>, tensor<2x8xf32>, tensor<7x6xf32>, tensor<12xf32>,
        tensor<3xf32>, tensor<?x4x2xf32> -> (tensor<?x8xf32>, tensor<?x4x8xf32>, tensor<4x?x8xf32>) {
  // CHECK-NEXT: ^bb0(%{{.*}}: tensor<?x8xf32>, %{{.*}}: tensor<?x3x5xf32>, %{{.*}}: tensor<8xf32>, %{{.*}}: tensor<7x?xf32>, %{{.*}}: tensor<3xf32>, %{{.*}}: tensor<?x2xf32>, %{{.*}}: tensor<?xindex>, %{{.*}}: index, %{{.*}}: tensor<?xf32>, %{{.*}}: tensor<?xindex>):
  ^bb0(%rows: tensor<?x8xf32>, %images: tensor<?x3x5xf32>, %ae: tensor<8xf32>, %be: tensor<7x?xf32>, %ce: tensor<3xf32>,
       %pe: tensor<?x2xf32>, %ts: tensor<?xindex>, %e: index, %ws: tensor<?xf32>, %ranks: tensor<?xindex>):
    moe.yield %rows, %rows, %rows : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
  // CHECK: }, {
  // CHECK-NEXT: ^bb0(%{{.*}}: tensor<?x8xf32>, %{{.*}}: tensor<?x3x5xf32>, %{{.*}}: tensor<8xf32>, %{{.*}}: tensor<7x?xf32>, %{{.*}}: tensor<3xf32>, %{{.*}}: tensor<f32>, %{{.*}}: tensor<?x2xf32>
  }, {
  ^bb0(%rows: tensor<?x8xf32>, %images: tensor<?x3x5xf32>, %ae: tensor<8xf32>, %be: tensor<7x?xf32>, %ce: tensor<3xf32>,
       %de: tensor<f32>, %pe: tensor<?x2xf32>, %ts: tensor<?xindex>, %e: index, %ws: tensor<?xf32>, %ranks: tensor<?xindex>):
    moe.yield %rows, %rows, %rows : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
  }
  return %y#0, %y#1, %y#2 : tensor<?x8xf32>, tensor<?x4x8xf32>, tensor<4x?x8xf32>
}
