#!/usr/bin/env python3
"""The combine inside the second matmul (moe-compile --fuse-combine): random MoE layers against numpy in double precision.

    combine.py --work DIR [--seed N]

One ONNX model holds layers whose weights are packed, f32 or quantised as it is compiled (int8 and int4, exact and integer
products), one of bf16, and one of so few columns that its combine stays apart. Another program routes by given slots, of which
some hold no expert, some the same expert twice, and some more pairs than an expert takes; its weights are inputs, in both orders of
a bank. Sizes are multiples of nothing. T is 0 to 150, and all rows may go to the same experts, so that an expert has no
rows, few or all. One and two threads give the same bits, and with --batch-invariant a row has the same bits whatever rows are
beside it.
"""
import argparse
import json
import pathlib
import random
import subprocess

import numpy as np
import onnx
from onnx import helper
from safetensors.numpy import load_file, save_file

import reference
from packed import MOST, Layer

ROUTINGS = [(MOST, False), (0, False), (1, False), (5, False), (40, False), (MOST, True)]
SOME = [ROUTINGS[0], ROUTINGS[3], ROUTINGS[5]]


class Slots:
    """Rows times a matrix per expert, added up by slots that are inputs. An expert takes 20 pairs at most."""

    EXPERTS, SLOTS, CAPACITY, INNER, COLUMNS = 5, 3, 20, 19, 541

    def __init__(self, i, order):
        self.i, self.order = i, order

    def describe(self):
        return f"given slots, bank of {self.order}"

    def text(self):
        e, s, f, c = self.EXPERTS, self.SLOTS, self.INNER, self.COLUMNS
        # [E, K, N] becomes vectors of columns, [E, N, K] dot products.
        size = f"{f}x{c}" if self.order == "columns" else f"{c}x{f}"
        maps = "" if self.order == "columns" else (
            "indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>]")
        argument = lambda n, t: f'%{n}: {t} {{moe.name = "{n}{self.i}"}}'
        routing, capped = f"!moe.routing<?x{e}xf32, max_per_row = {s}>", f"!moe.routing<?x{e}xf32, max_per_row = {s}, max_per_expert = {self.CAPACITY}>"
        return f"""
func.func @{self.order}({argument("x", f"tensor<?x{f}xf32>")}, {argument("numbers", f"tensor<?x{s}xi32>")},
                        {argument("weights", f"tensor<?x{s}xf32>")}, {argument("w", f"tensor<{e}x{size}xf32>")})
    -> (tensor<?x{c}xf32> {{moe.name = "y{self.i}"}}) {{
  %all = moe.from_slots %numbers, %weights experts({e}) : tensor<?x{s}xi32>, tensor<?x{s}xf32>
  %r = moe.limit %all cap({self.CAPACITY}) order(row) : {routing}
  %y = moe.apply %r rows(%x) experts(%w) weighted(after) out(sum) : {capped}, tensor<?x{f}xf32>, tensor<{e}x{size}xf32> -> (tensor<?x{c}xf32>) {{
  ^bb0(%rows: tensor<?x{f}xf32>, %we: tensor<{size}xf32>):
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %n = tensor.dim %rows, %c0 : tensor<?x{f}xf32>
    %z = tensor.splat %zero[%n] : tensor<?x{c}xf32>
    %d = linalg.matmul {maps} ins(%rows, %we : tensor<?x{f}xf32>, tensor<{size}xf32>) outs(%z : tensor<?x{c}xf32>) -> tensor<?x{c}xf32>
    moe.yield %d : tensor<?x{c}xf32>
  }}
  return %y : tensor<?x{c}xf32>
}}
"""

    def draw(self, values):
        size = (self.INNER, self.COLUMNS) if self.order == "columns" else (self.COLUMNS, self.INNER)
        self.rows = values.standard_normal((MOST, self.INNER), np.float32)
        self.bank = values.standard_normal((self.EXPERTS, *size), np.float32)
        # -1 and one more than there are experts: nobody.
        self.numbers = values.integers(-1, self.EXPERTS + 1, (MOST, self.SLOTS), np.int32)
        self.gates = values.standard_normal((MOST, self.SLOTS), np.float32)

    def inputs(self, tokens, skewed):
        self.x, self.weights = self.rows[:tokens], self.gates[:tokens]
        self.chosen = np.tile(np.int32([2, -1, 2]), (tokens, 1)) if skewed else self.numbers[:tokens]
        given = {"x": self.x, "numbers": self.chosen, "weights": self.weights, "w": self.bank}
        return {f"{name}{self.i}": np.ascontiguousarray(value) for name, value in given.items()}

    def expected(self):
        routing = reference.from_slots(self.chosen, self.weights, self.EXPERTS)
        routing = reference.limit(routing, [self.CAPACITY] * self.EXPERTS, "row", self.EXPERTS)
        bank = self.bank.astype(float) if self.order == "columns" else self.bank.astype(float).transpose(0, 2, 1)
        y = np.zeros((len(self.x), self.COLUMNS))
        for t, row in enumerate(routing):
            for e, weight in row:
                y[t] += float(weight) * (self.x[t].astype(float) @ bank[e])
        return y


def write_model(path, layers):
    parts = [layer.nodes() for layer in layers]
    graph = helper.make_graph(sum((p[0] for p in parts), []), "combine", sum((p[2] for p in parts), []), [p[3] for p in parts],
                              sum((p[1] for p in parts), []))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
                                ir_version=10), path)


def compile_model(source, module, fused, apart, *flags):
    """Compiles; so many combines are in their matmul, and so many are not."""
    done = subprocess.run(["moe-compile", source, "-o", module, "-q", "--remarks", *flags], check=True, text=True, capture_output=True)
    told = [line for line in done.stderr.splitlines() if "Category:moe-fuse-combine" in line]
    found = sum("adds its pairs" in line for line in told), sum("from memory" in line for line in told)
    assert found == (fused, apart), (found, told)


def run(module, given, threads, work, *options):
    save_file(given, work / "in.safetensors")
    done = subprocess.run(["moe-run", module, f"--inputs={work / 'in.safetensors'}", f"--outputs={work / 'out.safetensors'}",
                           f"--threads={threads}", *options], check=True, text=True, capture_output=True)
    return load_file(work / "out.safetensors"), done.stdout


def check(module, layers, work, tolerance, what, reference_module=None, function=None, routings=ROUTINGS, alone=True):
    """Rows compared with numpy, or, tighter, with those of a module that combines apart."""
    options = [f"--function={function}"] if function else []
    most = None
    for tokens, skewed in routings:
        given = {}
        for layer in layers:
            given |= layer.inputs(tokens, skewed)
        one, two = (run(module, given, threads, work, *options)[0] for threads in (1, 2))
        most = most or one
        other = run(reference_module, given, 2, work)[0] if reference_module else None
        for layer in layers:
            name = f"y{layer.i}"
            where = f"{what}: {layer.describe()}, T = {tokens}{', all rows alike' if skewed else ''}"
            assert one[name].tobytes() == two[name].tobytes(), f"{where}: one and two threads differ"
            # Few rows have kernels of their own, whose sums differ: `alone` is false. A capacity makes rows depend on the
            # rows in front of them, not on those behind.
            if alone and not (skewed and isinstance(layer, Slots)):
                same = 1 if skewed else tokens
                assert one[name][:same].tobytes() == most[name][:same].tobytes(), f"{where}: rows depend on others"
            got, want = one[name].astype(float), layer.expected()
            error = np.abs(got - want) - (tolerance or layer.tolerance) * (np.abs(want) + 1)
            assert got.shape == want.shape and (error.size == 0 or error.max() <= 0), f"{where}: off by {np.abs(got - want).max():.3g}"
            if other is not None:
                rounding = 2**-7 if isinstance(layer, Layer) and layer.dtype == "bf16" else 2e-6
                error = np.abs(got - other[name].astype(float)) - rounding * np.abs(got).max(initial=1)
                assert error.size == 0 or error.max() <= 0, f"{where}: apart gives other sums, by {np.abs(got - other[name]).max():.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    rng, values = random.Random(args.seed), np.random.default_rng(args.seed)
    layer = lambda i, k, hidden, dtype="f32": Layer(i, rng, values, k=k, hidden=hidden, dtype=dtype, experts=11)
    layers = [layer(0, 8, 769), layer(1, 1, 512), layer(2, 3, 511), layer(3, 2, 523, "bf16")]
    for each in layers:
        each.draw(values)
    model, one = work / "model.onnx", work / "one.onnx"
    write_model(model, layers)
    write_model(one, layers[:1])

    native = "--mcpu=x86-64-v3"
    compile_model(model, work / "fused.moe", 3, 1, native, "--fuse-combine")
    compile_model(model, work / "apart.moe", 0, 0, native)
    check(work / "fused.moe", layers, work, None, "f32", work / "apart.moe", alone=False)
    compile_model(model, work / "invariant.moe", 3, 1, native, "--fuse-combine", "--batch-invariant")
    check(work / "invariant.moe", layers, work, None, "batch-invariant")
    # k rows per token are less to keep.
    given = {}
    for each in layers:
        given |= each.inputs(MOST, False)
    peaks = []
    for module in ("apart.moe", "fused.moe"):
        told = run(work / module, given, 2, work, "--benchmark=1", "--json")[1]
        peaks.append(json.loads(told)["benchmark"]["peak_buffer_bytes"])
    assert peaks[0] - peaks[1] > 0.8 * 4 * MOST * layers[0].k * layers[0].hidden, peaks

    # AVX-512's kernels, in parts.
    compile_model(one, work / "wide.moe", 1, 0, native, "--fuse-combine", "--emulate-cpu=x86-64-v4")
    check(work / "wide.moe", layers[:1], work, None, "16 lanes", routings=SOME)
    for tolerance, *flags in ((0.05, "--quantize=int8:32"), (0.5, "--quantize=int4:16", "--numerics=fast")):
        compile_model(one, work / "apart.moe", 0, 0, native, *flags)
        compile_model(one, work / "fused.moe", 1, 0, native, "--fuse-combine", *flags)
        check(work / "fused.moe", layers[:1], work, tolerance, " ".join(flags), work / "apart.moe", routings=SOME, alone=False)

    program = work / "slots.mlir"
    slots = [Slots(i, order) for i, order in enumerate(("columns", "dots"))]
    program.write_text("".join(each.text() for each in slots))
    compile_model(program, work / "slots.moe", 2, 0, native, "--fuse-combine")
    for each in slots:
        each.draw(values)
        check(work / "slots.moe", [each], work, 1e-5, "slots", function=each.order)
    print(f"ok: {len(layers) + len(slots)} layers, seed {args.seed}")


main()
