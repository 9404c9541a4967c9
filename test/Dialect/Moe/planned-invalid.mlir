// RUN: moe-opt %s --split-input-file --verify-diagnostics

func.func @pl1(%i: tensor<?x2xi32>) {
  // expected-error@+1 {{expected 'experts' >= 1, got 0}}
  %o, %r, %s, %e, %v = moe.plan %i experts(0) : tensor<?x2xi32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, k, n)>
func.func @gm2(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x4x5xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected one map per bank, got 2 maps and 1 banks}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x4x5xf32>) outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b, #b], extra_maps = []} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, k, n)>
func.func @gm4(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x4x6xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{bank 0 has size 6 in dimension 2, expected 5}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x4x6xf32>) outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = []} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, k, n)>
func.func @gm6(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x4x5xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected the epilogue's arguments to be one accumulator of type 'f32' per bank}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x4x5xf32>) outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32, %other: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = []} : tensor<?x4xf32>
  return
}

// -----

func.func @cb1(%p: tensor<?x5xf32>, %v: tensor<?x2xindex>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected mode sum, mean or max, got dense}}
  %y = moe.combine(dense) %p by(%v : tensor<?x2xindex>) outs(%init : tensor<?x5xf32>) : tensor<?x5xf32>
  return
}

// -----

func.func @cb2(%p: tensor<?x5xf32>, %v: tensor<?x2xindex>, %init: tensor<?x6xf32>) {
  // expected-error@+1 {{expected 'init' to have the shape of 'pairs' behind the first dimension}}
  %y = moe.combine(sum) %p by(%v : tensor<?x2xindex>) outs(%init : tensor<?x6xf32>) : tensor<?x5xf32>
  return
}

// -----

func.func @cb3(%p: tensor<?x5xf32>, %v: tensor<3x2xindex>, %init: tensor<4x5xf32>) {
  // expected-error@+1 {{expected one row of 'inverse' per row of 'init'}}
  %y = moe.combine(sum) %p by(%v : tensor<3x2xindex>) outs(%init : tensor<4x5xf32>) : tensor<?x5xf32>
  return
}

// -----

func.func @cb4(%p: tensor<?x5xf32>, %v: tensor<?x2xindex>, %w: tensor<?x3xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected 'weights' of the shape of 'inverse'}}
  %y = moe.combine(sum) %p by(%v : tensor<?x2xindex>) weights(%w : tensor<?x3xf32>) outs(%init : tensor<?x5xf32>) : tensor<?x5xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, n, k)>
func.func @gm8(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x5x4xi8>, %s: tensor<2x5x1xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected one entry of 'formats' per bank, got 2 entries and 1 banks}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x5x4xi8>) scales(%s : tensor<2x5x1xf32>)
      outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u8>, unit]} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, n, k)>
func.func @gm9(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x5x4xf32>, %s: tensor<2x5x1xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected bank 0 of i8 codes, got 'tensor<2x5x4xf32>'}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x5x4xf32>) scales(%s : tensor<2x5x1xf32>)
      outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u8>]} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, k, n)>
func.func @gm9_order(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x4x5xi8>, %s: tensor<2x1x5xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected k as the last dimension of quantised bank 0}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x4x5xi8>) scales(%s : tensor<2x1x5xf32>)
      outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u8>]} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, n, k)>
func.func @gm10(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x5x4xi8>, %s: tensor<2x5x1xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected 1 scales and 1 zero points for the formats, got 1 and 0}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x5x4xi8>) scales(%s : tensor<2x5x1xf32>)
      outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u8, zero_points>]} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, n, k)>
func.func @gm11(%a: tensor<?x?xf32>, %o: tensor<3xindex>, %b: tensor<2x5x4xi8>, %s: tensor<2x5x1xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected rows of static size with quantised bank 0, got 'tensor<?x?xf32>'}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b : tensor<2x5x4xi8>) scales(%s : tensor<2x5x1xf32>)
      outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = [], formats = [#moe.quant<u8>]} : tensor<?x?xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, n floordiv 32, k)>
func.func @gm12(%a: tensor<?x4xf32>, %o: tensor<3xindex>, %b: tensor<2x1x192xi8>, %c: tensor<2x1x192xi8>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected 'panels' with one operand [experts, panels, bytes] and one format for all banks, got bank 1}}
  %y = moe.grouped_matmul %a offsets(%o : tensor<3xindex>) banks(%b, %c : tensor<2x1x192xi8>, tensor<2x1x192xi8>)
      outs(%init : tensor<?x5xf32>) {
  ^bb0(%acc: f32, %other: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b, #b], extra_maps = [], formats = [#moe.quant<u8>, #moe.quant<u8>], panels = 2 : i64} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, k, n)>
func.func @gm13(%a: tensor<?x4xf32>, %rows: tensor<6xindex>, %to: tensor<7xindex>, %o: tensor<3xindex>, %b: tensor<2x4x5xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected one target per pair, got 'tensor<7xindex>' and rows 'tensor<6xindex>'}}
  %y = moe.grouped_matmul %a rows(%rows : tensor<6xindex>) offsets(%o : tensor<3xindex>) banks(%b : tensor<2x4x5xf32>)
      outs(%init : tensor<?x5xf32>) targets(%to : tensor<7xindex>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = []} : tensor<?x4xf32>
  return
}

// -----

#b = affine_map<(e, k, n) -> (e, k, n)>
func.func @gm13_without_rows(%h: tensor<6x4xf32>, %to: tensor<7xindex>, %o: tensor<3xindex>, %b: tensor<2x4x5xf32>, %init: tensor<?x5xf32>) {
  // expected-error@+1 {{expected one target per pair, got 'tensor<7xindex>' and pairs 'tensor<6x4xf32>'}}
  %y = moe.grouped_matmul %h offsets(%o : tensor<3xindex>) banks(%b : tensor<2x4x5xf32>)
      outs(%init : tensor<?x5xf32>) targets(%to : tensor<7xindex>) {
  ^bb0(%acc: f32):
    moe.yield %acc : f32
  } {bank_maps = [#b], extra_maps = []} : tensor<6x4xf32>
  return
}
