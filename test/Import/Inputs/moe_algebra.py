#!/usr/bin/env python3
"""Writes one MoE layer in many spellings that mean the same, each with inputs and what numpy computes.

    moe_algebra.py FOLDER [--seeds=FIRST:LAST] [--report]

Every choice is independent of the others: how the tokens are flattened, how the router's product is written, where the
gates are normalised and scaled, how the gates reach the experts (per chosen pair, or dense over all experts), how the
banks are stored, how the activation is spelled, how the experts' outputs are combined. Without --seeds the variants of
NAMED; with it random ones, whose folder's name is the seed. --report says what moe-compile makes of each.
"""
import json
import os
import random
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

CHOICES = dict(
    dtype=["f32"] * 6 + ["f16"],
    rank=[2, 3, 3], flatten=["reshape", "shape", "flatten", "none"],
    linear=["matmul", "gemm", "transpose"], router_bias=[False, False, True],
    router=["softmax", "softmax", "topk_softmax", "sigmoid", "corrected"],
    softmax=["op", "op", "exp"], sorted=[1, 1, 0],
    norm=["none", "div", "div", "eps", "reciprocal", "clamp", "l1"],
    scale=[None, None, "gates", "scores", "output", "div"],
    gates=["topk", "topk", "gather", "gathernd", "onehot"],
    form=["gathered", "gathered_flat", "grouped", "masks", "scatter", "scatternd", "onehot", "onehot_matmul", "equal_columns",
          "after", "masked_softmax"],
    layout=["eth", "teh"], spread=["broadcast", "expand", "tile"], bank=["in_out", "out_in", "transpose", "einsum"],
    fused=["no", "split", "slice", "interleaved", "reshape"], bias=[False, False, True],
    activation=["silu", "silu_exp", "swish_half", "gelu", "gelu_tanh", "relu", "relu2", "clamped", "gptoss"],
    weighted=["after", "after", "hidden"], combine=["reduce", "reduce", "matmul", "einsum", "mean"],
    residual=[False, True], shared=["no", "no", "plain", "gated"], swap=[False, True], opset=[16, 17, 18, 20, 21],
    E=[4, 5, 6], k=[1, 2, 2, 3], H=[8], I=[6], T=[5])
DEFAULTS = {key: values[0] for key, values in CHOICES.items()} | dict(opset=18, k=2)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Graph:
    def __init__(self, o, seed):
        self.o, self.rng, self.nodes, self.initializers, self.count = o, random.Random(seed), [], [], 0
        self.real = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[o["dtype"]]
        self.onnx_real = helper.np_dtype_to_tensor_dtype(np.dtype(self.real))
        self.half = o["dtype"] != "f32"

    def constant(self, array):
        self.count += 1
        self.initializers.append(numpy_helper.from_array(np.asarray(array), f"c{self.count}"))
        return f"c{self.count}"

    def number(self, value, wide=False):
        return self.constant(np.asarray(value, np.float32 if wide else self.real))

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def node(self, op, *inputs, outputs=1, **attributes):
        inputs = list(inputs)
        if self.o["swap"] and op in ("Add", "Mul") and self.rng.random() < 0.5:
            inputs.reverse()
        self.count += 1
        names = [f"{op.lower()}_{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{self.count}", **attributes))
        return names[0] if outputs == 1 else names

    def reduce(self, op, x, axis, keepdims):
        if op == "ReduceSum" or self.o["opset"] >= 18:
            return self.node(op, x, self.ints(axis), keepdims=keepdims)
        return self.node(op, x, axes=[axis], keepdims=keepdims)

    def unsqueeze(self, x, *axes):
        return self.node("Unsqueeze", x, self.ints(*axes))


def linear(g, x, w, b, wide=False):
    """x @ w + b of one matrix [in, out]."""
    w = w.astype(np.float32 if wide else g.real)
    b = None if b is None else g.constant(b.astype(np.float32 if wide else g.real))
    style = g.o["linear"] if g.o["rank"] == 2 or g.o["flatten"] != "none" else "matmul"
    if style == "gemm":
        return g.node("Gemm", x, g.constant(np.ascontiguousarray(w.T)), *([b] if b else []), transB=1)
    matrix = g.constant(w if style == "matmul" else np.ascontiguousarray(w.T))
    if style == "transpose":
        matrix = g.node("Transpose", matrix, perm=[1, 0])
    y = g.node("MatMul", x, matrix)
    return g.node("Add", y, b) if b else y


def activation(g, a, c):
    """The activation of a, times c; c is none for the plain ones."""
    kind = g.o["activation"]
    n = g.number
    if kind == "silu":
        h = g.node("Mul", a, g.node("Sigmoid", a))
    elif kind == "silu_exp":
        h = g.node("Div", a, g.node("Add", g.node("Exp", g.node("Neg", a)), n(1)))
    elif kind == "swish_half":  # x * (tanh(x / 2) + 1) / 2
        t = g.node("Add", g.node("Tanh", g.node("Mul", a, n(0.5))), n(1))
        h = g.node("Mul", g.node("Mul", t, n(0.5)), a)
    elif kind == "gelu":
        e = g.node("Erf", g.node("Div", a, n(np.sqrt(2))))
        h = g.node("Mul", g.node("Mul", a, n(0.5)), g.node("Add", e, n(1)))
    elif kind == "gelu_tanh":
        cube = g.node("Mul", g.node("Mul", a, a), a)
        inner = g.node("Mul", g.node("Add", a, g.node("Mul", cube, n(0.044715))), n(np.sqrt(2 / np.pi)))
        h = g.node("Mul", g.node("Mul", a, n(0.5)), g.node("Add", g.node("Tanh", inner), n(1)))
    elif kind == "relu":
        h = g.node("Relu", a)
    elif kind == "relu2":
        r = g.node("Relu", a)
        h = g.node("Mul", r, r) if g.rng.random() < 0.5 else g.node("Pow", r, n(2))
    elif kind == "clamped":
        a = g.node("Clip", a, "", n(0.6))
        c = g.node("Clip", c, n(-0.6), n(0.6))
        h = g.node("Mul", a, g.node("Sigmoid", a))
    else:  # gpt-oss
        a, c = g.node("Min", a, n(0.6)), g.node("Max", g.node("Min", c, n(0.6)), n(-0.6))
        h = g.node("Mul", a, g.node("Sigmoid", g.node("Mul", a, n(1.702))))
        c = g.node("Add", c, n(1))
    return g.node("Mul", h, c) if c else h


def activation_reference(o, a, c):
    kind = o["activation"]
    if kind in ("silu", "silu_exp", "swish_half"):
        h = a * sigmoid(a)
    elif kind == "gelu":
        from math import erf
        h = a * 0.5 * (1 + np.vectorize(erf)(a / np.sqrt(2)))
    elif kind == "gelu_tanh":
        h = a * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a ** 3)))
    elif kind == "relu":
        h = np.maximum(a, 0)
    elif kind == "relu2":
        h = np.maximum(a, 0) ** 2
    elif kind == "clamped":
        a, c = np.minimum(a, 0.6), np.clip(c, -0.6, 0.6)
        h = a * sigmoid(a)
    else:
        a, c = np.minimum(a, 0.6), np.clip(c, -0.6, 0.6) + 1
        h = a * sigmoid(1.702 * a)
    return h * c


def router(g, rows, p):
    """The gates and numbers of the chosen experts, [T, k] each."""
    o = g.o
    wide = lambda v: g.node("Cast", v, to=TensorProto.FLOAT) if g.half else v
    logits = wide(linear(g, rows, p["router"], p["router_bias"] if o["router_bias"] else None))
    if o["router"] == "topk_softmax":
        scores = logits
    elif o["router"] in ("sigmoid", "corrected"):
        scores = g.node("Sigmoid", logits)
    elif o["softmax"] == "op":
        scores = g.node("Softmax", logits, axis=-1)
    else:
        e = g.node("Exp", g.node("Sub", logits, g.reduce("ReduceMax", logits, -1, 1)))
        scores = g.node("Div", e, g.reduce("ReduceSum", e, -1, 1))
    if o["scale"] == "scores":
        scores = g.node("Mul", scores, g.number(1.5, True))
    keys = g.node("Add", scores, g.number(p["correction"], True)) if o["router"] == "corrected" else scores
    values, index = g.node("TopK", keys, g.ints(o["k"]), outputs=2, axis=-1, sorted=o["sorted"])
    if o["router"] == "corrected" or o["gates"] == "gather":
        values = g.node("GatherElements", scores, index, axis=-1)
    elif o["gates"] == "onehot":
        hot = g.node("OneHot", index, g.ints(o["E"]), g.constant(np.array([0, 1], np.float32)), axis=-1)
        values = g.reduce("ReduceSum", g.node("Mul", hot, g.unsqueeze(scores, -2)), -1, 0)
    elif o["gates"] == "gathernd":
        rank = 3 if o["rank"] == 3 and o["flatten"] == "none" else 2
        values = g.node("GatherND", scores, g.unsqueeze(index, rank), batch_dims=rank - 1)
    if o["form"] in ("after", "masked_softmax"):
        return scores, index
    if o["router"] == "topk_softmax":
        return g.node("Softmax", values, axis=-1), index
    total = lambda: g.reduce("ReduceL1" if o["norm"] == "l1" else "ReduceSum", values, -1, 1)
    if o["norm"] in ("div", "l1"):
        values = g.node("Div", values, total())
    elif o["norm"] == "eps":
        values = g.node("Div", values, g.node("Add", total(), g.number(1e-9, True)))
    elif o["norm"] == "clamp":
        values = g.node("Div", values, g.node("Clip", total(), g.number(1e-12, True)))
    elif o["norm"] == "reciprocal":
        values = g.node("Mul", values, g.node("Reciprocal", total()))
    if o["scale"] == "gates":
        values = g.node("Mul", values, g.number(1.5, True))
    elif o["scale"] == "div":
        values = g.node("Div", values, g.number(2, True))
    return values, index


def dense_gates(g, values, index, logits_like):
    """Gates over all experts, [T, E], zero where not chosen."""
    o = g.o
    form, E, k = o["form"], o["E"], o["k"]
    wide = TensorProto.FLOAT
    tokens = lambda: g.node("Shape", index, start=0, end=-1)
    zeros = lambda: g.node("ConstantOfShape", g.node("Concat", tokens(), g.ints(E), axis=0))
    if form in ("after", "masked_softmax"):  # `values` are the scores of all experts
        hot = g.node("OneHot", index, g.ints(E), g.constant(np.array([0, 1], np.float32)), axis=-1)
        hot = g.reduce("ReduceSum", hot, -2, 0)
        if form == "after":
            gates = g.node("Mul", hot, values)
            return g.node("Div", gates, g.reduce("ReduceSum", gates, -1, 1))
        hot = g.node("Greater", hot, g.number(0, True))
        return g.node("Softmax", g.node("Where", hot, values, g.number(-np.inf, True)), axis=-1)
    if form == "scatter":
        return g.node("ScatterElements", zeros(), index, values, axis=-1)
    if form == "scatternd":
        count = g.node("Gather", g.node("Shape", index), g.constant(np.int64(0)), axis=0)
        row = g.node("Range", g.constant(np.int64(0)), count, g.constant(np.int64(1)))
        row = g.unsqueeze(g.node("Expand", g.unsqueeze(row, 1), g.node("Shape", index)), -1)
        return g.node("ScatterND", zeros(), g.node("Concat", row, g.unsqueeze(index, -1), axis=-1), values)
    if form == "onehot":
        hot = g.node("OneHot", index, g.ints(E), g.constant(np.array([0, 1], np.float32)), axis=-1)
        return g.reduce("ReduceSum", g.node("Mul", hot, g.unsqueeze(values, -1)), -2, 0)
    if form == "onehot_matmul":
        hot = g.node("OneHot", index, g.ints(E), g.constant(np.array([0, 1], np.float32)), axis=-1)
        return g.node("Squeeze", g.node("MatMul", g.unsqueeze(values, -2), hot), g.ints(-2))
    equal = g.node("Equal", g.unsqueeze(index, -1), g.constant(np.arange(E, dtype=np.int64)))  # [T, k, E]
    if g.rng.random() < 0.5:
        gates = g.node("Mul", g.node("Cast", equal, to=wide), g.unsqueeze(values, -1))
    else:
        gates = g.node("Where", equal, g.unsqueeze(values, -1), g.number(0, True))
    return g.reduce("ReduceSum", gates, -2, 0)


def bank_product(g, x, w, b, batch):
    """x [..., E, T, in] (eth), or [T, E, in] as an einsum, with every expert's matrix of w [E, in, out]."""
    E, style = g.o["E"], g.o["bank"]
    w = w.astype(g.real)
    if batch == "teh":
        if style in ("in_out", "transpose"):
            y = g.node("Einsum", x, g.constant(w), equation="teh,ehi->tei")
        else:
            y = g.node("Einsum", x, g.constant(np.ascontiguousarray(w.transpose(0, 2, 1))), equation="teh,eih->tei")
        return g.node("Add", y, g.constant(b.astype(g.real))) if b is not None else y
    if style == "out_in":
        matrix = g.node("Transpose", g.constant(np.ascontiguousarray(w.transpose(0, 2, 1))), perm=[0, 2, 1])
    elif style == "transpose":  # one matrix [in, E * out]
        flat = g.constant(np.ascontiguousarray(w.transpose(1, 0, 2)).reshape(w.shape[1], -1))
        matrix = g.node("Transpose", g.node("Reshape", flat, g.ints(w.shape[1], E, w.shape[2])), perm=[1, 0, 2])
    else:
        matrix = g.constant(w)
    if style == "einsum":
        y = g.node("Einsum", x, matrix, equation="eth,ehi->eti")
    else:
        y = g.node("MatMul", x, matrix)
    return g.node("Add", y, g.constant(b.astype(g.real)[:, None])) if b is not None else y


def gated(g, product, p, feature):
    """The experts' hidden rows: gate and up by one bank or two."""
    fused, I = g.o["fused"], g.o["I"]
    if g.o["activation"] in ("relu", "relu2") or fused == "no":
        a = product(p["gate"], p["bg"])
        return activation(g, a, product(p["up"], p["bu"]))
    if fused == "interleaved" or fused == "reshape":
        w = np.stack([p["gate"], p["up"]], -1).reshape(*p["gate"].shape[:2], -1)
        b = None if p["bg"] is None else np.stack([p["bg"], p["bu"]], -1).reshape(len(w), -1)
        both = product(w, b)
        if fused == "interleaved":
            part = lambda s: g.node("Slice", both, g.ints(s), g.ints(2 ** 62), g.ints(feature), g.ints(2))
            return activation(g, part(0), part(1))
        both = g.node("Reshape", both, g.ints(*[0] * feature, I, 2))
        part = lambda s: g.node("Gather", both, g.constant(np.int64(s)), axis=feature + 1)
        return activation(g, part(0), part(1))
    w = np.concatenate([p["gate"], p["up"]], -1)
    b = None if p["bg"] is None else np.concatenate([p["bg"], p["bu"]], -1)
    both = product(w, b)
    if fused == "split":
        a, c = g.node("Split", both, g.ints(I, I), outputs=2, axis=-1)
    else:
        a = g.node("Slice", both, g.ints(0), g.ints(I), g.ints(feature))
        c = g.node("Slice", both, g.ints(I), g.ints(2 * I), g.ints(-1 if g.rng.random() < 0.5 else feature))
    return activation(g, a, c)


def experts_dense(g, rows, dense, p):
    o = g.o
    E, H = o["E"], o["H"]
    if g.half:
        dense = g.node("Cast", dense, to=g.onnx_real)
    if o["layout"] == "teh":
        x = g.unsqueeze(rows, 1)
        x = g.node("Expand", x, g.ints(1, E, 1)) if o["spread"] != "tile" else g.node("Tile", x, g.ints(1, E, 1))
        product = lambda v: lambda w, b: bank_product(g, v, w, b, "teh")
        h = gated(g, product(x), p, 2)
        per = g.unsqueeze(dense, 2)
        if o["weighted"] == "hidden":
            h = g.node("Mul", h, per)
        y = product(h)(p["down"], p["bd"])
        axis = 1
    else:
        x = g.unsqueeze(rows, 0)
        if o["spread"] == "expand":
            x = g.node("Expand", x, g.ints(E, 1, 1))
        elif o["spread"] == "tile":
            x = g.node("Reshape", g.node("Tile", rows, g.ints(E, 1)), g.ints(E, -1, H))
        if o["bank"] == "einsum" and o["spread"] == "broadcast":
            x = g.node("Expand", x, g.ints(E, 1, 1))
        product = lambda v: lambda w, b: bank_product(g, v, w, b, "eth")
        h = gated(g, product(x), p, 2)
        per = g.unsqueeze(g.node("Transpose", dense, perm=[1, 0]), 2)
        if o["weighted"] == "hidden":
            h = g.node("Mul", h, per)
        y = product(h)(p["down"], p["bd"])
        axis = 0
    if o["weighted"] == "hidden":
        return g.reduce("ReduceSum", y, axis, 0)
    if o["combine"] == "matmul":
        if axis == 0:
            y = g.node("Transpose", y, perm=[1, 0, 2])
        return g.node("Squeeze", g.node("MatMul", g.unsqueeze(dense, 1), y), g.ints(1))
    if o["combine"] == "einsum":
        return g.node("Einsum", dense, y, equation="te,teh->th" if axis else "te,eth->th")
    y = g.node("Mul", y, per)
    if o["combine"] == "mean":
        return g.node("Mul", g.reduce("ReduceMean", y, axis, 0), g.number(E))
    keep = g.rng.random() < 0.3
    y = g.reduce("ReduceSum", y, axis, int(keep))
    return g.node("Squeeze", y, g.ints(axis)) if keep else y


def experts_gathered(g, rows, values, index, p):
    o = g.o
    k, H = o["k"], o["H"]
    flat = o["form"] == "gathered_flat"
    if g.half:
        values = g.node("Cast", values, to=g.onnx_real)
    if flat:
        chosen = g.node("Reshape", index, g.ints(-1))
        x = g.node("Reshape", g.node("Expand", g.unsqueeze(rows, 1), g.ints(1, k, 1)), g.ints(-1, 1, H))
    else:
        chosen, x = index, g.unsqueeze(rows, 1, 2)
    lead = 1 if flat else 2

    def product_of(v):
        def product(w, b):
            w = w.astype(g.real)
            column = o["bank"] == "out_in"  # W [out, in] @ x [in, 1]
            if column:
                m = g.node("Gather", g.constant(np.ascontiguousarray(w.transpose(0, 2, 1))), chosen, axis=0)
                turned = g.node("Transpose", v, perm=[*range(lead), lead + 1, lead])
                y = g.node("Transpose", g.node("MatMul", m, turned), perm=[*range(lead), lead + 1, lead])
            elif o["bank"] == "transpose":
                m = g.node("Gather", g.constant(np.ascontiguousarray(w.transpose(0, 2, 1))), chosen, axis=0)
                y = g.node("MatMul", v, g.node("Transpose", m, perm=[*range(lead), lead + 1, lead]))
            else:
                m = g.node("Gather", g.constant(w), chosen, axis=0)
                y = g.node("MatMul", v, m)
            if b is not None:
                y = g.node("Add", y, g.unsqueeze(g.node("Gather", g.constant(b.astype(g.real)), chosen, axis=0), lead))
            return y
        return product
    h = gated(g, product_of(x), p, lead + 1)
    per = g.node("Reshape", values, g.ints(-1, 1, 1)) if flat else g.unsqueeze(values, 2, 3)
    if o["weighted"] == "hidden":
        h = g.node("Mul", h, per)
    y = product_of(h)(p["down"], p["bd"])  # [.., 1, H]
    if o["weighted"] == "hidden" or o["combine"] not in ("matmul", "einsum"):
        if o["weighted"] != "hidden":
            y = g.node("Mul", y, per)
        y = g.node("Reshape", y, g.ints(-1, k, H))
        if o["combine"] == "mean" and o["weighted"] != "hidden":
            return g.node("Mul", g.reduce("ReduceMean", y, 1, 0), g.number(k))
        return g.reduce("ReduceSum", y, 1, 0)
    y = g.node("Reshape", y, g.ints(-1, k, H)) if flat else g.node("Squeeze", y, g.ints(2))
    if o["combine"] == "matmul":
        return g.node("Squeeze", g.node("MatMul", g.unsqueeze(values, 1), y), g.ints(1))
    return g.node("Einsum", y, values, equation="tkh,tk->th")


def experts_grouped(g, rows, values, index, p):
    """GroupedMatMul (RFC 0010): [T, k, N] for the rows of the tokens, then [T * k, 1, H] for those of the pairs."""
    o = g.o
    k, H, I = o["k"], o["H"], o["I"]
    if g.half:
        values = g.node("Cast", values, to=g.onnx_real)
    bank = lambda v: [] if v is None else [g.constant(v.astype(g.real))]
    h = gated(g, lambda w, b: g.node("GroupedMatMul", rows, *bank(w), index, *bank(b)), p, 2)
    per = g.unsqueeze(values, 2)
    if o["weighted"] == "hidden":
        h = g.node("Mul", h, per)
    pairs, slots = g.node("Reshape", h, g.ints(-1, I)), g.node("Reshape", index, g.ints(-1, 1))
    y = g.node("Reshape", g.node("GroupedMatMul", pairs, *bank(p["down"]), slots, *bank(p["bd"])), g.ints(-1, k, H))
    if o["weighted"] == "hidden":
        return g.reduce("ReduceSum", y, 1, 0)
    if o["combine"] == "matmul":
        return g.node("Squeeze", g.node("MatMul", g.unsqueeze(values, 1), y), g.ints(1))
    if o["combine"] == "einsum":
        return g.node("Einsum", y, values, equation="tkh,tk->th")
    return g.reduce("ReduceSum", g.node("Mul", y, per), 1, 0)


def experts_masks(g, rows, values, index, p):
    """Every expert over all tokens, with nodes of its own."""
    o, total = g.o, None
    if g.half:
        values = g.node("Cast", values, to=g.onnx_real)
    for e in range(o["E"]):
        product = lambda v: lambda w, b: linear(g, v, w[e], None if b is None else b[e])
        equal = g.node("Equal", index, g.constant(np.int64(e)))
        if g.rng.random() < 0.5:
            gate = g.node("Where", equal, values, g.number(0))
        else:
            gate = g.node("Mul", g.node("Cast", equal, to=g.onnx_real), values)
        gate = g.reduce("ReduceSum", gate, -1, 1)
        feature = 2 if o["rank"] == 3 and o["flatten"] == "none" else 1
        h = gated(g, product(rows), p | {n: p[n] for n in p}, feature)
        if o["weighted"] == "hidden":
            h = g.node("Mul", h, gate)
        y = product(h)(p["down"], p["bd"])
        if o["weighted"] != "hidden":
            y = g.node("Mul", y, gate)
        total = g.node("Add", total, y) if total else y
    return total


def reference(x, p, o):
    logits = x @ p["router"] + (p["router_bias"] if o["router_bias"] else 0)
    scores = {"topk_softmax": lambda v: v, "sigmoid": sigmoid, "corrected": sigmoid}.get(o["router"], softmax)(logits)
    if o["scale"] == "scores":
        scores = scores * 1.5
    keys = scores + p["correction"] if o["router"] == "corrected" else scores
    index = np.argsort(-keys, axis=-1, kind="stable")[:, :o["k"]]
    gates = np.take_along_axis(scores, index, -1)
    if o["router"] == "topk_softmax":
        gates = softmax(gates)
    else:
        if o["norm"] != "none":
            gates = gates / gates.sum(-1, keepdims=True)
        gates = gates * {"gates": 1.5, "div": 0.5}.get(o["scale"], 1)
    bias = lambda n, e: 0 if p[n] is None else p[n][e]
    y = np.zeros_like(x)
    for t in range(len(x)):
        for e, gate in zip(index[t], gates[t]):
            h = activation_reference(o, x[t] @ p["gate"][e] + bias("bg", e), x[t] @ p["up"][e] + bias("bu", e))
            if o["weighted"] == "hidden":
                y[t] += (gate * h) @ p["down"][e] + bias("bd", e)
            else:
                y[t] += gate * (h @ p["down"][e] + bias("bd", e))
    if o["scale"] == "output":
        y = y * 1.5
    if o["shared"] != "no":
        s = np.maximum(x @ p["s1"], 0) @ p["s2"]
        y = y + (s * sigmoid(x @ p["s3"]) if o["shared"] == "gated" else s)
    return y + x if o["residual"] else y


def legal(o):
    """Choices that exclude each other give way."""
    o = dict(o)
    if o["rank"] == 2:
        o["flatten"] = "reshape"
    if o["flatten"] == "none" and o["form"] != "masks":
        o["flatten"] = "shape"
    if o["router"] == "topk_softmax" or o["router"] == "corrected":
        o["gates"] = "topk"
    if o["router"] == "topk_softmax":
        o["norm"] = "none"
        if o["scale"] in ("gates", "scores", "div"):
            o["scale"] = "output"
    if o["weighted"] == "hidden":  # a bias behind the weighted rows would be added for every expert
        o["bias"] = False
    o["k"] = min(o["k"], o["E"])
    if o["form"] == "after":  # normalised after the gates were masked
        o["norm"] = "div"
        if o["router"] == "topk_softmax":
            o["router"] = "softmax"
        if o["scale"] in ("gates", "div"):
            o["scale"] = None
    if o["form"] == "masked_softmax":
        o["router"], o["norm"], o["gates"] = "topk_softmax", "none", "topk"
        if o["scale"] in ("gates", "scores", "div"):
            o["scale"] = None
    return o


def build(path, seed, **options):
    o = legal(DEFAULTS | options)
    rng, g = np.random.default_rng(seed), Graph(o, seed)
    E, H, I = o["E"], o["H"], o["I"]

    def draw(*shape):
        data = rng.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 4)
        return data.astype(g.real).astype(np.float64)

    p = {"router": draw(H, E), "router_bias": draw(E), "correction": draw(E).astype(np.float32).astype(np.float64),
         "gate": draw(E, H, I), "up": draw(E, H, I), "down": draw(E, I, H), "s1": draw(H, I), "s2": draw(I, H),
         "s3": draw(H, 1)}
    biases = [draw(E, I), draw(E, I), draw(E, H)]
    p |= dict(zip(("bg", "bu", "bd"), biases if o["bias"] else [None] * 3))
    rows = "x"
    if o["rank"] == 3 and o["flatten"] == "reshape":
        rows = g.node("Reshape", "x", g.ints(-1, H))
    elif o["rank"] == 3 and o["flatten"] == "shape":
        shape = g.node("Shape", "x")
        part = lambda i: g.node("Gather", shape, g.constant(np.int64(i)), axis=0)
        count = g.unsqueeze(g.node("Mul", part(0), part(1)), 0)
        rows = g.node("Reshape", "x", g.node("Concat", count, g.unsqueeze(part(2), 0), axis=0))
    elif o["rank"] == 3 and o["flatten"] == "flatten":
        rows = g.node("Flatten", "x", axis=2)
    values, index = router(g, rows, p)
    if o["form"].startswith("gathered"):
        total = experts_gathered(g, rows, values, index, p)
    elif o["form"] == "grouped":
        total = experts_grouped(g, rows, values, index, p)
    elif o["form"] == "masks":
        total = experts_masks(g, rows, values, index, p)
    else:
        total = experts_dense(g, rows, dense_gates(g, values, index, None), p)
    if o["scale"] == "output":
        total = g.node("Mul", total, g.number(1.5))
    if o["shared"] != "no":
        shared = linear(g, g.node("Relu", linear(g, rows, p["s1"], None)), p["s2"], None)
        if o["shared"] == "gated":
            shared = g.node("Mul", shared, g.node("Sigmoid", linear(g, rows, p["s3"], None)))
        total = g.node("Add", total, shared)
    if o["rank"] == 3 and o["flatten"] != "none":
        total = g.node("Reshape", total, g.node("Shape", "x"))
    if o["residual"]:
        total = g.node("Add", "x", total)
    g.nodes.append(helper.make_node("Identity", [total], ["y"], name="last"))
    dims = ["tokens", H] if o["rank"] == 2 else ["batch", "length", H]
    info = lambda n: [helper.make_tensor_value_info(n, g.onnx_real, dims)]
    graph = helper.make_graph(g.nodes, "layer", info("x"), info("y"), g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", o["opset"])], ir_version=9)
    os.makedirs(path, exist_ok=True)
    onnx.save(model, os.path.join(path, "model.onnx"))
    for suffix, shape in (("", (2, o["T"], H)), ("2", (1, 3, H))):
        shape = shape[1:] if o["rank"] == 2 else shape
        data = rng.standard_normal(shape).astype(g.real)
        want = reference(data.astype(np.float64).reshape(-1, H), p, o)
        save_file({"x": data}, os.path.join(path, f"inputs{suffix}.safetensors"))
        save_file({"y": want.astype(g.real).reshape(shape)}, os.path.join(path, f"expected{suffix}.safetensors"))
    atol, rtol = {"f32": (2e-5, 1e-4), "f16": (1e-2, 1e-2), "bf16": (6e-2, 4e-2)}[o["dtype"]]
    json.dump({"atol": atol, "rtol": rtol} | o, open(os.path.join(path, "case.json"), "w"))


NAMED = {
    "gathered": dict(norm="div", rank=3, flatten="shape"),
    "gathered_l1": dict(form="gathered_flat", norm="l1", scale="gates", bank="transpose", fused="split",
                        activation="gelu"),
    "gathered_gathernd": dict(gates="gathernd", norm="reciprocal", sorted=0, bank="out_in", activation="relu2"),
    "gathered_onehot": dict(gates="onehot", norm="clamp", k=3, fused="slice", linear="gemm", combine="einsum"),
    "gathered_columns": dict(fused="reshape", bias=True, activation="gptoss", router="topk_softmax", combine="matmul"),
    "gathered_halved": dict(router="sigmoid", norm="eps", scale="div", combine="mean", weighted="hidden",
                            bank="transpose"),
    "gathered_clamped": dict(router="sigmoid", norm="clamp", activation="clamped", fused="interleaved",
                             router_bias=True),
    "masks_none": dict(form="masks", rank=3, flatten="none", norm="div", shared="gated", residual=True, swap=True),
    "masks_hidden": dict(form="masks", weighted="hidden", fused="reshape", linear="transpose", gates="gather"),
    "scatter": dict(form="scatter", norm="div", rank=3, flatten="flatten", fused="interleaved", bias=True),
    "scatter_mean": dict(form="scatter", combine="mean", spread="tile", bank="transpose", scale="output", k=1),
    "onehot": dict(form="onehot", layout="teh", norm="eps", combine="einsum", activation="swish_half", opset=21),
    "onehot_product": dict(form="onehot_matmul", spread="expand", bank="einsum", combine="matmul", router="corrected"),
    "columns": dict(form="equal_columns", layout="teh", spread="expand", bank="out_in", combine="matmul", norm="l1"),
    "columns_hidden": dict(form="equal_columns", weighted="hidden", softmax="exp", scale="scores", opset=16),
    "scatternd": dict(form="scatternd", norm="div", activation="gelu_tanh"),
    "normalised_later": dict(form="after", layout="eth", activation="silu_exp"),
    "masked_softmax": dict(form="masked_softmax", router="topk_softmax", layout="teh", spread="expand"),
    "grouped": dict(form="grouped", norm="div", rank=3, bias=True),
    "grouped_fused": dict(form="grouped", router="topk_softmax", fused="interleaved", combine="einsum", opset=20),
    "grouped_one": dict(form="grouped", k=1, fused="split", weighted="hidden"),
    "half": dict(form="scatter", dtype="f16", norm="div", residual=True),
    "half_bf16": dict(dtype="bf16", norm="div", residual=True, fused="split", bias=True),
}


def drawn(seed):
    r = random.Random(seed)
    return {key: r.choice(values) for key, values in CHOICES.items()}


def main():
    out = sys.argv[1]
    seeds = [a[len("--seeds="):].split(":") for a in sys.argv[2:] if a.startswith("--seeds=")]
    if seeds:
        for seed in range(int(seeds[0][0]), int(seeds[0][1])):
            build(os.path.join(out, str(seed)), seed, **drawn(seed))
    else:
        for seed, (name, options) in enumerate(NAMED.items()):
            build(os.path.join(out, name), seed, **options)
    if "--report" in sys.argv:
        for name in sorted(os.listdir(out)):
            done = subprocess.run(["moe-compile", os.path.join(out, name, "model.onnx"), "--compile-to=raise",
                                   "--report=json", "-o", os.path.join(out, name, "raised.mlir")],
                                  capture_output=True, text=True, check=True)
            report = json.loads(done.stdout)
            for layer in report["layers"]:
                print(f"{name}: {layer['pattern']}; {layer['router']['steps']}; {layer['activation']}")
            for missed in report["not_raised"]:
                print(f"{name}: NOT RAISED, {missed['reason']}")
            if not report["layers"] and not report["not_raised"]:
                print(f"{name}: NOT RAISED")


main()
