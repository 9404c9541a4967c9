#!/usr/bin/env python3
"""Measures quantised layers beside onnxruntime: chains as in bench.py, with exact products (f32 activations) and integer ones
(--numerics=fast). Formats:
    int4, int8    com.microsoft.QMoE, 4 bits in blocks of 32 or 8 bits per row
    mxfp4         MoE of f32 that moe-compile --quantize=mxfp4 quantises (half a minute a layer); onnxruntime has none on CPUs
    nbits4        dense MLPs of com.microsoft.MatMulNBits, 4 bits in blocks of 32, as wide as the experts of a token together
A cell's roofline share is
    max(bytes of the codes and scales that are touched / stream bandwidth, operations / peak) / median time.
The peak is the measured one of f32 for exact products, and that of products of bytes for integer ones (moe-run --machine).
"""
import argparse
import json
import math
import os
import pathlib
import sys
import tempfile

import numpy as np

from chain import SHAPES, make_rows, routing_bias, write_model
from measure import Engine, run

# name: (bits, block, bytes of a scale)
FORMATS = {"int4": (4, 32, 2), "int8": (8, 0, 2), "mxfp4": (4, 32, 1), "nbits4": (4, 32, 4)}


ENGINES = {"exact": "ours", "fast": "ours", "onnxruntime": "onnxruntime"}
# Largest difference to the first engine, as a share of the largest element: what 8 bits for activations cost in a chain.
TOLERANCES = {"exact": 2e-3, "fast": 5e-2, "onnxruntime": 2e-3}


def measure_limits(tools, threads, limits):
    """Keeps the best of all measurements of this run."""
    for n in threads:
        got = json.loads(run([tools / "moe-run", "--machine", f"--threads={n}", "--json"]))["machine"]
        best = limits.setdefault(n, got)
        for key in ("bytes_per_second", "flop_per_second", "integer_op_per_second"):
            best[key] = max(best[key], got[key])


def expert_bytes(shape, bits, block, scale):
    hidden, inner, _, _ = SHAPES[shape]
    scales = 3 * hidden * inner / block if block else 2 * inner + hidden
    return 3 * hidden * inner * bits / 8 + scale * scales


def write_quantized(path, shape, layers, bits, block, dense=False):
    """Writes x [T, H], bias [E] -> y [T, H] with random codes; every layer has its own. `dense`: MLPs instead of experts."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    hidden, inner, experts, k = SHAPES[shape]
    rng = np.random.default_rng(1)
    nodes, tensors, value = [], [], "x"

    def external(name, dims, array):
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=dims,
                             data_location=TensorProto.EXTERNAL)
        for key, entry in (("location", path.with_suffix(".data").name), ("offset", file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(entry))
        file.write(array.tobytes())
        tensors.append(tensor)
        return name

    def bank(name, rows, columns, deviation):
        codes = rng.integers(0, 256, (experts, rows, columns * bits // 8), np.uint8)
        blocks = columns // block if block else 1
        step = deviation / (2**bits / 12**0.5)
        scales = rng.uniform(0.8, 1.2, (experts, rows, blocks)).astype(np.float16) * np.float16(step)
        scales = scales if block else scales[..., 0]
        return [external(name, codes.shape, codes), external(name + "_scales", scales.shape, scales)]

    def matmul(name, source, out, rows, columns, deviation):
        codes = rng.integers(0, 256, (rows, columns // block, block * bits // 8), np.uint8)
        step = deviation / (2**bits / 12**0.5)
        scales = (rng.uniform(0.8, 1.2, rows * (columns // block)) * step).astype(np.float32)
        inputs = [source, external(name, codes.shape, codes), external(name + "_scales", scales.shape, scales)]
        return helper.make_node("MatMulNBits", inputs, [out], domain="com.microsoft", K=columns, N=rows, bits=bits, block_size=block)

    with open(path.with_suffix(".data"), "wb") as file:
        for n in range(layers if dense else 0):
            out = "y" if n == layers - 1 else f"h{n + 1}"
            nodes += [matmul(f"fc1_{n}", value, f"both{n}", 2 * k * inner, hidden, hidden**-0.5),
                      helper.make_node("Split", [f"both{n}"], [f"gate{n}", f"up{n}"], axis=-1, num_outputs=2),
                      helper.make_node("Sigmoid", [f"gate{n}"], [f"sigmoid{n}"]),
                      helper.make_node("Mul", [f"gate{n}", f"sigmoid{n}"], [f"silu{n}"]),
                      helper.make_node("Mul", [f"silu{n}", f"up{n}"], [f"act{n}"]),
                      matmul(f"fc2_{n}", f"act{n}", f"down{n}", hidden, k * inner, 0.005 * (k * inner)**-0.5),
                      helper.make_node("Add", [value, f"down{n}"], [out])]
            value = out
        for n in range(0 if dense else layers):
            router = external(f"router{n}", [hidden, experts], (rng.standard_normal((hidden, experts)) * hidden**-0.5).astype(np.float32))
            fc1 = bank(f"fc1_{n}", 2 * inner, hidden, hidden**-0.5)
            fc2 = bank(f"fc2_{n}", hidden, inner, 0.05 * inner**-0.5)
            out = "y" if n == layers - 1 else f"h{n + 1}"
            attributes = dict(k=k, activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1,
                              activation_alpha=1.0, activation_beta=0.0, expert_weight_bits=bits)
            if block:
                attributes["block_size"] = block
            nodes += [helper.make_node("MatMul", [value, router], [f"scores{n}"]),
                      helper.make_node("Add", [f"scores{n}", "bias"], [f"logits{n}"]),
                      helper.make_node("QMoE", [value, f"logits{n}", *fc1, "", *fc2], [f"moe{n}"], domain="com.microsoft", **attributes),
                      helper.make_node("Add", [value, f"moe{n}"], [out])]
            value = out
    info = lambda name, dims: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "chain", [info("x", ["T", hidden]), info("bias", [experts])], [info("y", ["T", hidden])], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def main():
    parser = argparse.ArgumentParser(prog="./run bench --quantized", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["granite-1b", "olmoe"], choices=SHAPES)
    parser.add_argument("--formats", nargs="+", default=["int4", "int8", "nbits4"], choices=FORMATS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 16, 512])
    parser.add_argument("--threads", nargs="+", type=int, default=[os.cpu_count()])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--pool", type=float, default=0.6, help="gigabytes of codes in a chain")
    parser.add_argument("--seconds", type=float, default=0.5, help="time per engine, cell and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", default="build")
    parser.add_argument("--json", help="write all cells to this file")
    options = parser.parse_args()
    tools = pathlib.Path(options.build).resolve() / "bin"
    limits, cells = {}, []
    ours = [e for e in options.engines if ENGINES[e] == "ours"]
    head = "".join(f"{e + ' ms':>10}{'GB/s':>7}{'GOP/s':>7}{'share':>7}{'ratio':>7}" for e in ours)
    print(f"{'shape':12}{'format':>7}{'T':>6}{'thr':>4}{head}{'onnxruntime ms':>16}")
    for shape in options.shapes:
        hidden, inner, experts, k = SHAPES[shape]
        for name in options.formats:
            bits, block, scale = FORMATS[name]
            dense, floats = name.startswith("nbits"), name == "mxfp4"
            each = expert_bytes(shape, bits, block, scale)
            layers = max(1, math.ceil(options.pool * 1e9 / (each * (k if dense else experts))))
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                model = folder / "chain.onnx"
                if floats:
                    write_model(model, shape, layers)
                else:
                    write_quantized(model, shape, layers, bits, block, dense)
                modules = {e: folder / f"{e}.moe" for e in ours}
                for e, module in modules.items():
                    # The streams of weights are the same for both kinds of products, and so are the files.
                    run([tools / "moe-compile", model, "-o", module, f"--numerics={e}", "--mcpu=native",
                         *([f"--quantize={name}"] if floats else [])])
                    module.with_suffix(".build").write_text(str(tools.parent))
                np.save(folder / "bias.npy", routing_bias(shape, "uniform"))
                measure_limits(tools, options.threads, limits)
                engines = []
                for e in options.engines:
                    if e == "onnxruntime" and floats:
                        continue
                    engines.append(Engine(ENGINES[e], sys.executable, modules.get(e, model), shape, "f32"))
                    engines[-1].name = e
                for threads in options.threads:
                    for tokens in options.tokens:
                        rows = []
                        for i, x in enumerate(make_rows(shape, tokens, 8)):
                            rows.append(str(folder / f"rows-{i}.npy"))
                            np.save(rows[-1], x)
                        outputs, seconds = {}, {e.name: [] for e in engines}
                        for engine in engines:
                            output = str(folder / f"out-{engine.name}.npy")
                            engine.ask(prepare=rows, bias=str(folder / "bias.npy"), threads=threads, output=output)
                            outputs[engine.name] = np.load(output)
                        first = next(iter(outputs.values()))
                        for engine, other in outputs.items():
                            error = np.abs(other - first).max() / np.abs(first).max()
                            if not error <= max(TOLERANCES[engine], TOLERANCES[engines[0].name]):
                                raise SystemExit(f"{shape} {name} T={tokens}: the result of {engine} differs by {error:.1e}")
                        for _ in range(options.rounds):
                            for engine in engines:
                                one = np.median(engine.ask(calls=2)["seconds"])
                                calls = max(2, min(200, math.ceil(options.seconds / one)))
                                seconds[engine.name] += engine.ask(calls=calls)["seconds"]
                        # Rows choose nearly uniformly and independently.
                        touched = k if dense else experts * (1 - (1 - k / experts) ** tokens)
                        limit = limits[threads]
                        work = tokens * k * 6 * hidden * inner
                        medians = {e: float(np.median(t)) / layers for e, t in seconds.items()}
                        least = {e: max(touched * each / limit["bytes_per_second"],
                                        work / limit["integer_op_per_second" if e == "fast" else "flop_per_second"]) for e in ours}
                        cells.append({"shape": shape, "format": name, "tokens": tokens, "threads": threads, "layers": layers,
                                      "bytes": touched * each, "operations": work, "roofline_seconds": least, "medians": medians})
                        peer = medians.get("onnxruntime")
                        text = f"{shape:12}{name:>7}{tokens:6}{threads:4}"
                        for e in ours:
                            time = medians[e]
                            text += f"{time * 1e3:10.3f}{touched * each / time / 1e9:7.1f}{work / time / 1e9:7.0f}{least[e] / time:7.2f}"
                            text += f"{peer / time:7.2f}" if peer else " " * 7
                        print(text + (f"{peer * 1e3:16.3f}" if peer else ""), flush=True)
                for engine in engines:
                    engine.close()
    for n, limit in limits.items():
        print(f"{n} threads: reads {limit['bytes_per_second'] / 1e9:.1f} GB/s, f32 {limit['flop_per_second'] / 1e9:.0f} GFLOP/s, "
              f"bytes {limit['integer_op_per_second'] / 1e9:.0f} GOP/s")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"limits": limits, "cells": cells}, indent=1))


if __name__ == "__main__":
    main()
