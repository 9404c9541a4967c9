"""errors.py TOOL FOLDER: how moe-verify fails, and how it counts flipped tokens."""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper

tool, folder = sys.argv[1:]
os.makedirs(folder, exist_ok=True)


def run(*arguments, environment=None):
    done = subprocess.run([sys.executable, tool, *arguments], capture_output=True, text=True,
                          env={**os.environ, **(environment or {})})
    print(done.returncode, done.stderr.splitlines()[0] if done.stderr else "no message")


def model(name, op):
    info = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="only")], name, [info("x")], [info("y")])
    path = os.path.join(folder, name + ".onnx")
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


run("nothing.onnx")
damaged = os.path.join(folder, "damaged.onnx")
open(damaged, "wb").write(b"\xff" * 50)
run(damaged)
good = model("good", "Relu")
run(good, "--dim=x")
run(model("unknown", "Det"))
# A package that cannot be imported stands in for one that is not there.
os.makedirs(os.path.join(folder, "hidden"), exist_ok=True)
open(os.path.join(folder, "hidden/onnxruntime.py"), "w").write("raise ImportError('hidden')\n")
run(good, environment={"PYTHONPATH": os.path.join(folder, "hidden")})

loader = importlib.machinery.SourceFileLoader("verify", tool)
verify = importlib.util.module_from_spec(importlib.util.spec_from_loader("verify", loader))
loader.exec_module(verify)
want = np.array([[3, 2, 1, 0], [1, 1.25, 0, 2], [0, 0, 1, 2]], np.float32)
got = want.copy()
got[1] = [1.25, 1, 0, 2]
flipped, tokens, margin = verify.flips(got, want, 2, np)
print(f"flips {flipped} of {tokens}, margin {margin:g}")
