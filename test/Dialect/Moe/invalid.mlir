// RUN: moe-opt %s --split-input-file --verify-diagnostics

// One test per constraint of docs/spec.md, named by its label; moe.apply has invalid-apply.mlir, types and attributes
// invalid-types.mlir.

func.func @route_c1_rank(%w: tensor<4x2x6xf32>) {
  // expected-error @+1 {{expected 'weights' of rank 2 [tokens, experts], got 'tensor<4x2x6xf32>'}}
  %r = moe.route %w : tensor<4x2x6xf32>
  return
}

// -----

func.func @route_c2_dynamic_experts(%w: tensor<4x?xf32>) {
  // expected-error @+1 {{expected 'weights' with a static number of experts, got 'tensor<4x?xf32>'}}
  %r = moe.route %w : tensor<4x?xf32>
  return
}

// -----

func.func @route_c3_no_expert(%w: tensor<4x0xf32>) {
  // expected-error @+1 {{expected 'weights' with at least one expert, got 'tensor<4x0xf32>'}}
  %r = moe.route %w : tensor<4x0xf32>
  return
}

// -----

func.func @route_c4_mask_length(%w: tensor<?x6xf32>, %m: tensor<5xi1>) {
  // expected-error @+1 {{expected 'mask' of shape [?, 6], [6] or [?, 1], got 'tensor<5xi1>'}}
  %r = moe.route %w mask(%m : tensor<5xi1>) : tensor<?x6xf32>
  return
}

// -----

func.func @route_c4_mask_tokens(%w: tensor<7x6xf32>, %m: tensor<8x6xi1>) {
  // expected-error @+1 {{expected 'mask' of shape [7, 6], [6] or [7, 1], got 'tensor<8x6xi1>'}}
  %r = moe.route %w mask(%m : tensor<8x6xi1>) : tensor<7x6xf32>
  return
}

// -----

// The rules that a type states are checked where the types of the operands are.
func.func @route_weights_of_integers(%w: tensor<7x6xi32>) {
  // expected-error @+1 {{expected 'weights' to be a tensor of floating-point numbers, got 'tensor<7x6xi32>'}}
  %r = moe.route %w : tensor<7x6xi32>
  return
}

// -----

func.func @from_slots_c1_rank(%i: tensor<4xi32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{expected 'weights' of rank 2 [tokens, slots], got 'tensor<4xf32>'}}
  %r = moe.from_slots %i, %w experts(8) : tensor<4xi32>, tensor<4xf32>
  return
}

// -----

func.func @from_slots_c2_dynamic_slots(%i: tensor<4x?xi32>, %w: tensor<4x?xf32>) {
  // expected-error @+1 {{expected 'weights' with a static number of slots, got 'tensor<4x?xf32>'}}
  %r = moe.from_slots %i, %w experts(8) : tensor<4x?xi32>, tensor<4x?xf32>
  return
}

// -----

func.func @from_slots_c3_experts(%i: tensor<4x2xi32>, %w: tensor<4x2xf32>) {
  // expected-error @+1 {{expected 'experts' >= 1, got 0}}
  %r = moe.from_slots %i, %w experts(0) : tensor<4x2xi32>, tensor<4x2xf32>
  return
}

// -----

func.func @from_slots_c4_shapes(%i: tensor<4x3xi32>, %w: tensor<4x2xf32>) {
  // expected-error @+1 {{expected 'indices' of the shape of 'weights', [4, 2], got 'tensor<4x3xi32>'}}
  %r = moe.from_slots %i, %w experts(8) : tensor<4x3xi32>, tensor<4x2xf32>
  return
}

// -----

func.func @concat_c1_empty() {
  // expected-error @+2 {{expected at least one routing}}
  // expected-error @+1 {{failed to infer returned types}}
  %r = "moe.concat"() : () -> !moe.routing<?x4xf32>
  return
}

// -----

func.func @concat_c2_tokens(%a: !moe.routing<4x6xf32>, %b: !moe.routing<5x6xf32>) {
  // expected-error @+1 {{expected 'inputs' with the same number of tokens, got 4 and 5}}
  %r = moe.concat %a, %b : !moe.routing<4x6xf32>, !moe.routing<5x6xf32>
  return
}

// -----

func.func @concat_c3_weights(%a: !moe.routing<4x6xf32>, %b: !moe.routing<4x6xf16>) {
  // expected-error @+1 {{expected 'inputs' with the same type of weights, got 'f32' and 'f16'}}
  %r = moe.concat %a, %b : !moe.routing<4x6xf32>, !moe.routing<4x6xf16>
  return
}

// -----

func.func @concat_c4_encoding(%a: !moe.routing<4x6xf32, dense>, %b: !moe.routing<4x6xf32, slots>) {
  // expected-error @+1 {{expected 'inputs' with the same encoding, got '!moe.routing<4x6xf32, dense>' and '!moe.routing<4x6xf32, slots>'}}
  %r = moe.concat %a, %b : !moe.routing<4x6xf32, dense>, !moe.routing<4x6xf32, slots>
  return
}

// -----

func.func @concat_of_a_tensor(%a: tensor<4x6xf32>) {
  // expected-error @+1 {{expected 'inputs' to be a routing, got 'tensor<4x6xf32>'}}
  %r = moe.concat %a : tensor<4x6xf32>
  return
}

// -----

func.func @cast_c1_experts(%r: !moe.routing<?x8xf32>) {
  // expected-error @+1 {{expected a result with the 8 experts of 'input', got 9}}
  %c = moe.cast %r : !moe.routing<?x8xf32> to !moe.routing<?x9xf32>
  return
}

// -----

func.func @cast_c2_weights(%r: !moe.routing<?x8xf32>) {
  // expected-error @+1 {{expected a result with the weights of 'input', 'f32', got 'f16'}}
  %c = moe.cast %r : !moe.routing<?x8xf32> to !moe.routing<?x8xf16>
  return
}

// -----

func.func @cast_c3_encoding(%r: !moe.routing<?x8xf32>) {
  // expected-error @+1 {{expected a result with the encoding of 'input', got '!moe.routing<?x8xf32>' and '!moe.routing<?x8xf32, slots>'}}
  %c = moe.cast %r : !moe.routing<?x8xf32> to !moe.routing<?x8xf32, slots>
  return
}

// -----

func.func @cast_c4_tokens(%r: !moe.routing<?x8xf32>) {
  // expected-error @+1 {{expected a result with the tokens of 'input' or a dynamic number, got [?] and [4]}}
  %c = moe.cast %r : !moe.routing<?x8xf32> to !moe.routing<4x8xf32>
  return
}

// -----

func.func @cast_c5_narrower(%r: !moe.routing<?x8xf32, max_per_row = 3>) {
  // expected-error @+1 {{expected a result with room for the 3 slots per row of 'input', got 2}}
  %c = moe.cast %r : !moe.routing<?x8xf32, max_per_row = 3> to !moe.routing<?x8xf32, max_per_row = 2>
  return
}

// -----

// An expert may be chosen more than once, so that dropping a bound above the number of experts narrows.
func.func @cast_c5_dropped(%r: !moe.routing<?x4xf32, max_per_row = 9>) {
  // expected-error @+1 {{expected a result with room for the 9 slots per row of 'input', got 4}}
  %c = moe.cast %r : !moe.routing<?x4xf32, max_per_row = 9> to !moe.routing<?x4xf32>
  return
}

// -----

func.func @cast_c6_per_expert(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected a result with 'max_per_expert' no narrower than [?], got 5}}
  %c = moe.cast %r : !moe.routing<?x4xf32> to !moe.routing<?x4xf32, max_per_expert = 5>
  return
}

// -----

func.func @top_k_c1_neither(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'k' as either a constant or an operand, got neither}}
  %c = "moe.top_k"(%r) {operandSegmentSizes = array<i32: 1, 0, 0>} : (!moe.routing<?x4xf32>) -> !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c1_both(%r: !moe.routing<?x4xf32>, %k: index) {
  // expected-error @+1 {{expected 'k' as either a constant or an operand, got both}}
  %c = "moe.top_k"(%r, %k) {operandSegmentSizes = array<i32: 1, 0, 1>, staticK = 2 : i64} : (!moe.routing<?x4xf32>, index) -> !moe.routing<?x4xf32, max_per_row = 2>
  return
}

// -----

func.func @top_k_c2_negative(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'k' >= 0, got -2}}
  %c = moe.top_k %r k(-2) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c3_tensor_over_all(%r: !moe.routing<?x4xf32>, %k: tensor<4xindex>) {
  // expected-error @+1 {{expected 'k' to be a constant or an index with axis(all), got 'tensor<4xindex>'}}
  %c = moe.top_k %r k(%k : tensor<4xindex>) axis(all) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c4_per_expert(%r: !moe.routing<?x4xf32>, %k: tensor<5xindex>) {
  // expected-error @+1 {{expected 'k' of shape [4], one per expert, got 'tensor<5xindex>'}}
  %c = moe.top_k %r k(%k : tensor<5xindex>) axis(token) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c4_per_token(%r: !moe.routing<3x4xf32>, %k: tensor<4xi32>) {
  // expected-error @+1 {{expected 'k' of shape [3], one per token, got 'tensor<4xi32>'}}
  %c = moe.top_k %r k(%k : tensor<4xi32>) : !moe.routing<3x4xf32>
  return
}

// -----

func.func @top_k_c5_key(%r: !moe.routing<?x4xf32>, %key: tensor<?x5xf32>) {
  // expected-error @+1 {{expected 'key' of shape [tokens, experts] = [?, 4], got 'tensor<?x5xf32>'}}
  %c = moe.top_k %r by(%key : tensor<?x5xf32>) k(2) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c6_groups_of_tokens(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'groups' with axis(expert) only, got axis(token)}}
  %c = moe.top_k %r k(2) axis(token) groups(2) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c7_groups(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'groups' to divide the 4 experts, got 3}}
  %c = moe.top_k %r k(2) groups(3) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c8_keep_without_groups(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'keep' with 'groups' only, got keep(1) without}}
  %c = moe.top_k %r k(2) keep(1) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c9_keep(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'keep' in [1, 2], the number of groups, got 3}}
  %c = moe.top_k %r k(2) groups(2) keep(3) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @top_k_c10_score_without_keep(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'score' with 'keep' only, got score(sum2) without}}
  %c = moe.top_k %r k(2) groups(2) score(sum2) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @select_c1_key(%r: !moe.routing<5x4xf32>, %key: tensor<6x4xf32>) {
  // expected-error @+1 {{expected 'key' of shape [tokens, experts] = [5, 4], got 'tensor<6x4xf32>'}}
  %c = moe.select %r by(%key : tensor<6x4xf32>) {
  ^bb0(%k: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %true = arith.constant true
    moe.yield %true : i1
  } : !moe.routing<5x4xf32>
  return
}

// -----

func.func @select_c2_argument_count(%r: !moe.routing<5x4xf32>) {
  // expected-error @+1 {{expected the predicate with 5 arguments (key, rank, keys before, row, expert), got 2}}
  %c = moe.select %r {
  ^bb0(%k: f32, %rank: index):
    %true = arith.constant true
    moe.yield %true : i1
  } : !moe.routing<5x4xf32>
  return
}

// -----

func.func @select_c2_argument_type(%r: !moe.routing<5x4xf32>, %key: tensor<5x4xf64>) {
  // expected-error @+1 {{expected argument 0 of the predicate to be 'f64', got 'f32'}}
  %c = moe.select %r by(%key : tensor<5x4xf64>) {
  ^bb0(%k: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %true = arith.constant true
    moe.yield %true : i1
  } : !moe.routing<5x4xf32>
  return
}

// -----

func.func @select_c3_yield(%r: !moe.routing<5x4xf32>) {
  // expected-error @+1 {{expected the predicate to yield one 'i1', got ('f32')}}
  %c = moe.select %r {
  ^bb0(%k: f32, %rank: index, %before: f32, %row: index, %expert: index):
    moe.yield %k : f32
  } : !moe.routing<5x4xf32>
  return
}

// -----

func.func @select_c4_effects(%r: !moe.routing<5x4xf32>, %m: memref<4xi1>) {
  // expected-error @+1 {{expected a predicate without memory effects, got 'memref.load'}}
  %c = moe.select %r {
  ^bb0(%k: f32, %rank: index, %before: f32, %row: index, %expert: index):
    // expected-note @+1 {{this op reads or writes memory, or its effects are unknown}}
    %in = memref.load %m[%expert] : memref<4xi1>
    moe.yield %in : i1
  } : !moe.routing<5x4xf32>
  return
}

// -----

func.func @limit_c1_neither(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'cap' as either a constant or an operand, got neither}}
  %c = "moe.limit"(%r) {operandSegmentSizes = array<i32: 1, 0, 0>} : (!moe.routing<?x4xf32>) -> !moe.routing<?x4xf32>
  return
}

// -----

func.func @limit_c2_negative(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'cap' >= 0, got -1}}
  %c = moe.limit %r cap(-1) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @limit_c3_length(%r: !moe.routing<?x4xf32>, %cap: tensor<3xindex>) {
  // expected-error @+1 {{expected 'cap' of shape [4], one per expert, got 'tensor<3xindex>'}}
  %c = moe.limit %r cap(%cap : tensor<3xindex>) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @limit_c4_key_without_order(%r: !moe.routing<?x4xf32>, %key: tensor<?x4xf32>) {
  // expected-error @+1 {{expected 'key' with order(key) only, got order(row)}}
  %c = moe.limit %r by(%key : tensor<?x4xf32>) cap(2) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @limit_c5_key(%r: !moe.routing<?x4xf32>, %key: tensor<?x3xf32>) {
  // expected-error @+1 {{expected 'key' of shape [tokens, experts] = [?, 4], got 'tensor<?x3xf32>'}}
  %c = moe.limit %r by(%key : tensor<?x3xf32>) cap(2) order(key) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @normalize_c1_negative_eps(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'eps' to be a finite number >= 0, got -1.000000e+00}}
  %c = moe.normalize %r by(sum) eps(-1.0) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @normalize_c2_softmax_eps(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'eps' with by(sum) or by(max) only, got eps 5.000000e-01 with by(softmax)}}
  %c = moe.normalize %r by(softmax) eps(0.5) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @map_c1_arguments(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected argument 0 of the body to be 'f32', got 'f64'}}
  %c = moe.map %r {
  ^bb0(%w: f64, %row: index, %expert: index):
    %0 = arith.constant 0.0 : f32
    moe.yield %0 : f32
  } : !moe.routing<?x4xf32>
  return
}

// -----

func.func @map_c2_yield(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected the body to yield one weight of type 'f32', got ('index')}}
  %c = moe.map %r {
  ^bb0(%w: f32, %row: index, %expert: index):
    moe.yield %row : index
  } : !moe.routing<?x4xf32>
  return
}

// -----

func.func @map_c3_effects(%r: !moe.routing<?x4xf32>, %m: memref<4xf32>) {
  // expected-error @+1 {{expected a body without memory effects, got 'memref.load'}}
  %c = moe.map %r {
  ^bb0(%w: f32, %row: index, %expert: index):
    // expected-note @+1 {{this op reads or writes memory, or its effects are unknown}}
    %0 = memref.load %m[%expert] : memref<4xf32>
    moe.yield %0 : f32
  } : !moe.routing<?x4xf32>
  return
}

// -----

func.func @to_dense_c1_fill_of_mask(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'fill' with of(weight) or of(rank) only, got of(mask)}}
  %c = moe.to_dense %r of(mask) fill(1.0) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @to_dense_c2_fill_of_rank(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'fill' to be a 32-bit integer with of(rank), got 5.000000e-01}}
  %c = moe.to_dense %r of(rank) fill(0.5) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @yield_elsewhere() {
  // expected-error @+1 {{expects parent op to be one of}}
  moe.yield
}

// -----

func.func @unknown_keyword(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{unknown keyword 'expertise'}}
  %c = moe.top_k %r k(2) axis(expertise) : !moe.routing<?x4xf32>
  return
}

// -----

func.func @concat_c5_dense(%a: !moe.routing<4x6xf32, dense>) {
  // expected-error @+1 {{expected 'inputs' in slots, got '!moe.routing<4x6xf32, dense>'}}
  %r = moe.concat %a, %a : !moe.routing<4x6xf32, dense>, !moe.routing<4x6xf32, dense>
  return
}

// -----

func.func @convert_c1_bounds(%r: !moe.routing<?x8xf32, max_per_row = 2>) {
  // expected-error @+1 {{expected a result that differs from 'input' in its encoding only, got '!moe.routing<?x8xf32, max_per_row = 2>' and '!moe.routing<?x8xf32, dense>'}}
  %c = moe.convert %r : !moe.routing<?x8xf32, max_per_row = 2> to !moe.routing<?x8xf32, dense>
  return
}

// -----

func.func @convert_c2_same(%r: !moe.routing<?x8xf32>) {
  // expected-error @+1 {{expected a result with another encoding than '!moe.routing<?x8xf32>', got '!moe.routing<?x8xf32, slots>'}}
  %c = moe.convert %r : !moe.routing<?x8xf32> to !moe.routing<?x8xf32, slots>
  return
}

// -----

func.func @top_k_c11_dense(%r: !moe.routing<?x8xf32, dense>) {
  // expected-error @+1 {{expected 'input' in slots with axis(expert), whose result has an order or a bound of its own, got '!moe.routing<?x8xf32, dense>'}}
  %c = moe.top_k %r k(2) : !moe.routing<?x8xf32, dense>
  return
}

// -----

func.func @select_c5_dense(%r: !moe.routing<?x8xf32, dense>) {
  // expected-error @+1 {{expected 'input' in slots, since the result is in rank order, got '!moe.routing<?x8xf32, dense>'}}
  %c = moe.select %r {
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %true = arith.constant true
    moe.yield %true : i1
  } : !moe.routing<?x8xf32, dense>
  return
}
