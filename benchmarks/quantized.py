#!/usr/bin/env python3
"""Measures quantised layers beside onnxruntime: chains as in bench.py, with exact products (f32 activations) and integer ones
(--numerics=fast). Formats:
    int4, int8    com.microsoft.QMoE, 4 bits in blocks of 32 or 8 bits per row
    int4-row      4 bits per row
    mxfp4         MoE of f32 that moe-compile --quantize=mxfp4 quantises (half a minute a layer); onnxruntime has none on CPUs
    nbits4        dense MLPs of com.microsoft.MatMulNBits, 4 bits in blocks of 32, as wide as the experts of a token together
A cell's roofline share is
    max(bytes of the codes and scales of the experts that are touched / stream bandwidth, operations / peak) / median time
in the median over its turns, with the limits of each (moe-run --machine --probe). The peak is that of f32 for exact products and for
onnxruntime, and that of products of bytes for integer ones. "best" is the same with the most that was measured in the whole run; above
1.03, the limits are wrong, and the benchmark fails. With --against=BUILD the modules of another build of the compiler take part, and
"other" is how much longer they take (the median of the rounds, each round's turns with each other).
"""
import argparse
import json
import math
import os
import pathlib
import sys
import tempfile

import numpy as np

from chain import SHAPES, count_rows, make_rows, routing_bias, write_model
from measure import (Cells, Engine, Failed, Probe, compile_model, count_inputs, figures, find_build, interrupt_on_end, paired_interval, ratio_interval,
                     take_turns, write)

from targets import MOST_SHARE

HERE = pathlib.Path(__file__).resolve().parent
# name: (bits, block, bytes of a scale)
FORMATS = {"int4": (4, 32, 2), "int4-row": (4, 0, 2), "int8": (8, 0, 2), "mxfp4": (4, 32, 1), "nbits4": (4, 32, 4)}
ENGINES = ("exact", "fast", "onnxruntime")
# Largest difference to the first engine, as a share of the largest element: what 8 bits for activations cost in a chain.
TOLERANCES = {"exact": 2e-3, "fast": 5e-2, "onnxruntime": 2e-3}


def numerics_of(engine):
    """exact, fast, or onnxruntime, whichever compiler made it."""
    return engine.removeprefix("other-")


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
    nodes, tensors, index, value = [], [], [], "x"

    def external(name, dims, array):
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=dims,
                             data_location=TensorProto.EXTERNAL)
        for key, entry in (("location", path.with_suffix(".data").name), ("offset", file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(entry))
        index.append({"name": name, "dims": list(dims), "offset": file.tell()})
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
    path.with_suffix(".json").write_text(json.dumps(index))
    info = lambda name, dims: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "chain", [info("x", ["T", hidden]), info("bias", [experts])], [info("y", ["T", hidden])], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def count_touched(model, rows, k):
    """The experts that have rows, in the mean over routers and inputs. A model without routers touches all that it has: 1."""
    counts = count_rows(model, k, rows, 0)
    return float(np.count_nonzero(counts, axis=2).mean()) if counts.size else 1.0


class Bench(Cells):
    def __init__(self, options):
        self.options, self.cells, self.engines = options, [], []
        self.build = pathlib.Path(options.build).resolve()
        self.probes = {n: Probe(self.build / "bin", n) for n in options.threads}
        self.names = [name for name in options.engines if name != "onnxruntime"]
        self.others = [f"other-{name}" for name in self.names] if options.against else []

    def all_limits(self):
        return {n: probe.best for n, probe in self.probes.items()}

    def header(self):
        text = "".join(f"{name + ' ms':>10}{'GB/s':>7}{'GOP/s':>7}{'share':>7}{'best':>6}{'ratio':>7}{'other':>7}" for name in self.names)
        return f"{'shape':17}{'format':>9}{'T':>6}{'thr':>4}{text}{'onnxruntime ms':>16}"

    def line(self, cell):
        text = f"{cell['shape']:17}{cell['format']:>9}{cell['tokens']:6}{cell['threads']:4}"
        for name in self.names:
            if e := cell["engines"].get(name):
                ratios = "".join(f"{e[key][0]:7.2f}" if key in e else " " * 7 for key in ("ratio", "against"))
                text += (f"{e['median'] * 1e3:10.3f}{cell['bytes'] / e['median'] / 1e9:7.1f}{cell['operations'] / e['median'] / 1e9:7.0f}"
                         f"{e['share']:7.2f}{e['share_of_best']:6.2f}{ratios}")
        peer = cell["engines"].get("onnxruntime")
        return text + (f"{peer['median'] * 1e3:16.3f}" if peer else "")

    def finish(self, cell):
        """The figures that depend on the limits, which may still rise."""
        cell["engines"] = {}
        for name, times in cell["seconds"].items():
            peak = "integer_op_per_second" if numerics_of(name) == "fast" else "flop_per_second"
            work = {"bytes_per_second": cell["bytes"], peak: cell["operations"]}
            engine = cell["engines"][name] = figures(work, times, cell["turns"][name], self.probes[cell["threads"]].best)
            if name in self.names and "onnxruntime" in cell["seconds"]:
                engine["ratio"] = ratio_interval(times, cell["seconds"]["onnxruntime"])
            if f"other-{name}" in cell["turns"]:
                engine["against"] = paired_interval(cell["turns"][name], cell["turns"][f"other-{name}"])

    def measure(self):
        """Everything. Returns whether all could be measured."""
        try:
            print(self.header(), flush=True)
            return self.measure_formats()
        finally:
            self.end()

    def measure_formats(self):
        """All of them. Returns whether all could be measured."""
        complete = True
        for shape in self.options.shapes:
            for name in self.options.formats:
                try:
                    with tempfile.TemporaryDirectory(prefix="moe-bench-") as folder:
                        self.measure_format(shape, name, pathlib.Path(folder))
                except Failed as why:
                    complete = False
                    print(f"error: {shape} {name} was not measured to the end: {why}", file=sys.stderr, flush=True)
                finally:
                    for engine in self.engines:
                        engine.end()
                    self.engines = []
        return complete

    def measure_format(self, shape, name, folder):
        options = self.options
        bits, block, scale = FORMATS[name]
        dense, floats = name.startswith("nbits"), name == "mxfp4"
        _, _, experts, k = SHAPES[shape]
        # The experts of a token, side by side, are one MLP.
        each = expert_bytes(shape, bits, block, scale) * (k if dense else 1)
        layers = max(1, math.ceil(options.pool * 1e9 / (each * (1 if dense else experts))))
        model = folder / "chain.onnx"
        if floats:
            write_model(model, shape, layers)
        else:
            write_quantized(model, shape, layers, bits, block, dense)
        first = None
        for engine in [*options.engines, *self.others]:
            file, kind = model, "onnxruntime"
            if engine == "onnxruntime" and floats:
                continue
            if engine != "onnxruntime":
                file, kind = folder / f"{engine}.moe", "ours"
                other = engine.startswith("other-")
                compile_model(options.against if other else self.build, model, file,
                              [f"--numerics={numerics_of(engine)}", "--mcpu=native", *([f"--quantize={name}"] if floats else []),
                               *(options.against_flag if other else [])], first)
                first = first or file
            self.engines.append(Engine(engine, sys.executable, file, shape, "f32", kind=kind))
        np.save(folder / "bias.npy", routing_bias(shape, "uniform"))
        for threads in options.threads:
            for tokens in options.tokens:
                touches = layers * each * (1 if dense else min(experts, tokens * k))
                rows = make_rows(shape, tokens, count_inputs(self.probes[threads].best["cache_bytes"], touches))
                self.cells.append({"shape": shape, "format": name, "tokens": tokens, "threads": threads, "layers": layers,
                                   "bytes": count_touched(model, rows, k) * each,
                                   **self.measure_cell(self.engines, shape, name, threads, rows, layers, folder)})
                self.finish(self.cells[-1])
                print(self.line(self.cells[-1]), flush=True)
                self.save()

    def measure_cell(self, engines, shape, name, threads, rows, layers, folder):
        hidden, inner, _, k = SHAPES[shape]
        files, outputs = [], {}
        for i, x in enumerate(rows):
            files.append(str(folder / f"rows-{i}.npy"))
            np.save(files[-1], x)
        for engine in engines:
            output = str(folder / f"out-{engine.name}.npy")
            engine.ask(prepare=files, bias=str(folder / "bias.npy"), threads=threads, output=output)
            outputs[engine.name] = np.load(output)
        base, first = next(iter(outputs.items()))
        for engine, other in outputs.items():
            error = np.abs(other - first).max() / np.abs(first).max()
            if not error <= max(TOLERANCES[numerics_of(engine)], TOLERANCES[numerics_of(base)]):
                raise Failed(f"{shape} {name} T={len(rows[0])}: the results of {base} and {engine} differ by {error:.1e}")
        seconds, turns = take_turns(engines, self.probes[threads].ask, self.options.rounds, self.options.seconds, len(rows), layers)
        return {"operations": len(rows[0]) * k * 6 * hidden * inner, "seconds": seconds, "turns": turns}

    def save(self):
        if self.options.json:
            write(self.options.json, json.dumps({"limits": self.all_limits(), "cells": self.cells}, indent=1))

    def report(self):
        self.print_all()
        for n, limit in self.all_limits().items():
            print(f"{n} thread{'s' * (n > 1)}: reads {limit['bytes_per_second'] / 1e9:.1f} GB/s, f32 {limit['flop_per_second'] / 1e9:.0f} GFLOP/s, "
                  f"bytes {limit['integer_op_per_second'] / 1e9:.0f} GOP/s")
        self.save()
        wrong = [(cell, name, e["share_of_best"]) for cell in self.cells for name, e in cell["engines"].items()
                 if e["share_of_best"] > MOST_SHARE and not self.options.allow_cached]
        for cell, name, share in wrong:
            print(f"error: {name} has a share of {share:.2f} for {cell['shape']} {cell['format']}, T = {cell['tokens']}, {cell['threads']} "
                  "threads: the machine's limits were measured too low, or the weights were in a cache (--pool)", file=sys.stderr)
        return 1 if wrong else 0


def parse(arguments):
    parser = argparse.ArgumentParser(prog="./run bench --quantized", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def words(option, default, known, help):
        parser.add_argument(option, nargs="+", default=default, help=help, metavar="NAME")
        return option.removeprefix("--"), known

    lists = [words("--shapes", ["granite-1b", "olmoe"], SHAPES, f"of: {', '.join(SHAPES)}"),
             words("--formats", ["int4", "int8", "nbits4"], FORMATS, f"of: {', '.join(FORMATS)}"),
             words("--engines", list(ENGINES), ENGINES, f"of: {', '.join(ENGINES)}"),
             words("--tokens", ["1", "16", "512"], None, "numbers of tokens"),
             words("--threads", [str(os.cpu_count())], None, "numbers of threads")]
    parser.add_argument("--pool", type=float, default=0.6, help="gigabytes of codes that a chain has at least")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn, at least")
    parser.add_argument("--rounds", type=int, default=None, help="turns of each engine per cell (default: 4; with --against 12)")
    parser.add_argument("--against", metavar="BUILD", help="a build folder of another moe-compile, or the program in it, that is measured as well")
    parser.add_argument("--against-flag", action="append", default=[], help="another option for that moe-compile")
    parser.add_argument("--allow-cached", action="store_true", help="do not fail where weights stay in a cache")
    parser.add_argument("--build", default=str(HERE.parent / "build"), help="build folder with the tools")
    parser.add_argument("--json", help="also write all figures to this file, after each cell")
    options = parser.parse_args(arguments)
    # Lists are written with commas, as for bench.py, or with spaces.
    for name, known in lists:
        values = [word for text in getattr(options, name) for word in text.split(",")]
        for value in values:
            if not (value in known if known else value.isdecimal() and int(value)):
                parser.error(f"--{name}: '{value}' is none of: {', '.join(known)}" if known else f"--{name}: '{value}' is no number")
        setattr(options, name, values if known else [int(value) for value in values])
    if options.against_flag and not options.against:
        parser.error("--against-flag is for the compiler of --against")
    options.against = options.against and find_build(options.against, parser)
    options.rounds = options.rounds or (12 if options.against else 4)
    return options


def main(arguments=None):
    options = parse(arguments)
    bench = Bench(options)
    try:
        complete = bench.measure()
    except KeyboardInterrupt:
        print(f"\nbench: interrupted; {len(bench.cells)} cells were measured" + (f" and are in {options.json}" if options.json and bench.cells else ""), file=sys.stderr)
        return 130
    return bench.report() or not complete


if __name__ == "__main__":
    interrupt_on_end()
    sys.exit(int(main()))
