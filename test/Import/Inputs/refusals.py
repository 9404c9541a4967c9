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

save("unsupported", [helper.make_node("Hardmax", ["x"], ["a"], name="first"),
                     helper.make_node("Hardmax", ["a"], ["b"], name="second"),
                     helper.make_node("MelWeightMatrix", ["n", "n", "n", "f", "f"], ["c"], name="mel"),
                     helper.make_node("Relu", ["b"], ["y"], name="relu")],
     [("x", F, ["T", 8]), ("n", TensorProto.INT64, []), ("f", F, [])], [("y", F, ["T", 8]), ("c", F, ["a", "b"])])
save("data_dependent", [helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")],
     [("x", F, ["T", 8]), ("shape", TensorProto.INT64, [2])], [("y", F, ["a", "b"])])
