#!/usr/bin/env python3
"""Packed weights: random MoE layers and dense linears as ONNX, whose weights are stored in panels, against numpy in double precision.

    packed.py --work DIR [--seed N] [--layers N]

Sizes are multiples of nothing; one model holds all layers, so one compilation covers them. Routing is by random logits,
or sends all rows to the same experts; T is 0 to 150, so an expert has no, few, and several passes and blocks of rows; one
layer has several blocks of k. One and two threads give the same bits, and with --batch-invariant a row has the same bits whatever
rows are beside it.
"""
import argparse
import pathlib
import random
import subprocess

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

ELEMENTS = {"f32": (TensorProto.FLOAT, np.float32, 1e-4), "f16": (TensorProto.FLOAT16, np.float16, 2e-2),
            "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 1e-1)}

MOST = 150


class Layer:
    """y{i} = MoE(x{i}, logits{i}) with weights of its own; `fixed` are sizes that are not drawn."""

    def __init__(self, i, rng, values, **fixed):
        self.i, self.dtype = i, ("f32", "bf16", "f16")[i] if i < 3 else rng.choice(["f32", "f32", "f16"])
        self.experts = rng.choice([1, 2, 5, 9])
        self.k = rng.randint(1, min(3, self.experts))
        self.hidden, self.inner = rng.choice([1, 7, 33, 50, 64, 100]), rng.choice([2, 15, 16, 31, 47, 65])
        if i < 3:
            self.hidden = rng.choice([257, 523, 1101])
        self.form = rng.choice(["silu", "relu", "swiglu", "fc3"])
        self.__dict__.update(fixed)
        inner = 2 * self.inner if self.form == "swiglu" else self.inner
        shapes = {"fc1": (self.experts, inner, self.hidden), "fc2": (self.experts, self.hidden, self.inner)}
        if self.form == "fc3":
            shapes["fc3"] = shapes["fc1"]
        _, self.type, self.tolerance = ELEMENTS[self.dtype]
        self.w = {n: (values.standard_normal(s) * s[2] ** -0.5).astype(self.type) for n, s in shapes.items()}

    def describe(self):
        return (f"layer {self.i}: {self.dtype} {self.form} E = {self.experts} k = {self.k} "
                f"H = {self.hidden} I = {self.inner}")

    def nodes(self):
        tensor = lambda n: helper.make_tensor(f"{n}_{self.i}", ELEMENTS[self.dtype][0], self.w[n].shape,
                                              self.w[n].tobytes(), raw=True)
        name = lambda n: f"{n}_{self.i}" if n in self.w else ""
        extra = {"activation_type": self.form if self.form in ("relu", "swiglu") else "silu"}
        if self.form == "swiglu":
            extra |= {"swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
        node = helper.make_node(
            "MoE", [f"x{self.i}", f"logits{self.i}", name("fc1"), "", name("fc2"), "", name("fc3")], [f"y{self.i}"],
            domain="com.microsoft", k=self.k, normalize_routing_weights=1, **extra)
        info = lambda n, width: helper.make_tensor_value_info(f"{n}{self.i}", ELEMENTS[self.dtype][0], ["T", width])
        return [node], [tensor(n) for n in self.w], [info("x", self.hidden), info("logits", self.experts)], info(
            "y", self.hidden)

    def draw(self, values):
        self.rows = values.standard_normal((MOST, self.hidden)).astype(self.type)
        # No two scores of a row are alike in any type.
        scores = np.tile(np.linspace(-2, 2, self.experts), (MOST, 1))
        self.scores = values.permuted(scores, axis=1).astype(self.type)

    def inputs(self, tokens, skewed):
        self.x = self.rows[:tokens]
        self.logits = np.repeat(self.scores[:1], tokens, 0) if skewed else self.scores[:tokens]
        return {f"x{self.i}": np.ascontiguousarray(self.x), f"logits{self.i}": np.ascontiguousarray(self.logits)}

    def expected(self):
        logits, x = self.logits.astype(float), self.x.astype(float)
        w = {n: v.astype(float) for n, v in self.w.items()}
        y = np.zeros(x.shape)
        for t in range(len(x)):
            chosen = np.argsort(-logits[t], kind="stable")[: self.k]
            gates = np.exp(logits[t, chosen] - logits[t].max())
            for e, gate in zip(chosen, gates / gates.sum()):
                h = w["fc1"][e] @ x[t]
                silu = lambda v: v / (1 + np.exp(-v))
                if self.form == "swiglu":
                    h = silu(h[0::2]) * h[1::2]
                else:
                    h = np.maximum(h, 0) if self.form == "relu" else silu(h)
                    h = h * (w["fc3"][e] @ x[t]) if self.form == "fc3" else h
                y[t] += gate * (w["fc2"][e] @ h)
        return y


class Linear:
    """y{i} = act(x{i} W + b) (times x{i} V) + x{i}, with or without these parts: MatMul or Gemm, rows of two dimensions or three."""

    def __init__(self, i, rng, values):
        self.i, self.dtype = i, rng.choice(["f32", "f32", "f16"])
        self.form, self.deep = rng.choice(["matmul", "gemm", "gated"]), rng.random() < 0.5
        self.deep &= self.form != "gemm"
        self.act, self.bias = rng.choice(["", "Relu", "Sigmoid"]), rng.random() < 0.5 or self.form == "gemm"
        self.hidden, self.out = rng.choice([3, 24, 33, 64, 130]), rng.choice([8, 15, 32, 50, 97, 640])
        self.residual = rng.random() < 0.5
        if self.residual:
            self.out = max(self.hidden, 8)
            self.hidden = self.out
        _, self.type, self.tolerance = ELEMENTS[self.dtype]
        make = lambda *shape: (values.standard_normal(shape) * shape[-1] ** -0.5).astype(self.type)
        self.w = {"w": make(*((self.out, self.hidden) if self.form == "gemm" else (self.hidden, self.out)))}
        if self.bias:
            self.w["b"] = make(self.out)
        if self.form == "gated":
            self.w["v"] = make(self.hidden, self.out)

    def describe(self):
        return f"linear {self.i}: {self.dtype} {self.form} {self.act} {self.hidden} to {self.out}"

    def nodes(self):
        i, proto = self.i, ELEMENTS[self.dtype][0]
        tensors = [helper.make_tensor(f"{n}_{i}", proto, v.shape, v.tobytes(), raw=True) for n, v in self.w.items()]
        steps, at = [], [f"x{i}"]

        def step(op, *inputs, **attributes):
            at[0] = f"t{i}_{len(steps)}"
            steps.append(helper.make_node(op, list(inputs), [at[0]], **attributes))
            return at[0]

        if self.form == "gemm":
            step("Gemm", at[0], f"w_{i}", f"b_{i}", transB=1)
        else:
            step("MatMul", at[0], f"w_{i}")
            if self.bias:
                step("Add", at[0], f"b_{i}")
        if self.act:
            step(self.act, at[0])
        if self.form == "gated":
            gate = at[0]
            step("Mul", gate, step("MatMul", f"x{i}", f"v_{i}"))
        if self.residual:
            step("Add", f"x{i}", at[0])
        steps.append(helper.make_node("Identity", [at[0]], [f"y{i}"]))
        rows = [2, "T"] if self.deep else ["T"]
        info = lambda n, width: helper.make_tensor_value_info(f"{n}{i}", proto, [*rows, width])
        return steps, tensors, [info("x", self.hidden)], info("y", self.out)

    def draw(self, values):
        self.rows = values.standard_normal(((2,) if self.deep else ()) + (MOST, self.hidden)).astype(self.type)

    def inputs(self, tokens, skewed):
        self.x = np.ascontiguousarray(self.rows[..., :tokens, :])
        return {f"x{self.i}": self.x}

    def expected(self):
        x, w = self.x.astype(float), {n: v.astype(float) for n, v in self.w.items()}
        y = x @ (w["w"].T if self.form == "gemm" else w["w"]) + w.get("b", 0)
        y = np.maximum(y, 0) if self.act == "Relu" else 1 / (1 + np.exp(-y)) if self.act else y
        y = y * (x @ w["v"]) if self.form == "gated" else y
        return y + x if self.residual else y


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--linears", type=int, default=8)
    parser.add_argument("--flag", action="append", default=[], help="another option of moe-compile")
    parser.add_argument("--batch-invariant", action="store_true", help="compile and check that way")
    args = parser.parse_args()
    if args.batch_invariant:
        args.flag.append("--batch-invariant")
    args.work.mkdir(parents=True, exist_ok=True)
    rng, values = random.Random(args.seed), np.random.default_rng(args.seed)
    layers = [Layer(i, rng, values) for i in range(args.layers)]
    layers += [Linear(args.layers + i, rng, values) for i in range(args.linears)]
    parts = [layer.nodes() for layer in layers]
    graph = helper.make_graph(sum((p[0] for p in parts), []), "packed", sum((p[2] for p in parts), []), [p[3] for p in parts],
                              sum((p[1] for p in parts), []))
    model = args.work / "packed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18),
                                                      helper.make_opsetid("com.microsoft", 1)], ir_version=10), model)
    module = args.work / "packed.moe"
    subprocess.run(["moe-compile", model, "-o", module, "-q", *args.flag], check=True)
    stored = load_file(args.work / "packed.safetensors")
    # Each layer's and linear's weights are packed; only those too narrow for a panel keep the form of the file.
    plain = {name for name in stored if name.startswith(("fc", "w_", "v_")) and ".panels" not in name}
    narrow = {l.i for l in layers if isinstance(l, Linear) and l.out < 16}
    assert {int(name.split("_")[1]) for name in plain} == narrow, (narrow, sorted(stored))

    for layer in layers:
        layer.draw(values)
    most = None
    for tokens, skewed in [(MOST, False), (0, False), (1, False), (5, False), (40, False), (MOST, True)]:
        given = {}
        for layer in layers:
            given |= layer.inputs(tokens, skewed)
        save_file(given, args.work / "in.safetensors")
        results = []
        for threads in (1, 2):
            out = args.work / f"out{threads}.safetensors"
            subprocess.run(["moe-run", module, f"--inputs={args.work / 'in.safetensors'}", f"--outputs={out}",
                            f"--threads={threads}"], check=True, stdout=subprocess.DEVNULL)
            results.append(load_file(out))
        most = most or results[0]
        for layer in layers:
            got, other = (r[f"y{layer.i}"] for r in results)
            where = f"{layer.describe()}, T = {tokens}{', all rows alike' if skewed else ''}, seed {args.seed}"
            assert got.tobytes() == other.tobytes(), f"{where}: one and two threads differ"
            if args.batch_invariant:
                same = tokens if not skewed else 1
                assert got[..., :same, :].tobytes() == most[f"y{layer.i}"][..., :same, :].tobytes(), f"{where}: rows depend on others"
            want = layer.expected()
            assert got.shape == want.shape, f"{where}: {got.shape}"
            error = np.abs(got.astype(float) - want) - layer.tolerance * (np.abs(want) + 1)
            assert error.size == 0 or error.max() <= 0, f"{where}: off by {np.abs(got.astype(float) - want).max():.3g}"
    print(f"ok: {len(layers)} layers, seed {args.seed}")


if __name__ == "__main__":
    main()
