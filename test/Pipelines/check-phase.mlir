// RUN: moe-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(moe-check-phase{phase=plan})"

// Each kind of offender once, with its number.
func.func @routed(%p: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error @+2 {{'moe.route' remains after phase 'plan' (2 places, this is the first)}}
  // expected-note @+1 {{no lowering of this op applies here}}
  %r = moe.route %p : tensor<?x4xf32>
  %s = moe.route %p : tensor<?x4xf32>
  return %p : tensor<?x4xf32>
}

// -----

// Tensors are fine here.
func.func @tensors(%p: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %q = arith.addf %p, %p : tensor<?x4xf32>
  return %q : tensor<?x4xf32>
}
