// RUN: moe-opt %s --moe-check-routed --split-input-file --verify-diagnostics

// Private functions, calls and the structured control flow that converts one to several carry routings.
func.func private @twice(%r: !moe.routing<?x4xf32>) -> !moe.routing<?x4xf32> {
  return %r : !moe.routing<?x4xf32>
}
func.func private @helper(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  return %x : tensor<?x8xf32>
}
func.func @fine(%w: tensor<?x4xf32>, %x: tensor<?x8xf32>, %c: i1, %n: index) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = moe.route %w : tensor<?x4xf32>
  %0 = func.call @twice(%r) : (!moe.routing<?x4xf32>) -> !moe.routing<?x4xf32>
  %1 = scf.for %i = %c0 to %n step %c1 iter_args(%a = %0) -> (!moe.routing<?x4xf32>) {
    %m = moe.normalize %a by(sum) : !moe.routing<?x4xf32>
    scf.yield %m : !moe.routing<?x4xf32>
  }
  %2 = scf.if %c -> !moe.routing<?x4xf32> {
    scf.yield %1 : !moe.routing<?x4xf32>
  } else {
    scf.yield %r : !moe.routing<?x4xf32>
  }
  %y = moe.apply %2 rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    %o = func.call @helper(%rows) : (tensor<?x8xf32>) -> tensor<?x8xf32>
    moe.yield %o : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// -----

// All offenders at once.
// expected-error @+2 {{public function 'border' has '!moe.routing<?x4xf32>' as argument 1: take the tensors and make the routing with moe.from_slots, or make the function private}}
// expected-error @+1 {{public function 'border' has '!moe.routing<?x4xf32>' as result 0: return the tensors of moe.to_slots or moe.to_dense, or make the function private}}
func.func @border(%x: tensor<4xf32>, %r: !moe.routing<?x4xf32>) -> !moe.routing<?x4xf32> {
  // expected-error @+1 {{a routing cannot pass through 'scf.execute_region': carry the tensors of moe.to_slots, or use scf.for, scf.if, scf.while or scf.index_switch}}
  %0 = scf.execute_region -> !moe.routing<?x4xf32> {
    scf.yield %r : !moe.routing<?x4xf32>
  }
  return %0 : !moe.routing<?x4xf32>
}

// -----

func.func private @unknown(f32) -> f32
func.func private @writes(%x: f32, %m: memref<1xf32>) -> f32 {
  %c0 = arith.constant 0 : index
  memref.store %x, %m[%c0] : memref<1xf32>
  return %x : f32
}
func.func @calls(%w: tensor<?x4xf32>, %m: memref<1xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %r = moe.route %w : tensor<?x4xf32>
  // expected-error @+1 {{the body of 'moe.map' has memory effects, or effects that cannot be seen, in 'func.call': compute on tensors, and define the functions that it calls}}
  %0 = moe.map %r {
  ^bb0(%v: f32, %row: index, %expert: index):
    // expected-note @+1 {{here}}
    %s = func.call @unknown(%v) : (f32) -> f32
    moe.yield %s : f32
  } : !moe.routing<?x4xf32>
  // expected-error @+1 {{the body of 'moe.map' has memory effects, or effects that cannot be seen, in 'func.call'}}
  %1 = moe.map %r {
  ^bb0(%v: f32, %row: index, %expert: index):
    // expected-note @+1 {{here}}
    %s = func.call @writes(%v, %m) : (f32, memref<1xf32>) -> f32
    moe.yield %s : f32
  } : !moe.routing<?x4xf32>
  %d0 = moe.to_dense %0 : !moe.routing<?x4xf32>
  %d1 = moe.to_dense %1 : !moe.routing<?x4xf32>
  return %d0, %d1 : tensor<?x4xf32>, tensor<?x4xf32>
}
