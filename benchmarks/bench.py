#!/usr/bin/env python3
"""Measures compiled MoE layers beside other engines, with the machine's own limits beside them.

Each cell is a chain of MoE layers with residuals, router included, each layer with its own weights, and several inputs
in turn, so that weights come from memory and not from a cache; times are per layer. All engines run the same weights, in
processes of their own that take turns, and must agree on the result. The roofline share of a cell is
    max(bytes of the experts that are touched / stream bandwidth, operations / peak) / median time
(where bf16 is multiplied by tile instructions, whose peak is not measured, only the bytes count)
in the median over its turns: moe-run --machine --probe measures the limits before and after each turn of each engine, since
those of a shared machine change within seconds. "of best" is the same with the most that was measured in the whole run; if
it is above 1.03, the limits are wrong, and the benchmark fails.

With --against=BUILD another build of the compiler takes part: its module of the same model, in its own runtime, on the same weights file if
both pack alike. Beside each cell stands how much faster ours is, as the median over the rounds, each round's turns with each other, and the
95 % interval of that; --against-flag gives options to its moe-compile only, so that a compiler can be measured against itself. With
--beside=TYPE the other module is ours with weights of that type (whose results differ by their rounding, and are not compared): how much
faster the cell's type is.

With --device=cuda the same chains run on the first GPU, ours and PyTorch's (--torch-python: its grouped product). The times of ours have the
way of the rows to the device and back in them, once per chain. Beside them stand the experts' products alone, by cuBLAS and by cuDNN where
these libraries are (vendor.py): with rows that stand sorted already, and their numbers on the host, a bound rather than a layer. The limits
are what a copy, and cuBLAS, reach in the same run; without cuBLAS those of the GPU's clocks and widths.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

import cuda
import estimate
import plot
import table
import vendor
from chain import SHAPES, chain_layers, count_rows, expert_bytes, layer_bytes, make_rows, routing_bias, write_model
from measure import (LIMITS, Cells, Engine, Failed, Probe, compile_model, count_inputs, figures, interrupt_on_end, least_seconds,
                     paired_interval, ratio_interval, take_turns, uses_tiles, write)
from options import FOREIGN, OWN, PRODUCTS, parse
from targets import FALL, MOST_SHARE

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = {"f32": 1e-3, "f16": 3e-2, "bf16": 1e-1}


def milliseconds(seconds):
    """In seven characters up to a hundred seconds."""
    return f"{seconds * 1e3:.3f}" if seconds < 1 else f"{seconds * 1e3:.1f}"


def falls(cells):
    """(how far our share falls, cell before, cell) for cells that differ from the one before in T only."""
    result = []
    for before, cell in zip(cells, cells[1:]):
        if all(before[key] == cell[key] for key in ("shape", "dtype", "routing", "threads")):
            result.append((before["engines"]["ours"]["share"] - cell["engines"]["ours"]["share"], before, cell))
    return result


class Bench(Cells):
    def __init__(self, options, gpu=None):
        """`gpu`: the limits of the device that runs the modules (cuda.py), or None for the processor."""
        self.options, self.gpu, self.start = options, gpu, time.monotonic()
        # Those of the shape that is measured.
        self.folder, self.engines = None, []
        self.tools = pathlib.Path(options.build).resolve() / "bin"
        self.limits, self.cells, self.told, self.probes, self.compiled = {}, [], set(), {}, []
        self.tiles = False
        # The limits that an earlier part of the run has measured.
        self.known = {}

    def measure_limits(self):
        if self.gpu:
            self.limits[1] = self.gpu
            self.gpu.update(self.measure_device())
        else:
            self.probes = {n: Probe(self.tools, n) for n in self.options.threads}
            for n in self.probes:
                self.keep_limits(n)

    def probe(self, threads):
        """The limits of this moment; those of a GPU do not change."""
        if self.gpu:
            return None
        now = self.probes[threads].ask()
        self.keep_limits(threads)
        return now

    def keep_limits(self, threads):
        best = self.probes[threads].best
        known = self.known.get(threads, {})
        self.limits[threads] = {**best, **{key: max(best[key], known.get(key, 0)) for key in LIMITS}}

    def measure_device(self):
        """What the device reaches in this run takes the place of what its clocks allow: the best of all measurements."""
        done = subprocess.run([sys.executable, HERE / "vendor.py", "peaks", *self.options.dtypes], capture_output=True, text=True)
        got = json.loads(done.stdout) if done.returncode == 0 else {"missing": done.stderr.strip().splitlines()[-1]}
        if "missing" in got:
            self.tell_missing("the device's peak", got["missing"])
        before = self.gpu.get("measured", {})
        measured = {"bytes_per_second": max(got.get("bytes_per_second", 0), before.get("bytes_per_second", 0)),
                    "flop_per_second": {**before.get("flop_per_second", {})}}
        for dtype, value in got.get("flop_per_second", {}).items():
            measured["flop_per_second"][dtype] = max(value, measured["flop_per_second"].get(dtype, 0))
        clocks = self.gpu.setdefault("clocks", {key: self.gpu[key] for key in ("bytes_per_second", "flop_per_second")})
        return {"measured": measured, "bytes_per_second": measured["bytes_per_second"] or clocks["bytes_per_second"],
                "flop_per_second": {**clocks["flop_per_second"], **measured["flop_per_second"]}}

    def make_models(self, shape, dtype, layers):
        """The chain, and the file for each engine."""
        model = self.folder / "chain.onnx"
        write_model(model, shape, layers, dtype)
        files = {name: model for name in self.options.engines}
        flags = [*self.device_flags(), *self.options.compile_flag]
        if "ours" in files:
            files["ours"] = self.compile(model, "ours", self.tools.parent, flags, shape, dtype)
        if self.options.against:
            files["other"] = self.compile(model, "other", self.options.against, flags + self.options.against_flag, shape, dtype, files.get("ours"))
        if self.options.beside not in (None, dtype):
            beside = self.folder / "beside.onnx"
            write_model(beside, shape, layers, self.options.beside)
            files["other"] = self.compile(beside, "other", self.tools.parent, flags, shape, self.options.beside)
        return model, files

    def compile(self, model, name, build, flags, shape, dtype, beside=None):
        module = self.folder / f"{name}.moe"
        seconds = compile_model(build, model, module, flags, beside)
        self.compiled.append({"shape": shape, "dtype": dtype, "engine": name, "seconds": seconds})
        if name == "ours":
            self.tiles = not self.gpu and uses_tiles(build, module)
        return module

    def device_flags(self):
        return ["--target=cuda", f"--chip={self.gpu['chip']}"] if self.gpu else []

    def count_rows(self, shape, dtype, model, inputs):
        """Files with the rows of each expert, by input and layer, and the mean number of experts that have any."""
        result = {}
        for (tokens, routing), (rows, bias) in inputs.items():
            counts = count_rows(model, SHAPES[shape][3], [np.load(file) for file in rows], np.load(bias), dtype)
            file = str(self.folder / f"counts-{tokens}-{routing}.npy")
            np.save(file, counts)
            result[tokens, routing] = file, float(np.count_nonzero(counts, axis=2).mean())
        return result

    def make_inputs(self, shape, dtype, layers):
        """Files of rows and biases. So many different rows that what they touch together is several times the cache."""
        inputs = {}
        cache = max(limit["cache_bytes"] for limit in self.limits.values())
        for routing in self.options.routings:
            bias = str(self.folder / f"bias-{routing}.npy")
            np.save(bias, routing_bias(shape, routing))
            for tokens in self.options.tokens:
                _, _, experts, k = SHAPES[shape]
                touches = layers * expert_bytes(shape, dtype) * min(experts, tokens * k)
                rows = []
                for i, x in enumerate(make_rows(shape, tokens, count_inputs(cache, touches))):
                    rows.append(str(self.folder / f"rows-{tokens}-{i}.npy"))
                    np.save(rows[-1], x)
                inputs[tokens, routing] = rows, bias
        return inputs

    def measure(self):
        """Everything. Returns whether all could be measured."""
        try:
            if self.options.resume and pathlib.Path(self.options.json).exists():
                self.resume()
            self.measure_limits()
            self.say(estimate.tell(self.options, self.limits))
            print(self.header(), flush=True)
            return self.measure_shapes()
        finally:
            self.end()

    def all_limits(self):
        return self.limits

    def measure_shapes(self):
        """All of them, each in a folder of its own, since models are large. Returns whether all could be measured."""
        failed = []
        pairs = [(shape, dtype) for shape in self.options.shapes for dtype in self.options.dtypes]
        for number, (shape, dtype) in enumerate(pairs, 1):
            wanted = [(n, t, r) for n in self.options.threads for r in self.options.routings for t in self.options.tokens
                      if not self.has_cell(shape, dtype, n, t, r)]
            if not wanted:
                self.say(f"{shape} {dtype} is in {self.options.json} already ({number} of {len(pairs)})")
                continue
            with tempfile.TemporaryDirectory(prefix="moe-bench-") as folder:
                self.folder = pathlib.Path(folder)
                try:
                    self.measure_shape(shape, dtype, f"({number} of {len(pairs)})")
                except Failed as why:
                    failed.append(f"{shape} {dtype}: {why}")
                    print(f"error: {failed[-1]}", file=sys.stderr, flush=True)
                finally:
                    for engine in self.engines:
                        engine.end()
                    self.engines = []
        for problem in failed if len(pairs) > 1 else []:
            print(f"error: not measured to the end: {problem}", file=sys.stderr)
        return not failed

    def has_cell(self, shape, dtype, threads, tokens, routing):
        want = {"shape": shape, "dtype": dtype, "threads": threads, "tokens": tokens, "routing": routing}
        return any(all(cell[key] == value for key, value in want.items()) for cell in self.cells)

    def say(self, text):
        """Progress, beside the table."""
        print(f"[{estimate.duration(time.monotonic() - self.start)}] {text}", file=sys.stderr, flush=True)

    def measure_shape(self, shape, dtype, place):
        options = self.options
        if self.gpu:
            self.measure_limits()
        layers = chain_layers(shape, options.pool)
        self.say(f"{shape} {dtype} {place}: {layers} layer{'s' * (layers > 1)} of {layer_bytes(shape, dtype) / 1e9:.2f} GB, written and compiled")
        model, files = self.make_models(shape, dtype, layers)
        inputs = self.make_inputs(shape, dtype, layers)
        counts = self.count_rows(shape, dtype, model, inputs)
        self.say(f"{shape} {dtype}: measured with {', '.join(files)}")
        for name in files:
            if name == "onnxruntime" and dtype == "bf16":
                continue  # its MoE operator has no bf16 on CPU
            python = getattr(options, FOREIGN[name] + "_python") if name in FOREIGN else sys.executable
            try:
                self.engines.append(Engine(name, python, files[name], shape, dtype, options.device, "ours" if name == "other" else None))
            except vendor.Missing as why:
                self.tell_missing(name, why)
        for threads in options.threads:
            for tokens, routing in inputs:
                if not self.has_cell(shape, dtype, threads, tokens, routing):
                    key = tokens, routing
                    self.measure_cell(self.engines, shape, dtype, layers, threads, key, inputs[key], counts[key])
            # What looks like a cliff may be a moment in which the machine was busy: both sides are measured again, up to three times.
            for _ in range(3 if self.options.sweep else 0):
                for cell in {id(cell): cell for fall, *pair in falls(self.cells) if fall > FALL for cell in pair}.values():
                    if cell["shape"] == shape and cell["threads"] == threads and cell["dtype"] == dtype:
                        key = cell["tokens"], cell["routing"]
                        self.measure_cell(self.engines, shape, dtype, layers, threads, key, inputs[key], counts[key], cell)
        if self.gpu:
            self.measure_limits()

    def tell_missing(self, name, why):
        if (name, str(why)) not in self.told:
            self.told.add((name, str(why)))
            print(f"{name} is not measured: {why}", flush=True)

    def measure_cell(self, engines, shape, dtype, layers, threads, key, files, counts, known=None):
        """Adds a cell, or measurements to a known one. Engines that cannot run it leave `engines`."""
        tokens, routing = key
        rows, bias = files
        counts_file, touched = counts
        hidden, inner, experts, k = SHAPES[shape]
        outputs = {}
        for engine in list(engines):
            output = str(self.folder / f"out-{engine.name}.npy")
            try:
                engine.ask(prepare=rows, bias=bias, counts=counts_file, threads=threads, output=output)
            except vendor.Missing as why:
                self.tell_missing(engine.name, why)
                engines.remove(engine)
                continue
            if engine.name not in PRODUCTS and not (engine.name == "other" and self.options.beside):
                outputs[engine.name] = np.load(output)
        for name, other in outputs.items():
            base, first = next(iter(outputs.items()))
            error = np.abs(other - first).max() / np.abs(first).max()
            if not error <= TOLERANCE[dtype]:
                raise Failed(f"T = {tokens}: {base} and {name} differ by {error:.2g}")
        seconds, turns = take_turns(engines, lambda: self.probe(threads), self.options.rounds, self.options.seconds, len(rows), layers)
        if known:
            for name, times in seconds.items():
                known["seconds"][name] += times
                known["turns"][name] += turns[name]
            self.finish(known)
            return print(self.line(known), flush=True)
        disturbed = self.measure_disturbed(engines, len(rows), layers) if self.options.disturb else None
        self.cells.append({
            "shape": shape, "dtype": dtype, "routing": routing, "tokens": tokens, "threads": threads, "layers": layers,
            "tiles": self.tiles, "touched_experts": touched, "bytes": touched * expert_bytes(shape, dtype),
            "flop": tokens * k * 6 * hidden * inner,
            "disturbed_seconds": disturbed, "seconds": seconds, "turns": turns,
        })
        self.finish(self.cells[-1])
        print(self.line(self.cells[-1]), flush=True)
        self.save()

    def save(self):
        if self.options.json:
            write(self.options.json, json.dumps({"options": self.settings(), "limits": self.limits, "compiled": self.compiled,
                                                 "cells": self.cells}, indent=1))

    def settings(self):
        """What all cells of a file have in common."""
        return {name: getattr(self.options, name) for name in ("device", "engines", "pool", "rounds", "seconds", "compile_flag", "beside")}

    def resume(self):
        """Takes the cells that an interrupted run left."""
        known = json.loads(pathlib.Path(self.options.json).read_text())
        if known.get("options") != self.settings():
            raise Failed(f"--resume: {self.options.json} is of a run with other options: {known.get('options')}")
        self.cells, self.compiled = known["cells"], known["compiled"]
        self.known = {int(n): limit for n, limit in known["limits"].items()}

    def measure_disturbed(self, engines, count, layers):
        """Our times while another process spins on one of the cores."""
        core = max(os.sched_getaffinity(0))
        spinner = subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
        try:
            ours = next(engine for engine in engines if engine.name == "ours")
            one = np.median(ours.ask(calls=count)["seconds"])
            return [t / layers for t in ours.ask(calls=max(10, math.ceil(2 * self.options.seconds / one)))["seconds"]]
        finally:
            spinner.kill()
            spinner.wait()

    def finish(self, cell):
        """The figures that depend on the limits, which may still rise."""
        limit = self.limits[cell["threads"]]
        peak = limit["flop_per_second"][cell["dtype"]] if self.gpu else limit["flop_per_second"]
        limit = {"bytes_per_second": limit["bytes_per_second"], "flop_per_second": peak}
        work = {"bytes_per_second": cell["bytes"], "flop_per_second": cell["flop"]}
        # Nobody measures the peak of tile instructions; that of f32 is no limit for them. So memory alone is.
        limited = {key: amount for key, amount in work.items() if key == "bytes_per_second" or not cell.get("tiles")}
        cell["roofline_seconds"] = least_seconds(limited, limit)
        cell["engines"] = {}
        for name, times in cell["seconds"].items():
            engine = cell["engines"][name] = figures(limited, times, cell["turns"].get(name), limit)
            engine.update({key: amount / engine["median"] for key, amount in work.items()})
        peers = [name for name in cell["engines"] if name not in OWN]
        cell["best_peer"] = min(peers, key=lambda name: cell["engines"][name]["median"], default=None)
        if cell["best_peer"] and "ours" in cell["engines"]:
            cell["ratio"], *cell["ratio_95"] = ratio_interval(cell["seconds"]["ours"], cell["seconds"][cell["best_peer"]])
        if "other" in cell["turns"]:
            cell["against"], *cell["against_95"] = paired_interval(cell["turns"]["ours"], cell["turns"]["other"])

    HEADER = (f"{'shape':17}{'type':>5}{'routing':>11}{'T':>6}{'thr':>4}{'ours ms':>9}{'p10':>8}{'p90':>8}{'GB/s':>7}{'GFLOP/s':>8}"
              f"{'share':>7}{'of best':>8}  {'best peer':12}{'ms':>8}{'share':>7}{'ratio':>7}  95 %")

    def header(self):
        return self.HEADER.replace("GFLOP/s", "TFLOP/s") if self.gpu else self.HEADER

    def rate(self, flop_per_second):
        return f"{flop_per_second / 1e12:8.2f}" if self.gpu else f"{flop_per_second / 1e9:8.0f}"

    def line(self, cell):
        ours = cell["engines"].get("ours")
        text = f"{cell['shape']:17}{cell['dtype']:>5}{cell['routing']:>11}{cell['tokens']:6}{cell['threads']:4}"
        if ours:
            text += (f"{milliseconds(ours['median']):>9}{milliseconds(ours['p10']):>8}{milliseconds(ours['p90']):>8}"
                     f"{ours['bytes_per_second'] / 1e9:7.1f}{self.rate(ours['flop_per_second'])}{ours['share']:7.2f}"
                     f"{ours['share_of_best']:8.2f}")
        if cell["best_peer"]:
            peer = cell["engines"][cell["best_peer"]]
            text += f"  {cell['best_peer']:12}{milliseconds(peer['median']):>8}{peer['share']:7.2f}"
        if "ratio" in cell:
            text += f"{cell['ratio']:7.2f}  {cell['ratio_95'][0]:.2f}-{cell['ratio_95'][1]:.2f}"
        if self.gpu:
            others = [name for name in cell["engines"] if name not in (*OWN, cell["best_peer"])]
            text += "".join(f"  {name} {cell['engines'][name]['median'] * 1e3:.3f} {cell['engines'][name]['share']:.2f}" for name in others)
        if "against" in cell:
            other = cell["engines"]["other"]
            low, high = cell["against_95"]
            text += f"  other {other['median'] * 1e3:.3f}{other['share']:6.2f}{cell['against']:7.3f}  {low:.3f}-{high:.3f}"
        if disturbed := cell["disturbed_seconds"]:
            text += (f"  disturbed: median {np.median(disturbed) / ours['median']:.2f}, "
                     f"p90 {np.quantile(disturbed, 0.9) / ours['median']:.2f} of the median")
        return text

    def report_sweep(self):
        found = falls(self.cells)
        worst = max(found, key=lambda fall: fall[0])
        print(f"largest fall of the share between neighbouring T: {worst[0]:.2f}, from T = {worst[1]['tokens']} to "
              f"{worst[2]['tokens']} ({worst[2]['shape']}, {worst[2]['threads']} threads)")
        wrong = [fall for fall in found if fall[0] > FALL]
        for fall, before, cell in wrong:
            print(f"error: the share falls by {fall:.2f} from T = {before['tokens']} to {cell['tokens']} ({cell['shape']} "
                  f"{cell['dtype']} {cell['routing']}, {cell['threads']} threads)", file=sys.stderr)
        return 1 if wrong else 0

    def report_against(self):
        factors = [cell["against"] for cell in self.cells if "against" in cell]
        what = f"{self.options.beside} weights" if self.options.beside else "the other compiler"
        if factors:
            print(f"times of {what} as a multiple of ours: geometric mean {np.exp(np.mean(np.log(factors))):.3f}, "
                  f"{min(factors):.3f} to {max(factors):.3f}")
        for entry in self.compiled:
            # The import and the link read and write weights.
            phases = {name: seconds for name, seconds in entry["seconds"].items() if name not in ("import", "link")}
            print(f"{entry['engine']} compiled {entry['shape']} {entry['dtype']} in {sum(phases.values()):.2f} s and the time for weights: " +
                  ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items() if seconds >= 0.005))

    def report(self):
        self.print_all()
        for limits, what in [(self.gpu["clocks"], "by its clocks"), (self.gpu["measured"], "measured")] if self.gpu else []:
            if limits["bytes_per_second"]:
                peaks = "".join(f", {name} {peak / 1e12:.0f} TFLOP/s" for name, peak in limits["flop_per_second"].items())
                print(f"{self.gpu['chip']}, {what}: {limits['bytes_per_second'] / 1e9:.0f} GB/s{peaks}")
        for n, limit in () if self.gpu else self.limits.items():
            print(f"{n} thread{'s' * (n > 1)}: reads {limit['bytes_per_second'] / 1e9:.1f} GB/s, "
                  f"f32 {limit['flop_per_second'] / 1e9:.0f} GFLOP/s")
        if ratios := [cell["ratio"] for cell in self.cells if "ratio" in cell]:
            print(f"geometric mean of the ratio to the best peer: {np.exp(np.mean(np.log(ratios))):.2f}; "
                  f"the least: {min(ratios):.2f}")
        if (self.options.against or self.options.beside) and self.cells:
            self.report_against()
        self.save()
        for file, draw in ((self.options.plot, plot.draw), (self.options.markdown, table.draw)) if self.cells else []:
            if file:
                write(file, draw(self.cells))
        wrong = [(cell, name) for cell in self.cells for name, e in cell["engines"].items() if e["share_of_best"] > MOST_SHARE and not self.options.allow_cached]
        for cell, name in wrong:
            print(f"error: {name} has a share of {cell['engines'][name]['share_of_best']:.2f} for {cell['shape']}, T = "
                  f"{cell['tokens']}, {cell['threads']} threads: the machine's limits were measured too low, or the "
                  f"weights were in a cache (--pool)", file=sys.stderr)
        swept = self.report_sweep() if self.options.sweep and falls(self.cells) else 0
        return 1 if wrong else swept


def main(arguments=None):
    options = parse(arguments, __doc__)
    gpu = None
    if options.device == "cuda":
        try:
            gpu = cuda.limits_of(cuda.read_attributes())
        except cuda.NoDevice as why:
            print(f"bench: {why}; nothing was measured", file=sys.stderr)
            return 1
    bench = Bench(options, gpu)
    try:
        complete = bench.measure()
    except Failed as why:
        print(f"bench: {why}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nbench: interrupted; {len(bench.cells)} cells were measured" +
              (f" and are in {options.json}, from where --resume goes on" if options.json and bench.cells else ""), file=sys.stderr)
        return 130
    return bench.report() or not complete


if __name__ == "__main__":
    interrupt_on_end()
    sys.exit(int(main()))
