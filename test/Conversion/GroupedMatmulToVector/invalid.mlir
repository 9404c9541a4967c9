// RUN: moe-opt %s --convert-grouped-matmul-to-vector --verify-diagnostics --split-input-file

func.func @tensors(%x: tensor<?x24xf32>, %w: tensor<4x24x48xf32>, %offsets: tensor<5xindex>,
                   %init: tensor<?x48xf32>) -> tensor<?x48xf32> {
  // expected-error @below {{expected buffers: run bufferisation first}}
  %h = moe.grouped_matmul %x offsets(%offsets : tensor<5xindex>) banks(%w : tensor<4x24x48xf32>)
      outs(%init : tensor<?x48xf32>) {
  ^bb0(%g: f32):
    moe.yield %g : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x24xf32>
  return %h : tensor<?x48xf32>
}

// -----

func.func @mixed_orders(%x: memref<?x24xf32>, %w: memref<4x24x48xf32>, %v: memref<4x48x24xf32>,
                        %offsets: memref<5xindex>, %init: memref<?x48xf32>) {
  // expected-error @below {{cannot become a kernel: its banks are stored in different orders}}
  moe.grouped_matmul %x offsets(%offsets : memref<5xindex>)
      banks(%w, %v : memref<4x24x48xf32>, memref<4x48x24xf32>) outs(%init : memref<?x48xf32>) {
  ^bb0(%g: f32, %u: f32):
    %m = arith.mulf %g, %u : f32
    moe.yield %m : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>, affine_map<(e, k, n) -> (e, n, k)>], extra_maps = []}
    : memref<?x24xf32>
  return
}
