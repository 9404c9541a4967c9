"""Inputs of moe-compile --calibrate: what they decide, what is refused, and what measuring takes in memory.

    calibrate.py WORK
"""
import json
import os
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

H, I, K = 64, 48, 2


def write(path, experts):
    rng = np.random.default_rng(1)
    weights = {"router": (H, experts), "fc1": (experts, I, H), "fc2": (experts, H, I)}
    tensors = [numpy_helper.from_array((0.1 * rng.standard_normal(s)).astype(np.float32), n) for n, s in weights.items()]
    nodes = [helper.make_node("MatMul", ["x", "router"], ["logits"]),
             helper.make_node("MoE", ["x", "logits", "fc1", "", "fc2"], ["y"], domain="com.microsoft", k=K,
                              activation_type="silu", normalize_routing_weights=1)]
    info = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", H])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [info("x")], [info("y")], tensors)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def command(folder, inputs):
    return ["moe-compile", folder + "/m.onnx", "-o", folder + "/out/m.moe", "-O1", "--mcpu=native", "--json", "--quantize=int4",
            f"--calibrate={inputs}"]


def refused(folder, inputs, *parts):
    done = subprocess.run(command(folder, inputs), capture_output=True, text=True)
    assert done.returncode == 1, (inputs, done.returncode, done.stdout, done.stderr)
    for part in parts:
        assert part in done.stderr, (part, done.stderr)
    assert not os.listdir(folder + "/out"), (inputs, os.listdir(folder + "/out"))


def peak(arguments):
    """MB of the compilation and of the run that it starts, whichever takes more."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1024


def main():
    folder = sys.argv[1]
    os.makedirs(folder + "/out", exist_ok=True)
    path = lambda name: f"{folder}/{name}.safetensors"
    write(folder + "/m.onnx", 4)
    rows = np.random.default_rng(2).standard_normal((20, H)).astype(np.float32)
    save_file({"x": rows}, path("good"))
    save_file({"z": rows}, path("name"))
    save_file({"x": rows.astype(np.float16)}, path("type"))
    save_file({"x": np.ascontiguousarray(rows[:, 1:])}, path("shape"))
    save_file({"x": rows[:0]}, path("none"))
    # A score of NaN chooses no expert, so that nothing of it would be seen in the statistics.
    for name, value in (("nan", np.nan), ("huge", 1e30)):
        other = rows.copy()
        other[3, 5] = value
        save_file({"x": other}, path(name))
    with open(path("cut"), "wb") as file, open(path("good"), "rb") as good:
        file.write(good.read()[:-30])
    open(path("empty"), "w").close()
    refused(folder, path("name"), "has no input 'z'")
    refused(folder, path("type"), "got f16[20, 64]")
    refused(folder, path("shape"), "got f32[20, 63]")
    refused(folder, path("none"), "no expert gets a row of them", "give inputs as the program gets them")
    refused(folder, path("nan"), "have NaN in 'x'", "give inputs as the program gets them")
    refused(folder, path("huge"), "in MoE layer 0 are not finite, or their squares overflow")
    refused(folder, path("cut"), "outside the file's")
    refused(folder, path("empty"), "not a .safetensors file")

    report = json.loads(subprocess.run(command(folder, path("good")), check=True, capture_output=True, text=True).stdout)
    use = [part["use"] for part in report["quantized"]]
    weights = numpy_helper.to_array(onnx.load(folder + "/m.onnx").graph.initializer[0])
    chosen = np.argsort(-(rows @ weights), axis=1)[:, :K]
    assert np.allclose(use, np.bincount(chosen.ravel(), minlength=4) / chosen.size), use

    # Many rows and experts: numbers of each row for each expert would be 256 and 192 MB.
    write(folder + "/m.onnx", 256)
    save_file({"x": np.random.default_rng(2).standard_normal((4096, H)).astype(np.float32)}, path("many"))
    most = peak(command(folder, path("many")))
    print(f"{most:.0f} MB")
    assert most < 220, most


main()
