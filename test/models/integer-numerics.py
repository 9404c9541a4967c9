"""Integer products with quantised weights (--numerics=fast), against a model of the same quantisation in numpy.

    integer-numerics.py linear|experts WORK [SEED]

The kernels of all instruction sets run here: those of AVX2 as they are, the others with ordinary code in the place of their
instructions. All give the same bits.
"""
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

# All forms for the small model; the large ones, which cost more to compile, name fewer.
FORMS = [[], *([f"--emulate-cpu={cpu}"] for cpu in ("x86-64-v3+avxvnni", "x86-64-v4", "x86-64-v4+avx512vnni", "x86-64-v4+avx512vnni+amx-int8"))]


def pack(codes, bits):
    """Codes along the last dimension, lowest bit first."""
    stream = ((codes[..., None] >> np.arange(bits)) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def quantise_rows(x, block):
    """Codes, and what a code of 1 stands for, by row and block."""
    x = x.astype(np.float32)
    rows, k = x.shape
    codes, steps = np.zeros((rows, k), np.int64), []
    for at in range(0, k, block or k):
        part = x[:, at:at + (block or k)]
        largest = np.abs(part).max(-1)
        finite = np.isfinite(part).all(-1)
        usable = finite & (largest > np.float32(2.0**-100))
        factor = np.float32(127) / np.where(usable, largest, np.float32(1))
        codes[:, at:at + part.shape[1]] = np.rint(np.where(usable[:, None], part, 0) * factor[:, None])
        steps.append(np.where(finite, largest / np.float32(127), np.float32(np.nan)))
    return codes, np.stack(steps, -1)


def multiply(x, weights, scales, block):
    """x [rows, k] times integers (or halves of them) [n, k] less their zero points, with scales [n, blocks]."""
    codes, steps = quantise_rows(x, block)
    y = np.zeros((len(x), len(weights)))
    for b, at in enumerate(range(0, x.shape[1], block or x.shape[1])):
        part = slice(at, at + (block or x.shape[1]))
        y += (codes[:, part] @ weights[:, part].T) * steps[:, b:b + 1].astype(float) * scales[:, b].astype(float)
    return y


def build(name, nodes, inputs, outputs, tensors):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in tensors.items()])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), name)


def compile(work, *flags):
    subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "-q", "-O1", "--mcpu=x86-64-v3", *flags], check=True)


def run(work, values):
    save_file(values, work + ".in.safetensors")
    subprocess.run(["moe-run", work + ".moe", f"--inputs={work}.in.safetensors", f"--outputs={work}.out.safetensors"], check=True)
    return load_file(work + ".out.safetensors")


def run_forms(work, inputs, *flags, forms=FORMS):
    """The outputs for each dictionary of inputs; the same bits in all forms."""
    results = []
    for form in forms:
        compile(work, *form, *flags)
        results.append([run(work, values) for values in inputs])
        for first, other in zip(results[0], results[-1]):
            for name in first:
                assert np.array_equal(first[name], other[name], equal_nan=True), (form, name)
    return results[0]


def special_rows(rng, x, block):
    """Rows of zeros, of tiny numbers, with NaN, with infinities."""
    x[0] = 0
    x[1] *= 1e-33
    x[2, rng.integers(x.shape[1])] = np.nan
    x[3, rng.integers(x.shape[1])] = -np.inf
    x[4, :block or None] = 0
    return x


def linear(work, rng):
    """Every width, blocks of 16 to 256 and whole rows, odd K, zero points."""
    cases = {
        "int8_b32": dict(bits=8, n=40, k=96, block=32),
        "int8_b16_zp": dict(bits=8, n=1203, k=75, block=16, zp=True),
        "int8_row": dict(bits=8, n=48, k=200, block=256),
        "int4_b32": dict(bits=4, n=64, k=160, block=32),
        "int4_b32_zp": dict(bits=4, n=1210, k=101, block=32, zp=True),
        "int4_b128": dict(bits=4, n=70, k=400, block=128),
        "int4_b256_f16": dict(bits=4, n=32, k=512, block=256, half=True),
        "int4_row": dict(bits=4, n=40, k=1040, block=2048),
        "int2_row": dict(bits=2, n=32, k=600, block=1024),
        "int3_b64": dict(bits=3, n=32, k=130, block=64),
        "int3_b32_zp": dict(bits=3, n=1210, k=101, block=32, zp=True),
        "int3_row": dict(bits=3, n=48, k=200, block=256),
        "int3_b16": dict(bits=3, n=40, k=75, block=16),
        "int2_b16": dict(bits=2, n=32, k=97, block=16),
        "int2_b64_zp": dict(bits=2, n=2201, k=128, block=64, zp=True),
    }
    nodes, inputs, outputs, tensors, exact, general, parts = [], [], [], {}, {}, {}, {}
    for name, c in cases.items():
        bits, n, k, block = c["bits"], c["n"], c["k"], c["block"]
        blocks = -(-k // block)
        codes = rng.integers(0, 1 << bits, (n, k))
        codes[0], codes[1] = 0, (1 << bits) - 1
        scales = (2.0 ** rng.integers(-3, 1, (n, blocks)) * (0.5 if bits == 4 else 1)).astype(np.float16 if c.get("half") else np.float32)
        zeros = rng.integers(0, 1 << bits, (n, blocks)) if c.get("zp") else np.full((n, blocks), 1 << (bits - 1))
        padded = np.zeros((n, blocks * block), int)
        padded[:, :k] = codes
        slots = [name + "_x", name + "_b", name + "_s"]
        tensors |= {slots[1]: pack(padded.reshape(n, blocks, block), bits), slots[2]: scales.reshape(-1)}
        if c.get("zp"):
            slots.append(name + "_z")
            tensors[slots[3]] = pack(zeros, bits).reshape(-1)
        nodes.append(helper.make_node("MatMulNBits", slots, [name], domain="com.microsoft", name=name, K=k, N=n, bits=bits,
                                      block_size=block, accuracy_level=1))
        kind, dtype = (np.float16, TensorProto.FLOAT16) if c.get("half") else (np.float32, TensorProto.FLOAT)
        inputs.append(helper.make_tensor_value_info(slots[0], dtype, ["t", k]))
        outputs.append(helper.make_tensor_value_info(name, dtype, ["t", n]))
        # Integers whose largest is 127 are their own codes: every sum is a number that f32 holds, and has to be exact.
        x = rng.integers(-127, 128, (9, k)).astype(kind)
        x[:, ::block] = 127
        x[0], x[1] = 127, -127
        exact[slots[0]] = x
        x = (rng.standard_normal((13, k)) * 10.0 ** rng.integers(-3, 3, (13, 1))).astype(kind)
        general[slots[0]] = special_rows(rng, x, block)
        parts[name] = codes - np.repeat(zeros, block, -1)[:, :k], scales, block
    build(work + ".onnx", nodes, inputs, outputs, tensors)
    empty = {name: value[:0] for name, value in exact.items()}
    # A row alone takes kernels of its own.
    alone = {name: value[7:8] for name, value in general.items()}
    results = run_forms(work, [exact, general, empty, alone], "--numerics=fast", forms=[FORMS[0], FORMS[-2]])
    for name, (weights, scales, block) in parts.items():
        half = results[0][name].dtype == np.float16
        want = multiply(exact[name + "_x"], weights, scales, block)
        assert np.array_equal(results[0][name], want.astype(results[0][name].dtype)), name
        got, want = results[1][name].astype(float), multiply(general[name + "_x"], weights, scales, block)
        assert np.isnan(got[2:4]).all() and not np.isnan(np.delete(got, [2, 3], 0)).any(), name
        assert not got[:2].any() and np.array_equal(np.isnan(got), np.isnan(want)), name
        rows = [i for i in range(len(got)) if want[i].any() and i not in (2, 3)]
        assert not got[[i for i in range(len(got)) if not want[i].any()]].any(), name
        error = (np.abs(got - want)[rows].max(-1) / np.abs(want)[rows].max(-1)).max()
        print(f"{name}: relative error {error:.1e}")
        assert error < (1e-3 if half else 2e-6), name
        assert results[2][name].shape == (0, want.shape[1])
        assert np.array_equal(results[3][name], results[1][name][7:8]), name
    # Without the option the products are exact, whatever the rows are; so they are where the file does not ask.
    compile(work)
    got, single = run(work, general), run(work, alone)
    for name, (weights, scales, block) in parts.items():
        numbers = weights * np.repeat(scales.astype(float), block, -1)[:, :weights.shape[1]]
        x = general[name + "_x"].astype(float)[5:]
        error = np.abs(got[name][5:] - x @ numbers.T).max() / np.abs(x @ numbers.T).max()
        assert error < (1e-3 if got[name].dtype == np.float16 else 2e-5), (name, error)
        error = np.abs(single[name][0] - x[2] @ numbers.T).max() / np.abs(x[2] @ numbers.T).max()
        assert error < (1e-3 if got[name].dtype == np.float16 else 2e-5), (name, error)

    # accuracy_level = 4 asks for integers; --numerics=exact overrules the file.
    for node in nodes:
        node.attribute.remove(next(a for a in node.attribute if a.name == "accuracy_level"))
        node.attribute.append(helper.make_attribute("accuracy_level", 4))
    build(work + ".onnx", nodes, inputs, outputs, tensors)
    compile(work)
    asked = run(work, exact | general)
    compile(work, "--numerics=exact")
    refused = run(work, exact | general)
    for name in parts:
        assert np.array_equal(asked[name], results[1][name], equal_nan=True), name
        assert np.array_equal(refused[name], got[name], equal_nan=True), name


def mxfp4(work, rng):
    """Matrices on the grid of MXFP4, which the quantiser stores as they are."""
    n, k, block = 48, 160, 32
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    weights = grid[rng.integers(0, 8, (n, k))] * rng.choice([-1, 1], (n, k))
    weights[:, ::block] = 6
    weights[:, 1::block] = 0.5
    scales = 2.0 ** rng.integers(-6, -3, (n, k // block))
    numbers = (weights * np.repeat(scales, block, -1)).astype(np.float32)
    build(work + ".onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])],
          [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", k])],
          [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["t", n])], {"w": np.ascontiguousarray(numbers.T)})
    x = special_rows(rng, rng.standard_normal((11, k)).astype(np.float32), block)
    got = run_forms(work, [{"x": x}], "--numerics=fast", "--quantize=mxfp4", "--quantize-linears")[0]["y"]
    want = multiply(x, weights, scales, block)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    error = np.nanmax(np.abs(got - want)) / np.nanmax(np.abs(want))
    print(f"mxfp4: relative error {error:.1e}")
    assert error < 2e-6
    # Exact products, with one row, few and many: each has kernels of its own.
    for form in FORMS[0], FORMS[2]:
        compile(work, "--quantize=mxfp4", "--quantize-linears", *form)
        for rows in (1, 2, 7, 230):
            x = rng.standard_normal((rows, k)).astype(np.float32)
            want = x.astype(float) @ numbers.T
            error = np.abs(run(work, {"x": x})["y"] - want).max() / np.abs(want).max()
            print(f"mxfp4, exact, {rows} rows: relative error {error:.1e}")
            assert error < 2e-6, (rows, error)


def experts(work, rng):
    """Whole layers: the second product quantises what the first one's epilogue gave."""
    cases = {
        "int4_b32": dict(bits=4, block=32, experts=6, k=2),
        "int8_row": dict(bits=8, block=0, experts=5, k=2),
        "int2_b16_zp": dict(bits=2, block=16, experts=3, k=1, zp=True),
        "int8_b32_one": dict(bits=8, block=32, experts=1, k=1),
        "int4_row_zp": dict(bits=4, block=0, experts=3, k=2, zp=True),
    }
    hidden, inner = 64, 96
    nodes, inputs, outputs, tensors, layers = [], [], [], {}, {}
    for name, c in cases.items():
        bits, block, count = c["bits"], c["block"], c["experts"]
        matrices = []
        slots = [name + "_x", name + "_logits"] + [""] * 11
        for i, (n, k) in enumerate(((2 * inner, hidden), (hidden, inner))):
            blocks = -(-k // block) if block else 1
            codes = rng.integers(0, 1 << bits, (count, n, k))
            scales = (rng.uniform(0.5, 1.5, (count, n, blocks)) * 0.4 / (1 << bits)).astype(np.float32)
            zeros = rng.integers(0, 1 << bits, (count, n, blocks)) if c.get("zp") else np.full((count, n, blocks), 1 << (bits - 1))
            entries = {2 + 3 * i: pack(codes, bits), 3 + 3 * i: scales if block else scales[..., 0]}
            if c.get("zp"):
                entries[11 + i] = pack(zeros, bits) if block else pack(zeros[..., 0], bits)
            for slot, value in entries.items():
                slots[slot] = f"{name}_{slot}"
                tensors[slots[slot]] = value
            matrices.append((codes - np.repeat(zeros, block or k, -1)[..., :k], scales))
        while not slots[-1]:
            slots.pop()
        attributes = dict(k=c["k"], activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
                          expert_weight_bits=bits, normalize_routing_weights=1) | (dict(block_size=block) if block else {})
        nodes.append(helper.make_node("QMoE", slots, [name], domain="com.microsoft", name=name, **attributes))
        inputs += [helper.make_tensor_value_info(slots[0], TensorProto.FLOAT, ["t", hidden]),
                   helper.make_tensor_value_info(slots[1], TensorProto.FLOAT, ["t", count])]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["t", hidden]))
        layers[name] = matrices
    # accuracy_level = 4 asks for it where there are blocks: gate and up, and down of three cases, and no other ones.
    for node in nodes:
        node.attribute.append(helper.make_attribute("accuracy_level", 4))
    build(work + ".onnx", nodes, inputs, outputs, tensors)
    for flags, count in ((["--compile-to=raise"], 9), (["--compile-to=tile"], 6), (["--compile-to=tile", "--numerics=exact"], 0)):
        text = subprocess.run(["moe-compile", work + ".onnx", *flags], check=True, capture_output=True, text=True).stdout
        assert text.count("moe.integer_rows") == count, (flags, text.count("moe.integer_rows"))
        assert count in (0, 9) or text.count("moe.grouped_matmul") == 2 * len(cases)
    for node in nodes:
        node.attribute.pop()
    build(work + ".onnx", nodes, inputs, outputs, tensors)
    runs = []
    # No rows, one, several, and many of which most choose the same expert.
    for tokens, skew in ((0, 0), (1, 0), (17, 0), (40, 6)):
        values = {}
        for name, c in cases.items():
            values[name + "_x"] = rng.standard_normal((tokens, hidden)).astype(np.float32)
            logits = rng.standard_normal((tokens, c["experts"])).astype(np.float32)
            logits[:, -1] += skew
            values[name + "_logits"] = logits
        runs.append(values)
    silu = lambda v: v / (1 + np.exp(-v))
    for values, got in zip(runs, run_forms(work, runs, "--numerics=fast", forms=FORMS[:1])):
        for name, c in cases.items():
            x, logits = values[name + "_x"], values[name + "_logits"].astype(float)
            (w1, s1), (w2, s2) = layers[name]
            want = np.zeros(x.shape)
            for t in range(len(x)):
                chosen = np.argsort(-logits[t])[:c["k"]]
                gates = np.exp(logits[t, chosen] - logits[t].max())
                for e, gate in zip(chosen, gates / gates.sum()):
                    h = multiply(x[t:t + 1], w1[e], s1[e], c["block"])[0]
                    h = silu(h[0::2]) * h[1::2]
                    want[t] += gate * multiply(h[None], w2[e], s2[e], c["block"])[0]
            if not len(x):
                assert got[name].shape == x.shape
                continue
            # An activation between two codes may fall to either side: few elements, and by one step.
            error = np.abs(got[name] - want) / np.abs(want).max()
            print(f"{name}, {len(x)} rows: {np.median(error):.1e} in the median, {error.max():.1e} at most")
            assert np.median(error) < 2e-6 and error.max() < 5e-3, name


{"linear": linear, "mxfp4": mxfp4, "experts": experts}[sys.argv[1]](sys.argv[2], np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 0))
