#!/usr/bin/env python3
"""Writes damaged copies of a model: truncated, bits flipped, bytes overwritten, fields made absurd. Deterministic."""
import os
import random
import sys

import numpy as np
import onnx
from onnx import TensorProto


def main():
    source, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    data = open(source, "rb").read()
    os.makedirs(out, exist_ok=True)
    rng = random.Random(1)
    # Most of a model's bytes are weights: the ones that matter are at the ends.
    edge = lambda: rng.choice((rng.randrange(min(400, len(data))), len(data) - 1 - rng.randrange(min(1500, len(data))),
                               rng.randrange(len(data))))
    for i in range(count):
        broken = bytearray(data)
        kind = i % 4
        if kind == 0:
            broken = broken[: edge()]
        elif kind == 1:
            for _ in range(1 + i % 5):
                broken[edge()] ^= 1 << rng.randrange(8)
        elif kind == 2:
            at = edge()
            broken[at : at + 8] = bytes(rng.randrange(256) for _ in range(8))
        else:
            at, length = edge(), rng.randrange(1, 40)
            del broken[at : at + length]
        open(os.path.join(out, f"raw_{i:03}.onnx"), "wb").write(broken)

    def variant(name, change):
        model = onnx.load(source)
        change(model)
        open(os.path.join(out, f"field_{name}.onnx"), "wb").write(model.SerializeToString())

    graph = lambda m: m.graph
    variant("cycle", lambda m: graph(m).node[0].input.append(graph(m).node[0].output[0]))
    variant("missing_input", lambda m: graph(m).node[0].input.__setitem__(0, "nowhere"))
    variant("negative_dim", lambda m: graph(m).initializer[0].dims.__setitem__(0, -6))
    variant("huge_dim", lambda m: graph(m).initializer[0].dims.__setitem__(0, 1 << 62))
    variant("overflowing_dims", lambda m: graph(m).initializer[0].dims.extend([1 << 40, 1 << 40]))
    variant("wrong_type", lambda m: setattr(graph(m).initializer[0], "data_type", TensorProto.DOUBLE))
    variant("unknown_type", lambda m: setattr(graph(m).initializer[0], "data_type", 77))
    variant("unknown_operator", lambda m: setattr(graph(m).node[0], "op_type", "Nothing"))
    variant("future_ir", lambda m: setattr(m, "ir_version", 999))
    variant("future_opset", lambda m: setattr(m.opset_import[0], "version", 9999))
    variant("no_nodes", lambda m: graph(m).ClearField("node"))
    variant("negative_input_dim", lambda m: setattr(graph(m).input[0].type.tensor_type.shape.dim[0], "dim_value", -3))
    variant("empty_graph", lambda m: m.ClearField("graph"))

    def external(location, offset="0"):
        def change(m):
            tensor = graph(m).initializer[0]
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", offset)):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
        return change

    variant("external_missing", external("weights.bin"))
    variant("external_outside", external("../../../../../../../../etc/passwd"))
    variant("external_absolute", external("/etc/passwd"))
    def function(name, calls):
        """A function of domain f that calls others, one after the other."""
        nodes = [onnx.helper.make_node(call, ["a"] if i == 0 else [f"t{i - 1}"], [f"t{i}"], domain="f")
                 for i, call in enumerate(calls)]
        nodes.append(onnx.helper.make_node("Identity", [f"t{len(calls) - 1}"], ["b"]))
        return onnx.helper.make_function("f", name, ["a"], ["b"], nodes,
                                         [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("f", 1)])

    def functions(*made):
        def change(m):
            m.functions.extend(made)
            m.opset_import.append(onnx.helper.make_opsetid("f", 1))
            node = graph(m).node.add()
            node.op_type, node.domain = made[0].name, "f"
            node.input.append(graph(m).input[0].name)
            node.output.append("from_function")
        return change

    variant("function_recursion", functions(function("again", ["again"])))
    variant("function_mutual", functions(function("one", ["two"]), function("two", ["one"])))
    variant("function_doubling", functions(*[function(f"f{i}", [f"f{i + 1}"] * 2) for i in range(60)],
                                           function("f60", ["f61"]), onnx.helper.make_function(
                                               "f", "f61", ["a"], ["b"], [onnx.helper.make_node("Relu", ["a"], ["b"])],
                                               [onnx.helper.make_opsetid("", 17)])))
    open(os.path.join(out, "short.bin"), "wb").write(b"x" * 10)
    variant("external_short", external("short.bin"))
    variant("external_offset", external("short.bin", "-5"))

    # Names that are no text, numbers of the wrong kind, sizes that only a mistake can mean.
    def not_text(name, change):
        model = onnx.load(source)
        change(model)
        broken = model.SerializeToString().replace(b"BADNAME", b"\xff\xfeDNAME")
        open(os.path.join(out, f"field_{name}.onnx"), "wb").write(broken)

    def rename_input(m):
        old = graph(m).input[0].name
        graph(m).input[0].name = "BADNAME"
        for node in graph(m).node:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = "BADNAME"

    not_text("text_node", lambda m: setattr(graph(m).node[0], "name", "BADNAME"))
    not_text("text_input", rename_input)
    not_text("text_dim", lambda m: setattr(graph(m).input[0].type.tensor_type.shape.dim[0], "dim_param", "BADNAME"))

    def attribute(m):
        moe = next(node for node in graph(m).node if node.op_type == "MoE")
        k = next(a for a in moe.attribute if a.name == "k")
        k.CopyFrom(onnx.helper.make_attribute("k", "two"))

    def chain(*nodes, **constants):
        """Nodes behind the model's own, and an output of what the last one makes."""
        def change(m):
            for name, value in constants.items():
                graph(m).initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
            graph(m).node.extend(nodes)
            graph(m).output.append(onnx.helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n"]))
        return change

    node = onnx.helper.make_node
    variant("attribute_kind", attribute)
    variant("cycle_of_two", lambda m: graph(m).node[0].input.__setitem__(0, graph(m).node[1].output[0]))
    variant("many_dims", lambda m: graph(m).input.append(
        onnx.helper.make_tensor_value_info("wide", TensorProto.FLOAT, [1] * 3002)))
    variant("two_opsets", lambda m: m.opset_import.append(onnx.helper.make_opsetid("", 13)))
    variant("no_opset", lambda m: m.ClearField("opset_import"))
    variant("segment", lambda m: setattr(graph(m).initializer[0].segment, "end", 3))
    variant("output_twice", lambda m: graph(m).output.append(graph(m).output[0]))
    variant("function_arguments", lambda m: (functions(function("outer", ["inner"]), onnx.helper.make_function(
        "f", "inner", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [onnx.helper.make_opsetid("", 17)]))(m),
        graph(m).node[-1].input.append(graph(m).input[0].name)))
    variant("range", chain(node("Range", ["a", "b", "c"], ["r"], name="range"), node("Cast", ["r"], ["f"], to=1),
                           a=0, b=1 << 62, c=1))
    variant("reshape", chain(node("ConstantOfShape", ["s"], ["z"]), node("Reshape", ["z", "t"], ["f"], name="reshape"),
                             s=[2, 4], t=[9]))


main()
