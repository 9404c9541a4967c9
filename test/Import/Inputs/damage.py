#!/usr/bin/env python3
"""Writes damaged copies of a model: truncated, bits flipped, bytes overwritten, fields made absurd. Deterministic."""
import os
import random
import sys

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


main()
