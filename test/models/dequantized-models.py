"""MoE models whose weights DequantizeLinear dequantises: float models with their matrices replaced by codes.

    dequantized-models.py WORK MODEL.onnx...

Every matrix of a product and every bank of matrices gets codes of a random type, with scales for blocks of what is summed
over or (rank 2) for each column, and zero points or none. What exporters do with a bank may stand in front of
DequantizeLinear: each expert's codes and scales are then gathered. The numbers must be those of the float model with the
weights that the codes stand for, by onnxruntime; every layer must be raised with codes, and no numbers be stored.
"""
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter
from safetensors.numpy import load_file, save_file

CODES = [(TensorProto.INT4, -8, 7), (TensorProto.UINT4, 0, 15), (TensorProto.INT8, -128, 127), (TensorProto.UINT8, 0, 255)]
MOVES = ("Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Expand", "Tile", "Flatten")


def summed_axis(graph, name, flipped=False, depth=0):
    """-1 or -2: the dimension of `name` that a product sums over; None if no product reads it alone."""
    found = set()
    for node in graph.node:
        for i, used in enumerate(node.input):
            if used != name:
                continue
            if node.op_type == "MatMul" and i == 1:
                found.add(-2)
            elif node.op_type == "MatMul" and i == 0 and depth:
                found.add(-1)
            elif node.op_type == "Gemm" and i == 1:
                transposed = any(a.name == "transB" and a.i for a in node.attribute)
                found.add(-1 if transposed else -2)
            elif node.op_type == "Transpose" and i == 0:
                perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
                if perm is not None and perm[-2:] != [len(perm) - 1, len(perm) - 2]:
                    return None
                inner = summed_axis(graph, node.output[0], depth=depth + 1)
                found.add(None if inner is None else -3 - inner)
            elif node.op_type in MOVES and i == 0 and depth < 8:
                found |= {summed_axis(graph, out, depth=depth + 1) for out in node.output}
            elif node.op_type not in ("Shape",):
                found.add(None)
    return found.pop() if len(found) == 1 else None


def quantise(model, rng):
    """Two models: with codes, and with the numbers that they stand for. And how many weights have become codes."""
    coded, plain = onnx.ModelProto(), onnx.ModelProto()
    coded.CopyFrom(model)
    plain.CopyFrom(model)
    new_nodes, tensors, names, formats = [], [], [], {}
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.ndim not in (2, 3) or min(values.shape[-2:]) < 8:
            continue
        axis = summed_axis(model.graph, weight.name)
        if axis is None:
            continue
        axis += values.ndim
        readers = [n for n in coded.graph.node if weight.name in n.input]
        gathered = values.ndim == 3 and all(n.op_type == "Gather" for n in readers) and rng.random() < 0.6
        # Gather takes no codes of four bits.
        pick = (rng.integers(2, 4) if gathered else rng.integers(4), rng.random() < 0.3, int(rng.choice([16, 32, 24])), rng.random() < 0.5)
        if values.ndim == 2:  # the matrices of several experts are alike
            pick = formats.setdefault((values.shape, axis), pick)
        (kind, low, high), per_column, block, with_zeros = CODES[pick[0]], values.ndim == 2 and pick[1], pick[2], pick[3]
        block = values.shape[axis] if per_column else block
        blocks = -(-values.shape[axis] // block)
        starts = np.arange(blocks) * block
        top = np.maximum.reduceat(np.abs(values), starts, axis=axis)
        scales = (np.maximum(top, 1e-6) / ((high - low) / 2)).astype(np.float32)
        zeros = np.full(scales.shape, (low + high + 1) // 2)
        if with_zeros:
            zeros = zeros + rng.integers(-1, 2, scales.shape)
        at = np.arange(values.shape[axis]) // block
        wide = lambda v: np.take(v, at, axis=axis)
        codes = np.clip(np.round(values / wide(scales)) + wide(zeros), low, high).astype(np.int64)
        numbers = ((codes - wide(zeros)).astype(np.float32) * wide(scales)).astype(np.float32)
        for initializer in plain.graph.initializer:
            if initializer.name == weight.name:
                initializer.CopyFrom(numpy_helper.from_array(numbers, weight.name))
        coded.graph.initializer.remove(next(i for i in coded.graph.initializer if i.name == weight.name))
        if per_column:
            scales, zeros = scales.reshape(-1), zeros.reshape(-1)
            attributes = dict(axis=1 - axis)
        else:
            attributes = dict(axis=axis, block_size=block)
        parts = [f"{weight.name}_codes", f"{weight.name}_scales", f"{weight.name}_zeros"]
        tensors.append(helper.make_tensor(parts[0], kind, codes.shape, codes.flatten()))
        tensors.append(numpy_helper.from_array(scales, parts[1]))
        tensors.append(helper.make_tensor(parts[2], kind, zeros.shape, zeros.flatten()))
        if low == 0 or with_zeros:
            used = parts
        else:
            used = parts[:2]
            tensors.pop()
        if gathered:
            for n in readers:
                index = n.input[1]
                cut = []
                for part in used:
                    cut.append(f"{part}_of_{n.output[0]}")
                    new_nodes.append((n.output[0], helper.make_node("Gather", [part, index], [cut[-1]], name=cut[-1], axis=0)))
                # Indices of any rank stand for the first dimension: the axis is counted from the end.
                options = dict(attributes, axis=attributes["axis"] - values.ndim)
                new_nodes.append((n.output[0], helper.make_node("DequantizeLinear", cut, [n.output[0]], name=n.output[0] + "_dq", **options)))
                coded.graph.node.remove(n)
        else:
            new_nodes.append((None, helper.make_node("DequantizeLinear", used, [weight.name], name=weight.name + "_dq", **attributes)))
        names.append(f"{weight.name}{'(gathered)' if gathered else ''}")
    coded.graph.initializer.extend(tensors)
    # In an order in which every value is there before it is read.
    ready = {i.name for i in [*coded.graph.input, *coded.graph.initializer]} | {""}
    pending = [n for _, n in new_nodes] + list(coded.graph.node)
    del coded.graph.node[:]
    while pending:
        rest = []
        for node in pending:
            needs = set(node.input) | {i for a in node.attribute if a.type == onnx.AttributeProto.GRAPH
                                       for n in a.g.node for i in n.input}
            own = {o for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in a.g.node for o in n.output}
            if needs - own <= ready:
                coded.graph.node.append(node)
                ready |= set(node.output)
            else:
                rest.append(node)
        assert len(rest) < len(pending), "a cycle"
        pending = rest
    return coded, plain, names


def check(work, path, seed):
    model = onnx.load(path)
    if model.opset_import[0].version < 21:
        model = version_converter.convert_version(model, 21)
    rng = np.random.default_rng(seed)
    coded, plain, names = quantise(model, rng)
    assert names, path
    coded.ir_version = plain.ir_version = 10
    label = os.path.basename(os.path.dirname(path))
    onnx.save(coded, work + ".onnx")
    done = subprocess.run(["moe-compile", work + ".onnx", "-o", work + ".moe", "--json", "-O1", "--mcpu=native"], capture_output=True, text=True)
    assert done.returncode == 0, (label, done.stderr)
    report = json.loads(done.stdout)
    session = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    folder, ran = os.path.dirname(path), 0
    for suffix in ("", "2"):
        inputs = os.path.join(folder, f"inputs{suffix}.safetensors")
        if not os.path.exists(inputs):
            continue
        values = load_file(inputs)
        outputs = [o.name for o in session.get_outputs()]
        want = dict(zip(outputs, session.run(outputs, values)))
        save_file({n: np.ascontiguousarray(v) for n, v in want.items()}, work + ".expected.safetensors")
        largest = max(float(np.abs(v).max()) for v in want.values() if v.dtype.kind == "f")
        run = subprocess.run(["moe-run", work + ".moe", f"--inputs={inputs}", f"--expected={work}.expected.safetensors",
                              f"--atol={3e-5 * largest}", "--rtol=1e-4"], capture_output=True, text=True)
        assert run.returncode == 0, (label, run.stdout, run.stderr)
        ran += 1
    layers = report["model"]["layers"] if "model" in report else report["layers"]
    formats = [layer["weights"] for layer in layers]
    print(f"{label}: {len(layers)} layers {formats}, {ran} inputs, codes: {', '.join(names)}")
    assert layers and ran
    assert all(text.startswith("<") or "quant" in text for text in formats), (label, formats)
    return report


def main():
    work = sys.argv[1]
    for i, path in enumerate(sys.argv[2:]):
        check(work, path, i)


main()
