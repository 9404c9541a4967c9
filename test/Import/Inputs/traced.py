#!/usr/bin/env python3
"""Writes traces of a loop over the chosen experts, and legal graphs that look alike.

Each layer: gates = softmax over E columns, top-k; a row's expert numbers are compared, and each chosen expert adds
gate * (rows @ w[e]) to its rows. The traces list the experts that were chosen and take a fixed number of them.
"""
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = sys.argv[1]
E, K, H = 6, 2, 8


class Graph:
    def __init__(self):
        self.nodes, self.initializers, self.count = [], [], 0

    def constant(self, array):
        self.count += 1
        self.initializers.append(numpy_helper.from_array(np.asarray(array), f"c{self.count}"))
        return f"c{self.count}"

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def node(self, op, *inputs, outputs=1, name=None, **attributes):
        self.count += 1
        names = [f"v{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name or f"n{self.count}", **attributes))
        return names[0] if outputs == 1 else names

    def save(self, name, result, opset=17):
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        info = lambda n: [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", H])]
        graph = helper.make_graph(self.nodes, name, info("x"), info("y"), self.initializers)
        onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)]),
                  os.path.join(OUT, name + ".onnx"))


def router(g):
    scores = g.node("Softmax", g.node("MatMul", "x", g.constant(np.ones((H, E), np.float32))), axis=-1)
    return g.node("TopK", scores, g.ints(K), outputs=2, name="router")


def mask_of(g, index):
    hot = g.node("OneHot", index, g.ints(E), g.ints(0, 1), axis=-1)
    return g.node("Transpose", hot, perm=[2, 1, 0])  # [E, K, T]


def expert(g, total, mask, values, e, bank):
    """One pass of the loop: e is the name of a scalar."""
    where = g.node("NonZero", g.node("Gather", mask, e, axis=0))
    slot, token = g.node("Split", where, g.ints(1, 1), outputs=2, axis=0)
    token = g.node("Reshape", token, g.ints(-1))
    slot = g.node("Reshape", slot, g.ints(-1))
    rows = g.node("Gather", "x", token, axis=0)
    pairs = g.node("Concat", g.node("Unsqueeze", token, g.ints(1)), g.node("Unsqueeze", slot, g.ints(1)), axis=1)
    gate = g.node("Unsqueeze", g.node("GatherND", values, pairs), g.ints(1))
    out = g.node("Mul", g.node("MatMul", rows, g.node("Gather", bank, e, axis=0)), gate)
    return g.node("ScatterND", total, g.node("Unsqueeze", token, g.ints(1)), out, reduction="add")


def start():
    g = Graph()
    values, index = router(g)
    mask = mask_of(g, index)
    total = g.node("Expand", g.constant(np.float32(0)), g.node("Shape", "x"))
    bank = g.constant(np.ones((E, H, H), np.float32))
    return g, values, index, mask, total, bank


def traced(name, take, count):
    g, values, index, mask, total, bank = start()
    hit = g.node("Greater", g.node("ReduceSum", mask, g.ints(-1, -2), keepdims=0), g.constant(np.int64(0)))
    chosen = g.node("Transpose", g.node("NonZero", hit, name="hit"), perm=[1, 0])  # [?, 1]
    for e in take(g, chosen, count):
        total = expert(g, total, mask, values, e, bank)
    g.save(name, total)


def split(g, chosen, count):
    pieces = g.node("Split", chosen, g.ints(*[1] * count), outputs=count, axis=0, name="take")
    return [g.node("Reshape", piece, g.constant(np.zeros(0, np.int64))) for piece in (pieces if count > 1 else [pieces])]


def positions(g, chosen, count):
    chosen = g.node("Squeeze", chosen, g.ints(1))
    return [g.node("Gather", chosen, g.constant(np.int64(i)), axis=0, name=f"take{i}") for i in range(count)]


def squeeze(g, chosen, count):
    return [g.node("Squeeze", chosen, name="take")]


def all_experts(name):
    g, values, index, mask, total, bank = start()
    for e in range(E):
        total = expert(g, total, mask, values, g.constant(np.int64(e)), bank)
    g.save(name, total)


def null_experts(name, banks=4):
    """A router with E columns and fewer experts: the others add nothing."""
    g = Graph()
    values, index = router(g)
    total = None
    for e in range(banks):
        equal = g.node("Cast", g.node("Equal", index, g.constant(np.int64(e))), to=TensorProto.FLOAT)
        gate = g.node("ReduceSum", g.node("Mul", equal, values), g.ints(-1), keepdims=1)
        out = g.node("Mul", g.node("MatMul", "x", g.constant(np.ones((H, H), np.float32) * e)), gate)
        total = g.node("Add", total, out) if total else out
    g.save(name, total)


os.makedirs(OUT, exist_ok=True)
traced("split", split, 3)
traced("split_one", split, 1)
traced("positions", positions, 2)
traced("squeeze", squeeze, 1)
all_experts("all_experts")
null_experts("null_experts")


def hit(name, experts):
    """A loop over all experts that went on where nobody chose the expert: only those that were hit are in the file."""
    g, values, index, mask, total, bank = start()
    for e in experts:
        total = expert(g, total, mask, values, g.constant(np.int64(e)), bank)
    g.save(name, total)


def hit_masked(name, experts):
    g = Graph()
    values, index = router(g)
    total = None
    for e in experts:
        gate = g.node("ReduceSum", g.node("Where", g.node("Equal", index, g.constant(np.int64(e))), values,
                                          g.constant(np.float32(0))), g.ints(-1), keepdims=1)
        out = g.node("Mul", g.node("MatMul", "x", g.constant(np.ones((H, H), np.float32) * (e + 1))), gate)
        total = g.node("Add", total, out) if total else out
    g.save(name, total)


hit("hit", [0, 1, 2])
hit_masked("hit_gaps", [0, 2, 5])


def sorted_rows(name, cut):
    """Pairs sorted by expert, of which each expert takes the next ones, then put back: as many as the trace had."""
    g = Graph()
    values, index = router(g)
    flat = g.node("Reshape", index, g.ints(-1))
    _, order = g.node("TopK", flat, g.node("Shape", flat), outputs=2, axis=0, largest=0, name="sort")
    rows = g.node("Gather", "x", g.node("Div", order, g.constant(np.int64(K))), axis=0)
    pieces = cut(g, rows, flat)
    outs = [g.node("MatMul", piece, g.constant(np.ones((H, H), np.float32) * e)) for e, piece in enumerate(pieces)]
    out = g.node("Mul", g.node("Concat", *outs, axis=0),
                 g.node("Unsqueeze", g.node("Gather", g.node("Reshape", values, g.ints(-1)), order, axis=0), g.ints(1)))
    zeros = g.node("Expand", g.constant(np.float32(0)), g.node("Shape", "x"))
    token = g.node("Unsqueeze", g.node("Div", order, g.constant(np.int64(K))), g.ints(1))
    g.save(name, g.node("ScatterND", zeros, token, out, reduction="add"))


def counted(g, rows, flat):
    """How many each expert has is counted: no trace."""
    equal = g.node("Equal", g.node("Unsqueeze", flat, g.ints(1)), g.constant(np.arange(E, dtype=np.int64)))
    counts = g.node("ReduceSum", g.node("Cast", equal, to=TensorProto.INT64), g.ints(0), keepdims=0)
    return g.node("Split", rows, counts, outputs=E, axis=0)


def sliced(g, rows, flat):
    places = [0, 3, 4, 8, 9, 10, 14]
    return [g.node("Slice", rows, g.ints(a), g.ints(b), g.ints(0), name=f"take{a}") for a, b in zip(places, places[1:])]


sorted_rows("sorted_split", lambda g, rows, flat: g.node("Split", rows, g.ints(3, 1, 4, 1, 1, 4), outputs=E, axis=0,
                                                         name="take"))
sorted_rows("sorted_slice", sliced)
sorted_rows("sorted_counted", counted)
