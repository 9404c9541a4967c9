// RUN: moe-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{expected codes u2, u3, u4, u8, i2, i3, i4, i8 or e2m1, got 'f4'}}
func.func private @unknown() attributes {q = #moe.quant<f4>}

// -----

// expected-error@+1 {{expected codes of 2, 3, 4 or 8 bits, got 5}}
func.func private @quant_c1_bits() attributes {q = #moe.quant<u5>}

// -----

// expected-error@+1 {{expected 'block' >= 0, got -32}}
func.func private @quant_c2_block() attributes {q = #moe.quant<u4, block = -32>}

// -----

// expected-error@+1 {{codes of e2m1 have no zero points}}
func.func private @quant_c3_e2m1() attributes {q = #moe.quant<e2m1, block = 32, zero_points>}

// -----

func.func @dequantize_c1_dynamic(%c: tensor<48x?xi8>, %s: tensor<48x?xf32>) {
  // expected-error@+1 {{expected a result with a static last dimension, got 'tensor<48x?xf32>'}}
  %0 = moe.dequantize %c scales(%s : tensor<48x?xf32>) as <u4, block = 32> : tensor<48x?xi8> -> tensor<48x?xf32>
  return
}

// -----

func.func @dequantize_c2_codes(%c: tensor<48x64xi8>, %s: tensor<48x2xf32>) {
  // expected-error@+1 {{expected codes of 32 elements per row for 'tensor<48x64xf32>' as #moe.quant<u4, block = 32>, got 'tensor<48x64xi8>'}}
  %0 = moe.dequantize %c scales(%s : tensor<48x2xf32>) as <u4, block = 32> : tensor<48x64xi8> -> tensor<48x64xf32>
  return
}

// -----

func.func @dequantize_c3_scales(%c: tensor<48x64xi8>, %s: tensor<48x2xf32>) {
  // expected-error@+1 {{expected scales of 1 elements per row}}
  %0 = moe.dequantize %c scales(%s : tensor<48x2xf32>) as <u8> : tensor<48x64xi8> -> tensor<48x64xf32>
  return
}

// -----

func.func @dequantize_c4_missing(%c: tensor<48x64xi8>, %s: tensor<48x1xf32>) {
  // expected-error@+1 {{expected zero points if and only if the format has them, got #moe.quant<u8, zero_points> and none}}
  %0 = moe.dequantize %c scales(%s : tensor<48x1xf32>) as <u8, zero_points> : tensor<48x64xi8> -> tensor<48x64xf32>
  return
}

// -----

func.func @dequantize_c5_zero_points(%c: tensor<48x32xi8>, %s: tensor<48x2xf32>, %z: tensor<48x2xi8>) {
  // expected-error@+1 {{expected zero points of 1 elements per row}}
  %0 = moe.dequantize %c scales(%s : tensor<48x2xf32>) zero_points(%z : tensor<48x2xi8>) as <u4, block = 32, zero_points>
      : tensor<48x32xi8> -> tensor<48x64xf32>
  return
}
