"""moe-compile --quantize on one layer: what the weights file holds, read by a decoder of its own, against the float weights
and against plain rounding to the largest value of each block."""
import json
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

E, H, I, T = 4, 96, 64, 9
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def unpack(data, bits, k):
    stream = np.unpackbits(data, axis=-1, bitorder="little")[..., : k * bits]
    return (stream.reshape(*stream.shape[:-1], k, bits) * (1 << np.arange(bits))).sum(-1)


def plain(w, kind, block):
    """Rounding with the scale that meets the largest value exactly."""
    blocks = w.reshape(*w.shape[:-1], -1, block or w.shape[-1])
    most = np.abs(blocks).max(-1, keepdims=True)
    if kind == "mxfp4":
        scale = 2.0 ** (np.floor(np.log2(most)) - 2)
        q = E2M1[np.abs((blocks / scale)[..., None] - E2M1).argmin(-1)]
    else:
        top = (1 << (int(kind[3:]) - 1)) - 1
        scale = most / top
        q = np.clip(np.round(blocks / scale), -top - 1, top)
    return (q * scale).reshape(w.shape)


def raw(path, name):
    """The bytes of a tensor, of a dtype that numpy does not have as well."""
    header = int.from_bytes(open(path, "rb").read(8), "little")
    with open(path, "rb") as file:
        entry = json.loads(file.read(8 + header)[8:])[name]
        start, end = entry["data_offsets"]
        file.seek(8 + header + start)
        return np.frombuffer(file.read(end - start), np.uint8).reshape(entry["shape"])


def separate(work, rng):
    """Experts that are matrices of their own in the file, each with its own operators."""
    node, names = helper.make_node, [f"{m}{e}" for m in ("up", "down") for e in range(E)]
    w = {n: (rng.standard_normal((H, I) if n[0] == "u" else (I, H)) * 0.1).astype(np.float32) for n in names}
    w["router"] = rng.standard_normal((H, E)).astype(np.float32)
    nodes = [node("MatMul", ["x", "router"], ["scores"]), node("Softmax", ["scores"], ["p"], axis=-1),
             node("TopK", ["p", "k"], ["v", "i"], axis=-1), node("Mul", ["p", "zero"], ["none"]),
             node("ScatterElements", ["none", "i", "v"], ["gates"], axis=1),
             node("Split", ["gates"], [f"g{e}" for e in range(E)], axis=1, num_outputs=E)]
    for e in range(E):
        nodes += [node("MatMul", ["x", f"up{e}"], [f"a{e}"]), node("Relu", [f"a{e}"], [f"h{e}"]),
                  node("MatMul", [f"h{e}", f"down{e}"], [f"o{e}"]), node("Mul", [f"o{e}", f"g{e}"], [f"t{e}"]),
                  node("Add", [f"y{e - 1}", f"t{e}"], [f"y{e}"]) if e else node("Identity", ["t0"], ["y0"])]
    info = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["t", H])
    constants = w | {"k": np.array([2]), "zero": np.float32(0)}
    graph = helper.make_graph(nodes, "g", [info("x")], [info(f"y{E - 1}")],
                              [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), work + ".onnx")
    x = rng.standard_normal((T, H)).astype(np.float32)
    p = np.exp((x @ w["router"]).astype(float))
    p /= p.sum(1, keepdims=True)
    y = np.zeros((T, H))
    for t in range(T):
        for e in np.argsort(-p[t])[:2]:
            y[t] += p[t, e] * (np.maximum(x[t] @ w[f"up{e}"].astype(float), 0) @ w[f"down{e}"])
    save_file({"x": x}, work + ".in.safetensors")
    save_file({f"y{E - 1}": y.astype(np.float32)}, work + ".out.safetensors")
    done = subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "--json", "-O1", "--quantize=int8"], check=True,
                          capture_output=True, text=True)
    assert [part["expert"] for part in json.loads(done.stdout)["quantized"]] == list(range(E)), "all experts"
    subprocess.run(["moe-run", work + ".moe", f"--inputs={work}.in.safetensors", f"--expected={work}.out.safetensors",
                    f"--atol={0.02 * np.abs(y).max()}", "--rtol=0"], check=True)


def main():
    work, rng = sys.argv[1], np.random.default_rng(5)
    w = {"fc1": rng.standard_normal((E, I, H)), "fc2": rng.standard_t(4, (E, H, I))}
    w = {n: (v * 0.2).astype(np.float32) for n, v in w.items()}
    info = lambda n, width: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["t", width])
    node = helper.make_node("MoE", ["x", "logits", "fc1", "", "fc2"], ["y"], domain="com.microsoft", k=2,
                            activation_type="silu", normalize_routing_weights=1)
    graph = helper.make_graph([node], "g", [info("x", H), info("logits", E)], [info("y", H)],
                              [numpy_helper.from_array(v, n) for n, v in w.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), work + ".onnx")
    x, logits = (rng.standard_normal((T, n)).astype(np.float32) for n in (H, E))
    save_file({"x": x, "logits": logits}, work + ".in.safetensors")
    for flag, kind, block, bits in (("int8", "int8", 0, 8), ("int4", "int4", 32, 4), ("int4:0", "int4", 0, 4), ("int3:16", "int3", 16, 3),
                                    ("mxfp4", "mxfp4", 32, 4)):
        # Without kernels the file holds codes and scales as they are.
        subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "-q", "-O0", f"--quantize={flag}"], check=True)
        numbers = {}
        for name, floats in w.items():
            k = floats.shape[-1]
            path = work + ".safetensors"
            q = unpack(raw(path, name + ".codes"), bits, k)
            if kind == "mxfp4":
                scales = 2.0 ** (raw(path, name + ".scales").astype(int) - 127)
                q = E2M1[q]
            else:
                with safe_open(path, "numpy") as file:
                    scales = file.get_tensor(name + ".scales").astype(float)
                q = q - (1 << (bits - 1))
            numbers[name] = q * scales[..., np.arange(k) // (block or k)]
            error, simple = (np.square(v - floats).sum() for v in (numbers[name], plain(floats, kind, block)))
            print(f"{flag} {name}: squared error {error:.3f}, plain rounding {simple:.3f}")
            assert error < simple, "not better than plain rounding"
            assert error / np.square(floats).sum() < {8: 1e-4, 4: 0.02, 3: 0.05}[bits]
        y = np.zeros((T, H))
        for t in range(T):
            chosen = np.argsort(-logits[t])[:2]
            gates = np.exp(logits[t, chosen].astype(float))
            for e, gate in zip(chosen, gates / gates.sum()):
                h = numbers["fc1"][e] @ x[t]
                y[t] += gate * (numbers["fc2"][e] @ (h / (1 + np.exp(-h))))
        save_file({"y": y.astype(np.float32)}, work + ".out.safetensors")
        run = ["moe-run", work + ".moe", f"--inputs={work}.in.safetensors", f"--expected={work}.out.safetensors",
               "--atol=1e-4", "--rtol=1e-4"]
        subprocess.run(run, check=True)
        if block == 32:
            subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "-q", "-O1", "--mcpu=native", f"--quantize={flag}"], check=True)
            subprocess.run(run, check=True)
    separate(work + ".separate", rng)
    # A weight that is not finite.
    w["fc2"][1, 2, 3] = np.inf
    graph.initializer[1].CopyFrom(numpy_helper.from_array(w["fc2"], "fc2"))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), work + ".inf.onnx")


main()
