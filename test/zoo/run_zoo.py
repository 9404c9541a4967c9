#!/usr/bin/env python3
"""Compiles programs of the zoo and runs them against the stored examples, the numpy references and themselves.

    run_zoo.py test/zoo/deepseekmoe.mlir ... --work DIR [--lowering NAME]   compile and run
    run_zoo.py --check-references [SLUG...]                                 references against the examples, no compiler

Each program is compiled with the lowerings that the compiler chooses, for the processor of this machine; then
  example      the stored inputs give the stored results;
  reference    other inputs and sizes give what the reference gives;
  ties         inputs with exact ties and rows that occur again and again give what the reference gives;
  permute D    permuting a dimension of all values permutes the results (PERMUTES of the reference);
  split D      two calls on the parts of a dimension give the parts of the results (SPLITS of the reference);
  poison D     NaN and infinity in some slices of such a dimension leave the results of the others as they are;
  threads      one and two threads give the same bits.
A program whose lowerings (lowerings.toml) are not all 'reference' is then compiled with that one forced, and the example, the
smallest and the largest size are run again (at -O0: the question is what it computes); --lowering does the same for others.
"""

import argparse
import pathlib
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

import zoolib


class Failure(Exception):
    pass


class Program:
    def __init__(self, path, work, compiler, runner, options):
        self.contract = zoolib.Contract(path.stem)
        self.work, self.runner = work, runner
        work.mkdir(parents=True, exist_ok=True)
        self.module = work / f"{path.stem}.moe"
        self.calls = 0
        self.command([compiler, str(path), "-o", str(self.module), *options])

    def command(self, words):
        run = subprocess.run(words, capture_output=True, text=True, timeout=300)
        if run.returncode:
            raise Failure(f"{' '.join(map(str, words))}\nexit code {run.returncode}\n{run.stdout}{run.stderr}")

    def __call__(self, args, threads=None, more=()):
        self.calls += 1
        inputs, outputs = self.work / "in.safetensors", self.work / "out.safetensors"
        outputs.unlink(missing_ok=True)
        save_file(args, str(inputs))
        more = [*more, f"--threads={threads}"] if threads else list(more)
        self.command([self.runner, str(self.module), f"--inputs={inputs}", f"--outputs={outputs}", *more])
        return load_file(str(outputs))

    def check(self, what, got, want, dims, only=None):
        complaints = zoolib.compare(self.contract, got, want, dims, only)
        if complaints:
            raise Failure(f"{what} ({', '.join(f'{d} = {dims[d]}' for d in self.contract.dynamic)}):\n  " + "\n  ".join(complaints))

    def example(self):
        args, want = zoolib.stored_example(self.contract)
        self.check("example", self(args, more=["--debug-memory"]), want, self.contract.dims)

    def reference(self, seed, all_sizes=True):
        sizes = zoolib.sizes(self.contract)
        if not all_sizes:
            sizes.sort(key=lambda dims: sum(dims[d] for d in self.contract.dynamic))
            sizes = [sizes[0], sizes[-1]]
        for dims in sizes:
            args, want = zoolib.draw(self.contract, dims, seed)
            self.check(f"reference, seed {seed}", self(args), want, dims)

    def ties(self, seed):
        dims = max(zoolib.sizes(self.contract), key=lambda d: sum(d[n] for n in self.contract.dynamic))
        args, want = zoolib.draw(self.contract, dims, seed, ties=True)
        self.check(f"ties, seed {seed}", self(args), want, dims)

    def large(self, dim):
        c = self.contract
        return c.dims | ({dim: max(19, c.min[dim])} if dim in c.dynamic else {})

    def permute(self, dim, seed):
        c, dims = self.contract, self.large(dim)
        args, _ = zoolib.draw(c, dims, seed)
        order = np.random.default_rng(seed).permutation(dims[dim])
        want = zoolib.permuted(c, self(args), c.results, dim, order)
        self.check(f"permute {dim}, seed {seed}", self(zoolib.permuted(c, args, c.args, dim, order)), want, dims)

    def split(self, dim, seed):
        c, dims = self.contract, self.large(dim)
        args, _ = zoolib.draw(c, dims, seed)
        whole, cut = self(args), dims[dim] // 3
        first, second = (self(zoolib.part(c, args, dim, *ends)) for ends in ((0, cut), (cut, dims[dim])))
        axis = {r["name"]: c.axes(r, dim)[0] for r in c.results if c.axes(r, dim)}
        joined = {n: np.concatenate([first[n], second[n]], axis=a) for n, a in axis.items()}
        self.check(f"split {dim}, seed {seed}", joined, whole, dims, only=set(axis))

    def poison(self, dim, seed):
        """NaN and infinity in the first two slices of the inputs: the others' results stay what they were."""
        c, dims = self.contract, self.large(dim)
        args, _ = zoolib.draw(c, dims, seed)
        names = {r["name"] for r in c.results if c.axes(r, dim)}
        want, got = self(args), self(zoolib.poisoned(c, args, dim))
        want, got = (zoolib.part(c, v, dim, 2, dims[dim], c.results) for v in (want, got))
        self.check(f"poison {dim}, seed {seed}", got, want, dims | {dim: dims[dim] - 2}, only=names)

    def threads(self, seed):
        dims = max(zoolib.sizes(self.contract), key=lambda d: sum(d[n] for n in self.contract.dynamic))
        args, _ = zoolib.draw(self.contract, dims, seed)
        one, two = self(args, threads=1), self(args, threads=2)
        for name in one:
            if one[name].tobytes() != two[name].tobytes():
                raise Failure(f"threads: '{name}' differs between one and two threads")


def run_program(path, options, lowering):
    name = f"{path.stem}{f' ({lowering})' if lowering else ''}"
    try:
        # The second time with the encoding that the compiler does not choose everywhere by itself.
        more = [f"--force-lowering={lowering}", "--force-encoding=dense", "-O0"] if lowering else []
        program = Program(path, options.work, options.compiler, options.runner, ["--mcpu=native", *more, *options.compile_option])
        module = zoolib.reference_module(path.stem)
        program.example()
        program.reference(options.seed, all_sizes=lowering is None)
        if lowering:
            print(f"ok {name}: {program.calls} calls")
            return True
        for dim in getattr(module, "PERMUTES", []):
            program.permute(dim, options.seed)
        for dim in getattr(module, "SPLITS", []):
            program.split(dim, options.seed)
            program.poison(dim, options.seed)
        if getattr(module, "TIES", True):
            program.ties(options.seed)
        program.threads(options.seed)
    except Failure as failure:
        print(f"FAIL {name}: {failure}")
        return False
    print(f"ok {name}: {program.calls} calls")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", help="programs, or slugs with --check-references")
    parser.add_argument("--check-references", action="store_true", help="compare the references with the stored examples")
    parser.add_argument("--compiler", default="moe-compile")
    parser.add_argument("--runner", default="moe-run")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("zoo-work"), help="folder for modules and tensors")
    parser.add_argument("--lowering", action="append", help="also compile with this lowering forced; repeatable")
    parser.add_argument("--compile-option", action="append", default=[], help="passed to the compiler; repeatable")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    failed = 0
    if options.check_references:
        for slug in options.programs or zoolib.slugs():
            try:
                complaints = zoolib.check_reference(slug)
                contract = zoolib.Contract(slug)
                dims = min(zoolib.sizes(contract), key=lambda d: sum(d[n] for n in contract.dynamic))
                _, want = zoolib.draw(contract, dims, options.seed)
                complaints += zoolib.compare(contract, want, want, dims)
            except (ImportError, ValueError) as error:
                complaints = [str(error)]
            print(f"{'FAIL' if complaints else 'ok'} {slug}{': ' if complaints else ''}{'; '.join(complaints)}")
            failed += bool(complaints)
    else:
        for path in map(pathlib.Path, options.programs):
            other = ["reference"] if set(zoolib.lowerings(path.stem)) - {"reference"} else []
            for lowering in [None, *(other if options.lowering is None else options.lowering)]:
                failed += not run_program(path, options, lowering)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
