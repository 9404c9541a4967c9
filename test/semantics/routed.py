#!/usr/bin/env python3
"""The steps of docs/spec.md on cases small enough to be read: each case is named after the step that it shows.

    routed.py --work DIR [--only NAME]

A case is a chain of ops from %w (and other inputs) to a routing %r, and the pairs that it must hold row by row, or to tensors and
their values. All cases are functions of one module, compiled as the compiler
chooses; those with an apply once more with the reference lowering.
"""

import argparse
import pathlib
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

NAN, INF = float("nan"), float("inf")
CASES = []
TYPES = {"float32": "f32", "int8": "i8", "int32": "i32", "int64": "i64", "bool": "i1"}


def tensor_type(value, static=()):
    value = np.asarray(value)
    dims = [str(n) if i or 0 in static else "?" for i, n in enumerate(value.shape)]
    return f"tensor<{'x'.join(dims + [TYPES[value.dtype.name]])}>"


def f32(value, *shape):
    return np.array(value, np.float32).reshape(shape or np.shape(value))


def i32(value):
    return np.array(value, np.int32)


class Case:
    def __init__(self, name, inputs, text, outputs):
        self.name, self.inputs, self.text, self.outputs = name, inputs, text, outputs

    def function(self):
        static = {n: (0,) if n.startswith("s_") else () for n in self.inputs}
        args = ", ".join(f'%{n}: {tensor_type(v, static[n])} {{moe.name = "{n}"}}' for n, v in self.inputs.items())
        results = ", ".join(f'{t} {{moe.name = "{n}"}}' for n, (t, _) in self.outputs.items())
        values = ", ".join(f"%{n}" for n in self.outputs)
        types = ", ".join(t for t, _ in self.outputs.values())
        return f"func.func @{self.name}({args}) -> ({results}) {{\n{self.text}\n  return {values} : {types}\n}}\n"


def tensors(name, text, outputs, **inputs):
    """A case whose results are tensors: name -> (type, value)."""
    CASES.append(Case(name, inputs, text, outputs))


def pairs(name, text, kind, want, **inputs):
    """A case that ends in the routing %r of the type `kind`, whose rows are lists of (expert, weight)."""
    slots = int(kind.split("max_per_row = ")[1].split(",")[0]) if "max_per_row" in kind else int(kind.split("x")[1])
    idx, val = np.full((len(want), slots), -1, np.int32), np.zeros((len(want), slots), np.float32)
    for row, chosen in enumerate(want):
        for slot, (e, w) in enumerate(chosen):
            idx[row, slot], val[row, slot] = e, w
    tokens = kind.split("x")[0]
    shape = f"{tokens}x{slots}x"
    text += f"\n  %idx, %val = moe.to_slots %r : !moe.routing<{kind}>"
    tensors(name, text, {"idx": (f"tensor<{shape}i32>", idx), "val": (f"tensor<{shape}f32>", val)}, **inputs)


def chain(name, op, want, w, bounds="", start="", more="", experts=None, **inputs):
    """A case of one op on the routing of everything: `op` has $r for its operand."""
    w = f32(w) if np.size(w) else np.zeros((0, experts), np.float32)
    kind = f"?x{w.shape[1]}xf32"
    text = f"{more}  %all = moe.route %w{start} : tensor<{kind}>\n  %r = moe.{op.replace('$r', '%all')} : !moe.routing<{kind}>"
    pairs(name, text, kind + bounds, want, w=w, **inputs)


K = lambda k: f", max_per_row = {k}"
C = lambda c: f", max_per_expert = {c}"
EVERY = lambda row: list(enumerate(row))

# !moe.routing
pairs("routing_s1_no_bound_is_one_slot_per_expert", "  %r = moe.route %w : tensor<?x3xf32>", "?x3xf32", [EVERY([1, 2, 3])], w=f32([[1, 2, 3]]))
chain("routing_s2_bound_per_expert", "top_k $r k(1) axis(token)", [[(0, 5)], [(1, 6)]], [[5, 1], [2, 6]], C(1))
chain("routing_s3_storage_is_no_matter", "top_k $r k(2)", [[(2, 3), (0, 2)]], [[2, 1, 3]], K(2))

# moe.route
tensors("route_s1_zero_and_nan_are_weights", """  %r = moe.route %w mask(%m : tensor<?x4xi1>) : tensor<?x4xf32>
  %mask = moe.to_dense %r of(mask) : !moe.routing<?x4xf32>
  %dense = moe.to_dense %r : !moe.routing<?x4xf32>""",
        {"mask": ("tensor<?x4xi1>", np.array([[True, True, False, True]])), "dense": ("tensor<?x4xf32>", f32([[0, NAN, 0, INF]]))},
        w=f32([[0, NAN, 7, INF]]), m=np.array([[True, True, False, True]]))
pairs("route_s2_ascending_order", "  %r = moe.route %w : tensor<?x3xf32>", "?x3xf32", [EVERY([9, 1, 5])], w=f32([[9, 1, 5]]))
pairs("route_s3_mask_of_experts", "  %r = moe.route %w mask(%s_m : tensor<3xi1>) : tensor<?x3xf32>", "?x3xf32", [[(0, 1), (2, 3)], [(0, 4), (2, 6)]],
      w=f32([[1, 2, 3], [4, 5, 6]]), s_m=np.array([True, False, True]))
pairs("route_s3_mask_of_tokens", "  %r = moe.route %w mask(%m : tensor<?x1xi1>) : tensor<?x2xf32>", "?x2xf32", [[], EVERY([3, 4])],
      w=f32([[1, 2], [3, 4]]), m=np.array([[False], [True]]))
pairs("route_s3_no_tokens", "  %r = moe.route %w : tensor<?x2xf32>", "?x2xf32", [], w=np.zeros((0, 2), np.float32))

# moe.from_slots
SLOTS = "  %r = moe.from_slots %i, %w experts(3) : tensor<?x3xi32>, tensor<?x3xf32>"
pairs("from_slots_s1_other_numbers_are_empty", SLOTS, "?x3xf32" + K(3), [[(2, 3)], []], i=i32([[-1, 3, 2], [-7, 100, 3]]), w=f32([[1, 2, 3], [4, 5, 6]]))
pairs("from_slots_s2_order_and_repetition", SLOTS, "?x3xf32" + K(3), [[(2, 1), (0, 2), (2, 3)]], i=i32([[2, 0, 2]]), w=f32([[1, 2, 3]]))

# moe.concat
CONCAT = """  %ra = moe.route %a : tensor<?x2xf32>
  %rb0 = moe.route %b : tensor<?x3xf32>
  %rb = moe.top_k %rb0 k(1) : !moe.routing<?x3xf32>
  %r = moe.concat %ra, %rb : !moe.routing<?x2xf32>, !moe.routing<?x3xf32, max_per_row = 1>"""
pairs("concat_s1_experts_are_renumbered", CONCAT, "?x5xf32" + K(3), [[(0, 1), (1, 2), (3, 9)]], a=f32([[1, 2]]), b=f32([[7, 9, 8]]))
pairs("concat_s2_lists_behind_each_other", CONCAT, "?x5xf32" + K(3), [[(0, 1), (1, 2), (2, 9)], [(0, 3), (1, 4), (4, 5)]],
      a=f32([[1, 2], [3, 4]]), b=f32([[9, 8, 7], [1, 2, 5]]))

# moe.cast
pairs("cast_s1_value_stays", """  %all = moe.route %w : tensor<?x3xf32>
  %top = moe.top_k %all k(2) : !moe.routing<?x3xf32>
  %r = moe.cast %top : !moe.routing<?x3xf32, max_per_row = 2> to !moe.routing<?x3xf32>""", "?x3xf32", [[(1, 5), (2, 3)]], w=f32([[1, 5, 3]]))

# moe.convert
MASKED = """  %all = moe.route %w mask(%m : tensor<?x3xi1>) : tensor<?x3xf32>
  %dense = moe.convert %all : !moe.routing<?x3xf32> to !moe.routing<?x3xf32, dense>
"""
THREE = {"w": f32([[1, 2, 3], [4, 5, 6]]), "m": np.array([[True, False, True], [False, False, False]])}
pairs("convert_s1_value_stays", MASKED + "  %r = moe.convert %dense : !moe.routing<?x3xf32, dense> to !moe.routing<?x3xf32>", "?x3xf32",
      [[(0, 1), (2, 3)], []], **THREE)
tensors("convert_s2_readers_of_dense", MASKED + """  %d = moe.to_dense %dense fill(7.0) : !moe.routing<?x3xf32, dense>
  %k = moe.to_dense %dense of(rank) : !moe.routing<?x3xf32, dense>
  %e = moe.counts %dense per(expert) : !moe.routing<?x3xf32, dense>
  %t = moe.counts %dense per(row) : !moe.routing<?x3xf32, dense>""",
        {"d": ("tensor<?x3xf32>", f32([[1, 7, 3], [7, 7, 7]])), "k": ("tensor<?x3xi32>", i32([[0, -1, 1], [-1, -1, -1]])),
         "e": ("tensor<3xi32>", i32([1, 0, 1])), "t": ("tensor<?xi32>", i32([2, 0]))}, **THREE)
pairs("convert_s2_sorted_and_added", SLOTS.replace("%r", "%all") + """
  %r = moe.convert %all : !moe.routing<?x3xf32, max_per_row = 3> to !moe.routing<?x3xf32, max_per_row = 3, dense>""",
      "?x3xf32" + K(3) + ", dense", [[(0, 2), (2, 4)]], i=i32([[2, 0, 2]]), w=f32([[1, 2, 3]]))

# moe.top_k
pairs("top_k_s1_only_what_the_input_chooses", """  %some = moe.route %w mask(%s_m : tensor<4xi1>) : tensor<?x4xf32>
  %r = moe.top_k %some k(3) : !moe.routing<?x4xf32>""", "?x4xf32" + K(3), [[(2, 3), (0, 1)]], w=f32([[1, 9, 3, 8]]), s_m=np.array([True, False, True, False]))
chain("top_k_s1_key_beside_weight", "top_k $r by(%key : tensor<?x3xf32>) k(1)", [[(0, 7)]], [[7, 8, 9]], K(1), key=f32([[3, 2, 1]]))
chain("top_k_s2_more_than_there_are", "top_k $r k(9)", [[(1, 4), (0, 2)]], [[2, 4]], K(2))
for name, k, want in (("negative", -2, []), ("zero", 0, []), ("huge", 1 << 30, [(1, 4), (0, 2)])):
    chain(f"top_k_s2_operand_{name}", "top_k $r k(%k : index)", [want], [[2, 4]], more=f"  %k = arith.constant {k} : index\n")
chain("top_k_s3_descending", "top_k $r k(2)", [[(1, 5), (2, 3)]], [[1, 5, 3]], K(2))
chain("top_k_s3_ties_lowest", "top_k $r k(2)", [[(0, 5), (2, 5)]], [[5, 1, 5, 5]], K(2))
chain("top_k_s3_ties_highest", "top_k $r k(2) ties(highest)", [[(3, 5), (2, 5)]], [[5, 1, 5, 5]], K(2))
chain("top_k_s3_signed_zeros_are_equal", "top_k $r k(1)", [[(0, -0.0)], [(0, 0.0)]], [[-0.0, 0.0], [0.0, -0.0]], K(1))
pairs("top_k_s3_same_expert_twice", SLOTS.replace("%r", "%all") + "\n  %r = moe.top_k %all k(2) : !moe.routing<?x3xf32, max_per_row = 3>", "?x3xf32" + K(2),
      [[(1, 5), (1, 5)]], i=i32([[1, 2, 1]]), w=f32([[5, 3, 5]]))
chain("top_k_s3_k_per_token", "top_k $r k(%k : tensor<?xi32>)", [[(1, 5)], [], [(0, 9), (2, 2), (1, 1)]], [[1, 5, 3], [1, 2, 3], [9, 1, 2]], k=i32([1, 0, 7]))
chain("top_k_s4_tokens_of_an_expert", "top_k $r k(1) axis(token)", [[(1, 6)], [(0, 4)], []], [[1, 6], [4, 2], [3, 5]], C(1))
chain("top_k_s4_ties_lowest_token", "top_k $r k(2) axis(token)", [[(0, 3)], [(0, 3)], []], [[3], [3], [3]], C(2))
chain("top_k_s4_ties_highest_token", "top_k $r k(2) axis(token) ties(highest)", [[], [(0, 3)], [(0, 3)]], [[3], [3], [3]], C(2))
chain("top_k_s4_k_per_expert", "top_k $r k(%s_k : tensor<2xi32>) axis(token)", [[(1, 6)], [(1, 2)]], [[1, 6], [4, 2]], s_k=i32([0, 2]))
chain("top_k_s5_pairs_of_the_matrix", "top_k $r k(3) axis(all)", [[(0, 7)], [(0, 5), (1, 6)]], [[7, 1], [5, 6]], C(3))
chain("top_k_s5_ties_by_token_then_expert", "top_k $r k(3) axis(all)", [EVERY([2, 2]), [(0, 2)]], [[2, 2], [2, 2]], C(3))
chain("top_k_s6_nan_is_worst", "top_k $r k(2)", [[(3, 1), (1, -INF)]], [[NAN, -INF, NAN, 1]], K(2))
chain("top_k_s6_nan_when_numbers_run_out", "top_k $r k(3)", [[(3, 1), (1, -INF), (0, NAN)]], [[NAN, -INF, NAN, 1]], K(3))
chain("top_k_s6_only_minus_infinity", "top_k $r k(2)", [[(0, -INF), (1, -INF)]], [[-INF, -INF, -INF]], K(2))
chain("top_k_s7_best_of_each_group", "top_k $r k(1) groups(2)", [[(1, 5), (2, 9)]], [[1, 5, 9, 3]], K(2))
chain("top_k_s8_best_groups_by_maximum", "top_k $r k(2) groups(2) keep(1)", [[(3, 9), (2, 1)]], [[5, 6, 1, 9]], K(2))
chain("top_k_s8_best_groups_by_two", "top_k $r k(2) groups(2) keep(1) score(sum2)", [[(1, 6), (0, 5)]], [[5, 6, 1, 9]], K(2))
chain("top_k_s8_equal_groups", "top_k $r k(1) groups(2) keep(1) ties(highest)", [[(2, 4)]], [[4, 1, 4, 2]], K(1))
chain("top_k_s3_no_tokens", "top_k $r k(2)", [], [], K(2), experts=3)

# moe.select
SELECT = """  %all = moe.route %w : tensor<?x4xf32>
{before}  %r = moe.select %all {{
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    {text}
    moe.yield %in : i1
  }} : !moe.routing<?x4xf32>"""
pairs("select_s1_ranks_ties_and_nan", SELECT.format(before="  %c3 = arith.constant 3 : index\n", text="%in = arith.cmpi ult, %rank, %c3 : index"), "?x4xf32",
      [[(1, 5), (3, 5), (2, 1)]], w=f32([[NAN, 5, 1, 5]]))
pairs("select_s2_sum_of_the_better", SELECT.format(before="  %p = arith.constant 0.75 : f32\n", text="%in = arith.cmpf olt, %before, %p : f32"), "?x4xf32",
      [[(1, 0.5), (3, 0.25)], [(0, 1)]], w=f32([[0.125, 0.5, 0.125, 0.25], [1, 0, 0, 0]]))
pairs("select_s3_in_rank_order_without_a_chain", SELECT.format(before="  %c1 = arith.constant 1 : index\n", text="%in = arith.cmpi ne, %rank, %c1 : index"), "?x4xf32",
      [[(3, 4), (1, 2), (0, 1)]], w=f32([[1, 2, 3, 4]]))
pairs("select_s3_nothing_stays", SELECT.format(before="  %no = arith.constant false\n", text="%in = arith.andi %no, %no : i1"), "?x4xf32", [[], []], w=f32([[1, 2, 3, 4]] * 2))

# moe.limit
LIMIT = [[1, 9], [2, 8], [3, 7]]
chain("limit_s1_by_token", "limit $r cap(2) order(row)", [EVERY([1, 9]), EVERY([2, 8]), []], LIMIT, C(2))
pairs("limit_s1_by_position_first", """  %all = moe.from_slots %i, %w experts(2) : tensor<?x2xi32>, tensor<?x2xf32>
  %r = moe.limit %all cap(1) order(rank_then_row) : !moe.routing<?x2xf32, max_per_row = 2>""", "?x2xf32" + K(2) + C(1), [[(1, 1)], [(0, 3)]],
      i=i32([[1, 0], [0, 1]]), w=f32([[1, 2], [3, 4]]))
chain("limit_s1_by_key", "limit $r cap(1) order(key)", [[(1, 9)], [], [(0, 3)]], LIMIT, C(1))
chain("limit_s1_by_key_ties_and_nan", "limit $r cap(1) order(key)", [[], [(0, 2)], []], [[NAN], [2], [2]], C(1))
chain("limit_s2_zero", "limit $r cap(0) order(row)", [[], []], [[1, 2], [3, 4]], C(0))
chain("limit_s2_negative_operand", "limit $r cap(%c : index) order(row)", [[], []], [[1, 2], [3, 4]], more="  %c = arith.constant -3 : index\n")
chain("limit_s2_per_expert", "limit $r cap(%s_c : tensor<2xi32>) order(row)", [[(1, 2)], [(1, 4)]], [[1, 2], [3, 4]], s_c=i32([0, 5]))
chain("limit_s3_positions_move_up", "limit $r cap(1) order(row)", [EVERY([1, 2]), []], [[1, 2], [3, 4]], C(1))
chain("limit_s1_no_tokens", "limit $r cap(1) order(row)", [], [], C(1), experts=2)

# moe.normalize
chain("normalize_s1_sum", "normalize $r by(sum)", [EVERY([0.25, 0.75])], [[1, 3]])
chain("normalize_s1_eps", "normalize $r by(sum) eps(4.0)", [EVERY([0.125, 0.375])], [[1, 3]])
chain("normalize_s1_over_tokens", "normalize $r by(sum) axis(token)", [EVERY([0.25, 0.5]), EVERY([0.75, 0.5])], [[1, 2], [3, 2]])
chain("normalize_s2_max", "normalize $r by(max)", [EVERY([0.5, 1]), EVERY([NAN, NAN])], [[2, 4], [NAN, 4]])
chain("normalize_s3_softmax", "normalize $r by(softmax)", [EVERY([0.5, 0.5]), EVERY([1, 0])], [[3, 3], [0, -INF]])
chain("normalize_s3_all_minus_infinity", "normalize $r by(softmax)", [EVERY([0, 0])], [[-INF, -INF]])
chain("normalize_s4_zero_divisor", "normalize $r by(sum)", [EVERY([0, 0]), EVERY([0, 0])], [[0, 0], [1, -1]])
chain("normalize_s4_nan_reaches_the_list_only", "normalize $r by(softmax)", [EVERY([NAN, NAN]), EVERY([0.5, 0.5])], [[NAN, 1], [1, 1]])
tensors("normalize_s5_half_precision", """  %all = moe.route %h : tensor<?x3xf16>
  %n = moe.normalize %all by(sum) : !moe.routing<?x3xf16>
  %d = moe.to_dense %n : !moe.routing<?x3xf16>
  %out = arith.extf %d : tensor<?x3xf16> to tensor<?x3xf32>""".replace("%h", "%h0").replace("  %all", "  %h0 = arith.truncf %w : tensor<?x3xf32> to tensor<?x3xf16>\n  %all", 1),
        {"out": ("tensor<?x3xf32>", (f32([[1, 1, 1]]) / f32(3)).astype(np.float16).astype(np.float32))}, w=f32([[1, 1, 1]]))
pairs("normalize_s5_empty_list", """  %some = moe.route %w mask(%m : tensor<?x1xi1>) : tensor<?x2xf32>
  %r = moe.normalize %some by(softmax) : !moe.routing<?x2xf32>""", "?x2xf32", [[], EVERY([0.5, 0.5])], w=f32([[1, 1], [1, 1]]), m=np.array([[False], [True]]))
pairs("normalize_s6_twice", """  %all = moe.route %w : tensor<?x2xf32>
  %once = moe.normalize %all by(softmax) : !moe.routing<?x2xf32>
  %r = moe.normalize %once by(sum) : !moe.routing<?x2xf32>""", "?x2xf32", [EVERY([0.5, 0.5])], w=f32([[2, 2]]))

# moe.map
pairs("map_s1_weight_row_expert", """  %all = moe.route %w : tensor<?x3xf32>
  %top = moe.top_k %all k(2) : !moe.routing<?x3xf32>
  %r = moe.map %top {
  ^bb0(%v: f32, %row: index, %expert: index):
    %n = arith.addi %row, %expert : index
    %i = arith.index_cast %n : index to i32
    %f = arith.sitofp %i : i32 to f32
    %o = arith.mulf %f, %v : f32
    moe.yield %o : f32
  } : !moe.routing<?x3xf32, max_per_row = 2>""", "?x3xf32" + K(2), [[(2, 6), (1, 2)], [(0, 5), (2, 12)]], w=f32([[1, 2, 3], [5, 1, 4]]))

# Readers
READ = SLOTS.replace("%r", "%q") + "\n"
READ_TYPE = "!moe.routing<?x3xf32, max_per_row = 3>"
TWICE = {"i": i32([[1, -1, 1]]), "w": f32([[2, 9, 3]])}
tensors("to_dense_s1_repeated_weights_add", READ + f"  %d = moe.to_dense %q fill(-1.0) : {READ_TYPE}", {"d": ("tensor<?x3xf32>", f32([[-1, 5, -1]]))}, **TWICE)
tensors("to_dense_s2_chosen_whatever_the_weight", "  %q = moe.route %w : tensor<?x2xf32>\n  %d = moe.to_dense %q of(mask) : !moe.routing<?x2xf32>",
        {"d": ("tensor<?x2xi1>", np.array([[True, True]]))}, w=f32([[0, NAN]]))
tensors("to_dense_s3_first_position", READ + f"  %d = moe.to_dense %q of(rank) : {READ_TYPE}", {"d": ("tensor<?x3xi32>", i32([[-1, 0, -1]]))}, **TWICE)
tensors("to_slots_s1_without_gaps", READ + f"  %i2, %v2 = moe.to_slots %q : {READ_TYPE}",
        {"i2": ("tensor<?x3xi32>", i32([[1, 1, -1]])), "v2": ("tensor<?x3xf32>", f32([[2, 3, 0]]))}, **TWICE)
tensors("to_slots_s2_behind_the_list", READ + f"  %i2, %v2 = moe.to_slots %q : {READ_TYPE}",
        {"i2": ("tensor<?x3xi32>", i32([[-1, -1, -1]])), "v2": ("tensor<?x3xf32>", f32([[0, 0, 0]]))}, i=i32([[-1, 5, -1]]), w=f32([[2, 9, 3]]))
tensors("counts_s1_per_expert", READ + f"  %n = moe.counts %q per(expert) : {READ_TYPE}", {"n": ("tensor<3xi32>", i32([0, 2, 0]))}, **TWICE)
tensors("counts_s1_no_tokens", READ + f"  %n = moe.counts %q per(expert) : {READ_TYPE}", {"n": ("tensor<3xi32>", i32([0, 0, 0]))},
        i=np.zeros((0, 3), np.int32), w=np.zeros((0, 3), np.float32))
tensors("counts_s2_per_row", READ + f"  %n = moe.counts %q per(row) : {READ_TYPE}", {"n": ("tensor<?xi32>", i32([2, 0]))}, i=i32([[1, -1, 1], [7, 8, 9]]), w=f32([[1, 1, 1]] * 2))

# moe.apply
APPLY = """  %r = moe.from_slots %i, %w experts({E}) : tensor<?x{S}xi32>, tensor<?x{S}xf32>
  %y = moe.apply %r {operands} : !moe.routing<?x{E}xf32, max_per_row = {S}>, {types} -> {result} {{
{body}
  }}"""


def apply(name, operands, types, body, result, want, experts=2, **inputs):
    text = APPLY.format(E=experts, S=inputs["i"].shape[1], operands=operands, types=types, body=body, result=result)
    tensors(name, text, {"y": (result, want)}, **inputs)


PASS = "  ^bb0(%v: tensor<?x2xf32>):\n    moe.yield %v : tensor<?x2xf32>"
ONE = {"i": i32([[0], [1], [0]]), "w": f32([[2], [3], [4]]), "x": f32([[1, 2], [3, 4], [5, 6]])}
TWO = {"i": i32([[0, 1], [-1, -1], [1, 1]]), "w": f32([[2, 3], [1, 1], [4, 5]]), "x": f32([[1, 2], [3, 4], [5, 6]])}
RESULT = "tensor<?x2xf32>"
TOTALS = """  ^bb0(%v: tensor<?x2xf32>):
    %c0 = arith.constant 0 : index
    %f0 = arith.constant 0.0 : f32
    %n = tensor.dim %v, %c0 : tensor<?x2xf32>
    %z = tensor.splat %f0 : tensor<2xf32>
    %e = tensor.empty(%n) : tensor<?x2xf32>
    %sum = linalg.reduce {arith.addf} ins(%v : tensor<?x2xf32>) outs(%z : tensor<2xf32>) dimensions = [0]
    %o = linalg.broadcast ins(%sum : tensor<2xf32>) outs(%e : tensor<?x2xf32>) dimensions = [0]
    moe.yield %o : tensor<?x2xf32>"""
apply("apply_s1_a_block_is_the_rows_of_an_expert", "rows(%x) out(sum)", RESULT, TOTALS, RESULT, f32([[6, 8], [3, 4], [6, 8]]), **ONE)
apply("apply_s2_argument_order", "rows(%x) experts(%s_b) pairs(%p) index(weight, expert) out(sum)", f"{RESULT}, tensor<2x2xf32>, tensor<?x2x2xf32>", """
  ^bb0(%v: tensor<?x2xf32>, %b: tensor<2xf32>, %q: tensor<?x2xf32>, %ws: tensor<?xf32>, %e: index):
    %ei = arith.index_cast %e : index to i32
    %ef = arith.sitofp %ei : i32 to f32
    %o = linalg.generic {indexing_maps = [affine_map<(n, d) -> (n, d)>, affine_map<(n, d) -> (d)>, affine_map<(n, d) -> (n, d)>, affine_map<(n, d) -> (n)>, affine_map<(n, d) -> (n, d)>],
        iterator_types = ["parallel", "parallel"]} ins(%v, %b, %q, %ws : tensor<?x2xf32>, tensor<2xf32>, tensor<?x2xf32>, tensor<?xf32>) outs(%v : tensor<?x2xf32>) {
    ^bb1(%a: f32, %c: f32, %g: f32, %h: f32, %init: f32):
      %s0 = arith.addf %a, %c : f32
      %s1 = arith.addf %s0, %g : f32
      %s2 = arith.addf %s1, %h : f32
      %s3 = arith.addf %s2, %ef : f32
      linalg.yield %s3 : f32
    } -> tensor<?x2xf32>
    moe.yield %o : tensor<?x2xf32>""", RESULT, f32([[113, 214], [437, 538], [119, 220]]),
      s_b=f32([[10, 10], [30, 30]]), p=f32([[[100, 200], [0, 0]], [[0, 0], [400, 500]], [[100, 200], [0, 0]]]), **ONE)
apply("apply_s3_weighted_before", "rows(%x) weighted(before) out(sum)", RESULT, PASS, RESULT, f32([[2, 4], [9, 12], [20, 24]]), **ONE)
apply("apply_s4_one_row_per_pair", "rows(%x) out(dense)", RESULT, PASS, "tensor<?x2x2xf32>", f32([[[1, 2], [0, 0]], [[0, 0], [3, 4]], [[5, 6], [0, 0]]]), **ONE)
apply("apply_s5_sum", "rows(%x) weighted(after) out(sum)", RESULT, PASS, RESULT, f32([[5, 10], [0, 0], [45, 54]]), **TWO)
apply("apply_s5_mean", "rows(%x) weighted(after) out(mean)", RESULT, PASS, RESULT, f32([[2.5, 5], [0, 0], [22.5, 27]]), **TWO)
apply("apply_s5_max", "rows(%x) weighted(after) out(max)", RESULT, PASS, RESULT, f32([[3, 6], [0, 0], [25, 30]]), **TWO)
apply("apply_s5_max_of_nan", "rows(%x) weighted(after) out(max)", RESULT, PASS, RESULT, f32([[NAN, NAN]]), i=i32([[0, 1]]), w=f32([[1, NAN]]), x=f32([[1, 2]]))
for kind, dtype, mode, rows, want in [
    ("integer_sum_wraps", np.int32, "sum", [[2**31 - 1, 2], [3, 4], [5, 6]], [[-2, 4], [0, 0], [10, 12]]),
    ("integer_mean_towards_zero", np.int8, "mean", [[-100, 2], [3, 4], [127, -128]], [[-100, 2], [0, 0], [127, -128]]),
    ("integer_max_has_a_sign", np.int8, "max", [[-100, -2], [3, 4], [-128, 6]], [[-100, -2], [0, 0], [-128, 6]]),
    ("boolean_sum", np.bool_, "sum", [[True, False], [True, True], [False, True]], [[True, False], [False, False], [False, True]]),
]:
    of = {np.int32: "i32", np.int8: "i8", np.bool_: "i1"}[dtype]
    apply(f"apply_s5_{kind}", f"rows(%x) out({mode})", f"tensor<?x2x{of}>", PASS.replace("f32", of), f"tensor<?x2x{of}>",
          np.array(want, dtype), i=TWO["i"], w=TWO["w"], x=np.array(rows, dtype))
tensors("apply_s5_integer_mean_of_two", """  %r = moe.from_slots %i, %w experts(2) : tensor<?x2xi32>, tensor<?x2xf32>
  %y = moe.apply %r rows(%x) index(expert) out(mean) : !moe.routing<?x2xf32, max_per_row = 2>, tensor<?x1xi8> -> tensor<?x1xi8> {
  ^bb0(%v: tensor<?x1xi8>, %e: index):
    %c0 = arith.constant 0 : index
    %n = tensor.dim %v, %c0 : tensor<?x1xi8>
    %e8 = arith.index_cast %e : index to i8
    %s = tensor.splat %e8[%n] : tensor<?x1xi8>
    %o = arith.subi %v, %s : tensor<?x1xi8>
    moe.yield %o : tensor<?x1xi8>
  }""", {"y": ("tensor<?x1xi8>", np.array([[-3], [1]], np.int8))}, i=i32([[0, 1], [0, 1]]), w=f32([[1, 1], [1, 1]]),
        x=np.array([[-3], [2]], np.int8))
tensors("apply_s6_half_precision_sums_in_f32", """  %x = arith.truncf %xf : tensor<?x1xf32> to tensor<?x1xf16>
  %r = moe.from_slots %i, %w experts(3) : tensor<?x3xi32>, tensor<?x3xf32>
  %y = moe.apply %r rows(%x) weighted(after) out(sum) : !moe.routing<?x3xf32, max_per_row = 3>, tensor<?x1xf16> -> tensor<?x1xf16> {
  ^bb0(%v: tensor<?x1xf16>):
    moe.yield %v : tensor<?x1xf16>
  }
  %o = arith.extf %y : tensor<?x1xf16> to tensor<?x1xf32>""", {"o": ("tensor<?x1xf32>", f32([[2050]]))}, i=i32([[0, 1, 2]]), w=f32([[2048, 1, 1]]), xf=f32([[1]]))
apply("apply_s7_dense_adds_repeated_pairs", "rows(%x) out(dense)", RESULT, PASS, "tensor<?x2x2xf32>", f32([[[1, 2], [1, 2]], [[0, 0], [0, 0]], [[0, 0], [10, 12]]]), **TWO)
tensors("apply_s8_buckets", """  %cap = arith.constant 1 : index
  %none = arith.constant -1 : index
  %r = moe.from_slots %i, %w experts(2) : tensor<?x1xi32>, tensor<?x1xf32>
  %y, %nothing = moe.apply %r rows(%x) out(buckets(%cap), buckets(%none)) : !moe.routing<?x2xf32, max_per_row = 1>, tensor<?x2xf32>
      -> (tensor<2x?x2xf32>, tensor<2x?x2xf32>) {
  ^bb0(%v: tensor<?x2xf32>):
    moe.yield %v, %v : tensor<?x2xf32>, tensor<?x2xf32>
  }""", {"y": ("tensor<2x?x2xf32>", f32([[[1, 2]], [[3, 4]]])), "nothing": ("tensor<2x?x2xf32>", np.zeros((2, 0, 2), np.float32))}, **ONE)
apply("apply_s9_weight_zero_runs", "rows(%x) weighted(after) out(sum)", RESULT, PASS, RESULT, f32([[NAN, 0]]), i=i32([[0]]), w=f32([[0]]), x=f32([[INF, 1]]))
apply("apply_s10_no_tokens", "rows(%x) weighted(after) out(sum)", RESULT, PASS, RESULT, np.zeros((0, 2), np.float32),
      i=np.zeros((0, 1), np.int32), w=np.zeros((0, 1), np.float32), x=np.zeros((0, 2), np.float32))
apply("apply_s10_poison_stays_in_its_row", "rows(%x) weighted(after) out(sum)", RESULT, PASS, RESULT, f32([[NAN, NAN], [9, 12], [INF, 24]]),
      i=ONE["i"], w=f32([[NAN], [3], [4]]), x=f32([[1, 2], [3, 4], [INF, 6]]))

# #moe.slice
SLICE = """  ^bb0(%v: tensor<?x1xf32>, %b: tensor<{n}xf32>):
    %c0 = arith.constant 0 : index
    %f0 = arith.constant 0.0 : f32
    %z = tensor.splat %f0 : tensor<f32>
    %sum = linalg.reduce {{arith.addf}} ins(%b : tensor<{n}xf32>) outs(%z : tensor<f32>) dimensions = [0]
    %s = tensor.extract %sum[] : tensor<f32>
    %n = tensor.dim %v, %c0 : tensor<?x1xf32>
    %ss = tensor.splat %s[%n] : tensor<?x1xf32>
    %o = arith.addf %v, %ss : tensor<?x1xf32>
    moe.yield %o : tensor<?x1xf32>"""
COLUMN = {"i": i32([[0], [1], [2]]), "w": f32([[1], [1], [1]]), "x": f32([[0], [0], [0]])}
apply("slice_s1_by_a_map", "rows(%x) experts(%s_b by (e) -> (e floordiv 2)) out(sum)", "tensor<?x1xf32>, tensor<2x3xf32>", SLICE.format(n=3), "tensor<?x1xf32>",
      f32([[6], [6], [60]]), experts=3, s_b=f32([[1, 2, 3], [10, 20, 30]]), **COLUMN)
apply("slice_s2_split", "rows(%x) experts(%s_b along 0 split(2)) out(sum)", "tensor<?x1xf32>, tensor<6xf32>", SLICE.format(n=2), "tensor<?x1xf32>",
      f32([[3], [30], [300]]), experts=3, s_b=f32([1, 2, 10, 20, 100, 200]), **COLUMN)
apply("slice_s3_ragged_and_empty", "rows(%x) experts(%s_b along 0 ragged([0, 2, 2, 5])) out(sum)", "tensor<?x1xf32>, tensor<6xf32>", SLICE.format(n="?"), "tensor<?x1xf32>",
      f32([[3], [0], [310]]), experts=3, s_b=f32([1, 2, 10, 100, 200, 999]), **COLUMN)

# Quantised matrices
DEQUANTIZE = "  %d = moe.dequantize %c scales(%s : tensor<?x1xf32>){more} as <{format}> : tensor<?x2xi8> -> tensor<?x4xf32>"


def dequantize(name, form, want, more="", **inputs):
    codes = np.array([[0x21, 0x43], [0xF9, 0x87]], np.uint8).view(np.int8)
    tensors(name, DEQUANTIZE.format(format=form, more=more), {"d": ("tensor<?x4xf32>", f32(want))}, c=codes, s=f32([[2], [1]]), **inputs)


dequantize("quant_s1_bits_from_the_lowest_on", "i4", [[2, 4, 6, 8], [-7, -1, 7, -8]])
dequantize("dequantize_s1_scale_and_zero_point", "u4, zero_points", [[-1, 1, 3, 5], [8, 14, 6, 7]], " zero_points(%z : tensor<?x1xf32>)", z=f32([[1.5], [1]]))
dequantize("dequantize_s2_zero_of_unsigned_codes", "u4", [[-14, -12, -10, -8], [1, 7, -1, 0]])
dequantize("dequantize_s3_codes_of_e2m1", "e2m1", [[1, 2, 3, 4], [-0.5, -6, 6, -0.0]])


def run(case, module, runner, work):
    source, target = work / f"{case.name}.in.safetensors", work / f"{case.name}.out.safetensors"
    save_file({n: np.ascontiguousarray(v) for n, v in case.inputs.items()}, str(source))
    result = subprocess.run([runner, str(module), f"--function={case.name}", f"--inputs={source}", f"--outputs={target}", "--threads=1", "--debug-memory"],
                            capture_output=True, text=True)
    if result.returncode:
        return [f"exit code {result.returncode}: {result.stderr.strip()}"]
    got, complaints = load_file(str(target)), []
    for name, (_, want) in case.outputs.items():
        same = got[name].shape == want.shape
        if not same or not np.allclose(got[name], want, rtol=1e-6, atol=0, equal_nan=want.dtype.kind == "f"):
            complaints.append(f"{name}: want\n{want}\ngot\n{got[name]}")
    return complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--only", help="one case")
    parser.add_argument("--compiler", default="moe-compile")
    parser.add_argument("--runner", default="moe-run")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    cases = [c for c in CASES if options.only in (None, c.name)]
    source, failed = options.work / "routed.mlir", 0
    for lowering in ([], ["--force-lowering=reference"]):
        chosen = [c for c in cases if not lowering or "moe.apply" in c.text]
        source.write_text("\n".join(c.function() for c in chosen))
        module = options.work / "routed.moe"
        command = [options.compiler, str(source), "-o", str(module), "-O1", "--mcpu=x86-64-v3", *lowering]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            print(made.stderr)
            return 1
        for case in chosen:
            for complaint in run(case, module, options.runner, options.work):
                print(f"FAIL {case.name} {' '.join(lowering)}: {complaint}")
                failed += 1
    print(f"{len(cases)} cases, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
