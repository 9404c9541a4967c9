#!/usr/bin/env python3
"""Writes a layer of two experts with different activations."""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

H = 8
nodes, weights = [], []


def constant(array):
    weights.append(numpy_helper.from_array(np.asarray(array), f"c{len(weights)}"))
    return weights[-1].name


def node(op, *inputs, outputs=1, **attributes):
    names = [f"v{len(nodes)}_{i}" for i in range(outputs)]
    nodes.append(helper.make_node(op, inputs, names, name=f"n{len(nodes)}", **attributes))
    return names[0] if outputs == 1 else names


matrix = lambda *shape: constant(np.ones(shape, np.float32))
values, index = node("TopK", node("MatMul", "x", matrix(H, 2)), constant(np.array([1])), outputs=2)
outs = []
for e, activation in enumerate(["Relu", "Tanh"]):
    mask = node("Cast", node("Equal", index, constant(np.int64(e))), to=TensorProto.FLOAT)
    hidden = node(activation, node("MatMul", "x", matrix(H, H)))
    outs.append(node("Mul", node("MatMul", hidden, matrix(H, H)), node("Mul", mask, values)))
nodes.append(helper.make_node("Add", outs, ["y"], name="sum"))
info = lambda n: [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", H])]
graph = helper.make_graph(nodes, "g", info("x"), info("y"), weights)
onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), sys.argv[1])
