#!/usr/bin/env python3
"""Writes variants of one decomposed MoE layer (weights gathered per token and slot) as ONNX files.

The same function in many spellings: other names, operands of Add and Mul swapped, nodes and initializers in another
order, other sizes, softmax before or after top-k, normalised or not, gate and up in one bank or two, weights stored
[out, in] or [in, out], pairs flattened or not. Beside each file: inputs and what the layer should compute, by numpy.
"""
import os
import random
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


class Graph:
    def __init__(self, swap):
        self.nodes, self.initializers, self.count, self.swap = [], [], 0, swap

    def fresh(self, base):
        self.count += 1
        return f"{base}_{self.count}"

    def constant(self, array, base="c"):
        name = self.fresh(base)
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, *inputs, outputs=1, **attributes):
        inputs = list(inputs)
        if self.swap and op in ("Add", "Mul"):
            inputs.reverse()
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=self.fresh("n"), **attributes))
        return names[0] if outputs == 1 else names

    def ints(self, *values):
        return self.constant(np.array(values, np.int64), "i")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(x, p, E, k, gate, router):
    """x [T, H]; everything in double."""
    logits = x @ p["router"]
    scores = softmax(logits) if router != "topk_softmax" else logits
    index = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    weight = np.take_along_axis(scores, index, -1)
    if router == "topk_softmax":
        weight = softmax(weight)
    if router == "softmax_topk_norm":
        weight = weight / weight.sum(-1, keepdims=True)
    y = np.zeros_like(x)
    for t in range(x.shape[0]):
        for s in range(k):
            e = index[t, s]
            g, u = p["gate"][e] @ x[t], p["up"][e] @ x[t]
            h = g / (1 + np.exp(-g)) * u if gate else np.maximum(g, 0)
            y[t] += weight[t, s] * (p["down"][e] @ h)
    return y


def build(path, seed, E=8, k=2, H=16, I=12, router="softmax_topk_norm", gated=True, fused=True, transposed=False,
          flat=True, swap=False, rename=False, shuffle=False):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    p = {"router": draw(H, E), "gate": draw(E, I, H), "up": draw(E, I, H), "down": draw(E, H, I)}
    g = Graph(swap)
    x = "x"
    logits = g.node("MatMul", x, g.constant(p["router"], "router"))
    scores = g.node("Softmax", logits, axis=-1) if router != "topk_softmax" else logits
    values, index = g.node("TopK", scores, g.ints(k), outputs=2, axis=-1)
    if router == "topk_softmax":
        values = g.node("Softmax", values, axis=-1)
    if router == "softmax_topk_norm":
        values = g.node("Div", values, g.node("ReduceSum", values, g.ints(-1), keepdims=1))
    bank = lambda w: g.constant(np.ascontiguousarray(w.transpose(0, 2, 1)) if transposed else w, "w")
    if flat:  # [T*k, ...]
        chosen = g.node("Reshape", index, g.ints(-1))
        rows = g.node("Unsqueeze", x, g.ints(1))
        rows = g.node("Expand", rows, g.ints(1, k, 1))
        rows = g.node("Reshape", rows, g.ints(*((-1, 1, H) if transposed else (-1, H, 1))))
        gate = g.node("Reshape", values, g.ints(-1, 1))
        drop = 1 if transposed else 2
    else:  # [T, k, ...]
        chosen = index
        rows = g.node("Unsqueeze", x, g.ints(*((1, 2) if transposed else (1, 3))))
        gate = g.node("Unsqueeze", values, g.ints(2))
        drop = 2 if transposed else 3

    def product(w, v):
        w = g.node("Gather", bank(w), chosen, axis=0)
        y = g.node("MatMul", v, w) if transposed else g.node("MatMul", w, v)
        return g.node("Squeeze", y, g.ints(drop))

    feature = 1 if flat else 2
    if gated and fused:
        both = product(np.concatenate([p["gate"], p["up"]], 1), rows)
        a, b = g.node("Split", both, g.ints(I, I), outputs=2, axis=feature)
    else:
        a = product(p["gate"], rows)
        b = product(p["up"], rows) if gated else None
    h = g.node("Mul", g.node("Mul", a, g.node("Sigmoid", a)), b) if gated else g.node("Relu", a)
    y = product(p["down"], g.node("Unsqueeze", h, g.ints(drop)))
    y = g.node("Mul", y, gate)
    if flat:
        y = g.node("Reshape", y, g.ints(-1, k, H))
    y = g.node("ReduceSum", y, g.ints(1), keepdims=0)
    g.nodes.append(helper.make_node("Identity", [y], ["y"], name="last"))

    shuffler = random.Random(seed)
    if shuffle:
        shuffler.shuffle(g.initializers)
        shuffler.shuffle(g.nodes)  # the importer sorts them again
    if rename:
        names = {}
        new = lambda n: n if n in ("x", "y", "") else names.setdefault(n, f"v{shuffler.randrange(10**9)}")
        for node in g.nodes:
            node.input[:] = [new(n) for n in node.input]
            node.output[:] = [new(n) for n in node.output]
            node.name = f"q{shuffler.randrange(10**9)}"
        for tensor in g.initializers:
            tensor.name = new(tensor.name)
    graph = helper.make_graph(g.nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", H])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", H])], g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    os.makedirs(path, exist_ok=True)
    onnx.save(model, os.path.join(path, "model.onnx"))
    for suffix, T in (("", 5), ("2", 1)):
        data = rng.standard_normal((T, H)).astype(np.float32)
        want = reference(data.astype(np.float64), {n: w.astype(np.float64) for n, w in p.items()}, E, k, gated, router)
        save_file({"x": data}, os.path.join(path, f"inputs{suffix}.safetensors"))
        save_file({"y": want.astype(np.float32)}, os.path.join(path, f"expected{suffix}.safetensors"))
    with open(os.path.join(path, "case.json"), "w") as f:
        f.write('{"atol": 1e-5, "rtol": 1e-4}')


def main():
    out = sys.argv[1]
    variants = {
        "plain": dict(),
        "renamed": dict(rename=True),
        "commuted": dict(swap=True),
        "shuffled": dict(shuffle=True),
        "all_at_once": dict(rename=True, swap=True, shuffle=True, E=5, k=3, H=20, I=28),
        "one_expert_per_token": dict(k=1, router="softmax_topk"),
        "all_experts": dict(E=4, k=4),
        "softmax_behind_topk": dict(router="topk_softmax"),
        "not_normalised": dict(router="softmax_topk"),
        "two_banks": dict(fused=False),
        "stored_in_out": dict(transposed=True, fused=False),
        "not_flattened": dict(flat=False),
        "not_flattened_in_out": dict(flat=False, transposed=True, fused=False, swap=True),
        "ungated": dict(gated=False),
    }
    for seed, (name, options) in enumerate(variants.items()):
        build(os.path.join(out, name), seed, **options)


main()
