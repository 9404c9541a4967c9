// RUN: split-file %s %t
// RUN: moe-opt %t/eight.mlir --convert-grouped-matmul-to-vector="lanes=16 batch-invariant=true" | FileCheck %t/eight.mlir
// RUN: moe-opt %t/four.mlir --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %t/four.mlir
// RUN: moe-opt %t/short.mlir --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %t/short.mlir --check-prefix=SHORT
// RUN: moe-opt %t/long.mlir --convert-grouped-matmul-to-vector="lanes=16" | FileCheck %t/long.mlir

//--- eight.mlir
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni", moe.tile_types = ["int8"]} {
  // Nine rows and more: 139 k are two blocks of 16 words and one of 3, whose tile has zeros behind them and whose weights are
  // copied. All of that also where results do not depend on other rows, since integers do not.
  // CHECK-LABEL: func @eight
  // CHECK: arith.cmpi sge, %{{.*}}, %c9
  // CHECK: memref.alloc() {alignment = 64 : i64} : memref<36864xi8>
  // CHECK: vector.load %{{.*}} : memref<?x?xi32>, vector<16xi32>
  // CHECK: vector.store %{{.*}} : memref<?xi8>, vector<64xi8>
  // CHECK: vector.create_mask %c3{{.*}} : vector<16xi1>
  // CHECK: call @moe_integer_tiles_int8_32_scale32_block64(
  // CHECK: vector.load %{{.*}} : memref<?xi8>, vector<128xi8>
  // CHECK: call @moe_integer_tiles_int8_32_scale32_block64(
  // CHECK: memref.dealloc %{{.*}} : memref<?xi8>
  // CHECK-LABEL: func private @moe_integer_tiles_int8_32_scale32_block64(
  // The scales of the blocks; for each four blocks their integers, of two tiles of rows by two of columns, in one step of 64
  // bytes; then the rows.
  // CHECK: vector.store %{{.*}} : memref<8x32xf32>, vector<16xf32>
  // CHECK: scf.for
  // CHECK-COUNT-4: amx.tile_load %{{.*}} into !amx.tile<16x16xi32>
  // CHECK: %{{.*}}:4 = scf.for
  // CHECK: memref.prefetch
  // CHECK: amx.tile_load {{.*}} into !amx.tile<16x64xi8>
  // CHECK: amx.tile_load {{.*}} into !amx.tile<16x64xi8>
  // CHECK: amx.tile_muli %{{.*}}, %{{[a-z0-9]+}}, %{{.*}} : !amx.tile<16x64xi8>, !amx.tile<16x64xi8>, !amx.tile<16x16xi32>
  // CHECK-COUNT-3: amx.tile_muli
  // CHECK: scf.yield
  // CHECK-COUNT-4: amx.tile_store {{.*}} : memref<128x32xi32>
  // CHECK: scf.for
  // CHECK: arith.sitofp {{.*}} : vector<16xi32> to vector<16xf32>
  func.func @eight(%x: memref<?x139xf32>, %o: memref<3xindex>, %w: memref<2x1x4864xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x4864xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8, block = 64>], panels = 4 : i64, moe.integer_rows}
      : memref<?x139xf32>
    return
  }
}

//--- four.mlir
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni", moe.tile_types = ["int8"]} {
  // 4 bits are bytes first, without a sign; what decodes fetches codes, since tiles do not. Two steps of 64 bytes for a block of 128 k.
  // CHECK-LABEL: func @four
  // CHECK: call @moe_bytes_int4_32(
  // CHECK: call @moe_integer_tiles_int4_32_scale32_block128
  // CHECK-LABEL: func private @moe_bytes_int4_32(
  // CHECK: memref.prefetch
  // CHECK-LABEL: func private @moe_integer_tiles_int4_32_scale32_block128(
  // CHECK-NOT: memref.prefetch
  // CHECK: amx.tile_muli %{{.*}}, %{{.*}} zext, %{{.*}} : !amx.tile<16x64xi8>, !amx.tile<16x64xi8>, !amx.tile<16x16xi32>
  func.func @four(%x: memref<?x128xf32>, %o: memref<3xindex>, %w: memref<2x1x2176xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x2176xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i4, block = 128>], panels = 4 : i64, moe.integer_rows}
      : memref<?x128xf32>
    return
  }
}

//--- long.mlir
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni", moe.tile_types = ["int8"]} {
  // The bytes of one block would not fit into half of a second-level cache.
  // CHECK-LABEL: func @long
  // CHECK-NOT: moe_integer_tiles
  func.func @long(%x: memref<?x4160xf32>, %o: memref<3xindex>, %w: memref<2x1x66688xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x66688xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i4, block = 0>], panels = 4 : i64, moe.integer_rows}
      : memref<?x4160xf32>
    return
  }
}

//--- short.mlir
#map = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
module attributes {moe.integer_dot = "avx512vnni", moe.tile_types = ["int8"]} {
  // Blocks of 32 k stay with vectors, which are faster there.
  // SHORT-LABEL: func @short
  // SHORT: call @moe_integer_int8_32_scale32_block32
  // SHORT-NOT: moe_integer_tiles
  func.func @short(%x: memref<?x64xf32>, %o: memref<3xindex>, %w: memref<2x1x2304xi8>, %y: memref<?x32xf32>) {
    moe.grouped_matmul %x offsets(%o : memref<3xindex>) banks(%w : memref<2x1x2304xi8>) outs(%y : memref<?x32xf32>) {
    ^bb0(%acc: f32):
      moe.yield %acc : f32
    } {bank_maps = [#map], extra_maps = [], formats = [#moe.quant<i8, block = 32>], panels = 4 : i64, moe.integer_rows}
      : memref<?x64xf32>
    return
  }
}
