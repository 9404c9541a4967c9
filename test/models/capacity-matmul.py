#!/usr/bin/env python3
"""capacity-matmul.py CASE FOLDER: the case with its two Einsums as products of matrices, the places of all experts side by
side: what exporters write that have no Einsum."""
import os
import shutil
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper

case, out = sys.argv[1:]
shutil.copytree(case, out)
model = onnx.load(os.path.join(case, "model.onnx"))
graph, nodes = model.graph, []
E, C, H = 4, 6, 32


def shape(*sizes):
    name = f"shape{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    return name


for node in graph.node:
    if node.op_type != "Einsum":
        nodes.append(node)
        continue
    a, b, y = *node.input, node.output[0]
    if node.attribute[0].s == b"tec,th->ech":
        nodes += [helper.make_node("Transpose", [a], [y + "_turned"], perm=[1, 2, 0]),
                  helper.make_node("Reshape", [y + "_turned", shape(E * C, -1)], [y + "_matrix"]),
                  helper.make_node("MatMul", [y + "_matrix", b], [y + "_rows"]),
                  helper.make_node("Reshape", [y + "_rows", shape(E, C, H)], [y])]
    else:
        nodes += [helper.make_node("Reshape", [a, shape(-1, E * C)], [y + "_gates"]),
                  helper.make_node("Reshape", [b, shape(E * C, H)], [y + "_rows"]),
                  helper.make_node("MatMul", [y + "_gates", y + "_rows"], [y], name="combine")]
del graph.node[:]
graph.node.extend(nodes)
onnx.save(model, os.path.join(out, "model.onnx"))
