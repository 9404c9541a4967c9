// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s
// RUN: moe-opt %s --emit-bytecode | moe-opt | FileCheck %s

// CHECK-LABEL: func @formats
func.func @formats(%c: tensor<48x32xi8>, %s: tensor<48x2xf32>, %z: tensor<48x1xi8>, %f: tensor<48x2xf16>,
                   %stack: tensor<?x48x12xi8>, %row: tensor<?x48x1xf16>, %m: tensor<48x32xi8>, %ue: tensor<48x2xf8E8M0FNU>) {
  // CHECK: moe.dequantize %{{.*}} scales(%{{.*}} : tensor<48x2xf32>) as <u4, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
  %0 = moe.dequantize %c scales(%s : tensor<48x2xf32>) as <u4, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
  // CHECK: zero_points(%{{.*}} : tensor<48x1xi8>) as <u4, block = 32, zero_points>
  %1 = moe.dequantize %c scales(%s : tensor<48x2xf32>) zero_points(%z : tensor<48x1xi8>) as <u4, block = 32, zero_points>
      : tensor<48x32xi8> -> tensor<48x64xf32>
  // CHECK: zero_points(%{{.*}} : tensor<48x2xf16>) as <i4, block = 32, zero_points>
  %2 = moe.dequantize %c scales(%f : tensor<48x2xf16>) zero_points(%f : tensor<48x2xf16>) as <i4, block = 32, zero_points>
      : tensor<48x32xi8> -> tensor<48x64xf16>
  // CHECK: as <u3> : tensor<?x48x12xi8> -> tensor<?x48x32xf32>
  %3 = moe.dequantize %stack scales(%row : tensor<?x48x1xf16>) as <u3> : tensor<?x48x12xi8> -> tensor<?x48x32xf32>
  // CHECK: as <e2m1, block = 32>
  %4 = moe.dequantize %m scales(%ue : tensor<48x2xf8E8M0FNU>) as <e2m1, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
  return
}

#k = affine_map<(e, k, n) -> (e, n, k)>
#b = affine_map<(e, k, n) -> (e, k, n)>
// CHECK-LABEL: func @bank
// CHECK: moe.grouped_matmul {{.*}} banks(%{{.*}}, %{{.*}} : tensor<2x40x16xi8>, tensor<2x32x40xf32>) scales(%{{.*}} : tensor<2x40x1xf32>) zero_points(%{{.*}} : tensor<2x40x1xi8>) outs
// CHECK: formats = [#moe.quant<u4, block = 32, zero_points>, unit]
func.func @bank(%a: tensor<?x32xf32>, %o: tensor<3xindex>, %c: tensor<2x40x16xi8>, %s: tensor<2x40x1xf32>,
                %z: tensor<2x40x1xi8>, %u: tensor<2x32x40xf32>, %init: tensor<?x40xf32>) -> tensor<?x40xf32> {
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%c, %u : tensor<2x40x16xi8>, tensor<2x32x40xf32>)
      scales(%s : tensor<2x40x1xf32>) zero_points(%z : tensor<2x40x1xi8>) outs(%init : tensor<?x40xf32>) {
  ^bb0(%acc: f32, %other: f32):
    %m = arith.mulf %acc, %other : f32
    moe.yield %m : f32
  } {bank_maps = [#k, #b], extra_maps = [], formats = [#moe.quant<u4, block = 32, zero_points>, unit]} : tensor<?x32xf32>
  return %y : tensor<?x40xf32>
}
