// Grouped matmuls of f32 in a narrower type: rows are converted in front, stored weights when the file is written.
//
// RUN: moe-opt %s --moe-set-gpu-precision=to=f16 --split-input-file | FileCheck %s
// RUN: moe-opt %s --moe-set-gpu-precision=to=f16 --split-input-file --remark-policy=all --remark-format=emitRemark \
// RUN:   --remarks-filter-missed='.*' -o %t 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: moe-opt %s --moe-set-gpu-precision=to=tf32 --split-input-file | FileCheck %s --check-prefix=TF32
// RUN: not moe-opt %s --moe-set-gpu-precision=to=f64 2>&1 | FileCheck %s --check-prefix=ERROR
// ERROR: precision 'f64' is none of f16, bf16 and tf32

// Operands stay as they are, and the op is marked for its kernel.
// TF32-LABEL: func.func @stored
// TF32-NOT: arith.truncf
// TF32: moe.grouped_matmul %{{[a-z0-9]+}} offsets
// TF32: extra_maps = [], moe_gpu.tf32} : tensor<?x32xf32>

// CHECK-LABEL: func.func @stored
// CHECK-SAME: %[[X:[a-z0-9]+]]: tensor<?x32xf32>
// CHECK-SAME: %[[W:[a-z0-9]+]]: tensor<4x32x48xf16> {moe.converted = {offset = 0 : i64, strides = array<i64: 1536, 48, 1>, weight = "w"}, moe.weight = "w.f16"}
// CHECK-NOT: arith.truncf
// CHECK: %[[NARROW:.*]] = arith.truncf %[[X]] : tensor<?x32xf32> to tensor<?x32xf16>
// CHECK-NOT: arith.truncf
// CHECK: moe.grouped_matmul %[[NARROW]] {{.*}} banks(%[[W]] : tensor<4x32x48xf16>)
func.func @stored(%x: tensor<?x32xf32>, %o: tensor<5xindex>, %w: tensor<4x32x48xf32> {moe.weight = "w"},
                  %init: tensor<?x48xf32>) -> tensor<?x48xf32> {
  %y = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : tensor<4x32x48xf32>) outs(%init : tensor<?x48xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x32xf32>
  return %y : tensor<?x48xf32>
}

// -----

// A bank that is computed is converted in each call.
// CHECK-LABEL: func.func @computed
// CHECK: arith.truncf %{{.*}} : tensor<4x32x48xf32> to tensor<4x32x48xf16>
// REMARK: a bank is not a stored weight: it is converted in each call
func.func @computed(%x: tensor<?x32xf32>, %o: tensor<5xindex>, %w: tensor<4x32x48xf32>,
                    %init: tensor<?x48xf32>) -> tensor<?x48xf32> {
  %y = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : tensor<4x32x48xf32>) outs(%init : tensor<?x48xf32>) {
  ^bb0(%s: f32):
    moe.yield %s : f32
  } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []} : tensor<?x32xf32>
  return %y : tensor<?x48xf32>
}
