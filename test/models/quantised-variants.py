"""Variants of com.microsoft.QMoE and MatMulNBits that the case folders do not have, all nodes of a kind in one model: against
numpy's double precision, and against onnxruntime where it runs them.

The reference unpacks codes bit by bit and knows nothing of how the compiler reads them. Each module runs with one row, with
few and with many: experts with many rows have other kernels than those with few.
"""
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file


def pack(codes, bits):
    """Codes along the last dimension, lowest bit first."""
    stream = ((codes[..., None] >> np.arange(bits)) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


class Quantised:
    """A random matrix [..., n, k] with its stored parts and its numbers."""

    def __init__(self, rng, shape, bits, block, zero_points=None, signed_scales=False, scale_type=np.float32):
        *lead, n, k = shape
        blocks = -(-k // block) if block else 1
        self.codes = rng.integers(0, 1 << bits, shape)
        self.scales = (rng.uniform(0.5, 1.5, (*lead, n, blocks)) * 0.4 / (1 << bits)).astype(scale_type)
        if signed_scales:
            self.scales *= rng.choice([-1, 1], self.scales.shape).astype(scale_type)
        zeros = np.full((*lead, n, blocks), 1 << (bits - 1), float)
        if zero_points == "packed":
            zeros = rng.integers(0, 1 << bits, (*lead, n, blocks))
        elif zero_points == "float":
            zeros = rng.uniform(0, (1 << bits) - 1, (*lead, n, blocks)).astype(np.float32)
        self.zeros = zeros
        at = np.arange(k) // block if block else np.zeros(k, int)
        self.numbers = (self.codes - zeros[..., at].astype(float)) * self.scales[..., at].astype(float)


def build(name, nodes, inputs, outputs, tensors):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in tensors.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), name)


MOST = 230
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, ml_dtypes.bfloat16: TensorProto.BFLOAT16}


def check(work, inputs, expected, few, tolerance=2e-5, flag=None):
    """Runs with one row, with all and with `few`; returns what each of these gave."""
    results = []
    subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "-q", "-O1", "--mcpu=native",
                    *([flag] if flag else [])], check=True)
    for rows in (1, MOST, few):
        save_file({name: np.ascontiguousarray(x[..., :rows, :]) for name, x in inputs.items()}, work + ".in.safetensors")
        subprocess.run(["moe-run", work + ".moe", f"--inputs={work}.in.safetensors",
                        f"--outputs={work}.out.safetensors"], check=True)
        got = load_file(work + ".out.safetensors")
        for name, want in expected.items():
            want = want[..., :rows, :]
            error = np.abs(got[name].astype(float) - want).max() / np.abs(want).max()
            limit = {"float16": 2e-3, "bfloat16": 1e-2}.get(got[name].dtype.name, tolerance)
            print(f"{name}, {rows} rows: relative error {error:.1e}")
            assert error < limit, (name, rows, error)
        results.append(got)
    return results


def qmoe(work, rng, few=7, tokens=MOST, experts=5, hidden=64, inner=96):
    """Every width, layout of zero points, activation form, and fc3."""
    cases = {
        "int2_chan": dict(bits=2),
        "int2_b16_zp": dict(bits=2, block=16, zp=True),
        "int3_b32": dict(bits=3, block=32),
        "int3_chan_zp": dict(bits=3, zp=True),
        "int4_b32_negative": dict(bits=4, block=32, signed=True),
        "int4_chan_zp_interleaved": dict(bits=4, zp=True, activation="swiglu", fusion=1),
        "int4_b16_zp_concatenated": dict(bits=4, block=16, zp=True, activation="swiglu", fusion=2),
        "int8_b32_zp_fc3": dict(bits=8, block=32, zp=True, fc3=True),
        "int8_chan_zp_interleaved_f16": dict(bits=8, zp=True, activation="swiglu", fusion=1, half=True),
        "int4_b32_fc3_swiglu": dict(bits=4, block=32, activation="swiglu", fc3=True),
        "int4_chan_nobias": dict(bits=4, bias=False),
    }
    nodes, inputs, outputs, tensors, values, expected, runs = [], [], [], {}, {}, {}, {}
    for name, c in cases.items():
        bits, block, activation, fusion = c["bits"], c.get("block", 0), c.get("activation", "silu"), c.get("fusion", 0)
        kind, dtype = ((np.float16, TensorProto.FLOAT16) if c.get("half") else (np.float32, TensorProto.FLOAT))
        wide = 2 * inner if fusion else inner
        zp = "packed" if c.get("zp") else None
        shapes = {"fc1": (experts, wide, hidden), "fc2": (experts, hidden, inner)}
        if c.get("fc3"):
            shapes["fc3"] = (experts, inner, hidden)
        w, b, slots = {}, {}, [""] * 14
        slots[0], slots[1] = name + "_x", name + "_logits"
        for i, fc in enumerate(("fc1", "fc2", "fc3")):
            if fc not in shapes:
                continue
            q = Quantised(rng, shapes[fc], bits, block, zp, c.get("signed", False), kind)
            w[fc] = q.numbers
            b[fc] = rng.standard_normal(shapes[fc][:2]).astype(kind) * kind(0.1) if c.get("bias", True) else None
            parts = {2 + 3 * i: pack(q.codes, bits), 3 + 3 * i: q.scales if block else q.scales[..., 0]}
            if b[fc] is not None:
                parts[4 + 3 * i] = b[fc]
            if zp:
                zeros = q.zeros.astype(int)
                parts[11 + i] = pack(zeros, bits) if block else pack(zeros[..., 0], bits)
            for slot, value in parts.items():
                slots[slot] = f"{name}_{slot}"
                tensors[slots[slot]] = value
        while not slots[-1]:
            slots.pop()
        attributes = dict(k=2, activation_type=activation, swiglu_fusion=fusion, expert_weight_bits=bits,
                          normalize_routing_weights=1)
        if block:
            attributes["block_size"] = block
        nodes.append(helper.make_node("QMoE", slots, [name], domain="com.microsoft", name=name, **attributes))
        info = lambda n, width: helper.make_tensor_value_info(n, dtype, ["t", width])
        mine = [info(slots[0], hidden), info(slots[1], experts)], [info(name, hidden)]
        inputs += mine[0]
        outputs += mine[1]
        x = values[slots[0]] = rng.standard_normal((tokens, hidden)).astype(kind)
        logits = values[slots[1]] = rng.standard_normal((tokens, experts)).astype(kind)
        y = np.zeros((tokens, hidden))
        silu = lambda v: v / (1 + np.exp(-v))
        for t in range(tokens):
            chosen = np.argsort(-logits[t])[:2]
            gates = np.exp(logits[t, chosen].astype(float) - logits[t].max())
            for e, gate in zip(chosen, gates / gates.sum()):
                linear = lambda v, fc: w[fc][e] @ v + (0 if b[fc] is None else b[fc][e].astype(float))
                h = linear(x[t].astype(float), "fc1")
                if fusion == 1:
                    h = silu(h[0::2]) * h[1::2]
                elif fusion == 2:
                    h = silu(h[:inner]) * h[inner:]
                else:
                    h = silu(h) * (linear(x[t].astype(float), "fc3") if "fc3" in w else 1)
                y[t] += gate * linear(h, "fc2")
        expected[name] = y
        # Widths, forms and layouts that onnxruntime's CPU version refuses or computes with quantised activations are left out.
        runs[name] = (bits in (2, 4) and fusion != 2 and not c.get("fc3") and not c.get("half")
                      and not (bits == 2 and c.get("zp")))
        if runs[name]:
            build(f"{work}-{name}.onnx", nodes[-1:], *mine, {n: v for n, v in tensors.items() if n.startswith(name + "_")})
    build(work + ".onnx", nodes, inputs, outputs, tensors)
    got = check(work, values, expected, few)[-1]
    for name in (n for n in cases if runs[n]):
        session = onnxruntime.InferenceSession(f"{work}-{name}.onnx", providers=["CPUExecutionProvider"])
        ours, theirs = got[name], session.run(None, {n: values[n][:few] for n in (name + "_x", name + "_logits")})[0]
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max(), name
        print(f"{name}: as onnxruntime")


def matmul(work, rng, few=6, rows=MOST):
    cases = {
        "bits4": dict(bits=4, n=48, k=96, block=32),
        "bits4_zp": dict(bits=4, n=1200, k=160, block=32, zp="packed"),
        "bits8_zp": dict(bits=8, n=1200, k=64, block=16, zp="packed"),
        "bits2_zp": dict(bits=2, n=1200, k=80, block=16, zp="packed", ort=False),
        "bits3": dict(bits=3, n=17, k=64, block=32, ort=False),
        "bits3_zp": dict(bits=3, n=1200, k=160, block=32, zp="packed", ort=False),
        "bits3_short": dict(bits=3, n=40, k=101, block=64, ort=False),
        "bits3_row_f16": dict(bits=3, n=33, k=75, block=128, half=True, ort=False),
        "bits3_b16_zp": dict(bits=3, n=40, k=75, block=16, zp="float", ort=False),
        "bits4_float_zp": dict(bits=4, n=33, k=64, block=32, zp="float"),
        "bits4_padded": dict(bits=4, n=20, k=75, block=32, bias=True),
        "bits4_3d": dict(bits=4, n=20, k=64, block=64, rank=3, accuracy_level=1, ort=False),
        "bits4_f16": dict(bits=4, n=20, k=64, block=16, half=True, bias=True, ort=False),
        "bits4_bf16": dict(bits=4, n=48, k=75, block=32, zp="packed", type=ml_dtypes.bfloat16, ort=False),
    }
    for i in range(6):
        cases[f"random{i}"] = c = dict(bits=int(rng.choice([2, 3, 4, 8])), n=int(rng.integers(16, 120)), k=int(rng.integers(20, 400)),
                                       block=int(rng.choice([16, 32, 64, 128, 256])), zp=rng.choice([None, "packed"]),
                                       half=bool(rng.random() < 0.3), ort=False)
        print(f"random{i}: {c}")
    nodes, inputs, outputs, tensors, values, expected = [], [], [], {}, {}, {}
    for name, c in cases.items():
        bits, n, k, block = c["bits"], c["n"], c["k"], c["block"]
        kind = c.get("type", np.float16 if c.get("half") else np.float32)
        dtype = TYPES[kind]
        q = Quantised(rng, (n, k), bits, block, c.get("zp"), scale_type=kind)
        blocks = -(-k // block)
        padded = np.zeros((n, blocks * block), int)
        padded[:, :k] = q.codes
        slots = [name + "_x", name + "_b", name + "_s", "", "", ""]
        tensors |= {slots[1]: pack(padded.reshape(n, blocks, block), bits), slots[2]: q.scales.reshape(-1)}
        if c.get("zp"):
            slots[3] = name + "_z"
            tensors[slots[3]] = q.zeros if c["zp"] == "float" else pack(q.zeros.astype(int), bits).reshape(-1)
        bias = 0
        if c.get("bias"):
            slots[5] = name + "_bias"
            bias = tensors[slots[5]] = rng.standard_normal(n).astype(kind)
        while not slots[-1]:
            slots.pop()
        attributes = dict(K=k, N=n, bits=bits, block_size=block)
        if "accuracy_level" in c:
            attributes["accuracy_level"] = c["accuracy_level"]
        nodes.append(helper.make_node("MatMulNBits", slots, [name], domain="com.microsoft", name=name, **attributes))
        lead = ["b", "t"] if c.get("rank") == 3 else ["t"]
        inputs.append(helper.make_tensor_value_info(slots[0], dtype, [*lead, k]))
        outputs.append(helper.make_tensor_value_info(name, dtype, [*lead, n]))
        x = values[slots[0]] = rng.standard_normal(((2,) if len(lead) == 2 else ()) + (rows, k)).astype(kind)
        expected[name] = x.astype(float) @ q.numbers.T + bias
    build(work + ".onnx", nodes, inputs, outputs, tensors)
    one, most, some = check(work, values, expected, few, flag="--batch-invariant")
    for name in cases:
        for few_rows in (one[name], some[name]):
            assert np.array_equal(few_rows, most[name][..., :few_rows.shape[-2], :]), f"{name}: rows depend on others"
    got = check(work, values, expected, few)[-1]
    assert not [n for n in load_file(work + ".safetensors") if n.endswith("_b")], "banks that are not packed"
    # Codes of three bits take three in the file; the scales, of f32 for 32 codes, one more.
    n = k = 1024
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=k, N=n, bits=3, block_size=32)
    info = helper.make_tensor_value_info
    build(work + "-size.onnx", [node], [info("x", TensorProto.FLOAT, ["t", k])], [info("y", TensorProto.FLOAT, ["t", n])],
          {"b": rng.integers(0, 256, (n, k // 32, 12)).astype(np.uint8), "s": np.ones(n * k // 32, np.float32)})
    subprocess.run(["moe-compile", work + "-size.onnx", "-o", work + "-size.moe", "-q", "-O1", "--mcpu=native"], check=True)
    with open(work + "-size.safetensors", "rb") as file:
        bits = 8 * len(file.read()) / (n * k)
    assert bits < 4.1, bits
    for node, name in zip(nodes, cases):
        if not cases[name].get("ort", True):
            continue
        i = list(cases).index(name)
        used = {n: tensors[n] for n in node.input if n in tensors}
        build(f"{work}-{name}.onnx", [node], inputs[i:i + 1], outputs[i:i + 1], used)
        session = onnxruntime.InferenceSession(f"{work}-{name}.onnx", providers=["CPUExecutionProvider"])
        theirs = session.run(None, {name + "_x": values[name + "_x"][:few]})[0]
        assert np.abs(got[name] - theirs).max() < 1e-4 * np.abs(theirs).max(), name
        print(f"{name}: as onnxruntime")


def main():
    {"qmoe": qmoe, "matmul": matmul}[sys.argv[1]](sys.argv[2], np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 0))


main()
