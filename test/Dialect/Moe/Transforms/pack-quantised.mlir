// RUN: moe-opt %s --moe-pack-quantised --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-pack-quantised --split-input-file --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK

// 40 columns are 2 panels of 32; 64 k in 2 blocks of 32 codes of 4 bits (512 bytes) and 32 scales of f16 (64 bytes).
#b = affine_map<(e, k, n) -> (e, n, k)>
// CHECK: #[[MAP:.*]] = affine_map<(d0, d1, d2) -> (d0, d2 floordiv 32, d1)>
// CHECK-LABEL: func @main
// CHECK-NOT: moe.weight = "w"
// CHECK-SAME: %[[P:[^ ]*]]: tensor<2x2x1152xi8> {moe.dtype = "u8", moe.quant_panels = {banks = [{codes = {offset = 0 : i64, sizes = array<i64: 2, 40, 32>, strides = array<i64: 1280, 32, 1>, weight = "w"}, scales = {offset = 0 : i64, sizes = array<i64: 2, 40, 2>, strides = array<i64: 80, 2, 1>, weight = "s"}}], format = #moe.quant<u4, block = 32>, k = 64 : i64, scale_bytes = 2 : i64}, moe.weight = "w.panels"}
// CHECK: moe.grouped_matmul %{{.*}} offsets(%{{.*}} : tensor<3xindex>) banks(%[[P]] : tensor<2x2x1152xi8>) outs
// CHECK: bank_maps = [#[[MAP]]]
// CHECK-SAME: formats = [#moe.quant<u4, block = 32>], panels = 2 : i64
func.func @main(%x: tensor<?x64xf32>, %o: tensor<3xindex>, %c: tensor<2x40x32xi8> {moe.weight = "w"},
                %s: tensor<2x40x2xf16> {moe.weight = "s"}, %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %y = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks(%c : tensor<2x40x32xi8>) scales(%s : tensor<2x40x2xf16>)
      outs(%init : tensor<?x40xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u4, block = 32>]} : tensor<?x64xf32>
  return %y : tensor<?x40xf32>
}

// -----

// Gate and up, rows in turn in one weight: 16 columns of each in a panel, one scale per column (bytes: 64 x 32 + 64).
#b = affine_map<(e, k, n) -> (e, n, k)>
// CHECK-LABEL: func @halves
// CHECK: moe.grouped_matmul {{.*}} banks(%[[P:.*]], %[[P]] : tensor<2x3x2112xi8>, tensor<2x3x2112xi8>)
func.func @halves(%x: tensor<?x64xf32>, %o: tensor<3xindex>, %c: tensor<2x80x64xi8> {moe.weight = "w"},
                  %s: tensor<2x80x1xf16> {moe.weight = "s"}, %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %g = tensor.extract_slice %c[0, 0, 0] [2, 40, 64] [1, 2, 1] : tensor<2x80x64xi8> to tensor<2x40x64xi8>
  %u = tensor.extract_slice %c[0, 1, 0] [2, 40, 64] [1, 2, 1] : tensor<2x80x64xi8> to tensor<2x40x64xi8>
  %gs = tensor.extract_slice %s[0, 0, 0] [2, 40, 1] [1, 2, 1] : tensor<2x80x1xf16> to tensor<2x40x1xf16>
  %us = tensor.extract_slice %s[0, 1, 0] [2, 40, 1] [1, 2, 1] : tensor<2x80x1xf16> to tensor<2x40x1xf16>
  %y = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks(%g, %u : tensor<2x40x64xi8>, tensor<2x40x64xi8>)
      scales(%gs, %us : tensor<2x40x1xf16>, tensor<2x40x1xf16>) outs(%init : tensor<?x40xf32>) {
  ^bb0(%a: f32, %b: f32):
    %m = arith.mulf %a, %b : f32
    moe.yield %m : f32
  } {bank_maps = [#b, #b], extra_maps = [], formats = [#moe.quant<u8>, #moe.quant<u8>]} : tensor<?x64xf32>
  return %y : tensor<?x40xf32>
}

// -----

// Scales of bf16 become f32: 1024 bytes of codes and 2 x 128 of scales.
#b = affine_map<(e, k, n) -> (e, n, k)>
// CHECK-LABEL: func @bf16_scales
// CHECK-SAME: tensor<2x2x1280xi8> {{.*}} scale_bytes = 4 : i64}
// CHECK: panels = 4 : i64
func.func @bf16_scales(%x: tensor<?x64xf32>, %o: tensor<3xindex>, %c: tensor<2x40x32xi8> {moe.weight = "w"},
                       %s: tensor<2x40x2xbf16> {moe.weight = "s"}, %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %y = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks(%c : tensor<2x40x32xi8>) scales(%s : tensor<2x40x2xbf16>)
      outs(%init : tensor<?x40xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u4, block = 32>]} : tensor<?x64xf32>
  return %y : tensor<?x40xf32>
}

// -----

// Codes that are an input of the program stay as they are.
#b = affine_map<(e, k, n) -> (e, n, k)>
// CHECK-LABEL: func @input
// CHECK: banks(%{{.*}} : tensor<2x40x64xi8>) scales(
// REMARK: quantised banks are not packed: bank 0 is not made of (parts of) weights
func.func @input(%x: tensor<?x64xf32>, %o: tensor<3xindex>, %c: tensor<2x40x64xi8>, %s: tensor<2x40x1xf16>,
                 %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %y = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks(%c : tensor<2x40x64xi8>) scales(%s : tensor<2x40x1xf16>)
      outs(%init : tensor<?x40xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u8>]} : tensor<?x64xf32>
  return %y : tensor<?x40xf32>
}
