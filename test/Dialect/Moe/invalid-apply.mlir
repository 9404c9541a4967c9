// RUN: moe-opt %s --split-input-file --verify-diagnostics

// One test per constraint of moe.apply in docs/spec.md, named by its label.

func.func @apply_c1_maps(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected one entry of 'rowMaps' per operand of 'rows', got 0 for 1}}
  %y = "moe.apply"(%r, %x) <{operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>, rowMaps = [], slices = [], indexArgs = [],
      weighted = #moe.weight_mode<none>, outModes = [#moe.out_mode<sum>]}> ({
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }) : (!moe.routing<?x4xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @apply_c1_modes(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected one entry of 'outModes' per result, got 2 for 1}}
  %y = moe.apply %r rows(%x) out(sum, sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c2_capacities(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>, %c: index) {
  // expected-error @+1 {{expected one capacity per 'buckets' result, got 1 for 0}}
  %y = "moe.apply"(%r, %x, %c) <{operandSegmentSizes = array<i32: 1, 1, 0, 0, 1>,
      rowMaps = [affine_map<(t, e) -> (t)>], slices = [], indexArgs = [], weighted = #moe.weight_mode<none>,
      outModes = [#moe.out_mode<sum>]}> ({
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }) : (!moe.routing<?x4xf32>, tensor<?x8xf32>, index) -> tensor<?x8xf32>
  return
}

// -----

func.func @apply_c3_map_dimensions(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected the map of 'rows' operand 0 to have two dimensions (token, expert) and no symbols, got affine_map<(d0) -> (d0)>}}
  %y = moe.apply %r rows(%x by (t) -> (t)) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c4_map_results(%r: !moe.routing<?x4xf32>, %x: tensor<?xf32>) {
  // expected-error @+1 {{expected 'rows' operand 0 of rank >= 2, the results of its map, got 'tensor<?xf32>'}}
  %y = moe.apply %r rows(%x by (t, e) -> (t, e)) out(sum) : !moe.routing<?x4xf32>, tensor<?xf32> -> tensor<?xf32> {
  ^bb0(%rows: tensor<?xf32>):
    moe.yield %rows : tensor<?xf32>
  }
  return
}

// -----

func.func @apply_c5_tokens(%r: !moe.routing<6x4xf32>, %x: tensor<7x8xf32>) {
  // expected-error @+1 {{expected 'rows' operand 0 with the routing's 6 tokens, got 'tensor<7x8xf32>'}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<6x4xf32>, tensor<7x8xf32> -> tensor<6x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c6_row_map_too_large(%r: !moe.routing<6x4xf32>, %x: tensor<3x2x8xf32>) {
  // expected-error @+1 {{expected the map of 'rows' operand 0 to stay inside dimension 1 of 'tensor<3x2x8xf32>', got index 3}}
  %y = moe.apply %r rows(%x by (t, e) -> (t floordiv 2, e)) out(sum) : !moe.routing<6x4xf32>, tensor<3x2x8xf32> -> tensor<6x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c6_row_map_negative(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected the map of 'rows' operand 0 to stay inside dimension 0 of 'tensor<?x8xf32>', got index -1}}
  %y = moe.apply %r rows(%x by (t, e) -> (e - 1)) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c7_two_bodies(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected one body without 'cases', got 2}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }, {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c8_case_count(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected 'cases' with one entry for each of the 4 experts, got 3}}
  %y = moe.apply %r rows(%x) cases([0, 0, 0]) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c9_case_range(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected the case of expert 2 in [0, 1), the bodies, got 1}}
  %y = moe.apply %r rows(%x) cases([0, 0, 1, 0]) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c10_unused_body(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected 'cases' to use each of the 2 bodies, got none for body 1}}
  %y = moe.apply %r rows(%x) cases([0, 0, 0, 0]) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }, {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c11_case_without_cases(%r: !moe.routing<?x4xf32>, %w: tensor<4x8xf32>) {
  // expected-error @+1 {{expected 'case' on 'experts' operand 0 with 'cases' only, got case(0) without}}
  moe.apply %r experts(%w case(0)) out() : !moe.routing<?x4xf32>, tensor<4x8xf32> -> () {
  ^bb0(%e: tensor<8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c12_operand_case(%r: !moe.routing<?x4xf32>, %w: tensor<4x8xf32>) {
  // expected-error @+1 {{expected the case of 'experts' operand 0 in [0, 1), the bodies, got 1}}
  moe.apply %r experts(%w case(1)) cases([0, 0, 0, 0]) out() : !moe.routing<?x4xf32>, tensor<4x8xf32> -> () {
  ^bb0(%e: tensor<8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c13_map_results(%r: !moe.routing<?x4xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{expected 'experts' operand 0 of rank >= 2, the results of its map, got 'tensor<4xf32>'}}
  moe.apply %r experts(%w by (e) -> (e, 0)) out() : !moe.routing<?x4xf32>, tensor<4xf32> -> () {
  ^bb0:
    moe.yield
  }
  return
}

// -----

func.func @apply_c14_bank_too_short(%r: !moe.routing<?x4xf32>, %w: tensor<3x8xf32>) {
  // expected-error @+1 {{expected 'experts' operand 0 with 4 parts, one per expert, got 'tensor<3x8xf32>'}}
  moe.apply %r experts(%w) out() : !moe.routing<?x4xf32>, tensor<3x8xf32> -> () {
  ^bb0(%e: tensor<8xf32>):
    moe.yield
  }
  return
}

// -----

// A bank of one case holds the parts of the experts of that case.
func.func @apply_c14_bank_of_a_case(%r: !moe.routing<?x4xf32>, %w: tensor<4x8xf32>) {
  // expected-error @+1 {{expected 'experts' operand 0 with 3 parts, one per expert, got 'tensor<4x8xf32>'}}
  moe.apply %r experts(%w case(0)) cases([0, 0, 1, 0]) out() : !moe.routing<?x4xf32>, tensor<4x8xf32> -> () {
  ^bb0(%e: tensor<8xf32>):
    moe.yield
  }, {
    moe.yield
  }
  return
}

// -----

func.func @apply_c15_expert_map(%r: !moe.routing<?x4xf32>, %w: tensor<2x8xf32>) {
  // expected-error @+1 {{expected the map of 'experts' operand 0 to stay inside dimension 0 of 'tensor<2x8xf32>', got index 2}}
  moe.apply %r experts(%w by (e) -> (e ceildiv 2)) out() : !moe.routing<?x4xf32>, tensor<2x8xf32> -> () {
  ^bb0(%e: tensor<8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c16_along(%r: !moe.routing<?x4xf32>, %w: tensor<8xf32>) {
  // expected-error @+1 {{expected 'experts' operand 0 of rank > 1, the dimension it is cut along, got 'tensor<8xf32>'}}
  moe.apply %r experts(%w along 1 split(2)) out() : !moe.routing<?x4xf32>, tensor<8xf32> -> () {
  ^bb0(%e: tensor<8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c17_split(%r: !moe.routing<?x4xf32>, %w: tensor<6x8xf32>) {
  // expected-error @+1 {{expected dimension 1 of 'experts' operand 0 to be 4 parts of 3, got 'tensor<6x8xf32>'}}
  moe.apply %r experts(%w along 1 split(3)) out() : !moe.routing<?x4xf32>, tensor<6x8xf32> -> () {
  ^bb0(%e: tensor<6x3xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c18_offsets(%r: !moe.routing<?x4xf32>, %w: tensor<6x8xf32>) {
  // expected-error @+1 {{expected 'experts' operand 0 with 5 'ragged' offsets for 4 experts, got 4}}
  moe.apply %r experts(%w along 1 ragged([0, 1, 3, 8])) out() : !moe.routing<?x4xf32>, tensor<6x8xf32> -> () {
  ^bb0(%e: tensor<6x?xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c19_offsets_end(%r: !moe.routing<?x4xf32>, %w: tensor<6x8xf32>) {
  // expected-error @+1 {{expected the 'ragged' offsets of 'experts' operand 0 to stay inside dimension 1 of 'tensor<6x8xf32>', got 9}}
  moe.apply %r experts(%w along 1 ragged([0, 1, 3, 8, 9])) out() : !moe.routing<?x4xf32>, tensor<6x8xf32> -> () {
  ^bb0(%e: tensor<6x?xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c20_pairs(%r: !moe.routing<?x4xf32>, %p: tensor<?x5x8xf32>) {
  // expected-error @+1 {{expected 'pairs' operand 0 of shape [tokens, experts, ...] = [?, 4], got 'tensor<?x5x8xf32>'}}
  moe.apply %r pairs(%p) out() : !moe.routing<?x4xf32>, tensor<?x5x8xf32> -> () {
  ^bb0(%e: tensor<?x8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c21_twice(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected each of 'index' once, got rank twice}}
  moe.apply %r index(rank, row, rank) out() : !moe.routing<?x4xf32> -> () {
  ^bb0(%a: tensor<?xindex>, %b: tensor<?xindex>, %c: tensor<?xindex>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c22_before_without_rows(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected 'rows' with weighted(before), got none}}
  moe.apply %r weighted(before) out() : !moe.routing<?x4xf32> -> () {
    moe.yield
  }
  return
}

// -----

func.func @apply_c23_before_with_integers(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xi32>) {
  // expected-error @+1 {{expected 'rows' operand 0 of floating-point numbers with weighted(before), got 'tensor<?x8xi32>'}}
  moe.apply %r rows(%x) weighted(before) out() : !moe.routing<?x4xf32>, tensor<?x8xi32> -> () {
  ^bb0(%rows: tensor<?x8xi32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c24_sum(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected result 0 of out(sum) to begin with dimensions [?], got 'tensor<5x8xf32>'}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<5x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c24_dense(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected result 0 of out(dense) to begin with dimensions [?, 4], got 'tensor<?x8xf32>'}}
  %y = moe.apply %r rows(%x) out(dense) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c24_buckets(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>, %c: index) {
  // expected-error @+1 {{expected result 0 of out(buckets) to begin with dimensions [4, ?], got 'tensor<4x3x8xf32>'}}
  %y = moe.apply %r rows(%x) out(buckets(%c)) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<4x3x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c25_dynamic_row(%r: !moe.routing<?x4xf32>, %x: tensor<?x?xf32>) {
  // expected-error @+1 {{expected result 0 with static dimensions behind the first 1, got 'tensor<?x?xf32>'}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x?xf32> -> tensor<?x?xf32> {
  ^bb0(%rows: tensor<?x?xf32>):
    moe.yield %rows : tensor<?x?xf32>
  }
  return
}

// -----

func.func @apply_c26_sum_of_indices(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xindex>) {
  // expected-error @+1 {{expected result 0 of out(sum) with integers or floating-point numbers, got 'tensor<?x8xindex>'}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xindex> -> tensor<?x8xindex> {
  ^bb0(%rows: tensor<?x8xindex>):
    moe.yield %rows : tensor<?x8xindex>
  }
  return
}

// -----

func.func @apply_c26_mean_of_booleans(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xi1>) {
  // expected-error @+1 {{expected result 0 of out(mean) with integers or floating-point numbers, got 'tensor<?x8xi1>'}}
  %y = moe.apply %r rows(%x) out(mean) : !moe.routing<?x4xf32>, tensor<?x8xi1> -> tensor<?x8xi1> {
  ^bb0(%rows: tensor<?x8xi1>):
    moe.yield %rows : tensor<?x8xi1>
  }
  return
}

// -----

func.func @apply_c27_weighted_integers(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xi32>) {
  // expected-error @+1 {{expected result 0 of floating-point numbers with weighted(after), got 'tensor<?x8xi32>'}}
  %y = moe.apply %r rows(%x) weighted(after) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xi32> -> tensor<?x8xi32> {
  ^bb0(%rows: tensor<?x8xi32>):
    moe.yield %rows : tensor<?x8xi32>
  }
  return
}

// -----

func.func @apply_c28_argument_count(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected body 0 with 1 arguments (rows, experts, pairs, index), got 0}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
    %0 = tensor.cast %x : tensor<?x8xf32> to tensor<?x8xf32>
    moe.yield %0 : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c28_argument_type(%r: !moe.routing<?x4xf32>, %x: tensor<5x8xf32>) {
  // expected-error @+1 {{expected argument 0 of body 0 to be 'tensor<?x8xf32>', got 'tensor<5x8xf32>'}}
  moe.apply %r rows(%x) out() : !moe.routing<?x4xf32>, tensor<5x8xf32> -> () {
  ^bb0(%rows: tensor<5x8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c29_yield_count(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected body 0 to yield 1 values, one per result, got 0}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @apply_c30_yield_type(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected body 0 to yield 'tensor<?x9xf32>' for result 0, got 'tensor<?x8xf32>'}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x9xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @apply_c31_effects(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>, %m: memref<1xf32>, %c: i1) {
  // expected-error @+1 {{expected a body without memory effects, got 'memref.store'}}
  %y = moe.apply %r rows(%x) out(sum) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> tensor<?x8xf32> {
  ^bb0(%rows: tensor<?x8xf32>):
    %0 = arith.constant 0 : index
    %1 = arith.constant 0.0 : f32
    scf.if %c {
      // expected-note @+1 {{this op reads or writes memory, or its effects are unknown}}
      memref.store %1, %m[%0] : memref<1xf32>
    }
    moe.yield %rows : tensor<?x8xf32>
  }
  return
}

// -----

func.func @operand_types(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{expected 2 operand types (the routing, 1 rows, 0 experts, 0 pairs), got 1}}
  moe.apply %r rows(%x) out() : !moe.routing<?x4xf32> -> () {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @unknown_mode(%r: !moe.routing<?x4xf32>, %x: tensor<?x8xf32>) {
  // expected-error @+1 {{unknown result mode 'add'}}
  moe.apply %r rows(%x) out(add) : !moe.routing<?x4xf32>, tensor<?x8xf32> -> () {
  ^bb0(%rows: tensor<?x8xf32>):
    moe.yield
  }
  return
}

// -----

func.func @two_weight_modes(%r: !moe.routing<?x4xf32>) {
  // expected-error @+1 {{expected one mode for 'weighted', got 2}}
  moe.apply %r weighted(before, after) out() : !moe.routing<?x4xf32> -> () {
    moe.yield
  }
  return
}

// -----

func.func @empty_offsets(%r: !moe.routing<?x4xf32>, %w: tensor<6x8xf32>) {
  // expected-error @+1 {{expected 'split' of a size >= 1 or 'ragged' with offsets, got split(0)}}
  moe.apply %r experts(%w along 1 ragged([])) out() : !moe.routing<?x4xf32>, tensor<6x8xf32> -> () {
  ^bb0(%e: tensor<6x?xf32>):
    moe.yield
  }
  return
}
