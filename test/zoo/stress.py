#!/usr/bin/env python3
"""Runs programs of the zoo on many more inputs than the suite does, and compares with the numpy references.

    stress.py [SLUG...] [--seeds 3] [--sizes 0,1,2,3,17,64,257] [--work DIR] [--compile=-O3 --compile='-O1 --force-lowering=reference']

Every dynamic dimension takes each of the sizes that its contract allows while the others keep their example's value, and all of
them take each size together. Kinds of inputs: random; large and small numbers; exact ties; all tokens alike; zeros. Not a test of the
suite: it takes minutes. Exit status 1 if something differs; every difference is printed with its program, sizes, kind and seed.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
import zlib

import numpy as np
from safetensors.numpy import load_file, save_file

import zoolib

CLEAR = 2e-5  # decisions closer than this are not compared: f32 may decide otherwise


def kinds(contract, args, rng):
    """(name, inputs) for each kind."""
    yield "random", args
    for name, factor in (("large", 20.0), ("small", 1e-3)):
        yield name, {a["name"]: (np.asarray(args[a["name"]] * np.float32(factor)) if a["role"] == "input" and a["dtype"] == "f32" else args[a["name"]])
                     for a in contract.args}
    yield "ties", zoolib.tie(contract, args, rng, zeros=True)
    alike, zero = dict(args), dict(args)
    for a in contract.args:
        value, axes = args[a["name"]], [i for i, s in enumerate(a["shape"]) if s in contract.dynamic]
        if a["role"] != "input" or a["dtype"] != "f32" or not axes or not value.size:
            continue
        for axis in axes:
            value = np.repeat(np.take(value, [0], axis=axis), value.shape[axis], axis=axis)
        alike[a["name"]] = np.ascontiguousarray(np.round(value * 4) / 4)
        zero[a["name"]] = np.zeros_like(value)
    yield "alike", alike
    yield "zeros", zero


def all_sizes(contract, wanted):
    module = zoolib.reference_module(contract.slug)
    bounds = getattr(module, "SIZES", None)
    out = []
    if bounds:  # the dimensions depend on each other: the module knows which go together
        out += [contract.dims | s for s in bounds]
        if len(contract.dynamic) > 1 and not getattr(module, "FREE", False):
            return out
    for size in wanted:
        for d in contract.dynamic:
            if size >= contract.min[d]:
                out.append(contract.dims | {d: size})
        if len(contract.dynamic) > 1 and size < 100:
            out.append(contract.dims | {d: max(size, contract.min[d]) for d in contract.dynamic})
    unique = []
    for dims in out:
        if dims not in unique:
            unique.append(dims)
    return unique


def calls(contract, options):
    """(what, dims, inputs, expected)"""
    # Kinds whose decisions are ties of real numbers that are computed in several steps: rounding decides.
    left_open = getattr(zoolib.reference_module(contract.slug), "LEFT_OPEN", [])
    for dims in all_sizes(contract, options.sizes):
        for seed in range(options.seeds):
            made = set()
            for attempt in range(40):
                rng = np.random.default_rng(zlib.crc32(f"stress {contract.slug} {sorted(dims.items())} {seed} {attempt}".encode()))
                try:
                    args = zoolib.random_args(contract, dims, rng)
                except Exception as error:  # sizes that the reference's inputs cannot have
                    print(f"note {contract.slug} {dims}: no inputs: {error!r}")
                    break
                for kind, inputs in kinds(contract, args, rng):
                    if kind in made or kind in left_open:
                        continue
                    try:
                        want, margins = zoolib.run_reference(contract, inputs, dims)
                    except Exception as error:
                        made.add(kind)
                        print(f"note {contract.slug} {dims} {kind}: the reference stops: {error!r}")
                        continue
                    exact = kind in ("ties", "alike", "zeros")
                    if all(m >= CLEAR or (exact and m == 0) for m in margins):
                        made.add(kind)
                        yield f"{kind} seed {seed}", dims, inputs, want
                if len(made) == 6 - len(left_open) or (attempt >= 4 and max(dims.values()) > 100):
                    break


def stress(slug, options):
    contract = zoolib.Contract(slug)
    work = options.work / slug
    work.mkdir(parents=True, exist_ok=True)
    modules = []
    for i, words in enumerate(options.compile):
        module = work / f"m{i}.moe"
        run = subprocess.run(["moe-compile", str(zoolib.ROOT / f"{slug}.mlir"), "-o", str(module), *shlex.split(words)], capture_output=True, text=True)
        if run.returncode:
            print(f"FAIL {slug} {words}: does not compile\n{run.stderr[-600:]}")
            return 1
        modules.append((words, module))
    failed, count, base = 0, 0, contract.atol
    inputs, outputs = work / "in.safetensors", work / "out.safetensors"
    for what, dims, args, want in calls(contract, options):
        save_file(args, str(inputs))
        for i, (words, module) in enumerate(modules):
            outputs.unlink(missing_ok=True)
            count += 1
            run = subprocess.run(["moe-run", str(module), f"--inputs={inputs}", f"--outputs={outputs}", f"--threads={1 + (count // len(modules) + i) % 2}"],
                                 capture_output=True, text=True, timeout=300)
            sizes = {d: dims[d] for d in contract.dynamic}
            if run.returncode:
                complaints = [f"exit {run.returncode}: {run.stderr[-300:]}"]
            else:
                contract.atol = base
                if what.startswith("large"):  # differences of large numbers: as large as the numbers that cancel
                    contract.atol *= max([1.0, *(float(np.nanmax(np.abs(w))) for w in map(np.asarray, want.values()) if w.size)])
                complaints = zoolib.compare(contract, load_file(str(outputs)), want, dims)
            if complaints:
                failed += 1
                if failed <= options.show:
                    print(f"FAIL {slug} {words} {sizes} {what}: " + "; ".join(complaints))
    print(f"{'FAIL' if failed else 'ok'} {slug}: {count} calls, {failed} wrong", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slugs", nargs="*")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sizes", type=lambda s: [int(x) for x in s.split(",")], default=[0, 1, 2, 3, 17, 64, 257])
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("zoo-stress"))
    parser.add_argument("--compile", action="append", help="options of one module; repeatable")
    parser.add_argument("--show", type=int, default=4, help="differences to print per program")
    options = parser.parse_args()
    options.compile = options.compile or ["-O3", "-O1 --mcpu=x86-64-v3 --force-lowering=reference"]
    failed = 0
    for slug in options.slugs or zoolib.slugs():
        failed += stress(slug, options)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
