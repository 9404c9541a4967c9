#!/usr/bin/env python3
"""Random routings and bodies: every lowering of moe.apply gives the pair lists of the numpy reference exactly, its values
within the tolerance, and NaN and Inf in the same places.

    lowerings.py --work DIR [--seed N] [--programs N]      --seed and --only reproduce one failure

One module per lowering, two of them with routings stored dense where there is a choice, holds all programs as functions; sizes are random, T among 0, 1, 2, 17, 33; the weights of the
routing are normal, tied, all for one expert, or hold NaN and -inf.
"""

import argparse
import pathlib
import random
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

import reference as ref

LOWERINGS = ["reference", "fused", "pairwise", "dense"]
ATOL, RTOL = 2e-5, 1e-4  # f32 against a reference in double precision


class Program:
    """A chain of routed ops and an apply: its text, and the same in numpy."""

    def __init__(self, name, rng):
        self.name, self.rng = name, rng
        self.experts = rng.choice([1, 2, 3, 4, 6, 8])
        self.width, self.hidden, self.columns = rng.choice([1, 4, 7, 16]), rng.choice([3, 8, 17]), rng.choice([1, 5, 16])
        self.steps, self.text = [], []
        self.current, self.counter, self.slots = "", 0, None
        self.per_expert = None
        self.start()
        for _ in range(rng.randint(1, 3)):
            rng.choice([self.top_k, self.top_k, self.top_k_token, self.top_k_all, self.limit, self.select, self.scale])()
        if rng.random() < 0.7:
            self.normalize()
        self.text.append(self.apply())

    # The routing so far.

    def type(self):
        bounds = f", max_per_row = {self.slots}" if self.slots is not None else ""
        bounds += f", max_per_expert = {self.per_expert}" if self.per_expert is not None else ""
        return f"!moe.routing<?x{self.experts}xf32{bounds}>"

    def step(self, text, function):
        """`text` with $in and $type of the operand; the type attributes of self are those of the result afterwards."""
        self.counter += 1
        result = f"%r{self.counter}"
        self.text.append(f"  {result} = " + text.replace("$in", self.current))
        self.current = result
        self.steps.append(function)

    def start(self):
        kind = self.rng.choice(["route", "route", "mask", "slots", "concat"])
        if kind == "slots":  # an expert may stand in a row more than once, and numbers may be out of range
            self.slots = self.rng.choice([1, 2, 5])
            self.inputs = {"weights": (None, self.slots), "numbers": (None, self.slots)}
            self.step(
                f"moe.from_slots %numbers, %weights experts({self.experts}) : tensor<?x{self.slots}xi32>, tensor<?x{self.slots}xf32>",
                lambda _, a: ref.from_slots(a["numbers"], a["weights"], self.experts),
            )
            return
        self.inputs = {"weights": (None, self.experts)}
        if kind == "mask":
            self.inputs["mask"] = (None, self.experts)
            self.step(
                f"moe.route %weights mask(%mask : tensor<?x{self.experts}xi1>) : tensor<?x{self.experts}xf32>",
                lambda _, a: ref.route(a["weights"], a["mask"]),
            )
            return
        first = self.experts
        self.step(f"moe.route %weights : tensor<?x{first}xf32>", lambda _, a: ref.route(a["weights"]))
        if kind == "concat":
            k = self.rng.randint(1, first)
            self.text.append(f"  %few = moe.top_k {self.current} k({k}) : {self.type()}")
            few, old = f"!moe.routing<?x{first}xf32, max_per_row = {k}>", self.type()
            self.experts, self.slots = 2 * first, k + first
            self.step(
                f"moe.concat %few, $in : {few}, {old}", lambda r, a: ref.concat(ref.top_k_rows(r, k), r, first)
            )

    def amount(self, name, value):
        """The amount as an attribute or as a value of run time, and whether it is the former."""
        if self.rng.random() < 0.5:
            return str(value), True
        self.text.append(f"  %{name}{self.counter} = arith.addi %c0, %c{max(value, 0)} : index")
        return f"%{name}{self.counter} : index", False

    def top_k(self):
        k, old, experts = self.rng.randint(0, self.experts + 1), self.type(), self.experts
        highest, form = self.rng.random() < 0.3, self.rng.choice(["plain", "plain", "key", "groups", "keep"])
        text, static = self.amount("k", k)
        by = more = ""
        options = {"highest": highest, "experts": experts}
        groups = next((g for g in (3, 2) if experts % g == 0 and experts > g), None)
        if form == "key":
            self.inputs["key"] = (None, experts)
            by = f" by(%key : tensor<?x{experts}xf32>)"
        elif form in ("groups", "keep") and groups:
            options["groups"] = groups
            more = f" groups({groups})"
            if form == "keep":
                options["keep"], options["score"] = self.rng.randint(1, groups), self.rng.choice(["max", "sum2"])
                more += f" keep({options['keep']}) score({options['score']})"
        ties = " ties(highest)" if highest else ""
        if static:
            bound = max(k, 0) * (options.get("groups", 1) if "keep" not in options else 1)
            self.slots = min(bound, self.slots if self.slots is not None else experts)
        use_key = form == "key"
        self.step(
            f"moe.top_k $in{by} k({text}){more}{ties} : {old}",
            lambda r, a: ref.top_k_rows(r, k, by=a["key"] if use_key else None, **options),
        )

    def top_k_token(self):
        k, old, highest = self.rng.randint(0, 6), self.type(), self.rng.random() < 0.3
        text, static = self.amount("k", k)
        if static:
            self.per_expert = k if self.per_expert is None else min(k, self.per_expert)
        ties = " ties(highest)" if highest else ""
        self.step(
            f"moe.top_k $in k({text}) axis(token){ties} : {old}",
            lambda r, a: ref.top_k_experts(r, [k] * self.experts, self.experts, highest),
        )

    def top_k_all(self):
        k, highest = self.rng.randint(0, 20), self.rng.random() < 0.3
        text, static = self.amount("k", k)
        ties, old = " ties(highest)" if highest else "", self.type()
        if static:
            slots = self.slots if self.slots is not None else self.experts
            self.slots = k if k < slots else self.slots
            self.per_expert = k if self.per_expert is None else min(k, self.per_expert)
        self.step(f"moe.top_k $in k({text}) axis(all){ties} : {old}", lambda r, a: ref.top_k_all(r, k, highest))

    def limit(self):
        order, old = self.rng.choice(["row", "rank_then_row", "key"]), self.type()
        caps = [self.rng.randint(0, 5)] * self.experts
        if self.rng.random() < 0.3:
            caps = [self.rng.randint(0, 5) for _ in caps]
            name = f"%caps{self.counter}"
            self.text.append(f"  {name} = arith.constant dense<{caps}> : tensor<{len(caps)}xindex>")
            text = f"{name} : tensor<{len(caps)}xindex>"
        else:
            text, static = self.amount("cap", caps[0])
            if static:
                self.per_expert = caps[0] if self.per_expert is None else min(caps[0], self.per_expert)
        self.step(
            f"moe.limit $in cap({text}) order({order}) : {old}", lambda r, a: ref.limit(r, caps, order, self.experts)
        )

    def select(self):
        if self.rng.random() < 0.5:
            body = "%in = arith.cmpf ole, %before, %half : f32"
            keep = lambda key, rank, before: bool(before <= np.float32(0.5))
        else:
            body = "%in = arith.cmpi eq, %rank, %c1 : index"
            keep = lambda key, rank, before: rank == 1
        self.step(
            "moe.select $in {\n  ^bb0(%k: f32, %rank: index, %before: f32, %row: index, %expert: index):\n    "
            f"{body}\n    moe.yield %in : i1\n  }} : {self.type()}",
            lambda r, a: ref.select(r, keep),
        )

    def scale(self):
        self.step(
            "moe.map $in {\n  ^bb0(%w: f32, %row: index, %expert: index):\n    %d = arith.mulf %w, %half : f32\n"
            f"    moe.yield %d : f32\n  }} : {self.type()}",
            lambda r, a: [[(e, np.float32(w * np.float32(0.5))) for e, w in row] for row in r],
        )

    def normalize(self):
        by, axis = self.rng.choice(["sum", "softmax", "max"]), self.rng.choice(["expert", "expert", "token", "all"])
        eps = 0.25 if by != "softmax" and self.rng.random() < 0.3 else 0.0
        text = f" eps({eps})" if eps else ""
        self.step(
            f"moe.normalize $in by({by}) axis({axis}){text} : {self.type()}",
            lambda r, a: ref.normalize(r, by, axis, eps, self.experts),
        )

    # The apply.

    def apply(self):
        e, d, f, c, rng = self.experts, self.width, self.hidden, self.columns, self.rng
        self.weighted = rng.choice(["none", "after", "after", "before"])
        self.capacity = rng.randint(0, 4)
        self.gated, self.bias, self.after = rng.random() < 0.5, rng.random() < 0.5, rng.choice(["", "center"])
        self.transposed = rng.random() < 0.3
        self.modes = ["sum"] + [m for m in ["mean", "max", "dense", "buckets"] if rng.random() < 0.5]
        self.params = {"u": (e, f, d) if self.transposed else (e, d, f), "v": (e, f, c)}
        if self.gated:
            self.params["g"] = self.params["u"]
        if self.bias:
            self.params |= {"bu": (e, f), "bv": (e, c)}
        mlir = lambda shape: "tensor<" + "".join(f"{'?' if s is None else s}x" for s in shape) + "f32>"
        arguments = ["%x: " + mlir((None, d))]
        for name, shape in self.inputs.items():
            arguments.append(f"%{name}: " + mlir(shape).replace("f32", {"numbers": "i32", "mask": "i1"}.get(name, "f32")))
        arguments += [f"%{name}: {mlir(shape)}" for name, shape in self.params.items()]
        arguments = [f'{a} {{moe.name = "{a[1:a.index(":")]}"}}' for a in arguments]
        parts = [f"%{name}e: {mlir(shape[1:])}" for name, shape in self.params.items()]

        body = ["%n = tensor.dim %rows, %c0 : " + mlir((None, d)), f"%zf = tensor.splat %zero[%n] : {mlir((None, f))}",
                f"%zc = tensor.splat %zero[%n] : {mlir((None, c))}"]

        def up(result, bank):
            maps = ""
            if self.transposed:
                maps = " indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>]"
            body.append(f"{result} = linalg.matmul{maps} ins(%rows, {bank} : {mlir((None, d))}, {mlir(self.params['u'][1:])}) "
                        f"outs(%zf : {mlir((None, f))}) -> {mlir((None, f))}")

        def bias(result, value, vector, size):
            body.append(f"{result}b = linalg.broadcast ins({vector} : tensor<{size}xf32>) outs({value} : {mlir((None, size))}) dimensions = [0]")
            body.append(f"{result} = arith.addf {value}, {result}b : {mlir((None, size))}")
            return result

        up("%a", "%ue")
        a = bias("%ab", "%a", "%bue", f) if self.bias else "%a"
        if self.gated:
            up("%q", "%ge")
            body.append(f"%h = linalg.map ins({a}, %q : {mlir((None, f))}, {mlir((None, f))}) outs(%zf : {mlir((None, f))}) (%p: f32, %s: f32, %o: f32) {{\n"
                        "      %m = arith.negf %p : f32\n      %ex = math.exp %m : f32\n      %den = arith.addf %ex, %one : f32\n"
                        "      %si = arith.divf %p, %den : f32\n      %pr = arith.mulf %si, %s : f32\n      linalg.yield %pr : f32\n    }")
        else:
            body.append(f"%h = arith.maximumf {a}, %zf : {mlir((None, f))}")
        body.append(f"%y = linalg.matmul ins(%h, %ve : {mlir((None, f))}, {mlir((f, c))}) outs(%zc : {mlir((None, c))}) -> {mlir((None, c))}")
        y = bias("%yb", "%y", "%bve", c) if self.bias else "%y"
        if self.after == "center":  # a reduction within each row, and a use of it
            body += [
                "%zs = tensor.splat %zero[%n] : tensor<?xf32>",
                f"%total = linalg.reduce ins({y} : {mlir((None, c))}) outs(%zs : tensor<?xf32>) dimensions = [1] (%p: f32, %s: f32) {{ %t = arith.addf %p, %s : f32  linalg.yield %t : f32 }}",
                f"%spread = linalg.broadcast ins(%total : tensor<?xf32>) outs(%zc : {mlir((None, c))}) dimensions = [1]",
                f"%centered = arith.addf {y}, %spread : {mlir((None, c))}",
            ]
            y = "%centered"
        outs = ", ".join(f"{m}(%c{self.capacity})" if m == "buckets" else m for m in self.modes)
        types = [{"dense": mlir((None, e, c)), "buckets": mlir((e, None, c))}.get(m, mlir((None, c))) for m in self.modes]
        names = [f"%out_{m}" for m in self.modes]
        operand_types = [self.type(), mlir((None, d))] + [mlir(s) for s in self.params.values()]
        results = ["%idx", "%w", "%load"] + names
        slots = self.slots if self.slots is not None else e
        result_types = [f"tensor<?x{slots}xi32>", f"tensor<?x{slots}xf32>", f"tensor<{e}xi32>"] + types
        attributes = ", ".join(f'{t} {{moe.name = "{r[1:]}"}}' for r, t in zip(results, result_types))
        constants = "".join(f"  %c{i} = arith.constant {i} : index\n" for i in range(21))
        head = (f"func.func @{self.name}({', '.join(arguments)})\n    -> ({attributes}) {{\n{constants}"
                "  %zero = arith.constant 0.0 : f32\n  %half = arith.constant 0.5 : f32\n  %one = arith.constant 1.0 : f32\n")
        self.text.insert(0, head.rstrip("\n"))
        banks = ", ".join(f"%{name}" for name in self.params)
        return (f"  {', '.join(names)} = moe.apply {self.current} rows(%x) experts({banks}) weighted({self.weighted}) out({outs})\n"
                f"      : {', '.join(operand_types)} -> ({', '.join(types)}) {{\n  ^bb0(%rows: {mlir((None, d))}, {', '.join(parts)}):\n    "
                + "\n    ".join(body) + f"\n    moe.yield {', '.join([y] * len(names))} : {', '.join([mlir((None, c))] * len(names))}\n  }}\n"
                f"  %idx, %w = moe.to_slots {self.current} : {self.type()}\n"
                f"  %load = moe.counts {self.current} per(expert) : {self.type()}\n"
                f"  return {', '.join(results)} : {', '.join(result_types)}\n}}")

    def body(self, args):
        """The body in double precision."""

        def run(rows, e):
            p = {name: args[name][e].astype(np.float64) for name in self.params}
            flip = (lambda m: m.T) if self.transposed else (lambda m: m)
            with np.errstate(all="ignore"):
                a = rows @ flip(p["u"]) + (p["bu"] if self.bias else 0.0)
                h = a / (1 + np.exp(-a)) * (rows @ flip(p["g"])) if self.gated else np.maximum(a, 0)
                y = h @ p["v"] + (p["bv"] if self.bias else 0.0)
                return y + y.sum(axis=1, keepdims=True) if self.after else y

        return run

    def arguments(self, tokens, mode, gen):
        def numbers(shape):
            w = gen.standard_normal(shape).astype(np.float32)
            if mode == "ties":
                w = gen.integers(0, 3, shape).astype(np.float32)
            elif mode == "one" and shape[1]:
                w[:, gen.integers(shape[1])] += 50
            elif mode == "special":
                w[gen.random(shape) < 0.15] = np.nan
                w[gen.random(shape) < 0.15] = -np.inf
                w[gen.random(shape[0]) < 0.2] = -np.inf
            return w

        args = {"x": gen.standard_normal((tokens, self.width)).astype(np.float32)}
        for name, (_, size) in self.inputs.items():
            shape = (tokens, size)
            if name == "numbers":
                args[name] = gen.integers(-2, self.experts + 1, shape).astype(np.int32)
                if mode == "one":
                    args[name][:] = self.experts - 1
            elif name == "mask":
                args[name] = gen.random(shape) < 0.6
            else:
                args[name] = numbers(shape)
        for name, shape in self.params.items():
            args[name] = (gen.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) == 3 else 1)).astype(np.float32)
        return args

    def expected(self, args):
        routing = None
        with np.errstate(all="ignore"):
            for step in self.steps:
                routing = step(routing, args)
            slots = self.slots if self.slots is not None else self.experts
            indices, weights = ref.to_slots(routing, slots)
            load = np.bincount(indices[indices >= 0], minlength=self.experts).astype(np.int32)
            out = ref.apply(routing, args["x"], self.body(args), self.experts, self.columns, self.weighted, self.capacity)
        return {"idx": indices, "w": weights, "load": load} | {f"out_{m}": out[m] for m in self.modes}


def compare(name, got, want):
    if got.shape != want.shape:
        return f"{name}: shape {got.shape}, expected {want.shape}"
    if got.dtype == np.int32:
        bad = got != want
    else:
        finite = np.isfinite(want)
        with np.errstate(all="ignore"):
            same = np.where(np.isnan(want), np.isnan(got), got == want.astype(np.float32))
            close = np.abs(got.astype(np.float64) - want) <= ATOL + RTOL * np.abs(want)
        bad = ~np.where(finite, close, same)
    if not bad.any():
        return None
    at = tuple(int(i[0]) for i in np.nonzero(bad))
    return f"{name}{list(at)}: got {got[at]}, expected {want[at]}; {int(bad.sum())} of {bad.size} differ"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="moe-compile")
    parser.add_argument("--runner", default="moe-run")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", type=int, default=6)
    parser.add_argument("--only", help="one program")
    parser.add_argument("--lowerings", nargs="*", default=LOWERINGS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}")

    programs = [Program(f"p{i}", random.Random(options.seed * 1000 + i)) for i in range(options.programs)]
    programs = [p for p in programs if options.only in (None, p.name)]
    source = options.work / "programs.mlir"
    source.write_text("\n\n".join("\n".join(p.text) for p in programs) + "\n")

    def command(words):
        run = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=120)
        if run.returncode:
            sys.exit(f"{' '.join(map(str, words))}\nexit code {run.returncode}\n{run.stdout}{run.stderr}")

    modules = {}
    for lowering in options.lowerings:
        modules[lowering] = options.work / f"{lowering}.moe"
        encoding = "dense" if lowering in ("fused", "dense") else "slots"
        command([options.compiler, source, "-o", modules[lowering], f"--force-lowering={lowering}",
                 f"--force-encoding={encoding}", "--quiet", "--mcpu=native",
                 "-O", "1" if lowering == "fused" else "0"])  # 1: the kernels of grouped matmuls

    failures = 0
    inputs, outputs = options.work / "in.safetensors", options.work / "out.safetensors"
    cases = [(17, "normal"), (33, "one"), (17, "ties"), (17, "special"), (2, "ties"), (1, "normal"), (0, "normal")]
    for program in programs:
        for number, (tokens, mode) in enumerate(cases):
            args = program.arguments(tokens, mode, np.random.default_rng([options.seed, int(program.name[1:]), number]))
            want = program.expected(args)
            save_file(args, str(inputs))
            for lowering, module in modules.items():
                outputs.unlink(missing_ok=True)
                command([options.runner, module, f"--function={program.name}", f"--inputs={inputs}", f"--outputs={outputs}"])
                got = load_file(str(outputs))
                complaints = [text for name in want if (text := compare(name, got[name], want[name]))]
                if complaints:
                    failures += 1
                    print(f"{program.name}, {lowering}, T = {tokens}, {mode}:\n  " + "\n  ".join(complaints))
    if failures:
        sys.exit(f"{failures} failures; again with --seed {options.seed} --only NAME, programs in {source}")
    print(f"{len(programs)} programs, {len(cases)} inputs, {len(modules)} lowerings agree with the reference")


if __name__ == "__main__":
    main()
