"""A chain as an OpenVINO model (engines.py). OpenVINO reads no com.microsoft.MoE, so the layers are built from its own operations: rows sorted
by expert, and GroupedMatMul (opset 17), which its CPU plugin computes expert by expert. Blocks of the form that exporters write, with
all rows repeated for all experts, are not joined by release 2026.4 when weights are f32, and it then computes every expert for every row."""
import json
import pathlib

import numpy as np

from chain import SHAPES
from vendor import Missing


def load_operations():
    try:
        import openvino
    except ImportError as why:
        raise Missing(f"{why}; it is on PyPI as 'openvino'") from why
    try:
        from openvino import opset15
        from openvino.opset17 import grouped_matmul
    except ImportError as why:
        raise Missing(f"OpenVINO {openvino.__version__} has no GroupedMatMul: {why}") from why
    return openvino, opset15, grouped_matmul


def build(path, shape):
    """The model, and the arrays that it refers to."""
    openvino, op, grouped_matmul = load_operations()
    hidden, _, experts, k = SHAPES[shape]
    number = lambda value: op.constant(np.array(value, np.int32))
    keep = []

    def weight(array):
        keep.append(array)
        return op.constant(array, shared_memory=True)

    value = x = op.parameter([-1, hidden], np.float32, name="x")
    bias = op.parameter([experts], np.float32, name="bias")
    path = pathlib.Path(path)
    arrays = [np.memmap(path.with_suffix(".data"), np.float32, "c", entry["offset"], tuple(entry["dims"]))
              for entry in json.loads(path.with_suffix(".json").read_text())]
    for router, fc1, fc2 in zip(*[iter(arrays)] * 3):
        logits = op.add(op.matmul(value, weight(router), False, False), bias)
        top = op.topk(op.softmax(logits, 1), number(k), 1, "max", "value", "i32")
        weights = op.divide(top.output(0), op.reduce_sum(top.output(0), number(1), True))
        chosen = op.reshape(top.output(1), number([-1]), False)
        count = op.shape_of(chosen, "i32")
        # Pairs of row and expert, by expert.
        order = op.topk(chosen, op.squeeze(count, number(0)), 0, "min", "value", "i32", stable=True)
        ends = op.search_sorted(order.output(0), number(np.arange(experts)), True, "i32")
        pairs = order.output(1)
        rows = op.gather(value, op.divide(pairs, number(k)), number(0))
        gate = grouped_matmul(rows, weight(np.ascontiguousarray(fc1[:, 0::2])), ends)
        up = grouped_matmul(rows, weight(np.ascontiguousarray(fc1[:, 1::2])), ends)
        down = grouped_matmul(op.multiply(op.swish(gate), up), weight(fc2), ends)
        down = op.multiply(down, op.gather(op.reshape(weights, number([-1, 1]), False), pairs, number(0)))
        # Where the pair of each row and choice went.
        numbers = op.range(number(0), op.squeeze(count, number(0)), number(1), "i32")
        places = op.scatter_update(op.broadcast(number(0), count), pairs, numbers, number(0))
        back = op.reshape(op.gather(down, places, number(0)), number([-1, k, hidden]), False)
        value = op.add(value, op.reduce_sum(back, number(1), False))
    return openvino.Model([op.result(value)], [x, bias], "chain"), keep


class OpenVino:
    """An engine (engines.py)."""

    def __init__(self, model, shape, dtype):
        if dtype != "f32":
            raise Missing("OpenVINO is measured with f32 only")
        self.model, self.keep = build(model, shape)
        self.threads = None

    def prepare(self, rows, bias, threads):
        if threads != self.threads:
            import openvino

            self.request = None
            settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
            self.request = openvino.Core().compile_model(self.model, "CPU", settings).create_infer_request()
            self.threads = threads
        self.inputs = [[x, bias] for x in rows]

    def run(self, index):
        return self.request.infer(self.inputs[index])

    def output(self, index, shape):
        return np.array(self.run(index)[0])
