#!/usr/bin/env python3
"""bf16 weights and f32 rows with infinities, NaN, and the largest and smallest numbers, by tiles: the same as by vectors.

    infinities.py DIR [flags of moe-compile]

The rows of the second product of an MoE layer are f32. With tiles, each is three of bf16, all of whose products and sums are exact
here.
"""
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

BF16 = ml_dtypes.bfloat16
H, I, T = 40, 70, 23


def main():
    work, flags = pathlib.Path(sys.argv[1]), sys.argv[2:]
    work.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(1)
    x = values.integers(-2, 3, (T, H)).astype(np.float32)
    first, second = (values.integers(-2, 3, s).astype(np.float32) for s in ((1, I, H), (1, H, I)))
    x[3, 5], x[4, 6], x[5, 7] = np.inf, -np.inf, np.nan
    x[6], x[7] = 0, 0
    x[6, 0], x[7, 0] = 2.0**120, 2.0**-100
    second[0, 33, 2], second[0, 34, 3], second[0, 35, 4] = np.inf, -np.inf, np.nan
    tensor = lambda n, v: helper.make_tensor(n, TensorProto.BFLOAT16, v.shape, v.astype(BF16).tobytes(), raw=True)
    info = lambda n, width: helper.make_tensor_value_info(n, TensorProto.BFLOAT16, ["T", width])
    node = helper.make_node("MoE", ["x", "logits", "first", "", "second"], ["y"], domain="com.microsoft", k=1, activation_type="identity")
    graph = helper.make_graph([node], "infinities", [info("x", H), info("logits", 1)], [info("y", H)],
                              [tensor("first", first), tensor("second", second)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), work / "m.onnx")
    save_file({"x": x.astype(BF16), "logits": np.zeros((T, 1), BF16)}, work / "in.safetensors")
    subprocess.run(["moe-compile", work / "m.onnx", "-o", work / "m.moe", "-q", *flags], check=True)
    subprocess.run(["moe-run", work / "m.moe", f"--inputs={work / 'in.safetensors'}", f"--outputs={work / 'out.safetensors'}"],
                   check=True, stdout=subprocess.DEVNULL)
    got = load_file(work / "out.safetensors")["y"].astype(np.float32)
    with np.errstate(all="ignore"):
        want = ((x @ first[0].T) @ second[0].T).astype(BF16).astype(np.float32)
    wrong = np.argwhere(~((got == want) | (np.isnan(got) & np.isnan(want))))
    assert len(wrong) == 0, [(*at, got[tuple(at)], want[tuple(at)]) for at in wrong[:5]]
    assert np.isinf(want).any() and np.isnan(want).any()
    print(f"ok: {np.isinf(want).sum()} infinities, {np.isnan(want).sum()} NaN")


main()
