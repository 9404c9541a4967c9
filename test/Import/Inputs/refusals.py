#!/usr/bin/env python3
"""Writes models that must be refused, each for one reason, and small ones that must not."""
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = sys.argv[1]
F = TensorProto.FLOAT


def save(name, nodes, inputs, outputs, initializers=(), opset=18):
    info = lambda pairs: [helper.make_tensor_value_info(n, t, s) for n, t, s in pairs]
    tensors = [numpy_helper.from_array(a, n) for n, a in initializers]
    graph = helper.make_graph(nodes, name, info(inputs), info(outputs), tensors)
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset),
                                                                  helper.make_opsetid("com.microsoft", 1)])
    onnx.save(model, os.path.join(OUT, name + ".onnx"))


def moe(name, **attributes):
    shapes = attributes.pop("shapes", {})
    E, H, I = 4, 8, 6
    zeros = lambda key, *shape: (key, np.zeros(shapes.get(key, shape), np.float32))
    node = helper.make_node("MoE", ["x", "logits", "w1", "", "w2"], ["y"], name="layer/moe", domain="com.microsoft",
                            **attributes)
    save(name, [node], [("x", F, ["T", H]), ("logits", F, ["T", shapes.get("columns", E)])], [("y", F, ["T", H])],
         [zeros("w1", E, I, H), zeros("w2", E, H, I)])


os.makedirs(OUT, exist_ok=True)
moe("k_too_large", k=5)
moe("k_zero", k=0)
moe("activation", activation_type="RELU")
moe("sparse_mixer", use_sparse_mixer=1, k=2)
moe("negative_limit", activation_type="swiglu", swiglu_fusion=1, swiglu_limit=-1.0)
moe("swiglu_without_fc3", activation_type="swiglu")
moe("swapped_weights", shapes={"w1": (4, 8, 6)})
moe("columns", shapes={"columns": 7})
moe("good", k=2)


def qmoe(name, spare=None, codes=None, **attributes):
    E, H, I = 4, 64, 32
    byte = lambda key, *shape: (key, np.zeros(shape, np.uint8))
    one = lambda key, *shape: (key, np.ones(shape, np.float32))
    slots = ["x", "logits", "w1", "s1", "", "w2", "s2"]
    if spare:
        slots += [""] * (spare - len(slots)) + ["s1"]
    node = helper.make_node("QMoE", slots, ["y"], name="layer/qmoe", domain="com.microsoft", **attributes)
    constants = [one("s1", E, I), byte("w2", E, H, I // 2), one("s2", E, H)]
    inputs = [("x", F, ["T", H]), ("logits", F, ["T", E])]
    if codes == "input":
        inputs.append(("w1", TensorProto.UINT8, [E, I, H // 2]))
    else:
        constants.append(byte("w1", *(codes or (E, I, H // 2))))
    save(name, [node], inputs, [("y", F, ["T", H])], constants)


qmoe("qmoe_bits", expert_weight_bits=5)
qmoe("qmoe_mixed", fc2_expert_weight_bits=8)
qmoe("qmoe_type", quant_type="fp4")
qmoe("qmoe_prepacked", weights_prepacked=1)
qmoe("qmoe_block", block_size=24)
qmoe("qmoe_codes", codes=(4, 32, 64))
qmoe("qmoe_input", codes="input")
qmoe("qmoe_scales", block_size=32)
qmoe("qmoe_global", spare=15)


def nbits(name, b=(8, 2, 16), g_idx=False, **attributes):
    slots = ["x", "b", "s"] + (["", "g"] if g_idx else [])
    node = helper.make_node("MatMulNBits", slots, ["y"], name="linear", domain="com.microsoft",
                            **({"K": 64, "N": 8, "bits": 4, "block_size": 32} | attributes))
    constants = [("b", np.zeros(b, np.uint8)), ("s", np.ones((8, 2), np.float32)), ("g", np.zeros(64, np.int32))]
    save(name, [node], [("x", F, ["T", 64])], [("y", F, ["T", 8])], constants if g_idx else constants[:2])


nbits("nbits_bits", bits=5)
nbits("nbits_block", block_size=8)
nbits("nbits_g_idx", g_idx=True)
nbits("nbits_prepacked", weight_prepacked=1)
nbits("nbits_shape", b=(8, 2, 15))



def dequantize(name, scales, zeros=None, **attributes):
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"][:2 if zeros is None else 3], ["f"], name="weights/dq", **attributes)
    constants = [("w", np.zeros((64, 48), np.int8)), ("s", np.ones(scales, np.float32)), ("z", np.zeros(zeros or (), np.int8))]
    save(name, [node, helper.make_node("MatMul", ["x", "f"], ["y"])], [("x", F, ["T", 64])], [("y", F, ["T", 48])],
         constants[:2 if zeros is None else 3], opset=21)


dequantize("dequantize_channels", (47,), axis=1)
dequantize("dequantize_blocks", (3, 48), axis=0, block_size=32)
dequantize("dequantize_zeros", (2, 48), (2, 47), axis=0, block_size=32)

save("unsupported", [helper.make_node("Bernoulli", ["x"], ["a"], name="first"),
                     helper.make_node("Bernoulli", ["a"], ["b"], name="second"),
                     helper.make_node("MelWeightMatrix", ["n", "n", "n", "f", "f"], ["c"], name="mel"),
                     helper.make_node("Relu", ["b"], ["y"], name="relu")],
     [("x", F, ["T", 8]), ("n", TensorProto.INT64, []), ("f", F, [])], [("y", F, ["T", 8]), ("c", F, ["a", "b"])])
save("data_dependent", [helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")],
     [("x", F, ["T", 8]), ("shape", TensorProto.INT64, ["R"])], [("y", F, ["a", "b"])])
save("sequence", [helper.make_node("SequenceConstruct", ["x", "x"], ["s"], name="pack"),
                  helper.make_node("ConcatFromSequence", ["s"], ["y"], name="join", axis=0)],
     [("x", F, ["T", 8])], [("y", F, ["a", 8])])

# Operands that do not fit their operator, found by the fuzz target.
save("einsum_equation", [helper.make_node("Einsum", ["x"], ["y"], name="sum", equation="i >i")],
     [("x", F, [3, 4])], [("y", F, [3])])
gqa = ["q", "k", "v", "", "", "last", "total"]
save("gqa_rank", [helper.make_node("GroupQueryAttention", gqa, ["y", "ok", "ov"], name="attend", domain="com.microsoft",
                                   num_heads=4, kv_num_heads=2)],
     [("q", F, ["B", "S", 32]), ("k", F, ["B", "S", 16]), ("v", F, ["B", 16]), ("last", TensorProto.INT32, ["B"]),
      ("total", TensorProto.INT32, [1])],
     [("y", F, ["B", "S", 32]), ("ok", F, ["B", 2, "L", 8]), ("ov", F, ["B", 2, "L", 8])])
save("mha_packed", [helper.make_node("MultiHeadAttention", ["q"], ["y"], name="attend", domain="com.microsoft", num_heads=4)],
     [("q", F, ["B", "S", 4, 3, 8])], [("y", F, ["B", "S", 32])])
save("training", [helper.make_node("BatchNormalization", ["x", "c", "c", "c", "c"], ["y", "m", "v"], name="norm",
                                   training_mode=1)],
     [("x", F, ["N", 3]), ("c", F, [3])], [("y", F, ["N", 3]), ("m", F, [3]), ("v", F, [3])])
