#!/usr/bin/env python3
"""MoE layers and linears in bf16 whose experts multiply by (emulated) tile instructions, against exact integers.

    layers.py DIR [--seed=N] [flags of moe-compile]

Weights and rows are small integers and each row goes to one expert, so that all sums are exact and each result has one right
value: the exact one, rounded to bf16 where the program rounds. What stands between the two products of an MoE layer is f32: vectors
multiply it as it is, tiles round it, with --numerics=fast only. Sizes are multiples of nothing, or of tiles; experts have no
rows, a few (which vectors multiply), or several tiles and blocks of them.
"""
import pathlib
import random
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

BF16 = ml_dtypes.bfloat16
MOST = 260
MOST_VECTOR_ROWS = 8


def rounded(x):
    """Exact integers as bf16 stores them."""
    assert np.abs(x).max(initial=0) < 2**24
    return x.astype(np.float32).astype(BF16).astype(np.int64)


class Layer:
    """y = MoE(x, logits), with one expert for a row: relu, or relu times a second product."""

    def __init__(self, i, rng, values):
        self.i, self.gated = i, i % 2 == 1
        self.experts = rng.choice([1, 3, 7])
        # 32 k in a step, 256 in a block; 32 or 16 columns in a panel.
        self.hidden = rng.choice([1, 31, 32, 33, 64, 77, 100]) if i else 601
        self.inner = rng.choice([2, 15, 16, 17, 64, 90])
        self.w = {"fc1": values.integers(-2, 3, (self.experts, self.inner, self.hidden)),
                  "fc2": values.integers(-1, 2, (self.experts, self.hidden, self.inner))}
        if self.gated:
            self.w["fc3"] = values.integers(-1, 2, (self.experts, self.inner, self.hidden))
        self.rows = values.integers(-1, 2, (MOST, self.hidden))
        self.choice = values.integers(0, self.experts, MOST)

    def __str__(self):
        return f"layer {self.i}: E = {self.experts} H = {self.hidden} I = {self.inner}{' gated' if self.gated else ''}"

    def nodes(self):
        name = lambda n: f"{n}_{self.i}" if n in self.w else ""
        node = helper.make_node("MoE", [f"x{self.i}", f"logits{self.i}", name("fc1"), "", name("fc2"), "", name("fc3")],
                                [f"y{self.i}"], domain="com.microsoft", k=1, normalize_routing_weights=1, activation_type="relu")
        return [node], ["x", "logits"]

    def inputs(self, tokens, one):
        self.x, self.expert = self.rows[:tokens], self.choice[:tokens] if not one else np.zeros(tokens, int)
        logits = np.where(np.arange(self.experts) == self.expert[:, None], 8, -8)
        return {f"x{self.i}": self.x, f"logits{self.i}": logits}

    def expected(self, fast):
        y = np.zeros((len(self.x), self.hidden), np.int64)
        for e in range(self.experts):
            x = self.x[self.expert == e]
            h = np.maximum(x @ self.w["fc1"][e].T, 0)
            if self.gated:
                h = h * (x @ self.w["fc3"][e].T)
            y[self.expert == e] = rounded((rounded(h) if fast and len(x) > MOST_VECTOR_ROWS else h) @ self.w["fc2"][e].T)
        return y


class Linear:
    """y = relu(x W + b): a grouped matmul of one expert."""

    def __init__(self, i, rng, values):
        self.i, self.hidden, self.inner = i, rng.choice([24, 33, 130, 1000]), rng.choice([16, 50, 97])
        self.w = {"w": values.integers(-2, 3, (self.hidden, self.inner)), "b": values.integers(-9, 10, self.inner)}
        self.rows = values.integers(-1, 2, (MOST, self.hidden))

    def __str__(self):
        return f"linear {self.i}: {self.hidden} to {self.inner}"

    def nodes(self):
        i = self.i
        return [helper.make_node("MatMul", [f"x{i}", f"w_{i}"], [f"m{i}"]), helper.make_node("Add", [f"m{i}", f"b_{i}"], [f"s{i}"]),
                helper.make_node("Relu", [f"s{i}"], [f"y{i}"])], ["x"]

    def inputs(self, tokens, one):
        self.x = self.rows[:tokens]
        return {f"x{self.i}": self.x}

    def expected(self, fast):
        return np.maximum(rounded(rounded(self.x @ self.w["w"]) + self.w["b"]), 0)


def main():
    work, flags = pathlib.Path(sys.argv[1]), sys.argv[2:]
    seed = int(flags.pop(0)[7:]) if flags and flags[0].startswith("--seed=") else 1
    work.mkdir(parents=True, exist_ok=True)
    rng, values = random.Random(seed), np.random.default_rng(seed)
    layers = [Layer(i, rng, values) for i in range(5)] + [Linear(i, rng, values) for i in (5, 6)]
    nodes, tensors, inputs, outputs = [], [], [], []
    info = lambda name, width: helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["T", width])
    for layer in layers:
        more, names = layer.nodes()
        nodes += more
        inputs += [info(f"{n}{layer.i}", layer.hidden if n == "x" else layer.experts) for n in names]
        outputs.append(info(f"y{layer.i}", layer.hidden if isinstance(layer, Layer) else layer.inner))
        tensors += [helper.make_tensor(f"{n}_{layer.i}", TensorProto.BFLOAT16, v.shape, v.astype(np.float32).astype(BF16).tobytes(),
                                       raw=True) for n, v in layer.w.items()]
    graph = helper.make_graph(nodes, "tiles", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), work / "tiles.onnx")
    subprocess.run(["moe-compile", work / "tiles.onnx", "-o", work / "tiles.moe", "-q", *flags], check=True)
    for tokens, one in [(MOST, True), (70, False), (17, False), (1, False), (0, False), (9, True), (8, True), (33, True)]:
        given = {}
        for layer in layers:
            given |= layer.inputs(tokens, one)
        save_file({n: np.ascontiguousarray(v.astype(np.float32).astype(BF16)) for n, v in given.items()}, work / "in.safetensors")
        subprocess.run(["moe-run", work / "tiles.moe", f"--inputs={work / 'in.safetensors'}", f"--outputs={work / 'out.safetensors'}",
                        "--debug-memory"], check=True, stdout=subprocess.DEVNULL)
        results = load_file(work / "out.safetensors")
        for layer in layers:
            got, want = results[f"y{layer.i}"].astype(np.float64), layer.expected("--numerics=fast" in flags)
            assert got.shape == want.shape and (got == want).all(), (
                f"{layer}, T = {tokens}{', all to one' if one else ''}, seed {seed}: {np.argwhere(got != want)[:4]}")
    print(f"ok: {len(layers)} layers, seed {seed}")


main()
