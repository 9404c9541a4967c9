// RUN: moe-opt %s --convert-grouped-matmul-to-vector --canonicalize --split-input-file | FileCheck %s

// Four and more rows: some blocks of codes become bytes in a scratch, once for all rows; a kernel for exactly as many rows
// as a pass has multiplies them with the rows' bytes.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @many
// CHECK: %[[MANY:.*]] = arith.cmpi sge, %{{.*}}, %c4 : index
// CHECK: scf.if %[[MANY]]
// CHECK: %[[SCRATCH:.*]] = memref.alloca() {alignment = 64 : i64} : memref<2048xi8>
// CHECK: call @moe_bytes_int4_32
// CHECK: scf.index_switch
// CHECK: case 1 {
// CHECK: call @moe_integer_int4_32_scale16_block32_1
// CHECK: case 6 {
// CHECK: call @moe_integer_int4_32_scale16_block32_6
// CHECK: default {
// CHECK-NEXT: llvm.intr.trap
// CHECK-LABEL: func private @moe_bytes_int4_32
// CHECK: memref.prefetch
// CHECK-COUNT-8: vector.store %{{.*}} : memref<?xi8>, vector<32xi8>

// Two words of each row and of two vectors of columns are a loop's body, one behind the other: sums of 16 bits, which a
// block does not pass. What the sums begin with is read behind the loop, and the tile in each block again.
// CHECK-LABEL: func private @moe_integer_int4_32_scale16_block32_3
// CHECK-SAME: passthrough = ["noinline"]
// CHECK: memref.collapse_shape %{{.*}} : memref<192x32xf32> into memref<6144xf32>
// CHECK: scf.for
// CHECK: scf.for %{{.*}} = %c0 to %c8 step %c2 {{.*}} -> (vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>)
// CHECK-COUNT-6: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK: llvm.fence syncscope("singlethread") acq_rel
// CHECK-COUNT-6: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK: scf.yield
// CHECK-COUNT-3: memref.load %{{.*}} : memref<?x?xi32>
// CHECK-COUNT-6: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
// CHECK-NOT: arith.shli
// CHECK-COUNT-6: vector.fma
// CHECK: llvm.fence syncscope("singlethread") acq_rel
func.func @many(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x1x1152xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x1152xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64, moe.integer_rows}
    : memref<?x64xf32>
  return
}

// -----

// Codes of 8 bits are read as they lie. The first pass fetches them for all, in a loop of its own.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @bytes
// CHECK-LABEL: func private @moe_integer_int8_32_scale16_block64_2
// CHECK: %[[FIRST:.*]] = arith.cmpi ne, %{{.*}}, %c0 : index
// CHECK: scf.if %[[FIRST]]
// CHECK: scf.for
// CHECK-COUNT-2: memref.prefetch
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx2.psign.b"
// CHECK: llvm.fence
// CHECK-COUNT-2: memref.prefetch
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx2.psign.b"
// CHECK: } else {
// CHECK-NOT: memref.prefetch
// CHECK: llvm.fence
// CHECK-NOT: memref.prefetch
// CHECK: return
func.func @bytes(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x1x2112xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x2112xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8>], panels = 2 : i64, moe.integer_rows}
    : memref<?x64xf32>
  return
}

// -----

// With VNNI, sums have 32 bits; 12 rows are a pass, where there is one panel. A block has one segment: at its begin the
// kernel fetches a line from each of its places.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni"} {
  // CHECK-LABEL: func @wide
  // CHECK: case 12 {
  // CHECK-LABEL: func private @moe_integer_float4_32_scale8_block32_12
  // CHECK: scf.for
  // CHECK: scf.for
  // CHECK-NEXT: arith.muli
  // CHECK-NEXT: arith.addi
  // CHECK-NEXT: memref.prefetch %{{.*}}, read, locality<3>, data : memref<?xi8>
  // CHECK-NEXT: }
  // CHECK: scf.for
  // CHECK-NOT: memref.prefetch
  // CHECK-COUNT-24: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
  // CHECK: scf.yield
  func.func @wide(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x1x1088xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x1088xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<e2m1, block = 32>], panels = 1 : i64, moe.integer_rows}
      : memref<?x64xf32>
    return
  }
}

// -----

// A block of all k is decoded by itself, in a larger place; its sums of 16 bits are added up after eight words.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @long
// CHECK: memref.alloca() {alignment = 64 : i64} : memref<32768xi8>
// CHECK: call @moe_bytes_int4_32
// CHECK-LABEL: func private @moe_integer_int4_32_scale16_block1024_2
// CHECK: scf.for %{{.*}} = %c0 to %c256 step %c8 {{.*}} -> (vector<8xi32>
// CHECK: scf.for {{.*}} step %c2 {{.*}} -> (vector<16xi16>
// CHECK-COUNT-8: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK: scf.yield
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
func.func @long(%x: memref<?x1024xf32>, %o: memref<3xindex>, %w: memref<2x1x16448xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x16448xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4>], panels = 2 : i64, moe.integer_rows}
    : memref<?x1024xf32>
  return
}

// -----

// One that does not fit there is decoded in registers.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
// CHECK-LABEL: func @longest
// CHECK-NOT: call @moe_
func.func @longest(%x: memref<?x8192xf32>, %o: memref<3xindex>, %w: memref<2x1x131136xi8>, %y: memref<?x32xf32>) {
  moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x131136xi8>) outs(%y : memref<?x32xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4>], panels = 2 : i64, moe.integer_rows}
    : memref<?x8192xf32>
  return
}

// -----

// Of several panels two are multiplied side by side, by 6 rows: half as many k are decoded together, and sums are twice as
// wide. The third panel is beside itself, and the group's last unit. Lines come from places of both panels, not while codes
// become bytes; and those of results some rows before they are written.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni"} {
  // CHECK-LABEL: func @together
  // CHECK: memref.alloca() {alignment = 64 : i64} : memref<192x64xf32>
  // CHECK: memref.alloca() {alignment = 64 : i64} : memref<16384xi8>
  // CHECK: scf.for %[[PANEL:.*]] = %{{.*}} to %{{.*}} step %c2
  // CHECK: %[[NEXT:.*]] = arith.addi %[[PANEL]], %c2
  // CHECK: arith.minsi %[[NEXT]]
  // CHECK: case 6 {
  // CHECK: call @moe_integer_int4_32x2_scale16_block32_6
  // CHECK-NOT: case 7
  // CHECK: default {
  // CHECK: memref.prefetch %{{.*}}, write, locality<3>, data : memref<?x96xf32>
  // CHECK-LABEL: func private @moe_bytes_int4_32_near
  // CHECK-NOT: memref.prefetch
  // CHECK: return
  // CHECK-LABEL: func private @moe_integer_int4_32x2_scale16_block32_6
  // CHECK-COUNT-2: memref.prefetch %{{.*}}, read, locality<3>, data : memref<?xi8>
  // CHECK-NOT: memref.prefetch
  // CHECK: scf.for
  // CHECK-COUNT-4: vector.load %{{.*}} : memref<?xi8>, vector<64xi8>
  // CHECK-COUNT-24: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
  // CHECK: llvm.fence
  func.func @together(%x: memref<?x512xf32>, %o: memref<3xindex>, %w: memref<2x3x9216xi8>, %y: memref<?x96xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x3x9216xi8>) outs(%y : memref<?x96xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<u4, block = 32>], panels = 2 : i64, moe.integer_rows}
      : memref<?x512xf32>
    return
  }
}

// -----

// A block of all k has a segment of eight words after the other.
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni"} {
  // CHECK-LABEL: func @segments
  // CHECK-LABEL: func private @moe_integer_int8_32x2_scale16_block512_6
  // CHECK: scf.for %{{.*}} = %c0 to %c128 step %c8 {{.*}} -> (vector<16xi32>
  // CHECK: scf.for
  // CHECK-COUNT-2: memref.prefetch
  // CHECK: scf.for {{.*}} step %c2 {{.*}} -> (vector<16xi32>
  // CHECK-COUNT-24: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
  // CHECK-NOT: memref.prefetch
  // CHECK: return
  func.func @segments(%x: memref<?x512xf32>, %o: memref<3xindex>, %w: memref<2x2x16448xi8>, %y: memref<?x64xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x2x16448xi8>) outs(%y : memref<?x64xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8>], panels = 2 : i64, moe.integer_rows}
      : memref<?x512xf32>
    return
  }
}
