"""The models that are measured: chains of MoE layers, and what their routing really touches.

A chain is x = x + MoE(x), layer after layer, each with its own weights and router. One layer alone would stay in a large
cache; without the residual, values would decay into denormal numbers. The router's logits get a bias that is an input of
the model, so one model serves every kind of routing.
"""
import json
import math

import numpy as np

# name: (hidden H, inner I, experts E, chosen k)
SHAPES = {
    "tiny": (64, 96, 8, 2),
    "granite-1b": (1024, 512, 32, 8),
    "olmoe": (2048, 1024, 64, 8),
    "qwen3-30b": (2048, 768, 128, 8),
    "lfm2-8b": (2048, 1792, 32, 4),
    "deepseek-v2-lite": (2048, 1408, 64, 6),
    "gpt-oss-20b": (2880, 2880, 32, 4),
    "phi-3.5-moe": (4096, 6400, 16, 2),
    "mixtral-4-of-8": (4096, 14336, 4, 2),
}
ROUTINGS = ("uniform", "zipf", "all-to-one")
DTYPES = {"f32": 4, "f16": 2, "bf16": 2}  # bytes


def expert_bytes(shape, dtype="f32"):
    hidden, inner, _, _ = SHAPES[shape]
    return 3 * hidden * inner * DTYPES[dtype]


def layer_bytes(shape, dtype="f32"):
    return expert_bytes(shape, dtype) * SHAPES[shape][2]


def chain_layers(shape, pool):
    """How many layers make up `pool` GB of f32 weights. Chains of a type that is half as wide have as many: the ratio between types is
    one of equal work."""
    return max(1, math.ceil(pool * 1e9 / layer_bytes(shape, "f32")))


def routing_bias(shape, routing):
    """What is added to the router's logits, which are about normal with deviation 1."""
    _, _, experts, k = SHAPES[shape]
    bias = np.zeros(experts, np.float32)
    if routing == "zipf":
        bias = -np.log(1 + np.random.default_rng(7).permutation(experts)).astype(np.float32)
    elif routing == "all-to-one":
        bias[:k] = 100  # all rows to the same k experts
    return bias


def make_rows(shape, tokens, count):
    """`count` different inputs."""
    rng = np.random.default_rng(tokens)
    return [rng.standard_normal((tokens, SHAPES[shape][0]), np.float32) for _ in range(count)]


def write_model(path, shape, layers, dtype="f32", strength=0.05):
    """Writes the ONNX chain x [T, H], bias [E] -> y [T, H] with its weights beside it, and an index of them (.json) for what reads no ONNX.
    `strength` is that of a layer beside the residual."""
    import onnx
    from onnx import TensorProto, helper

    hidden, inner, experts, k = SHAPES[shape]
    numpy_type = numpy_dtype(dtype)
    onnx_type = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    rng = np.random.default_rng(1)
    # Large banks repeat one random block: drawing gigabytes would take longer than measuring.
    block = rng.standard_normal(8_000_003, np.float32)
    file = open(path.with_suffix(".data"), "wb")
    initializers, nodes, index, offset = [], [], [], 0

    def weight(name, dims, scale):
        nonlocal offset
        count = math.prod(dims)
        # Another part of the block first in each bank.
        scaled = np.roll((block * np.float32(scale)).astype(numpy_type), -int(rng.integers(len(block)))).view(np.uint8).data
        for at in range(0, count, len(block)):
            file.write(scaled[: (count - at) * numpy_type.itemsize])
        tensor = TensorProto(name=name, data_type=onnx_type, dims=dims, data_location=TensorProto.EXTERNAL)
        length = count * numpy_type.itemsize
        for key, value in (("location", path.with_suffix(".data").name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        initializers.append(tensor)
        index.append({"name": name, "dims": dims, "offset": offset})
        offset += length
        return name

    # The gated product is quadratic in x: layers add little to the residual, or long chains overflow.
    cast = dtype != "f32"
    value = "x"
    if cast:
        nodes += [helper.make_node("Cast", ["x"], ["x_"], to=onnx_type), helper.make_node("Cast", ["bias"], ["bias_"], to=onnx_type)]
        value = "x_"
    for n in range(layers):
        router = weight(f"router{n}", [hidden, experts], hidden**-0.5)
        fc1 = weight(f"fc1_{n}", [experts, 2 * inner, hidden], hidden**-0.5)
        fc2 = weight(f"fc2_{n}", [experts, hidden, inner], strength * inner**-0.5)
        out = "y" if n == layers - 1 and not cast else f"h{n + 1}"
        nodes += [
            helper.make_node("MatMul", [value, router], [f"scores{n}"]),
            helper.make_node("Add", [f"scores{n}", "bias_" if cast else "bias"], [f"logits{n}"]),
            helper.make_node(
                "MoE", [value, f"logits{n}", fc1, "", fc2], [f"moe{n}"], domain="com.microsoft", k=k,
                activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, activation_alpha=1.0,
                activation_beta=0.0,
            ),
            helper.make_node("Add", [value, f"moe{n}"], [out]),
        ]
        value = out
    if cast:
        nodes.append(helper.make_node("Cast", [value], ["y"], to=TensorProto.FLOAT))
    file.close()
    path.with_suffix(".json").write_text(json.dumps(index))
    info = lambda name, last: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", last])
    bias = helper.make_tensor_value_info("bias", TensorProto.FLOAT, [experts])
    graph = helper.make_graph(nodes, "chain", [info("x", hidden), bias], [info("y", hidden)], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def deinterleave(fc1):
    """[E, 2 I, H] with gate and up rows in turn -> gates first, then ups."""
    return np.concatenate([fc1[:, 0::2], fc1[:, 1::2]], axis=1)


def numpy_dtype(dtype):
    import ml_dtypes

    return np.dtype({"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[dtype])


def count_rows(model, k, inputs, bias, dtype="f32"):
    """The rows of each expert, by input and layer [inputs, layers, E], of a model that has an index; no layers: it has no routers. Layers
    add little to their rows, so that those of the first stand for all."""
    index = [entry for entry in json.loads(model.with_suffix(".json").read_text()) if entry["name"].startswith("router")]
    routers = [np.memmap(model.with_suffix(".data"), numpy_dtype(dtype), "r", entry["offset"], tuple(entry["dims"])).astype(np.float32)
               for entry in index]
    return np.array([[rows_of_experts(x @ router + bias, k) for router in routers] for x in inputs])


def rows_of_experts(logits, k):
    """How many rows choose each expert, from a router's results [T, E]."""
    return np.bincount(np.argpartition(-logits, k - 1, axis=1)[:, :k].ravel(), minlength=logits.shape[1])
