// RUN: moe-opt %s --split-input-file --verify-diagnostics

// expected-error @+1 {{expected a routing with a static number of experts >= 1, got ?}}
func.func private @routing_c1_dynamic(!moe.routing<4x?xf32>)

// -----

// expected-error @+1 {{expected a routing with a static number of experts >= 1, got 0}}
func.func private @routing_c1_none(!moe.routing<4x0xf32>)

// -----

// expected-error @+1 {{expected weights of type f32, f16, bf16 or f64, got 'i32'}}
func.func private @routing_c2_integers(!moe.routing<4x8xi32>)

// -----

// expected-error @+1 {{expected 'max_per_row' >= 0, got -1}}
func.func private @routing_c3_negative(!moe.routing<4x8xf32, max_per_row = -1>)

// -----

// expected-error @+1 {{expected 'max_per_expert' >= 0, got -7}}
func.func private @routing_c4_negative(!moe.routing<4x8xf32, max_per_expert = -7>)

// -----

// expected-error @+1 {{expected a routing of two dimensions (tokens x experts), got 3}}
func.func private @routing_of_three_dimensions(!moe.routing<4x8x2xf32>)

// -----

// expected-error @+1 {{expected 'max_per_row', 'max_per_expert' or an encoding, got 'per_row'}}
func.func private @routing_unknown_keyword(!moe.routing<4x8xf32, per_row = 3>)

// -----

// expected-error @+1 {{expected a map from one dimension, the expert, without symbols, got 2 dimensions and 0 symbols}}
func.func private @slice_c1_map() attributes {s = #moe.slice<map = (t, e) -> (e), along = -1, size = 0, offsets = [], case_index = -1>}

// -----

// expected-error @+1 {{expected 'split' of a size >= 1 or 'ragged' with offsets, got split(0)}}
func.func private @slice_c2_size() attributes {s = #moe.slice<map = (e) -> (e), along = 1, size = 0, offsets = [], case_index = -1>}

// -----

// expected-error @+1 {{expected 'ragged' offsets that do not decrease, got 5 before 4}}
func.func private @slice_c3_offsets() attributes {s = #moe.slice<map = (e) -> (e), along = 1, size = 0, offsets = [0, 5, 4], case_index = -1>}

// -----

// expected-error @+1 {{expected 'ragged' offsets >= 0, got -1}}
func.func private @slice_c4_negative() attributes {s = #moe.slice<map = (e) -> (e), along = 1, size = 0, offsets = [-1, 5], case_index = -1>}
