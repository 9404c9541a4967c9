"""Products with constants that DequantizeLinear dequantises, all in one model: every type of code, scales of each type, per
tensor, per channel and in blocks along either axis, with and without zero points, matrices stored both ways, odd sizes.

    dequantize-linear.py WORK [SEED]

The reference is onnx's own evaluator on the same file. Kernels take scales that run along what is summed over: those matrices
must stay codes (the weights file holds no numbers), the others must still be right.
"""
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file, save_file

CODES = {"int4": (TensorProto.INT4, -8, 7), "uint4": (TensorProto.UINT4, 0, 15), "int8": (TensorProto.INT8, -128, 127),
         "uint8": (TensorProto.UINT8, 0, 255), "int2": (TensorProto.INT2, -2, 1), "uint2": (TensorProto.UINT2, 0, 3),
         "e2m1": (TensorProto.FLOAT4E2M1, 0, 15)}
SCALES = {"f32": (TensorProto.FLOAT, np.float32), "f16": (TensorProto.FLOAT16, np.float16),
          "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def tensor(name, kind, values):
    return helper.make_tensor(name, kind, values.shape, values.flatten())


class Case:
    """x [t, k] times a matrix; `axis` is that of the scales: "k", "n" or None, `block` 0 means one per index."""

    def __init__(self, rng, name, code="int4", scale="f32", axis="k", block=32, zero=None, form="kn", k=64, n=48):
        self.name, self.code, self.k, self.n = name, code, k, n
        kind, low, high = CODES[code]
        scale_kind, scale_type = SCALES[scale]
        stored = (n, k) if form in ("transposed", "gemm") else (k, n)
        at = {"k": stored.index(k) if k != n else (1 if form in ("transposed", "gemm") else 0), None: 0}
        at["n"] = 1 - at["k"]
        if axis is None:
            shape = ()
        elif block:
            shape = tuple(-(-size // block) if d == at[axis] else size for d, size in enumerate(stored))
        else:
            shape = (stored[at[axis]],)
        codes = rng.integers(low, high + 1, stored)
        scales = np.asarray(rng.uniform(0.5, 1.5, shape) / (high - low) * rng.choice([-1, 1], shape)).astype(scale_type)
        if code == "e2m1":
            codes = E2M1[codes]
        self.tensors = [tensor(name + "_w", kind, codes), tensor(name + "_s", scale_kind, scales)]
        slots = [name + "_w", name + "_s"]
        if zero is not None:
            values = rng.integers(low, high + 1, shape) if zero == "random" else np.full(shape, zero)
            self.tensors.append(tensor(name + "_z", kind, np.asarray(values)))
            slots.append(name + "_z")
        attributes = {} if axis is None else dict(axis=int(at[axis]) - (2 if rng.random() < 0.3 else 0))
        if block and axis is not None:
            attributes["block_size"] = block
        self.nodes = [helper.make_node("DequantizeLinear", slots, [name + "_f"], name=name + "_dq", **attributes)]
        right, self.dtype = name + "_f", scale_kind
        if scale == "bf16":
            self.nodes.append(helper.make_node("Cast", [right], [name + "_c"], to=TensorProto.FLOAT))
            right, self.dtype = name + "_c", TensorProto.FLOAT
        if form == "transposed":
            self.nodes.append(helper.make_node("Transpose", [right], [name + "_t"], perm=[1, 0]))
            right = name + "_t"
        if form == "gemm":
            self.tensors.append(tensor(name + "_b", self.dtype, rng.standard_normal(n).astype(np.float32)))
            self.nodes.append(helper.make_node("Gemm", [name + "_x", right, name + "_b"], [name], transB=1, name=name))
        else:
            self.nodes.append(helper.make_node("MatMul", [name + "_x", right], [name], name=name))
        self.x_type = np.float16 if self.dtype == TensorProto.FLOAT16 else np.float32
        # Kernels read scales that run along k, or one per column.
        self.stays_codes = axis is None or (axis == "k" and bool(block)) or (axis == "n" and not block)
        self.tolerance = {"f32": 2e-5, "f16": 4e-3, "bf16": 1e-2}[scale]


def cases(rng):
    make = lambda name, **options: Case(rng, name, **options)
    fixed = [
        make("int4_blocks"), make("uint4_blocks_zp", code="uint4", zero="random"), make("int8_columns", code="int8", axis="n", block=0),
        make("uint8_columns_zp", code="uint8", axis="n", block=0, zero="random"), make("uint8_no_zp", code="uint8", axis="n", block=0),
        make("uint4_middle", code="uint4", zero=8), make("int4_zp", zero="random", form="transposed"),
        make("int8_tensor", code="int8", axis=None, block=0), make("uint8_tensor_zp", code="uint8", axis=None, block=0, zero="random"),
        make("int4_gemm", form="gemm", scale="f16"), make("int4_bf16", scale="bf16"), make("uint2_zp", code="uint2", zero="random"),
        make("int2", code="int2", form="transposed"), make("e2m1", code="e2m1"), make("e2m1_transposed", code="e2m1", form="transposed"),
        make("int4_short_block", k=75, n=33), make("uint4_short_block", code="uint4", zero="random", k=75, n=33, form="gemm"),
        make("int4_blocks_of_n", axis="n"), make("int8_per_k", code="int8", axis="k", block=0), make("wide", k=512, n=160, block=128),
    ]
    for i in range(14):
        code = str(rng.choice(list(CODES)))
        axis = [None, "k", "k", "k", "n"][rng.integers(5)]
        options = dict(code=code, scale=str(rng.choice(list(SCALES))), axis=axis, form=str(rng.choice(["kn", "transposed", "gemm"])),
                       block=int(rng.choice([0, 7, 16, 32, 64, 300])) if axis else 0,
                       zero=[None, "random", 0][rng.integers(3)] if code != "e2m1" else None,
                       k=int(rng.integers(9, 200)), n=int(rng.integers(3, 90)))
        if options["k"] == options["n"]:
            options["n"] += 1
        print(f"random{i}: {options}")
        fixed.append(make(f"random{i}", **options))
    return fixed


def main():
    work, rng = sys.argv[1], np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    chosen = cases(rng)
    info = helper.make_tensor_value_info
    graph = helper.make_graph([n for c in chosen for n in c.nodes], "g", [info(c.name + "_x", c.dtype, ["t", c.k]) for c in chosen],
                              [info(c.name, c.dtype, ["t", c.n]) for c in chosen], [t for c in chosen for t in c.tensors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    onnx.checker.check_model(model)
    onnx.save(model, work + ".onnx")
    raised = subprocess.run(["moe-compile", work + ".onnx", "--compile-to=raise", "--quiet"], check=True, capture_output=True, text=True).stdout
    assert raised.count("moe.dequantize") == sum(c.stays_codes for c in chosen), \
        (raised.count("moe.dequantize"), sum(c.stays_codes for c in chosen))
    subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "-q", "-O1", "--mcpu=native"], check=True)
    evaluator = ReferenceEvaluator(model)
    for rows in (1, 3, 40):
        inputs = {c.name + "_x": rng.standard_normal((rows, c.k)).astype(c.x_type) for c in chosen}
        save_file(inputs, work + ".in.safetensors")
        subprocess.run(["moe-run", work + ".moe", f"--inputs={work}.in.safetensors", f"--outputs={work}.out.safetensors"], check=True)
        got = load_file(work + ".out.safetensors")
        for c, want in zip(chosen, evaluator.run(None, inputs)):
            want = want.astype(np.float64)
            error = np.abs(got[c.name].astype(np.float64) - want).max() / np.abs(want).max()
            assert error < c.tolerance, (c.name, rows, error)
    print(f"{len(chosen)} products, {sum(c.stays_codes for c in chosen)} with codes")

    # The file of what stays codes is as large as the codes and scales, not as the numbers.
    size = Case(rng, "large", k=1024, n=1024, block=32)
    graph = helper.make_graph(size.nodes, "g", [info("large_x", TensorProto.FLOAT, ["t", 1024])],
                              [info("large", TensorProto.FLOAT, ["t", 1024])], size.tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), work + "-large.onnx")
    done = subprocess.run(["moe-compile", work + "-large.onnx", "-o", work + "-large.moe", "--json", "-O1", "--mcpu=native"], check=True,
                          capture_output=True, text=True)
    with open(work + "-large.safetensors", "rb") as file:
        length = len(file.read())
    bits = 8 * length / (1024 * 1024)
    print(f"{bits:.2f} bits for each of a million weights of 4 bits and a scale of 32 bits for 32")
    assert bits < 5.1, bits


main()
