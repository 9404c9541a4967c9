#!/usr/bin/env python3
"""Writes MoE layers whose experts have nodes of their own, in many spellings, each with inputs and what it computes.

    expert_sums.py FOLDER [--seeds=N] [--raise]

With --raise each is also compiled to the routed level, raised.mlir. Without --seeds the named variants; with it, N random ones (their folder's name is the seed). Every variant is one
function, sum over the chosen experts of gate * expert, written as masks over all tokens (Equal, OneHot, scattered gates,
stacked outputs) or as a loop over the pairs that chose the expert (NonZero, gather, scatter).
"""
import json
import os
import random
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

MASKS = ["equal_where", "equal_mul", "where_output", "onehot", "onehot_matmul", "scatter_split", "scatter_gather",
         "stack", "stack_einsum"]
LOOPS = ["loop_add", "loop_read_write", "loop_elements", "loop_flat"]
DEFAULTS = dict(form="equal_where", E=5, k=2, H=12, I=10, router="softmax_topk_norm", activation="swiglu",
                weights="matmul", bias=False, rank=2, residual=False, shared=False, columns=None, opset=18, swap=False,
                rename=False, shuffle=False, half=False, T=7)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Graph:
    def __init__(self, o, rng):
        self.o, self.rng, self.nodes, self.initializers, self.count = o, rng, [], [], 0

    def constant(self, array):
        self.count += 1
        self.initializers.append(numpy_helper.from_array(np.asarray(array), f"c{self.count}"))
        return f"c{self.count}"

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

    def reduce_sum(self, x, axis, keepdims):
        return self.node("ReduceSum", x, self.ints(axis), keepdims=keepdims)


def weight(g, array):
    """A matrix [in, out] of the graph's precision, as a value."""
    if not g.o["half"]:
        return g.constant(array)
    return g.node("Cast", g.constant(array.astype(np.float16)), to=TensorProto.FLOAT)


def linear(g, x, w, b, e, banks):
    """x @ w[e] + b[e]; w is [E, in, out]."""
    style = g.o["weights"]
    if style == "gemm":
        return g.node("Gemm", x, weight(g, np.ascontiguousarray(w[e].T)), *([g.constant(b[e])] if b is not None else []),
                      transB=1)
    if style == "transpose":
        matrix = g.node("Transpose", weight(g, np.ascontiguousarray(w[e].T)), perm=[1, 0])
    elif style == "bank":
        if id(w) not in banks:
            banks[id(w)] = weight(g, w)
        matrix = g.node("Gather", banks[id(w)], g.constant(np.int64(e)), axis=0)
    else:
        matrix = weight(g, w[e])
    y = g.node("MatMul", x, matrix)
    return g.node("Add", y, g.constant(b[e])) if b is not None else y


def expert(g, x, p, e, banks):
    kind = g.o["activation"]
    up = linear(g, x, p["up"], p["bu"], e, banks)
    if kind == "swiglu":
        a, c = up, linear(g, x, p["gate"], None, e, banks)
        h = g.node("Mul", g.node("Mul", a, g.node("Sigmoid", a)), c)
    elif kind == "fused_swiglu":
        both = linear(g, x, p["both"], None, e, banks)
        a, c = g.node("Split", both, g.ints(p["up"].shape[2], p["up"].shape[2]), outputs=2, axis=-1)
        h = g.node("Mul", g.node("Mul", a, g.node("Sigmoid", a)), c)
    elif kind == "clamped":
        a = g.node("Clip", up, "", g.constant(np.float32(0.5)))
        c = g.node("Clip", linear(g, x, p["gate"], None, e, banks), g.constant(np.float32(-0.5)), g.constant(np.float32(0.5)))
        s = g.node("Mul", a, g.node("Sigmoid", g.node("Mul", a, g.constant(np.float32(1.702)))))
        h = g.node("Mul", s, g.node("Add", c, g.constant(np.float32(1))))
    else:
        h = g.node("Relu", up)
    return linear(g, h, p["down"], p["bd"], e, banks)


def reference(x, p, o):
    logits = x @ p["router"]
    scores = {"topk_softmax": lambda v: v, "sigmoid_bias": lambda v: 1 / (1 + np.exp(-v))}.get(o["router"], softmax)(logits)
    key = scores + p["correction"] if o["router"] == "sigmoid_bias" else scores
    index = np.argsort(-key, axis=-1, kind="stable")[:, :o["k"]]
    gates = np.take_along_axis(scores, index, -1)
    if o["router"] == "topk_softmax":
        gates = softmax(gates)
    elif o["router"] == "mixer":
        left = np.array(logits)
        for r in range(o["k"]):
            gates[:, r] = np.take_along_axis(softmax(left), index[:, r:r + 1], -1)[:, 0]
            np.put_along_axis(left, index[:, r:r + 1], -np.inf, -1)
    elif o["router"] != "softmax_topk":
        gates = gates / gates.sum(-1, keepdims=True)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))

    def run(v, e):
        up = v @ p["up"][e] + (p["bu"][e] if p["bu"] is not None else 0)
        if o["activation"] in ("swiglu", "fused_swiglu"):
            h = up * sigmoid(up) * (v @ p["gate"][e])
        elif o["activation"] == "clamped":
            a, c = np.minimum(up, 0.5), np.clip(v @ p["gate"][e], -0.5, 0.5)
            h = a * sigmoid(1.702 * a) * (c + 1)
        else:
            h = np.maximum(up, 0)
        return h @ p["down"][e] + (p["bd"][e] if p["bd"] is not None else 0)

    y = np.zeros_like(x)
    for t in range(len(x)):
        for e, gate in zip(index[t], gates[t]):
            if e < o["E"]:
                y[t] += gate * run(x[t], e)
    if o["shared"]:
        y += np.maximum(x @ p["s1"], 0) @ p["s2"]
    return y + x if o["residual"] else y


def build(path, seed, **options):
    o = DEFAULTS | options
    rng, g = np.random.default_rng(seed), None
    g = Graph(o, random.Random(seed))
    E, k, H, I = o["E"], o["k"], o["H"], o["I"]
    columns = o["columns"] or E
    draw = lambda *shape: (rng.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 4)).astype(
        np.float16 if o["half"] else np.float32).astype(np.float32)
    p = {"router": draw(H, columns), "up": draw(E, H, I), "gate": draw(E, H, I), "down": draw(E, I, H),
         "bu": draw(E, I) if o["bias"] else None, "bd": draw(E, H) if o["bias"] else None,
         "correction": draw(columns), "s1": draw(H, I), "s2": draw(I, H)}
    p["both"] = np.concatenate([p["up"], p["gate"]], 2)
    if o["activation"] == "fused_swiglu":
        p["bu"] = None
    x = "x"
    rows = x if o["rank"] == 2 else g.node("Reshape", x, g.ints(-1, H))
    logits = g.node("MatMul", rows, g.constant(p["router"]))
    kind = o["router"]
    scores = logits if kind == "topk_softmax" else g.node("Sigmoid", logits) if kind == "sigmoid_bias" else g.node(
        "Softmax", logits, axis=-1)
    key = g.node("Add", scores, g.constant(p["correction"])) if kind == "sigmoid_bias" else scores
    if kind == "mixer":  # each round leaves out what was chosen before
        left, gates, numbers = logits, [], []
        for _ in range(k):
            numbers.append(g.node("ArgMax", left, axis=-1, keepdims=1))
            gates.append(g.node("GatherElements", g.node("Softmax", left, axis=-1), numbers[-1], axis=-1))
            none = g.node("Expand", g.constant(np.float32(-np.inf)), g.node("Shape", numbers[-1]))
            left = g.node("ScatterElements", left, numbers[-1], none, axis=-1)
        values, index = g.node("Concat", *gates, axis=-1), g.node("Concat", *numbers, axis=-1)
    else:
        values, index = g.node("TopK", key, g.ints(k), outputs=2, axis=-1)
    if kind == "sigmoid_bias":
        values = g.node("GatherElements", scores, index, axis=-1)
    if kind == "topk_softmax":
        values = g.node("Softmax", values, axis=-1)
    elif kind not in ("softmax_topk", "mixer"):
        values = g.node("Div", values, g.reduce_sum(values, -1, 1))
    form, banks = o["form"], {}
    number = lambda e: g.constant(np.int64(e))
    zero = lambda: g.constant(np.float32(0))
    shape = g.node("Shape", rows)
    if form in LOOPS:
        hot = g.node("OneHot", index, g.ints(columns), g.ints(0, 1), axis=-1)
        mask = g.node("Transpose", hot, perm=[2, 1, 0])
        total = g.node("ConstantOfShape", shape) if g.rng.random() < 0.5 else g.node("Expand", zero(), shape)
        for e in range(E):
            where = g.node("NonZero", g.node("Gather", mask, number(e), axis=0))  # [2, n]: slot, token
            if g.rng.random() < 0.5:
                slot, token = (g.node("Reshape", v, g.ints(-1)) for v in g.node("Split", where, g.ints(1, 1), outputs=2, axis=0))
            else:
                pairs = g.node("Transpose", where, perm=[1, 0])
                slot = g.node("Squeeze", g.node("Slice", pairs, g.ints(0), g.ints(1), g.ints(1)), g.ints(1))
                token = g.node("Gather", pairs, number(1), axis=1)
            out = expert(g, g.node("Gather", rows, token, axis=0), p, e, banks)
            if form == "loop_flat":
                flat = g.node("Reshape", values, g.ints(-1, 1))
                gate = g.node("Gather", flat, g.node("Add", g.node("Mul", token, number(k)), slot), axis=0)
            else:
                both = g.node("Concat", g.node("Unsqueeze", token, g.ints(1)), g.node("Unsqueeze", slot, g.ints(1)), axis=1)
                gate = g.node("Unsqueeze", g.node("GatherND", values, both), g.ints(1))
            out = g.node("Mul", out, gate)
            at = g.node("Unsqueeze", token, g.ints(1))
            if form == "loop_elements":
                zeros = g.node("ConstantOfShape", shape)
                wide = g.node("Expand", at, g.node("Shape", out))
                total = g.node("Add", total, g.node("ScatterElements", zeros, wide, out, axis=0))
            elif form == "loop_read_write":
                total = g.node("ScatterND", total, at, g.node("Add", g.node("GatherND", total, at), out))
            else:
                total = g.node("ScatterND", total, at, out, reduction="add")
    else:
        hot = lambda: g.node("OneHot", index, g.ints(columns), g.constant(np.array([0, 1], np.float32)), axis=-1)
        dense = None
        if form in ("onehot", "stack", "stack_einsum"):
            dense = g.reduce_sum(g.node("Mul", hot(), g.node("Unsqueeze", values, g.ints(2))), 1, 0)
        elif form == "onehot_matmul":
            dense = g.node("Squeeze", g.node("MatMul", g.node("Unsqueeze", values, g.ints(1)), hot()), g.ints(1))
        elif form in ("scatter_split", "scatter_gather"):
            dense = g.node("ScatterElements", g.node("Expand", zero(), g.node("Shape", logits)), index, values, axis=1)
        pieces = g.node("Split", dense, g.ints(*[1] * columns), outputs=columns, axis=1) if form == "scatter_split" else None
        outs = []
        for e in range(E):
            out = expert(g, rows, p, e, banks)
            if form in ("equal_where", "equal_mul", "where_output"):
                equal = g.node("Equal", *((index, number(e)) if g.rng.random() < 0.5 else (number(e), index)))
                if form == "equal_mul":
                    gate = g.reduce_sum(g.node("Mul", g.node("Cast", equal, to=TensorProto.FLOAT), values), -1, 1)
                else:
                    gate = g.reduce_sum(g.node("Where", equal, values, zero()), -1, 1)
                if form == "where_output":
                    any_slot = g.node("Cast", g.node("ReduceMax", g.node("Cast", equal, to=TensorProto.FLOAT), axes=[-1],
                                                     keepdims=1), to=TensorProto.BOOL)
                    out = g.node("Where", any_slot, out, zero())
                out = g.node("Mul", out, gate)
            elif form == "scatter_split":
                out = g.node("Mul", out, pieces[e])
            elif form not in ("stack", "stack_einsum"):
                out = g.node("Mul", out, g.node("Unsqueeze", g.node("Gather", dense, number(e), axis=1), g.ints(1)))
            outs.append(out)
        if form in ("stack", "stack_einsum"):
            kept = dense if columns == E else g.node("Slice", dense, g.ints(0), g.ints(E), g.ints(1))
            stacked = g.node("Concat", *[g.node("Unsqueeze", out, g.ints(1)) for out in outs], axis=1)
            if form == "stack":
                total = g.reduce_sum(g.node("Mul", stacked, g.node("Unsqueeze", kept, g.ints(2))), 1, 0)
            else:
                total = g.node("Einsum", stacked, kept, equation="teh,te->th")
        elif g.rng.random() < 0.3:
            total = g.node("Sum", *outs)
        else:
            total = outs[0]
            for out in outs[1:]:
                total = g.node("Add", total, out)
    if o["shared"]:
        shared = g.node("MatMul", g.node("Relu", g.node("MatMul", rows, g.constant(p["s1"]))), g.constant(p["s2"]))
        total = g.node("Add", total, shared)
    if o["rank"] == 3:
        total = g.node("Reshape", total, g.node("Shape", x))
    if o["residual"]:
        total = g.node("Add", x, total)
    g.nodes.append(helper.make_node("Identity", [total], ["y"], name="last"))

    shuffler = random.Random(seed)
    if o["shuffle"]:
        shuffler.shuffle(g.initializers)
        shuffler.shuffle(g.nodes)
    if o["rename"]:
        names = {}
        new = lambda n: n if n in ("x", "y", "") else names.setdefault(n, f"v{shuffler.randrange(10**9)}")
        for node in g.nodes:
            node.input[:], node.output[:] = [new(n) for n in node.input], [new(n) for n in node.output]
            node.name = f"q{shuffler.randrange(10**9)}"
        for tensor in g.initializers:
            tensor.name = new(tensor.name)
    dims = ["tokens", H] if o["rank"] == 2 else ["batch", "length", H]
    info = lambda n: [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims)]
    graph = helper.make_graph(g.nodes, "layer", info("x"), info("y"), g.initializers)
    os.makedirs(path, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", o["opset"])], ir_version=9),
              os.path.join(path, "model.onnx"))
    for suffix, T in (("", o["T"]), ("2", 1)):
        data = rng.standard_normal((T, H)).astype(np.float32)
        want = reference(data.astype(np.float64), {n: None if w is None else w.astype(np.float64) for n, w in p.items()}, o)
        view = (T, H) if o["rank"] == 2 else (1, T, H)
        save_file({"x": data.reshape(view)}, os.path.join(path, f"inputs{suffix}.safetensors"))
        save_file({"y": want.astype(np.float32).reshape(view)}, os.path.join(path, f"expected{suffix}.safetensors"))
    json.dump({"atol": 1e-4, "rtol": 1e-4} | o, open(os.path.join(path, "case.json"), "w"))


NAMED = {
    "equal_where": dict(),
    "equal_mul": dict(form="equal_mul", swap=True, shuffle=True, rename=True, router="topk_softmax"),
    "where_output": dict(form="where_output", activation="relu", bias=True, opset=17),
    "onehot_gates": dict(form="onehot", weights="transpose", router="softmax_topk"),
    "onehot_product": dict(form="onehot_matmul", weights="bank", E=4, k=1),
    "scatter_split": dict(form="scatter_split", weights="gemm", bias=True, swap=True, activation="clamped"),
    "scatter_columns": dict(form="scatter_gather", rank=3, residual=True, router="sigmoid_bias"),
    "stacked": dict(form="stack", activation="fused_swiglu", E=3, k=3),
    "stacked_einsum": dict(form="stack_einsum", shared=True, rank=3),
    "loop_add": dict(form="loop_add", weights="bank", activation="fused_swiglu"),
    "loop_read_write": dict(form="loop_read_write", opset=13, rank=3, swap=True, bias=True),
    "loop_mixer": dict(form="loop_read_write", opset=17, router="mixer"),
    "loop_elements": dict(form="loop_elements", residual=True, shared=True, weights="gemm", rename=True, shuffle=True),
    "loop_flat": dict(form="loop_flat", router="sigmoid_bias", k=3, E=7, activation="clamped"),
    "one_expert": dict(form="onehot", k=1, E=4, columns=6, activation="relu"),
    "half_weights": dict(form="equal_mul", half=True),
    "null_experts": dict(form="equal_where", columns=8, k=3),
    "loop_null_experts": dict(form="loop_add", columns=7, k=2),
}


def drawn(seed):
    r = random.Random(seed)
    form = r.choice(MASKS + LOOPS)
    E = r.randint(2, 9)
    columns = E + r.choice([0, 0, 0, 2]) if form not in ("stack", "stack_einsum") else E
    o = dict(form=form, E=E, columns=columns, k=r.randint(1, min(4, E)), H=r.choice([4, 8, 20, 33]), I=r.choice([4, 7, 16]),
             router=r.choice(["softmax_topk", "softmax_topk_norm", "topk_softmax", "sigmoid_bias"]),
             activation=r.choice(["swiglu", "fused_swiglu", "relu", "clamped"]), bias=r.random() < 0.4,
             weights=r.choice(["matmul", "gemm", "transpose", "bank"]), rank=r.choice([2, 3]), residual=r.random() < 0.3,
             shared=r.random() < 0.3, swap=r.random() < 0.5, rename=r.random() < 0.3, shuffle=r.random() < 0.3,
             half=r.random() < 0.15, opset=r.choice([16, 17, 18, 20, 21]), T=r.randint(1, 12))
    if form == "where_output" and o["opset"] >= 18:
        o["opset"] = 17
    if form == "loop_add" or form == "loop_flat":
        o["opset"] = max(o["opset"], 16)
    return o


def main():
    out = sys.argv[1]
    seeds = [int(a.split("=")[1]) for a in sys.argv[2:] if a.startswith("--seeds=")]
    if seeds:
        for seed in range(seeds[0]):
            build(os.path.join(out, str(seed)), seed, **drawn(seed))
    else:
        for seed, (name, options) in enumerate(NAMED.items()):
            options = options | ({"opset": 17} if options.get("form") == "where_output" else {})
            build(os.path.join(out, name), seed, **options)
    if "--raise" in sys.argv:
        for name in sorted(os.listdir(out)):
            model = os.path.join(out, name, "model.onnx")
            subprocess.run(["moe-compile", model, "--compile-to=raise", "-o", os.path.join(out, name, "raised.mlir")],
                           check=True)


main()
