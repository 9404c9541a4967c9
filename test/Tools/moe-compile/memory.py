"""What a compilation has in memory does not grow with the weights: two sizes of the same model, with their peaks compared.

    memory.py WORK

The peaks are of all resident memory, mapped files included (VmHWM: the kernel keeps the largest value itself), so
neither a copy on the heap nor a file that stays mapped page by page goes unseen.
"""
import os
import subprocess
import sys
import time

import numpy as np
import onnx
from onnx import TensorProto, helper

ALLOWED = 24  # MB between the peaks: what is written at once (16 MB) may be more than all of the smaller model
H, I = 1024, 512


class Model:
    """A graph x -> y whose tensors are written to a file beside it as they are made, or held inside."""

    def __init__(self, path, inline):
        self.path, self.initializers, self.nodes, self.offset = path, [], [], 0
        self.data = None if inline else open(path + ".data", "wb")
        self.noise = np.random.default_rng(1).standard_normal(1 << 20, np.float32) * np.float32(0.03)

    def tensor(self, name, kind, dims, contents):
        tensor = TensorProto(name=name, data_type=kind, dims=dims)
        if self.data:
            tensor.data_location = TensorProto.EXTERNAL
            entries = dict(location=os.path.basename(self.path) + ".data", offset=self.offset, length=len(contents))
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            self.data.write(contents)
            self.offset += len(contents)
        else:
            tensor.raw_data = contents
        self.initializers.append(tensor)
        return name

    def floats(self, name, *dims):
        return self.tensor(name, TensorProto.FLOAT, dims, np.resize(self.noise, int(np.prod(dims))).tobytes())

    def codes(self, name, *dims):
        return self.tensor(name, TensorProto.INT4, dims, np.resize(self.noise.view(np.uint8), int(np.prod(dims)) // 2).tobytes())

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def write(self, width):
        info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
        graph = helper.make_graph(self.nodes, "g", [info("x")], [info("y")], self.initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), self.path)
        if self.data:
            self.data.close()


def experts(path, megabytes, inline):
    """One MoE layer; more weights are more experts."""
    model = Model(path, inline)
    count = round(megabytes * 1e6 / (3 * H * I * 4))
    model.node("MatMul", ["x", model.floats("router", H, count)], "logits")
    banks = model.floats("fc1", count, 2 * I, H), model.floats("fc2", count, H, I)
    model.node("MoE", ["x", "logits", banks[0], "", banks[1]], "y", domain="com.microsoft", k=2, activation_type="swiglu",
               swiglu_fusion=1, normalize_routing_weights=1)
    model.write(H)


def dequantised(path, megabytes, inline):
    """Products with int4 codes behind DequantizeLinear, [N, K] as exporters store them; more weights are wider layers."""
    model, value = Model(path, inline), "x"
    width = round((megabytes * 1e6 / 4 / (0.5 + 4 / 32)) ** 0.5) // 64 * 64
    for i in range(4):
        parts = [model.codes(f"codes{i}", width, width), model.floats(f"scales{i}", width, width // 32)]
        weight = model.node("DequantizeLinear", parts, f"weight{i}", axis=1, block_size=32)
        value = model.node("Gemm", [value, weight], "y" if i == 3 else f"h{i}", transB=1)
    model.write(width)


def peak(path, options):
    """MB, of a compilation."""
    command = ["moe-compile", path, "-o", os.path.splitext(path)[0] + ".moe", "-O1", "--mcpu=native", "--quiet", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most = 0
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as status:
            most = max([most] + [int(line.split()[1]) for line in status if line.startswith("VmHWM:")])
        time.sleep(0.002)
    assert process.returncode == 0, process.stdout.read()
    return most / 1024


def main():
    work = sys.argv[1]
    os.makedirs(work, exist_ok=True)
    cases = {
        "f32, external data": (experts, False, (30, 120), []),
        "f32, inside of the file": (experts, True, (30, 120), []),
        "int4, external data": (dequantised, False, (10, 40), []),
        "--quantize": (experts, False, (30, 120), ["--quantize=int8"]),
    }
    bad = []
    for name, (make, inline, sizes, options) in cases.items():
        peaks = []
        for megabytes in sizes:
            path = os.path.join(work, "model.onnx")
            make(path, megabytes, inline)
            peaks.append(peak(path, options))
            for file in os.listdir(work):
                os.remove(os.path.join(work, file))
        print(f"{name}: {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")
        if peaks[1] - peaks[0] > ALLOWED:
            bad.append(name)
    assert not bad, f"memory grows with the weights: {bad}"


main()
