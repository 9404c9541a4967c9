"""Weights of a model whose names are those that the compiler gives to what it makes of others: the same results as with
names of no meaning, plain and quantised.

    names.py WORK
"""
import os
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

E, H, I, LAYERS = 4, 64, 32, 4
# Each layer's banks are called as what becomes of the layer's before it.
NAMES = ["w", "w.panels", "w.codes", "w.codes.panels"]


def write(path, names):
    rng = np.random.default_rng(1)
    tensors, nodes, value = [], [], "x"
    add = lambda name, *dims: tensors.append(numpy_helper.from_array(rng.standard_normal(dims, np.float32) * np.float32(0.2), name)) or name
    for n, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [value, add(f"router{n}", H, E)], [f"logits{n}"]))
        banks = add(name, E, I, H), add(f"second{n}", E, H, I)
        nodes.append(helper.make_node("MoE", [value, f"logits{n}", banks[0], "", banks[1]], [f"moe{n}"], domain="com.microsoft", k=2,
                                      activation_type="silu"))
        nodes.append(helper.make_node("Add", [value, f"moe{n}"], ["y" if n == LAYERS - 1 else f"h{n}"]))
        value = f"h{n}"
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", H])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [info("x")], [info("y")], tensors), opset_imports=opsets, ir_version=10), path)


def run(work, names, options):
    write(work + ".onnx", names)
    for command in (["moe-compile", work + ".onnx", "-o", work + ".moe", "-O1", "--mcpu=native", "--quiet", *options],
                    ["moe-run", work + ".moe", f"--inputs={work}.in.safetensors", f"--outputs={work}.out.safetensors"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done
    return load_file(work + ".out.safetensors")["y"]


def main():
    work = sys.argv[1]
    os.makedirs(os.path.dirname(work) or ".", exist_ok=True)
    save_file({"x": np.random.default_rng(2).standard_normal((5, H), np.float32)}, work + ".in.safetensors")
    for options in ([], ["--quantize=int4"]):
        want = run(work, [f"bank{n}" for n in range(LAYERS)], options)
        for names in (NAMES, NAMES[::-1]):
            assert (run(work, names, options) == want).all(), (names, options)


main()
