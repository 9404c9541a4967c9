// RUN: moe-opt %s --verify-diagnostics --split-input-file --moe-map-to-gpu --convert-grouped-matmul-to-gpu

func.func @plan(%i: memref<?x2xi32>, %o: memref<9xindex>, %r: memref<?xindex>, %v: memref<?x2xindex>) {
  // expected-error @below {{'moe_gpu.plan' op 'offsets' has 9 elements, 7 experts need 8}}
  moe_gpu.plan %i experts(7) outs(%o, %r, %r, %r, %v : memref<9xindex>, memref<?xindex>, memref<?xindex>, memref<?xindex>, memref<?x2xindex>) : memref<?x2xi32>
  return
}

// -----

func.func @stack() -> f32 {
  %c0 = arith.constant 0 : index
  // expected-error @below {{a stack buffer outside of a kernel cannot be seen by the device}}
  %a = memref.alloca() : memref<1xf32>
  %v = memref.load %a[%c0] : memref<1xf32>
  return %v : f32
}

// -----

func.func @copy(%a: memref<4xf32>, %b: memref<4xf32>) {
  // expected-error @below {{'memref.copy' was expected to be a loop before the mapping to a GPU}}
  memref.copy %a, %b : memref<4xf32> to memref<4xf32>
  return
}

// -----

func.func @targets(%h: memref<?x16xf32>, %w: memref<4x16x64xf32>, %offsets: memref<5xindex>, %to: memref<?xindex>, %y: memref<?x64xf32>) {
  // expected-error @below {{no GPU kernel: it adds its pairs to their targets, which processors' kernels do}}
  moe.grouped_matmul %h offsets(%offsets : memref<5xindex>) banks(%w : memref<4x16x64xf32>) outs(%y : memref<?x64xf32>) targets(%to : memref<?xindex>) {
  ^bb0(%a: f32):
    moe.yield %a : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : memref<?x16xf32>
  return
}
