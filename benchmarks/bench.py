#!/usr/bin/env python3
"""Measures compiled MoE layers beside onnxruntime, with the machine's own limits beside them.

Each cell is a chain of MoE layers with residuals, x = x + MoE(x), each layer with its own weights and router, so that
weights come from memory and not from the last-level cache; time is per layer. Both engines run the same ONNX file
(com.microsoft.MoE, f32, swiglu, renormalised top-k), in processes of their own that take turns. The roofline share is
max(bytes of the distinct experts / measured bandwidth, flop / measured peak) / time.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

# name: (hidden H, inner I, experts E, chosen k)
SHAPES = {
    "tiny": (256, 256, 16, 2),
    "granite-1b": (1024, 512, 32, 8),
    "olmoe": (2048, 1024, 64, 8),
    "qwen3-30b": (2048, 768, 128, 8),
    "lfm2-8b": (2048, 1792, 32, 4),
    "deepseek-v2-lite": (2048, 1408, 64, 6),
}


def layer_bytes(shape):
    h, i, e, _ = SHAPES[shape]
    return 4 * e * 3 * h * i


def write_model(path, shape, layers, rng):
    """An ONNX chain of MoE layers with external weights; `x` [T, H] -> `y` [T, H]."""
    import onnx
    from onnx import TensorProto, helper

    h, inner, e, k = SHAPES[shape]
    data = path.with_suffix(".data")
    initializers, nodes, offset = [], [], 0
    with open(data, "wb") as f:

        def weight(name, dims, scale):
            nonlocal offset
            array = rng.standard_normal(dims, np.float32) * np.float32(scale)
            f.write(array.tobytes())
            t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", data.name), ("offset", offset), ("length", array.nbytes)):
                t.external_data.add(key=key, value=str(value))
            initializers.append(t)
            offset += array.nbytes
            return name

        value = "x"
        for n in range(layers):
            router = weight(f"router{n}", [h, e], 0.3)
            fc1 = weight(f"fc1_{n}", [e, 2 * inner, h], h**-0.5)
            fc2 = weight(f"fc2_{n}", [e, h, inner], inner**-0.5)
            out = "y" if n == layers - 1 else f"h{n + 1}"
            nodes += [
                helper.make_node("MatMul", [value, router], [f"logits{n}"]),
                helper.make_node(
                    "MoE", [value, f"logits{n}", fc1, "", fc2], [f"moe{n}"], domain="com.microsoft", k=k,
                    activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, activation_alpha=1.0,
                    activation_beta=0.0,
                ),
                helper.make_node("Add", [value, f"moe{n}"], [out]),
            ]
            value = out
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", h])
    graph = helper.make_graph(nodes, "chain", [info("x")], [info("y")], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def onnxruntime_worker(model, rows, threads, calls):
    """Runs in a process of its own: the wall times of `calls` calls, as JSON."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.load(rows)
    session.run(None, {"x": x})
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        (y,) = session.run(None, {"x": x})
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": times, "sum": float(np.abs(y).sum())}))


def run_json(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\nfailed:\n{result.stderr or result.stdout}")
    return json.loads(result.stdout)



def roofline_seconds(shape, tokens, probe):
    """The least time of one layer, and of what it consists, for uniform routing (expected distinct experts)."""
    h, inner, e, k = SHAPES[shape]
    touched = e * (1 - (1 - k / e) ** tokens)
    memory = touched * 3 * h * inner * 4 / probe["stream_bytes_per_s"]
    compute = tokens * k * 3 * h * inner * 2 / probe["f32_flop_per_s"]
    return max(memory, compute)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="granite-1b", help=f"comma-separated, of: {', '.join(SHAPES)}")
    parser.add_argument("--tokens", default="1,16,128,512", help="comma-separated numbers of tokens")
    parser.add_argument("--threads", default="1,2", help="comma-separated numbers of threads")
    parser.add_argument("--pool", type=float, default=1.0, help="GB of weights that a chain has at least")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine per cell")
    parser.add_argument("--build", default=str(ROOT / "build"), help="build folder with the tools")
    parser.add_argument("--json", help="also write all figures to this file")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return onnxruntime_worker(args.worker[0], args.worker[1], int(args.worker[2]), int(args.worker[3]))

    tools = pathlib.Path(args.build) / "bin"
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        probe_binary = folder / "probe"
        subprocess.run(["clang-22", "-O3", "-march=native", "-ffp-contract=fast", "-pthread",
                        str(ROOT / "benchmarks/probe.c"), "-o", str(probe_binary)], check=True)
        probes = {t: run_json([probe_binary, str(t)]) for t in map(int, args.threads.split(","))}
        for t, p in probes.items():
            print(f"{t} thread{'s' * (t > 1)}: reads {p['stream_bytes_per_s'] / 1e9:.1f} GB/s, "
                  f"f32 {p['f32_flop_per_s'] / 1e9:.0f} GFLOP/s")
        print(f"\n{'shape':18}{'T':>6}{'threads':>9}{'ours ms':>10}{'p10':>9}{'p90':>9}{'onnxrt ms':>11}"
              f"{'ratio':>8}{'share':>8}{'onnxrt share':>14}")
        for shape in args.shapes.split(","):
            layers = max(2, int(np.ceil(args.pool * 1e9 / layer_bytes(shape))))
            rng = np.random.default_rng(1)
            model = folder / f"{shape}.onnx"
            write_model(model, shape, layers, rng)
            module = folder / f"{shape}.moe"
            subprocess.run([tools / "moe-compile", model, "-o", module, "--mcpu=native"], check=True,
                           stdout=subprocess.DEVNULL)
            for tokens in map(int, args.tokens.split(",")):
                rows = folder / "x.npy"
                np.save(rows, rng.standard_normal((tokens, SHAPES[shape][0]), np.float32))
                for threads, probe in probes.items():
                    least = roofline_seconds(shape, tokens, probe)
                    calls = max(3, min(50, int(1.0 / (least * layers * 2))))
                    ours, theirs = [], []
                    for _ in range(args.rounds):
                        got = run_json([tools / "moe-run", module, f"--input=x=@{rows}", f"--benchmark={calls}",
                                        f"--threads={threads}", "--json"])
                        ours += got["benchmark"]["seconds"]
                        theirs += run_json([sys.executable, __file__, "--worker", str(model), str(rows),
                                            str(threads), str(calls)])["seconds"]
                    ours, theirs = np.array(ours) / layers, np.array(theirs) / layers
                    cell = {
                        "shape": shape, "tokens": tokens, "threads": threads, "layers": layers,
                        "ours_s": float(np.median(ours)), "ours_p10_s": float(np.quantile(ours, 0.1)),
                        "ours_p90_s": float(np.quantile(ours, 0.9)), "onnxruntime_s": float(np.median(theirs)),
                        "roofline_s": least,
                    }
                    cells.append(cell)
                    print(f"{shape:18}{tokens:6}{threads:9}{cell['ours_s'] * 1e3:10.3f}{cell['ours_p10_s'] * 1e3:9.3f}"
                          f"{cell['ours_p90_s'] * 1e3:9.3f}{cell['onnxruntime_s'] * 1e3:11.3f}"
                          f"{cell['onnxruntime_s'] / cell['ours_s']:8.2f}{least / cell['ours_s']:8.2f}"
                          f"{least / cell['onnxruntime_s']:14.2f}", flush=True)
    ratio = statistics.geometric_mean(c["onnxruntime_s"] / c["ours_s"] for c in cells)
    print(f"\ngeometric mean of the ratio to onnxruntime: {ratio:.2f}")
    if args.json:
        temporary = args.json + ".tmp"
        with open(temporary, "w") as f:
            json.dump({"probes": probes, "cells": cells}, f, indent=1)
        os.replace(temporary, args.json)


if __name__ == "__main__":
    main()
