#!/usr/bin/env python3
"""Quantised layers and linears with integer products: the kernels of all instruction sets, those that this machine lacks emulated,
give the bits of AVX2's.

    integers.py DIR FORMAT... [--cpu=NAME ...] [--seed=N]

FORMAT is one of moe-compile's --quantize. Sizes are multiples of nothing; routing is random, or sends all rows to the same
experts, so that an expert has no rows, few, or several tiles of them, even and odd in number.
"""
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import onnx
from onnx import helper
from safetensors.numpy import load_file, save_file

sys.path.insert(0, os.environ["MOE_SOURCE"] + "/test/property")
import packed


def main():
    work, *rest = sys.argv[1:]
    work = pathlib.Path(work)
    work.mkdir(parents=True, exist_ok=True)
    cpus = [a[6:] for a in rest if a.startswith("--cpu=")]
    seed = next((int(a[7:]) for a in rest if a.startswith("--seed=")), 1)
    rng, values = random.Random(seed), np.random.default_rng(seed)
    sizes = [dict(hidden=rng.choice([70, 96, 131]), inner=rng.choice([33, 64, 100]), form="fc3"),
             dict(hidden=rng.choice([33, 64, 523]), inner=rng.choice([40, 47]), form="relu")]
    layers = [packed.Layer(i, rng, values, dtype="f32", experts=experts, k=2, **size)
              for i, (experts, size) in enumerate(zip((5, 2), sizes))]
    parts = [layer.nodes() for layer in layers]
    graph = helper.make_graph(sum((p[0] for p in parts), []), "integers", sum((p[2] for p in parts), []), [p[3] for p in parts],
                              sum((p[1] for p in parts), []))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
                                ir_version=10), work / "integers.onnx")
    for layer in layers:
        layer.draw(values)
        # A row with NaN, one of zeros, and one far below all others.
        layer.rows[1, 3], layer.rows[2], layer.rows[4] = np.nan, 0, layer.rows[4] * 1e-20
    for format in (a for a in rest if not a.startswith("--")):
        modules = {}
        for cpu in ["x86-64-v3", *cpus]:
            modules[cpu] = work / f"{format.replace(':', '_')}.{cpu}.moe"
            flag = f"--mcpu={cpu}" if cpu == "x86-64-v3" else f"--emulate-cpu={cpu}"
            subprocess.run(["moe-compile", work / "integers.onnx", "-o", modules[cpu], "-q", "-O1", "--numerics=fast",
                            f"--quantize={format}", flag], check=True)
        for tokens, skewed in [(packed.MOST, True), (packed.MOST, False), (35, True), (9, True), (8, True), (5, True), (1, False), (0, False)]:
            given = {}
            for layer in layers:
                given |= layer.inputs(tokens, skewed)
            save_file(given, work / "in.safetensors")
            results = {}
            for cpu, module in modules.items():
                subprocess.run(["moe-run", module, f"--inputs={work / 'in.safetensors'}", f"--outputs={work / 'out.safetensors'}",
                                "--debug-memory"], check=True, stdout=subprocess.DEVNULL)
                results[cpu] = load_file(work / "out.safetensors")
            for layer in layers:
                want = results["x86-64-v3"][f"y{layer.i}"]
                where = f"{format}, {layer.describe()}, T = {tokens}{', all rows alike' if skewed else ''}, seed {seed}"
                for cpu in cpus:
                    got = results[cpu][f"y{layer.i}"]
                    same = (got.view(np.int32) == want.view(np.int32)) | (np.isnan(got) & np.isnan(want))
                    assert got.shape == want.shape and same.all(), (cpu, where, np.argwhere(~same)[:4])
                exact = np.delete(layer.expected(), 1, 0) if tokens > 1 else layer.expected()
                error = np.abs((np.delete(want, 1, 0) if tokens > 1 else want) - exact).max(initial=0)
                loss = {"int8": 0.1, "int2": 2}.get(format.split(":")[0], 0.6)
                assert error <= loss * np.abs(exact).max(initial=1e-9), (where, error)
        print(f"ok: {format}, {len(cpus)} more")


main()
