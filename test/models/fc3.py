"""com.microsoft.MoE with a separate up projection (FC3), which no exporter's case in this folder has: against numpy.

FC3 follows the operator's specification: y = (act(x W1' + b1) * (x W3' + b3)) W2' + b2 per expert.
"""
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

ACTIVATIONS = {
    "silu": lambda v: v / (1 + np.exp(-v)),
    "relu": lambda v: np.maximum(v, 0),
    "gelu": lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
}


def check(name, activation, k, bias, normalize, rng, experts=5, hidden=24, inner=30, tokens=9):
    w = {"fc1": (experts, inner, hidden), "fc2": (experts, hidden, inner), "fc3": (experts, inner, hidden)}
    if bias:
        w |= {"b1": (experts, inner), "b2": (experts, hidden), "b3": (experts, inner)}
    w = {n: rng.standard_normal(shape, np.float32) * np.float32(0.3) for n, shape in w.items()}
    given = lambda n: n if n in w else ""
    node = helper.make_node(
        "MoE", ["x", "logits", "fc1", given("b1"), "fc2", given("b2"), "fc3", given("b3")], ["y"],
        domain="com.microsoft", k=k, activation_type=activation, normalize_routing_weights=normalize)
    info = lambda n, width: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["t", width])
    graph = helper.make_graph([node], "g", [info("x", hidden), info("logits", experts)], [info("y", hidden)],
                              [numpy_helper.from_array(v, n) for n, v in w.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), name + ".onnx")

    x, logits = (rng.standard_normal((tokens, n), np.float32) for n in (hidden, experts))
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    y = np.zeros((tokens, hidden))
    linear = lambda v, fc, b, e: w[fc][e].astype(float) @ v + (w[b][e] if bias else 0)
    for t in range(tokens):
        chosen = np.argsort(-logits[t])[:k]
        gates = probabilities[t, chosen] / (probabilities[t, chosen].sum() if normalize else 1)
        for e, gate in zip(chosen, gates):
            h = ACTIVATIONS[activation](linear(x[t], "fc1", "b1", e)) * linear(x[t], "fc3", "b3", e)
            y[t] += gate * linear(h, "fc2", "b2", e)
    save_file({"x": x, "logits": logits}, name + ".in.safetensors")
    save_file({"y": y.astype(np.float32)}, name + ".out.safetensors")
    subprocess.run(["moe-compile", name + ".onnx", "-o", name + ".moe", "-q", "--mcpu=native"], check=True)
    subprocess.run(["moe-run", name + ".moe", f"--inputs={name}.in.safetensors",
                    f"--expected={name}.out.safetensors", "--atol=1e-4", "--rtol=1e-4"], check=True)


def main():
    work = sys.argv[1]
    rng = np.random.default_rng(0)
    check(work + "-silu", "silu", k=2, bias=True, normalize=1, rng=rng)
    check(work + "-relu", "relu", k=1, bias=False, normalize=0, rng=rng)
    check(work + "-gelu", "gelu", k=3, bias=True, normalize=1, rng=rng)


main()
