#!/usr/bin/env python3
"""Operators with random attributes, element types and shapes, against onnxruntime and ONNX's reference evaluator.

    op_sweep.py FOLDER [--seed=N] [--per-op=N] [--only=REGEX] [--sample] [--verbose]

Every case is a model of one node of some definition of the operator (a since-version of opset 13 or newer): shapes of any
rank from 0, empty dimensions, dimensions that broadcast, negative axes; about half of the dimensions are symbolic, and
operands that are sizes or axes are constants or come from outside. A case passes if the compiled module agrees with
onnxruntime, or with the reference evaluator where onnxruntime has no kernel or no agreement; a refusal must say why.
"""
import argparse
import os
import re
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

import node_tests
from node_tests import moe_runtime

TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
         "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64, "uint8": np.uint8,
         "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64, "bool": np.bool_}
UNARY = """Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish
Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign
Sqrt Swish Tan Tanh ThresholdedRelu Shape Size Flatten""".split()
BINARY = """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Mod Mul Or
PRelu Pow Sub Xor""".split()
VARIADIC = "Max Mean Min Sum".split()
REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split()


class Skip(Exception):
    """The dice fell on something that is no case."""


class Dice:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def one(self, options):
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p):
        return bool(self.rng.random() < p)

    def whole(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def shape(self, low=0, high=4, empty=0.04):
        return [0 if self.chance(empty) else self.one([1, 2, 3, 4, 5, 7]) for _ in range(self.whole(low, high))]

    def part(self, shape):
        """A shape that broadcasts to this one."""
        return [1 if self.chance(0.3) else n for n in shape[self.whole(0, len(shape)):]]

    def axis(self, rank):
        if rank == 0:
            raise Skip
        return self.whole(-rank, rank - 1)

    def array(self, dtype, shape, low=-3.0, high=3.0):
        dtype = np.dtype(dtype)
        if dtype == np.bool_:
            return self.rng.integers(0, 2, shape).astype(bool)
        if dtype.kind in "iu":
            return self.rng.integers(0 if dtype.kind == "u" else int(low), int(high) + 2, shape).astype(dtype)
        return np.asarray(self.rng.uniform(low, high, shape)).astype(dtype)


class Node:
    """Operands in order (None: left out), those of `sizes` are constants half of the time."""

    def __init__(self, op, inputs, outputs=1, sizes=(), domain="", **attributes):
        self.op, self.inputs, self.outputs, self.sizes, self.attributes = op, inputs, outputs, set(sizes), attributes
        self.domain = domain


def type_for(dice, schema, operand=0):
    """An element type that operand of the operator may have."""
    constraint = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    text = schema.inputs[min(operand, len(schema.inputs) - 1)].type_str
    names = [n[7:-1] for n in constraint.get(text, [text]) if n.startswith("tensor(") and n[7:-1] in TYPES]
    # Floats of 32 bits are what models are made of.
    return TYPES["float" if "float" in names and dice.chance(0.4) else dice.one(sorted(names))]


def make(dice, op, schema):
    t = type_for(dice, schema)
    array, one, chance = dice.array, dice.one, dice.chance
    if op in UNARY:
        low, high = {"Log": (0.1, 4), "Sqrt": (0, 4), "Acos": (-1, 1), "Asin": (-1, 1), "Acosh": (1, 4),
                     "Atanh": (-0.9, 0.9), "Reciprocal": (0.3, 3)}.get(op, (-3, 3))
        attributes = {"Celu": {"alpha": 0.7}, "Elu": {"alpha": 0.7}, "LeakyRelu": {"alpha": 0.3}, "Gelu": {
            "approximate": one(["none", "tanh"])}, "Shrink": {"lambd": 0.9, "bias": 0.2}, "Swish": {"alpha": 1.3}}
        x = array(t, dice.shape(), low, high)
        extra = attributes.get(op, {}) if chance(0.6) else {}
        if op == "Flatten":
            extra = {"axis": dice.whole(-x.ndim, x.ndim)}
        if op == "Shape" and schema.since_version >= 15 and chance(0.6):
            extra = {"start": dice.whole(-5, 5), "end": dice.whole(-5, 5)}
        if op == "IsInf" and t in (np.float32, np.float64) and x.size:
            x.flat[0] = one([np.inf, -np.inf, np.nan])
        return Node(op, [x], **extra)
    if op in BINARY:
        shape = dice.shape()
        a, b = array(t, shape), array(type_for(dice, schema, 1) if op == "Pow" else t, dice.part(shape))
        if op in ("Div", "Mod"):
            b = np.where(b == 0, np.ones_like(b), b)
        extra = {}
        if op == "Mod" and (np.dtype(t).kind not in "iu" or chance(0.3)):
            extra["fmod"] = 1
        if op == "Pow":
            a = np.abs(a) if np.dtype(t).kind not in "iu" else a
            b = np.abs(b) if np.dtype(t).kind in "iu" else b
        if op == "BitShift":
            extra["direction"], b = one(["LEFT", "RIGHT"]), b % 8
        if op != "PRelu" and op != "Pow" and chance(0.3):
            a, b = b, a
            if op in ("Div", "Mod"):
                b = np.where(b == 0, np.ones_like(b), b)
        return Node(op, [a, b], **extra)
    if op in VARIADIC:
        shape = dice.shape()
        return Node(op, [array(t, shape)] + [array(t, dice.part(shape)) for _ in range(dice.whole(0, 2))])
    if op in REDUCTIONS:
        if np.dtype(t) == np.uint32 and op in ("ReduceSum", "ReduceSumSquare", "ReduceProd", "ReduceL1"):
            raise Skip  # numpy, and with it the reference evaluator, sums into 64 bits
        x = array(t, dice.shape(empty=0.02), 0.2 if "Log" in op else -2, 2)
        if np.dtype(t).kind in "iu" and "Log" in op:
            x = np.abs(x) + np.ones_like(x)
        axes = sorted({dice.axis(x.ndim) % x.ndim for _ in range(dice.whole(1, max(x.ndim, 1)))}) if x.ndim else []
        axes = [a - x.ndim if chance(0.3) else a for a in axes]
        extra = {"keepdims": one([0, 1])}
        given = chance(0.85) and len(axes) > 0
        since = schema.since_version
        as_input = since >= 18 or op == "ReduceSum"
        if as_input and chance(0.3):
            extra["noop_with_empty_axes"] = one([0, 1])
        if not as_input:
            return Node(op, [x], **extra, **({"axes": axes} if given else {}))
        return Node(op, [x] + ([np.array(axes, np.int64)] if given else []), sizes=[1], **extra)
    if op in ("ArgMax", "ArgMin"):
        x = array(t, dice.shape(1, 4, 0))
        return Node(op, [x], axis=dice.axis(x.ndim), keepdims=one([0, 1]), select_last_index=one([0, 1]))
    if op in ("Softmax", "LogSoftmax", "Hardmax"):
        x = array(t, dice.shape(1, 4))
        return Node(op, [x], axis=dice.axis(x.ndim))
    if op in ("CumSum", "CumProd"):
        x = array(t, dice.shape(1, 4))
        return Node(op, [x, np.array(dice.axis(x.ndim), one([np.int32, np.int64]))], sizes=[1], exclusive=one([0, 1]),
                    reverse=one([0, 1]))
    if op in ("Cast", "CastLike"):
        x, to = array(t, dice.shape(), 0, 3), one(sorted(TYPES))
        if op == "CastLike":
            return Node(op, [x, np.zeros(1, TYPES[to])])
        return Node(op, [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[to])))
    if op == "Clip":
        x = array(t, dice.shape())
        return Node(op, [x, np.array(1, t) if chance(0.7) else None, np.array(2, t) if chance(0.7) else None])
    if op == "Where":
        shape = dice.shape()
        parts = [array(np.bool_, shape), array(t := type_for(dice, schema, 1), dice.part(shape)), array(t, dice.part(shape))]
        return Node(op, parts)
    if op == "Concat":
        shape = dice.shape(1, 4)
        axis = dice.axis(len(shape))
        parts = []
        for _ in range(dice.whole(1, 4)):
            shape[axis] = dice.whole(0, 4)
            parts.append(array(t, list(shape)))
        return Node(op, parts, axis=axis)
    if op == "Split":
        x = array(t, dice.shape(1, 4, 0))
        axis = dice.axis(x.ndim)
        cuts = sorted(dice.whole(0, x.shape[axis]) for _ in range(dice.whole(0, 2)))
        sizes = np.diff([0, *cuts, x.shape[axis]])
        if schema.since_version >= 18 and chance(0.3):
            count = dice.whole(1, x.shape[axis])
            if -(-x.shape[axis] // count) * (count - 1) >= x.shape[axis]:
                raise Skip
            return Node(op, [x], count, axis=axis, num_outputs=count)
        return Node(op, [x, sizes.astype(np.int64)], len(sizes), sizes=[1], axis=axis)
    if op == "Transpose":
        x = array(t, dice.shape(0, 5))
        return Node(op, [x], **({"perm": [int(p) for p in dice.rng.permutation(x.ndim)]} if chance(0.8) and x.ndim else {}))
    if op == "Reshape":
        x = array(t, dice.shape(0, 4))
        to = [int(n) for n in dice.rng.permutation(np.array(x.shape + (1,) * dice.whole(0, 2), np.int64))]
        if len(to) > 1 and chance(0.5):
            to[0:2] = [to[0] * to[1]]
        if x.size and to and chance(0.5):
            to[dice.whole(0, len(to) - 1)] = -1
        extra = {"allowzero": 1} if schema.since_version >= 14 and 0 in to else {}
        if not extra and not x.size:
            raise Skip
        return Node(op, [x, np.array(to, np.int64)], sizes=[1], **extra)
    if op in ("Squeeze", "Unsqueeze"):
        shape = dice.shape(0, 3)
        places = sorted(dice.whole(0, len(shape)) for _ in range(dice.whole(1, 2)))
        for n, at in enumerate(places):
            shape.insert(at + n, 1)
        axes = [at + n for n, at in enumerate(places)]
        axes = np.array([a - len(shape) if chance(0.4) else a for a in axes], np.int64)
        if op == "Squeeze":
            return Node(op, [array(t, shape), axes], sizes=[])
        return Node(op, [array(t, [n for i, n in enumerate(shape) if i not in [a % len(shape) for a in axes]]), axes])
    if op == "Expand":
        shape = dice.shape()
        return Node(op, [array(t, dice.part(shape)), np.array(shape, np.int64)], sizes=[1])
    if op == "Tile":
        x = array(t, dice.shape(1, 4))
        return Node(op, [x, dice.rng.integers(0, 3, x.ndim).astype(np.int64)], sizes=[1])
    if op == "Slice":
        x = array(t, dice.shape(1, 4))
        axes = [int(a) for a in dice.rng.permutation(x.ndim)[:dice.whole(1, x.ndim)]]
        steps = [one([1, 1, 2, 3, -1, -2]) for _ in axes]
        starts = [dice.whole(-6, 6) for _ in axes]
        ends = [one([dice.whole(-8, 8), 2**31 - 1, -2**31]) for _ in axes]
        starts = [min(max(s, -x.shape[a]), x.shape[a]) if st < 0 else s for s, a, st in zip(starts, axes, steps)]
        kind = one([np.int32, np.int64])
        axes = [a - x.ndim if chance(0.3) else a for a in axes]
        parts = [np.array(v, kind) for v in (starts, ends, axes, steps)]
        return Node(op, [x] + parts, sizes=[1, 2])
    if op == "Pad":
        x = array(t, dice.shape(1, 4, 0))
        mode = one(["constant", "reflect", "edge"] + (["wrap"] if schema.since_version >= 19 else []))
        low = [0 if mode != "constant" else -min(1, n - 1) for n in x.shape]
        high = [n - 1 if mode == "reflect" else min(n, 3) for n in x.shape]
        pads = [dice.whole(l, h) for l, h in zip(low * 2, high * 2)]
        inputs = [x, np.array(pads, np.int64)]
        if mode == "constant" and chance(0.6):
            inputs.append(np.array(1, t))
        return Node(op, inputs, sizes=[1], mode=mode)
    if op == "Gather":
        x = array(t, dice.shape(1, 4, 0))
        axis = dice.axis(x.ndim)
        n = x.shape[axis]
        return Node(op, [x, dice.rng.integers(-n, n, dice.shape(0, 2)).astype(one([np.int32, np.int64]))], sizes=[1], axis=axis)
    if op == "GatherElements":
        x = array(t, dice.shape(1, 4, 0))
        axis = dice.axis(x.ndim)
        shape = [dice.whole(1, n) for n in x.shape]
        shape[axis] = dice.whole(0, 5)
        n = x.shape[axis]
        return Node(op, [x, dice.rng.integers(-n, n, shape).astype(np.int64)], axis=axis)
    if op == "ScatterElements":
        x = array(t, dice.shape(1, 3, 0))
        axis = dice.axis(x.ndim)
        shape = list(x.shape)
        shape[axis] = 1
        n = x.shape[axis]
        index = dice.rng.integers(-n, n, shape).astype(np.int64)
        extra = {"reduction": one(["none", "add", "mul"] + (["min", "max"] if schema.since_version >= 18 else []))} \
            if schema.since_version >= 16 and np.dtype(t) != np.bool_ else {}
        return Node(op, [x, index, array(t, shape)], axis=axis, **extra)
    if op in ("GatherND", "ScatterND"):
        x = array(t, dice.shape(1, 4, 0))
        depth = dice.whole(1, x.ndim)
        index = np.stack([dice.rng.integers(-n, n, 3) for n in x.shape[:depth]], -1).astype(np.int64)
        if op == "GatherND":
            return Node(op, [x, index])
        index = index[:1]
        extra = {"reduction": one(["none", "add", "mul"])} if schema.since_version >= 16 and np.dtype(t) != np.bool_ else {}
        return Node(op, [x, index, array(t, [1, *x.shape[depth:]])], **extra)
    if op == "TopK":
        shape = dice.shape(1, 3, 0)
        axis = dice.axis(len(shape))
        # Distinct elements: which of two equal ones comes first is nobody's word.
        x = dice.rng.permutation(int(np.prod(shape))).reshape(shape).astype(t)
        if len(np.unique(x)) != x.size:
            raise Skip
        k = dice.whole(0, shape[axis])
        return Node(op, [x, np.array([k], np.int64)], 2, sizes=[1], axis=axis, largest=one([0, 1]), sorted=1)
    if op == "OneHot":
        values = array(type_for(dice, schema, 2), [2])
        index = dice.rng.integers(-4, 4, dice.shape(0, 3)).astype(one([np.int32, np.int64]))
        return Node(op, [index, np.array(4, np.int64), values], sizes=[1], axis=dice.whole(-index.ndim - 1, index.ndim))
    if op == "Range":
        start, step = dice.whole(-4, 4), one([1, 2, -1, -3])
        return Node(op, [np.array(start, t), np.array(dice.whole(-6, 8), t), np.array(step, t)], sizes=[0, 1, 2])
    if op == "Trilu":
        x = array(t, dice.shape(2, 4))
        return Node(op, [x] + ([np.array(dice.whole(-3, 3), np.int64)] if chance(0.6) else []), upper=one([0, 1]))
    if op == "EyeLike":
        return Node(op, [array(t, dice.shape(2, 2))], k=dice.whole(-2, 2), dtype=TensorProto.FLOAT)
    if op == "NonZero":
        return Node(op, [array(t, dice.shape(1, 3), -1, 0)])
    if op == "Compress":
        x = array(t, dice.shape(1, 3, 0))
        if chance(0.3):
            return Node(op, [x, array(np.bool_, [dice.whole(1, x.size)])])
        axis = dice.axis(x.ndim)
        return Node(op, [x, array(np.bool_, [dice.whole(1, x.shape[axis])])], axis=axis)
    if op == "ReverseSequence":
        x = array(t, dice.shape(2, 3, 0))
        axes = [0, 1] if chance(0.5) else [1, 0]
        return Node(op, [x, dice.rng.integers(1, x.shape[axes[0]] + 1, x.shape[axes[1]]).astype(np.int64)],
                    time_axis=axes[0], batch_axis=axes[1])
    if op == "ConstantOfShape":
        return Node(op, [np.array(dice.shape(0, 3), np.int64)], sizes=[0],
                    value=numpy_helper.from_array(array(TYPES[one(["float", "int64", "bool", "float16"])], [1])))
    if op == "MatMul":
        shape, m, k, n = dice.shape(0, 2), dice.whole(1, 5), one([0, 1, 4, 9]), dice.whole(1, 5)
        a, b = shape + [m, k], dice.part(shape) + [k, n]
        if chance(0.15):
            a = [k]
        if chance(0.15):
            b = [k]
        return Node(op, [array(t, a), array(t, b)])
    if op == "Gemm":
        m, k, n = dice.whole(1, 5), one([1, 4, 9]), dice.whole(1, 5)
        ta, tb = one([0, 1]), one([0, 1])
        inputs = [array(t, [k, m] if ta else [m, k]), array(t, [n, k] if tb else [k, n])]
        if chance(0.7):
            inputs.append(array(t, dice.part([m, n])))
        return Node(op, inputs, transA=ta, transB=tb, alpha=one([1.0, 0.5]), beta=one([1.0, 2.0]))
    if op in ("LayerNormalization", "RMSNormalization"):
        x = array(t, dice.shape(1, 4, 0))
        axis = dice.axis(x.ndim)
        parts = [array(t, x.shape[axis:] if axis < 0 else x.shape[axis:])]
        if op == "LayerNormalization" and chance(0.6):
            parts.append(array(t, x.shape[axis:]))
        return Node(op, [x, *parts], axis=axis, epsilon=1e-3)
    if op == "InstanceNormalization":
        x = array(t, dice.shape(3, 4, 0))
        return Node(op, [x, array(t, [x.shape[1]]), array(t, [x.shape[1]])], epsilon=1e-3)
    if op in ("Conv", "MaxPool", "AveragePool"):
        spatial = dice.whole(1, 2)
        kernel = [dice.whole(1, 3) for _ in range(spatial)]
        size = [dice.whole(5, 9) for _ in range(spatial)]
        extra = {"strides": [dice.whole(1, 3) for _ in range(spatial)]}
        if op != "AveragePool" or schema.since_version >= 19:
            extra["dilations"] = [dice.whole(1, 2) for _ in range(spatial)]
        if chance(0.3):
            extra["auto_pad"] = one(["SAME_UPPER", "SAME_LOWER", "VALID"])
            extra.pop("dilations", None)
            # Windows with gaps between them have no padding that the references agree on.
            extra["strides"] = [min(s, k) for s, k in zip(extra["strides"], kernel)]
        elif chance(0.7):
            extra["pads"] = [dice.whole(0, k - 1) for k in kernel * 2]
        if op == "Conv":
            group, m, c = one([1, 1, 2]), one([1, 3]), one([1, 2])
            inputs = [array(t, [2, group * c, *size]), array(t, [group * m, c, *kernel])]
            if chance(0.5):
                inputs.append(array(t, [group * m]))
            return Node(op, inputs, group=group, **extra)
        if chance(0.3) and "auto_pad" not in extra:
            extra["ceil_mode"] = 1
        if op == "AveragePool" and chance(0.5):
            extra["count_include_pad"] = 1
        return Node(op, [array(t, [2, 3, *size])], kernel_shape=kernel, **extra)
    if op in ("GlobalAveragePool", "GlobalMaxPool"):
        # The reference evaluator knows images alone.
        return Node(op, [array(t, dice.shape(4, 4, 0))])
    if op in ("DepthToSpace", "SpaceToDepth"):
        n = dice.whole(1, 3)
        if op == "SpaceToDepth":
            return Node(op, [array(t, [2, 3, 2 * n, 3 * n])], blocksize=n)
        return Node(op, [array(t, [2, 2 * n * n, 2, 3])], blocksize=n, mode=one(["DCR", "CRD"]))
    if op in ("QuantizeLinear", "DequantizeLinear"):
        shape = dice.shape(1, 3, 0)
        axis = dice.axis(len(shape))
        per = [shape[axis]] if chance(0.6) else []
        code = one([np.int8, np.uint8])
        scale = np.asarray(dice.rng.uniform(0.1, 0.5, per)).astype(np.float32)
        zero = np.asarray(dice.rng.integers(0, 5, per)).astype(code)
        if op == "QuantizeLinear":
            return Node(op, [array(np.float32, shape, -9, 9), scale, zero], axis=axis)
        return Node(op, [array(code, shape, 0, 90), scale, zero], axis=axis)
    raise Skip


def build(dice, name, node, opset):
    """The model, and the arrays that it takes."""
    inputs, arrays, initializers, infos = [], {}, [], []
    for i, array in enumerate(node.inputs):
        if array is None:
            inputs.append("")
            continue
        key = f"i{i}"
        inputs.append(key)
        array = np.asarray(array)
        constant = i in node.sizes and dice.chance(0.5) or \
            i > 0 and node.op in ("Squeeze", "Unsqueeze", "CumSum", "CumProd") or \
            i > 0 and node.op.startswith("Reduce") or node.op == "Slice" and i > 2
        if constant:
            initializers.append(numpy_helper.from_array(array, key))
            continue
        arrays[key] = array
        dims = [f"{key}_{d}" if dice.chance(0.5) and i not in node.sizes else int(n) for d, n in enumerate(array.shape)]
        infos.append(helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), dims))
    while inputs and not inputs[-1]:
        inputs.pop()
    outputs = [f"o{i}" for i in range(node.outputs)]
    made = helper.make_node(node.op, inputs, outputs, name=name, domain=node.domain, **node.attributes)
    graph = helper.make_graph([made], name, infos, [onnx.ValueInfoProto(name=o) for o in outputs], initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])
    try:
        results = by_reference(model, arrays)
    except Exception:
        return onnx.shape_inference.infer_shapes(model, check_type=True), arrays
    for info, result in zip(model.graph.output, map(np.asarray, results)):
        dims = [f"{info.name}_{d}" for d in range(result.ndim)]
        info.CopyFrom(helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(result.dtype), dims))
    return model, arrays


def by_onnxruntime(model, arrays):
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, arrays)


def by_reference(model, arrays):
    from onnx.reference import ReferenceEvaluator
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return ReferenceEvaluator(model).run(None, arrays)


TOLERANCE = {np.dtype(np.float32): 3e-5, np.dtype(np.float64): 3e-5, np.dtype(np.float16): 6e-3,
             np.dtype(ml_dtypes.bfloat16): 4e-2}


def difference(got, want, narrowest):
    for i, (g, w) in enumerate(zip(got, want)):
        w = np.asarray(w)
        if g.shape != w.shape or g.dtype != w.dtype:
            return f"o{i}: {g.dtype}{list(g.shape)} instead of {w.dtype}{list(w.shape)}"
        tolerance = max(TOLERANCE.get(g.dtype, 0), TOLERANCE.get(narrowest, 0) if g.dtype.kind not in "biu" else 0)
        with np.errstate(all="ignore"):
            good = g == w if tolerance == 0 else np.isclose(g.astype(np.float64), w.astype(np.float64), rtol=tolerance,
                                                            atol=tolerance, equal_nan=True)
        if not np.all(good):
            at = np.unravel_index(np.argmin(good), w.shape)
            return f"o{i} at {[int(n) for n in at]}: {g[at]} instead of {w[at]}"
    return None


class Case:
    """What node_tests.Runner takes."""

    def __init__(self, name, model, arrays):
        self.name, self.model, self.arrays = name, model, arrays


class Runner(node_tests.Runner):
    def run(self, cases, path):
        module = moe_runtime.Module(path, self.library)
        for case, inputs in cases:
            try:
                got = [module.run(inputs, case.name)[info.name] for info in case.model.graph.output]
            except moe_runtime.CallError as error:
                self.outcome[case.name] = ("wrong", f"the call fails: {error}")
                continue
            said, asked = [], 0
            floats = [x.dtype for x in [*inputs.values(), *got] if x.dtype in TOLERANCE]
            narrowest = max(floats, key=lambda d: TOLERANCE[d]) if floats else np.dtype(np.float32)
            for who in (by_onnxruntime, by_reference):
                try:
                    want = who(case.model, inputs)
                except Exception:
                    continue
                asked += 1
                problem = difference(got, want, narrowest)
                if problem is None:
                    said = None
                    break
                said.append(f"{who.__name__}: {problem}")
            if asked == 0:
                self.outcome[case.name] = ("unknown", "")
            else:
                self.outcome[case.name] = ("wrong", "; ".join(said)) if said else ("pass", "")
        module.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-op", type=int, default=2)
    parser.add_argument("--only", default=".")
    parser.add_argument("--sample", action="store_true", help="one definition of each operator instead of all")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    history = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            history.setdefault(schema.name, []).append(schema.since_version)
    table = node_tests.operators()
    cases, dice = [], Dice(options.seed)
    for op in sorted(table & set(history)):
        if not re.search(options.only, op):
            continue
        # Every definition that a model of opset 13 or newer may mean.
        versions = sorted({max(v for v in history[op] if v <= opset) for opset in range(13, defs.onnx_opset_version() + 1)
                           if min(history[op]) <= opset})
        for version in [dice.one(versions)] if options.sample else versions:
            for n in range(options.per_op):
                schema = defs.get_schema(op, version)
                name = f"{op}_{version}_{n}"
                try:
                    model, arrays = build(dice, name, make(dice, op, schema), max(version, 13))
                except Skip:
                    continue
                onnx.save(model, os.path.join(options.folder, name + ".onnx"))
                cases.append((Case(name, model, arrays), arrays))
    runner = Runner(options.folder)
    for i in range(0, len(cases), 120):
        runner.batch(cases[i:i + 120], f"sweep{i // 120}")
    counts, lines = {"pass": 0, "refused": 0, "unknown": 0, "wrong": 0}, []
    for case, arrays in cases:
        kind, text = runner.outcome[case.name]
        counts[kind] += 1
        if kind == "wrong" or options.verbose and kind != "pass":
            shapes = ", ".join(f"{k}: {v.dtype}{list(v.shape)}" for k, v in arrays.items())
            lines.append(f"{kind}: {case.name} ({shapes}): {text}")
    print("\n".join(lines))
    print(f"{len(cases)} cases of {len({c.name.split('_')[0] for c, _ in cases})} operators: " +
          ", ".join(f"{v} {k}" for k, v in counts.items()))
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    main()
