#!/usr/bin/env python3
"""The ONNX package's own backend node tests, compiled and run.

    node_tests.py FOLDER [--shard=I/N] [--refused=FILE] [--only=REGEX] [--ops=all] [--expanded]

A case belongs to the test if every operator in it is in the table of the compiler (moe-translate --list-onnx-operators).
It passes, is wrong, or is refused with a diagnostic that names its node. Refused cases must be those listed in FILE
(lines "case  part of the reason"); everything else fails the test. Many cases are compiled at once: one function each.
"""
import argparse
import os
import re
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

sys.path.insert(0, os.path.join(os.environ["MOE_SOURCE"], "tools/moe-verify"))
import moe_runtime  # noqa: E402

BATCH = 60
# Inputs that say what shape a result has. Exporters write constants, or arithmetic on shapes: the tests' own way, a
# tensor from outside, is none that a model has.
SHAPE_INPUTS = {
    "Reshape": [1], "Expand": [1], "Tile": [1], "Slice": [1, 2, 3, 4], "Squeeze": [1], "Unsqueeze": [1], "Split": [1],
    "TopK": [1], "OneHot": [1], "ConstantOfShape": [0], "Range": [0, 1, 2], "CumSum": [1], "CumProd": [1],
    "Pad": [1, 3], "CenterCropPad": [1], **{f"Reduce{k}": [1] for k in (
        "Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")},
}
NARROW = [np.dtype(getattr(ml_dtypes, name)) for name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")]


def collect():
    """All node tests of the package, without the warnings of their making."""
    from onnx.backend.test.case.node import collect_testcases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return collect_testcases(None)


def operators():
    """The names in the compiler's table."""
    table = subprocess.run(["moe-translate", "--list-onnx-operators"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\| ([\w.]+) \|", table, re.M)) - {"operator"}


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from all_nodes(inner)


def name_of(node):
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def fix(graph, name, array):
    """Makes an input of the graph a constant of it."""
    graph.initializer.append(numpy_helper.from_array(array, name))
    left = [info for info in graph.input if info.name != name]
    del graph.input[:]
    graph.input.extend(left)


def widen(graph, info):
    """A result of less than a byte an element leaves as what holds its numbers."""
    to = {TensorProto.FLOAT4E2M1: TensorProto.FLOAT, TensorProto.UINT4: TensorProto.UINT8,
          TensorProto.UINT2: TensorProto.UINT8}.get(info.type.tensor_type.elem_type, TensorProto.INT8)
    for node in graph.node:
        node.output[:] = ["narrow_" + info.name if name == info.name else name for name in node.output]
    graph.node.append(onnx.helper.make_node("Cast", ["narrow_" + info.name], [info.name], to=to))
    info.type.tensor_type.elem_type = to


def prepare(case, folder):
    """Writes the model, inputs that are shapes as constants; returns the inputs that are left, or None."""
    inputs, outputs = ([as_array(x) for x in side] for side in case.data_sets[0])
    if not all(isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind not in "OUS" for x in [*inputs, *outputs]):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    named = {info.name: np.asarray(x) for info, x in zip(graph.input, inputs)}
    # What is narrower than a byte is never an input of a model, only a weight.
    narrow = [name for name, array in named.items() if array.dtype in NARROW]
    for name in narrow:
        fix(graph, name, named.pop(name))
    for info, x in zip(graph.output, outputs):
        if np.asarray(x).dtype in NARROW:
            widen(graph, info)
    for node in graph.node:
        # Names in diagnostics are how a refusal is known to be one.
        node.name = node.name or case.name
        for i in SHAPE_INPUTS.get(node.op_type, []):
            if i < len(node.input) and node.input[i] in named:
                fix(graph, node.input[i], named.pop(node.input[i]))
    onnx.save(model, os.path.join(folder, case.name + ".onnx"))
    return named


def as_array(value):
    """Some cases give tensors as the file format has them; sequences and the like stay what they are."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def same(got, want, case):
    """None, or what differs."""
    want = np.asarray(want)
    if want.dtype in NARROW:
        want = want.astype(got.dtype)
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind in "biu":
        good = got == want
    else:
        wide = [x.astype(np.float64) for x in (got, want)]
        # As in the package's own runner: two units in the last place of bf16.
        rtol = max(case.rtol, 2**-6) if want.dtype == np.dtype(ml_dtypes.bfloat16) else case.rtol
        with np.errstate(invalid="ignore"):
            good = np.isclose(*wide, rtol=rtol, atol=case.atol, equal_nan=True)
    if np.all(good):
        return None
    at = np.unravel_index(np.argmin(good), want.shape)
    return f"at {[int(i) for i in at]}: {got[at]} instead of {want[at]}, {np.count_nonzero(~good)} of {good.size} differ"


class Runner:
    def __init__(self, folder):
        self.folder = folder
        self.library = moe_runtime.Library(os.path.join(os.environ["MOE_BUILD"], "lib/libmoe_runtime.so"))
        self.outcome = {}  # case name: (kind, text)

    def batch(self, cases, label):
        """cases: (case, inputs) pairs."""
        files = [os.path.join(self.folder, c.name + ".onnx") for c, _ in cases]
        merged = os.path.join(self.folder, label + ".mlir")
        done = subprocess.run(["moe-translate", "--import-onnx", "--lower", "--merge", "--quiet", *files, "-o", merged],
                              capture_output=True, text=True)
        refused = set(re.findall(r"([\w-]+)\.onnx: refused", done.stderr))
        imported = set(re.findall(r"([\w-]+)\.onnx: imported", done.stderr))
        for case, _ in cases:
            if case.name in refused:
                reason = re.search(rf"(?:/{re.escape(case.name)}\.onnx|\b{re.escape(case.name)}\b)[^\n]*?error: ([^\n]*)",
                                   done.stderr)
                self.outcome[case.name] = ("refused" if reason else "wrong", reason[1] if reason else "without a reason")
            elif case.name not in imported:
                self.outcome[case.name] = ("wrong", "the importer ended: " + done.stderr[-300:])
        cases = [(c, i) for c, i in cases if c.name in imported]
        if cases:
            self.compile(cases, merged, label)

    def compile(self, cases, merged, label):
        module = os.path.join(self.folder, label + ".moe")
        done = subprocess.run(["moe-compile", merged, "-O1", "--mcpu=native", "-q", "-o", module], capture_output=True, text=True)
        if done.returncode == 0:
            return self.run(cases, module)
        if len(cases) == 1:
            self.outcome[cases[0][0].name] = ("wrong", "does not compile: " + done.stderr[:400])
            return
        for part, half in enumerate((cases[::2], cases[1::2])):
            self.batch(half, f"{label}_{part}")

    def run(self, cases, path):
        module = moe_runtime.Module(path, self.library)
        for case, inputs in cases:
            try:
                outputs = module.run(inputs, case.name)
            except moe_runtime.CallError as error:
                self.outcome[case.name] = ("wrong", f"the call fails: {error}")
                continue
            problem = None
            for info, want in zip(case.model.graph.output, map(as_array, case.data_sets[0][1])):
                difference = same(outputs[info.name], want, case)
                if difference:
                    problem = f"{info.name} {difference}"
                    break
            self.outcome[case.name] = ("wrong", problem) if problem else ("pass", "")
        module.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--refused")
    parser.add_argument("--only", default=".")
    parser.add_argument("--ops", default="")
    parser.add_argument("--expanded", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    known = operators()
    shard, shards = map(int, options.shard.split("/"))
    chosen = []
    for case in sorted(collect(), key=lambda c: c.name):
        if "_expanded" in case.name and not options.expanded or not re.search(options.only, case.name):
            continue
        if options.ops == "all" or all(name_of(n) in known | {"Constant"} for n in all_nodes(case.model.graph)):
            inputs = prepare(case, options.folder)
            if inputs is not None:
                chosen.append((case, inputs))
    chosen = chosen[shard::shards]
    runner = Runner(options.folder)
    for i in range(0, len(chosen), BATCH):
        runner.batch(chosen[i : i + BATCH], f"batch{i // BATCH}")

    expected = {}
    if options.refused:
        for line in open(options.refused):
            if line.strip() and not line.startswith("#"):
                name, reason = line.split(None, 1)
                expected[name] = reason.strip()
    problems, counts = [], {"pass": 0, "refused": 0, "wrong": 0}
    for case, _ in chosen:
        kind, text = runner.outcome[case.name]
        counts[kind] += 1
        if kind == "wrong" or kind == "refused" and not (case.name in expected and expected[case.name] in text):
            problems.append(f"{kind}: {case.name}: {text}")
        elif kind == "pass" and case.name in expected:
            problems.append(f"passes, but is listed as refused: {case.name}")
        if options.verbose and kind == "refused" and case.name in expected:
            print(f"refused as listed: {case.name}: {text}")
    print("\n".join(problems))
    total = max(len(chosen), 1)
    print(f"{len(chosen)} cases: {counts['pass']} pass ({100 * counts['pass'] // total} %), {counts['refused']} refused, "
          f"{counts['wrong']} wrong")
    sys.exit(bool(problems) or counts["pass"] < 0.9 * total)


if __name__ == "__main__":
    main()
