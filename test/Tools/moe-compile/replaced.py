"""No file that is read is written over, by whatever name: the input, its external data, calibration inputs, a module's own files.

    replaced.py WORK
"""
import os
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


def refused(code, expected, *command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and expected in done.stderr, (command, done.returncode, done.stderr)


def main():
    os.makedirs(sys.argv[1] + "/folder")
    os.chdir(sys.argv[1])
    info = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", 64])
    weight = numpy_helper.from_array(np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [info("x")], [info("y")], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    save_file({"x": np.ones((2, 64), np.float32)}, "x.safetensors")
    os.symlink("m.onnx", "link.moe")
    before = {name: open(name, "rb").read() for name in ("m.onnx", "m.data", "x.safetensors")}
    compile = ["moe-compile", "m.onnx", "-O1", "--mcpu=native", "-q"]
    for name in ("folder/../m.onnx", os.path.abspath("m.onnx"), "link.moe", "m.data"):
        refused(1, "which is read; nothing was written", *compile, "-o", name)
    for name in ("m.data", "m.onnx"):
        refused(1, "which is read; nothing was written", *compile, "-o", "o.moe", f"--weights={name}")
    refused(1, "would be one file", *compile, "-o", "o.moe", "--weights=folder/../o.moe")
    # The weights would take the name of the inputs.
    refused(1, "would replace 'x.safetensors'", *compile, "-o", "x.moe", "--quantize=int4", "--quantize-linears",
            "--calibrate=x.safetensors")
    assert sorted(os.listdir()) == ["folder", "link.moe", "m.data", "m.onnx", "x.safetensors"] and not os.listdir("folder")

    subprocess.run([*compile, "-o", "o.moe"], check=True)
    before |= {name: open(name, "rb").read() for name in ("o.moe", "o.safetensors")}
    run = ["moe-run", "o.moe", "--inputs=x.safetensors"]
    refused(3, "would replace a file of the module", *run, "--outputs=o.safetensors")
    refused(3, "would replace a file of the module", *run, "--output=y=@folder/../o.moe")
    # A file may not grow beyond a limit: an error like that of a full disk.
    before.pop("x.safetensors")
    save_file({"x": np.ones((5000, 64), np.float32)}, "x.safetensors")
    limited = lambda blocks, command: ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", *command]
    refused(1, "File too large", *limited(1, [*compile, "-o", "folder/p.moe"]))
    refused(5, "File too large", *limited(1000, [*run, "--outputs=folder/y.safetensors"]))
    assert not os.listdir("folder"), os.listdir("folder")
    for name, contents in before.items():
        assert open(name, "rb").read() == contents, name
    print("nothing was replaced")


main()
