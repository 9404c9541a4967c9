#!/usr/bin/env python3
"""Compiles MoE layers for a GPU, runs their kernels under emulation, and compares with numpy in f64.

    emulated.py [--without]      --without: leave out every barrier and wait in turn, and count how many are noticed
"""
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

import layers

# dtype, sizes of the layer, tokens of each run. Up to 16 rows per expert (f32 without tensor cores: 4) take the tile for few
# pairs, up to 32 the one of 16 rows, up to 64 (tf32 and f32: all more) that of 64.
CASES = [
    ("f16", dict(E=8, k=2, H=64, I=96), [1, 5, 0, 40, 100]),
    ("bf16", dict(E=4, k=1, H=40, I=72), [33, 100]),                        # ends of K and N inside a tile
    ("f16", dict(E=2, k=2, H=64, I=64, transposed=True), [9, 70]),          # banks along the reduction
    ("f16", dict(E=3, k=2, H=36, I=20), [9]),                               # copies of 8 bytes
    ("bf16", dict(E=3, k=3, H=21, I=35, gated=False), [7]),                 # rows of an odd number of elements
    ("f32", dict(E=8, k=2, H=24, I=40), [1, 6, 0, 50]),
    ("f32", dict(E=2, k=1, H=20, I=66, transposed=True, gated=False), [3, 30, 150]),
    ("f32", dict(E=2, k=2, H=36, I=40, transposed=True), [2, 50]),
    ("f32", dict(E=2, k=2, H=27, I=15), [5, 50]),                           # odd widths
    ("f16", dict(E=2, k=1, H=96, I=64, gated=False, skew=True), [140]),     # 128-row tiles, all rows to one expert
    ("bf16", dict(E=33, k=4, H=32, I=16), [1, 11, 200]),                    # more experts than a warp has lanes
    # f32 on tensor cores: both orders of banks, ends inside tiles, an odd width, the larger tiles
    ("f32", dict(E=4, k=2, H=40, I=72, precision="tf32"), [3, 33]),
    ("f32", dict(E=2, k=2, H=36, I=68, transposed=True, gated=False, precision="tf32"), [9, 24, 70]),
    ("f32", dict(E=2, k=1, H=21, I=35, gated=False, precision="tf32"), [140]),
    # narrower operands, f32 sums and results; arguments are converted in each call
    ("f32", dict(E=4, k=4, H=40, I=24, precision="bf16"), [7]),
    ("f32", dict(E=1, k=1, H=17, I=31, precision="f16"), [13]),
]

def run(*command, **environment):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **environment})


# Products outside of experts: dtype, matrices of the stack, inner and outer width, tokens of each run
LINEARS = [("f16", 3, 40, 24, [1, 30]), ("f32", 5, 24, 40, [7, 0])]


def check(module, values, expected, dtype, folder, **environment):
    """What is wrong with the module's results, or None."""
    save_file(values, f"{folder}/in.safetensors")
    done = run("moe-run", module, f"--inputs={folder}/in.safetensors", f"--outputs={folder}/out.safetensors", "--threads=1",
               **environment)
    if done.returncode:
        return f"exit code {done.returncode}: {(done.stderr + done.stdout).strip()}"
    results = load_file(f"{folder}/out.safetensors")
    for name, want in expected.items():
        got = results[name].astype(np.float64)
        if got.shape != want.shape:
            return f"{name} has shape {got.shape}, expected {want.shape}"
        error = np.abs(got - want).max() / max(np.abs(want).max(), 1e-30) if want.size else 0
        if not error <= layers.TOLERANCE[dtype]:
            return f"{name} has an error of {error:.3g} of the largest value"
    return None


def main():
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["--without"]:
            return without(folder)
        failed, path = 0, f"{folder}/layer.mlir"
        for number, (dtype, sizes, tokens) in enumerate(CASES):
            skew, precision = sizes.pop("skew", False), sizes.pop("precision", dtype)
            open(path, "w").write(layers.program(dtype, **sizes))
            done = run("moe-compile", path, "--target=cuda", "--emulate", "-O1", "-q", "-o", f"{folder}/layer.moe",
                       *([f"--precision={precision}"] if dtype == "f32" else []))
            for T in tokens:
                rng = np.random.default_rng(number * 1000 + T)
                values = layers.inputs(rng, dtype, T, skew=skew, **sizes)
                problem = done.stderr if done.returncode else check(
                    f"{folder}/layer.moe", values, {"y": layers.expected(values, sizes["k"], sizes.get("transposed", False))}, precision, folder)
                print(f"{dtype} {precision} {sizes} T={T}: {problem or 'ok'}")
                failed += problem is not None
        for dtype, *sizes, tokens in LINEARS:
            open(path, "w").write(layers.linears(dtype, *sizes))
            done = run("moe-compile", path, "--target=cuda", "--emulate", "-O1", "-q", "-o", f"{folder}/layer.moe")
            for T in tokens:
                values = layers.linear_inputs(np.random.default_rng(T), dtype, T, *sizes)
                problem = done.stderr if done.returncode else check(f"{folder}/layer.moe", values, layers.expected_linears(values), dtype, folder)
                print(f"linears {dtype} {sizes} T={T}: {problem or 'ok'}")
                failed += problem is not None
        print(f"{failed} failed")
        return 1 if failed else 0


def without(folder):
    """Every barrier and wait of two layers is left out in turn."""
    noticed = total = 0
    for dtype, sizes in [("f16", dict(E=2, k=1, H=160, I=128)), ("f32", dict(E=2, k=1, H=64, I=64))]:
        path = f"{folder}/layer.mlir"
        open(path, "w").write(layers.program(dtype, **sizes))
        code = run("moe-compile", path, "--target=cuda", "--compile-to=codegen").stdout
        sites = len(re.findall(r"nvvm\.barrier|nvvm\.cp\.async\.wait", code))
        done = run("moe-compile", path, "--target=cuda", "--emulate", "-q", "-O1", "-o", f"{folder}/layer.moe")
        if done.returncode:
            sys.exit(done.stderr)
        for site in range(sites):
            # A number of tokens for each tile size: a site is in one of the kernels.
            problem = None
            for T in (6, 20, 50, 80, 140):
                values = layers.inputs(np.random.default_rng(T), dtype, T, **sizes)
                problem = problem or check(f"{folder}/layer.moe", values, {"y": layers.expected(values, sizes["k"])}, dtype, folder,
                                           MOE_EMULATOR=f"without={site}")
            total += 1
            noticed += problem is not None
            print(f"{dtype} without {site} of {sites}: {problem or 'not noticed'}")
    print(f"{noticed} of {total} removals, {100 * noticed / max(total, 1):.1f} % noticed")
    return 0 if total else 1


sys.exit(main())
