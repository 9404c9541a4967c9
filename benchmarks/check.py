#!/usr/bin/env python3
"""Measures what compiled layers are meant to reach (benchmarks/targets.py) and says what is met. Parts:
    layers      f32 beside the peers: shares of the roofline, ratios
    types       bf16 beside f32, and both beside a process that spins on one core
    routings    skewed routing beside uniform routing
    sweep       T = 1 to 40 and 20 more: no cliffs
    compile     time to compile a layer with next to no weights, and how it grows with the number of experts
    quantized   int4 and int8 (with --whole, or named in --parts)
All but the last, with one or two shapes, take five to seven minutes; --whole measures all shapes, which takes most of an hour. --from=FILE
compares what an earlier run has written there. Exit status: 0 if every target that was measured is met, else 1.
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile

import numpy as np

import bench
import quantized
import targets
from chain import SHAPES, write_model
from measure import compile_model, interrupt_on_end, processor_features, write
from options import parse

HERE = pathlib.Path(__file__).resolve().parent
COMMON = ["--pool=0.6", "--seconds=0.1", "--rounds=4"]
# name: options of bench.py for the selection, and for all.
PARTS = {
    "layers": ([*COMMON], [*COMMON, "--shapes=all"]),
    "types": ([*COMMON, "--shapes=granite-1b", "--tokens=1,16,64,512", "--dtypes=f32,bf16", "--beside=f32", "--engines=ours", "--disturb"],
              [*COMMON, "--shapes=all", "--tokens=1,16,64,512", "--dtypes=f32,bf16", "--beside=f32", "--engines=ours", "--disturb"]),
    "routings": ([*COMMON, "--shapes=granite-1b", "--tokens=16,128,512", "--routings=uniform,zipf,all-to-one", "--engines=ours"],
                 [*COMMON, "--shapes=granite-1b,olmoe,lfm2-8b", "--tokens=1,16,128,512", "--routings=uniform,zipf,all-to-one", "--engines=ours"]),
    "sweep": (["--shapes=granite-1b", "--sweep", "--threads=1", "--pool=0.35", "--seconds=0.06", "--rounds=3"],
              ["--shapes=granite-1b,olmoe", "--sweep", "--pool=0.35", "--seconds=0.06", "--rounds=3"]),
    "compile": ([], []),
    "quantized": (["--shapes=granite-1b", "--formats=int4,int8", "--tokens=1,512", "--pool=0.2"],
                  ["--shapes=granite-1b,olmoe", "--formats=int4,int8,mxfp4", "--tokens=1,512", "--pool=0.2"]),
}


class Finding:
    """One target, and the figures that it is about: (figure, where). `least`: they should not be below the bound, else not above."""

    def __init__(self, part, text, bound, figures, least=True):
        self.part, self.text, self.bound, self.least = part, text, bound, least
        self.figures = [(float(figure), where) for figure, where in figures]
        self.worst, self.where = (min if least else max)(self.figures)
        self.met = sum(figure >= bound if least else figure <= bound for figure, _ in self.figures)

    def json(self):
        return {"part": self.part, "target": self.text, "bound": self.bound, "at_least": self.least, "worst": self.worst, "where": self.where,
                "cells": len(self.figures), "cells_met": self.met, "met": self.met == len(self.figures)}

    def line(self):
        count = f"{self.met} of {len(self.figures)}" if len(self.figures) > 1 else ""
        return (f"{self.part:10}{self.text:68}{'>=' if self.least else '<='} {self.bound:<5g}{self.worst:8.3f}  {self.where:46}{count:11}"
                f"{'met' if self.met == len(self.figures) else 'MISSED'}")


HEADER = f"{'part':10}{'target':68}{'bound':8}{'worst':>8}  {'where':46}{'cells':11}"


def name_of(cell, *more):
    threads = cell["threads"]
    return ", ".join([cell["shape"], *more, f"T = {cell['tokens']}", f"{threads} thread{'s' * (threads > 1)}"])


def findings(part, text, bound, figures, least=True):
    figures = list(figures)
    return [Finding(part, text, bound, figures, least)] if figures else []


def check_layers(cells):
    shares = {}
    for cell in cells:
        bound = targets.SHARES.get(cell["tokens"])
        k = SHAPES[cell["shape"]][3]
        low, high = targets.FEW_ROWS
        few = cell["tokens"] == 128 and low <= 128 * k / cell["touched_experts"] <= high
        if bound:
            text = f"share of the roofline, f32, T = {cell['tokens']}" + (", 10 to 20 rows per expert" if few else "")
            shares.setdefault((text, targets.SHARE_OF_FEW_ROWS if few else bound), []).append((cell["engines"]["ours"]["share"], name_of(cell)))
    result = [Finding("layers", *key, figures) for key, figures in shares.items()]
    beside = [cell for cell in cells if "ratio" in cell]
    result += findings("layers", "best peer's time as a multiple of ours, end of the interval", targets.LEAST_AGAINST_PEER,
                       [(cell["ratio_95"][1], f"{name_of(cell)}: {cell['best_peer']}") for cell in beside])
    many = [cell["ratio"] for cell in beside if cell["tokens"] >= targets.MEAN_FROM_TOKENS]
    if many:
        result.append(Finding("layers", f"the same, geometric mean for T >= {targets.MEAN_FROM_TOKENS}", targets.MEAN_AGAINST_PEER,
                              [(np.exp(np.mean(np.log(many))), f"{len(many)} cells")]))
    return result


def pairs(cells, key, base):
    """(cell, its counterpart whose `key` is `base`)."""
    same = lambda a, b: all(a[k] == b[k] for k in ("shape", "tokens", "threads", "dtype", "routing") if k != key)
    for cell in cells:
        if cell[key] != base:
            for other in cells:
                if other[key] == base and same(cell, other):
                    yield cell, other


def has_amx():
    return "amx_bf16" in processor_features()


def check_types(cells):
    bounds = {**targets.BF16, **(targets.BF16_WITH_AMX if has_amx() else {})}
    by_tokens = {}
    for half in (cell for cell in cells if "against" in cell):
        start = max(t for t in bounds if t <= half["tokens"])
        by_tokens.setdefault(start, []).append((half["against"], name_of(half)))
    result = []
    for start, figures in sorted(by_tokens.items()):
        beyond = " and more" if start == max(targets.BF16) else ""
        result.append(Finding("types", f"times of f32 as a multiple of those of bf16, T = {start}{beyond}", bounds[start], figures))
    # With one thread the system moves it to the free core.
    most = max((cell["threads"] for cell in cells), default=1)
    beside = [cell for cell in cells if cell["disturbed_seconds"] and cell["threads"] == most > 1]
    for text, quantile in (("median", 0.5), ("p90", 0.9)):
        result += findings("types", f"{text} beside a spinning process, multiple of the median without", targets.DISTURBED[text],
                           [(np.quantile(cell["disturbed_seconds"], quantile) / cell["engines"]["ours"]["median"], name_of(cell, cell["dtype"]))
                            for cell in beside], least=False)
    return result


def check_routings(cells):
    return findings("routings", "share with skewed routing as a part of that with uniform", targets.SKEWED,
                    [(skewed["engines"]["ours"]["share"] / uniform["engines"]["ours"]["share"], name_of(skewed, skewed["routing"]))
                     for skewed, uniform in pairs(cells, "routing", "uniform")])


def check_sweep(cells):
    return findings("sweep", "fall of the share from one T to the next", targets.FALL,
                    [(fall, f"{name_of(cell)} (from {before['tokens']})") for fall, before, cell in bench.falls(cells)], least=False)


def check_compile(entries):
    return findings("compile", "seconds to compile a layer with next to no weights", targets.COMPILE_SECONDS,
                    [(entry["seconds"], entry["what"]) for entry in entries], least=False)


def check_quantized(cells):
    shares, ratios = {}, {}
    for cell in cells:
        for name, engine in cell["engines"].items():
            key = cell["format"], name, cell["tokens"]
            shares.setdefault(key, []).append((engine["share"], name_of(cell)))
            if "ratio" in engine:
                ratios.setdefault(key, []).append((engine["ratio"][0], name_of(cell)))
    describe = lambda key: f"{key[0]}, {'integer' if key[1] == 'fast' else 'exact'} products, T = {key[2]}"
    result = []
    for table, bounds, text in ((shares, targets.QUANTIZED_SHARES, "share, "), (ratios, targets.QUANTIZED_AGAINST_PEER, "onnxruntime's time, ")):
        result += [Finding("quantized", text + describe(key), bound, table[key]) for key, bound in bounds.items() if key in table]
    return result


def check_limits(parts):
    """That no engine is above the limits of its run."""
    return findings("all", "share of the most that was measured in the run", targets.MOST_SHARE,
                    [(engine["share_of_best"], f"{name_of(cell)}: {name}") for part in ("layers", "types", "routings", "sweep", "quantized")
                     if part in parts for cell in parts[part]["cells"] for name, engine in cell["engines"].items()], least=False)


def evaluate(parts):
    """The findings of what was measured: {part: {"cells", "limits"}}, as the file has it."""
    result = []
    for name, part in parts.items():
        cells = part["cells"]
        if name == "types":
            result += check_types(cells)
        else:
            result += {"layers": check_layers, "routings": check_routings, "sweep": check_sweep, "compile": check_compile,
                       "quantized": check_quantized}[name](cells)
    return result + check_limits(parts)


def measure_compile(build):
    """The best of four, in turn, of layers whose weights take no time."""
    build = pathlib.Path(build).resolve()
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="moe-bench-") as folder:
        model = pathlib.Path(folder) / "chain.onnx"
        write_model(model, "tiny", 1)
        for _ in range(4):
            for what, flags in (("one processor (--mcpu=x86-64-v3)", ["--mcpu=x86-64-v3"]), ("both versions (the default)", [])):
                phases = compile_model(build, model, pathlib.Path(folder) / "chain.moe", flags)
                total = sum(s for name, s in phases.items() if not name.startswith("llvm "))
                seconds[what] = min(total, seconds.get(what, total))
    return [{"what": what, "seconds": best} for what, best in seconds.items()]


def measure_part(name, options):
    """{"cells", "limits"}; what was measured before an interruption or a failure."""
    if name == "compile":
        return {"cells": measure_compile(options.build), "limits": {}}
    arguments = [*PARTS[name][options.whole], f"--build={options.build}"]
    if options.quick:
        arguments += ["--shapes=tiny", "--pool=0.001", "--seconds=0.003", "--rounds=2"]
    print(f"\n{name}: ./run bench {'--quantized ' if name == 'quantized' else ''}{' '.join(PARTS[name][options.whole])}", flush=True)
    if name == "quantized":
        run = quantized.Bench(quantized.parse(arguments))
    else:
        if name == "layers":
            arguments += [f"--{module}-python={python}" for module in ("torch", "openvino") if (python := getattr(options, f"{module}_python"))]
        run = bench.Bench(parse(arguments))
    run.measure()
    limits = run.all_limits()
    # As the file has it.
    return json.loads(json.dumps({"cells": run.cells, "limits": limits}))


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="./run bench --check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="all shapes")
    parser.add_argument("--parts", type=lambda text: text.split(","), help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--torch-python", help="a Python interpreter that has PyTorch, to be measured as a peer")
    parser.add_argument("--openvino-python", help="a Python interpreter that has OpenVINO, to be measured as a peer")
    parser.add_argument("--build", default=str(HERE.parent / "build"), help="build folder with the tools")
    parser.add_argument("--from", dest="source", metavar="FILE", help="measure nothing: compare what an earlier run has written")
    parser.add_argument("--json", help="also write all figures to this file, after each part")
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)  # for tests: sizes that take no time
    options = parser.parse_args(arguments)
    names = options.parts or [name for name in PARTS if options.whole or name != "quantized"]
    for name in names:
        if name not in PARTS:
            parser.error(f"'{name}' is none of: {', '.join(PARTS)}")
    parts, interrupted = {}, False
    if options.source:
        known = json.loads(pathlib.Path(options.source).read_text())["parts"]
        parts = {name: known[name] for name in names if name in known}
    try:
        for name in names if not options.source else []:
            parts[name] = measure_part(name, options)
            save(options, parts)
    except KeyboardInterrupt:
        interrupted = True
        print("\nbench: interrupted; the parts that are whole are compared", file=sys.stderr)
    result = evaluate(parts)
    print("\n" + HEADER)
    for finding in result:
        print(finding.line())
    missed = sum(finding.met < len(finding.figures) for finding in result)
    print(f"{len(result) - missed} of {len(result)} targets met")
    save(options, parts)
    return 130 if interrupted else 1 if missed or not result else 0


def save(options, parts):
    if options.json:
        write(options.json, json.dumps({"targets": [finding.json() for finding in evaluate(parts)], "parts": parts}, indent=1))


if __name__ == "__main__":
    interrupt_on_end()
    sys.exit(main())
