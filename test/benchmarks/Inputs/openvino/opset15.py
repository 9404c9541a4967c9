"""Operations of opset 15; data types as strict as there: indices are i32 here, and both sides of an operation have one type."""
import numpy as np

from . import Node


def same_type(a, b):
    assert a.dtype == b.dtype, (a.dtype, b.dtype)


def binary(function):
    def node(left, right):
        def compute(a, b):
            same_type(a, b)
            return function(a, b)

        return Node(compute, left, right)

    return node


def parameter(shape, kind, name):
    node = Node(None)
    node.shape, node.kind = shape, kind
    return node


def constant(array, shared_memory=False):
    return Node(lambda: np.asarray(array))


def top(data, k, axis, mode, kind, stable):
    assert data.ndim > axis and k.ndim == 0
    order = np.argsort(data if mode == "min" else -data, axis=axis, kind="stable" if stable else "quicksort")
    order = np.take(order, np.arange(int(k)), axis=axis)
    return np.take_along_axis(data, order, axis), order.astype(kind)


def topk(data, k, axis, mode, sort, kind, stable=False):
    assert sort == "value"
    return Node(lambda data, k: top(data, k, axis, mode, {"i32": np.int32}[kind], stable), data, k)


def softmax(data, axis):
    def compute(x):
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return Node(compute, data)


def shape_of(data, kind):
    return Node(lambda x: np.array(x.shape, {"i32": np.int32}[kind]), data)


def search_sorted(boundaries, values, right, kind):
    def compute(a, v):
        same_type(a, v)
        return np.searchsorted(a, v, "right" if right else "left").astype({"i32": np.int32}[kind])

    return Node(compute, boundaries, values)


def scatter_update(data, indices, updates, axis):
    def compute(x, i, u, axis):
        assert axis == 0
        x = x.copy()
        x[i] = u
        return x

    return Node(compute, data, indices, updates, axis)


add = binary(np.add)
multiply = binary(np.multiply)
divide = binary(lambda a, b: a // b if a.dtype == np.int32 else a / b)
matmul = lambda a, b, transpose_a, transpose_b: Node(lambda x, y: (x.T if transpose_a else x) @ (y.T if transpose_b else y), a, b)
reduce_sum = lambda data, axis, keep: Node(lambda x, axis: x.sum(int(axis), keepdims=keep), data, axis)
reshape = lambda data, shape, special_zero: Node(lambda x, s: x.reshape(s), data, shape)
squeeze = lambda data, axis: Node(lambda x, axis: np.squeeze(x, int(axis)), data, axis)
gather = lambda data, indices, axis: Node(lambda x, i, axis: np.take(x, i, int(axis)), data, indices, axis)
swish = lambda data: Node(lambda x: x / (1 + np.exp(-x)), data)
broadcast = lambda data, shape: Node(lambda x, s: np.broadcast_to(x, s), data, shape)
range = lambda start, stop, step, kind: Node(lambda a, b, c: np.arange(a, b, c, {"i32": np.int32}[kind]), start, stop, step)
result = lambda data: data
