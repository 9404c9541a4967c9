#!/usr/bin/env python3
"""contrib_ops.py FOLDER: operators of com.microsoft, subgraphs, and others without node tests, as small models with symbolic
dimensions, compiled at once and compared with onnxruntime, or with numpy where onnxruntime has no such operator."""
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper

sys.path.insert(0, os.path.join(os.environ["MOE_SOURCE"], "tools/moe-verify"))
import moe_runtime  # noqa: E402

rng = np.random.default_rng(7)
MS = "com.microsoft"


def floats(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


class Case:
    """A model of one node. inputs: name -> (array, symbolic shape); a None is an input left out."""

    def __init__(self, name, op, inputs, outputs, domain=MS, opset=20, reference=None, atol=2e-5, rtol=1e-4, **attributes):
        self.name, self.reference, self.atol, self.rtol = name, reference, atol, rtol
        self.arrays = {k: v[0] for k, v in inputs.items() if v is not None}
        names = [k if v is not None else "" for k, v in inputs.items()]
        while names and not names[-1]:
            names.pop()
        node = helper.make_node(op, names, [o for o in outputs], name=name, domain=domain, **attributes)
        info = lambda k, a, s: helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), s)
        graph = helper.make_graph([node], name, [info(k, *v) for k, v in inputs.items() if v is not None],
                                  [helper.make_tensor_value_info(o, t, s) for o, (t, s) in outputs.items() if o])
        self.model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset),
                                                                            helper.make_opsetid(MS, 1)])
        self.outputs = [o for o in outputs if o]

    def expected(self):
        if self.reference:
            return dict(zip(self.outputs, self.reference(**self.arrays)))
        import onnxruntime
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])
        return dict(zip(self.outputs, session.run(self.outputs, self.arrays)))


F, H = TensorProto.FLOAT, TensorProto.FLOAT16


def cases():
    x, bias, skip, gamma, beta = floats(2, 5, 16), floats(16), floats(2, 5, 16), floats(16), floats(16)
    X, V = ["B", "S", 16], [16]
    y = {"y": (F, X)}
    for op in ("Gelu", "QuickGelu", "FastGelu"):
        yield Case(op.lower(), op, {"x": (x, X)}, y)
    yield Case("quickgelu_alpha", "QuickGelu", {"x": (x, X)}, y, alpha=0.7)
    yield Case("fastgelu_bias", "FastGelu", {"x": (x, X), "b": (bias, V)}, y)
    yield Case("biasgelu", "BiasGelu", {"x": (x, X), "b": (bias, V)}, y)
    yield Case("simplified", "SimplifiedLayerNormalization", {"x": (x, X), "g": (gamma, V)}, y, domain="", axis=-1, epsilon=1e-6)
    yield Case("skip", "SkipLayerNormalization", {"x": (x, X), "s": (skip, X), "g": (gamma, V), "b": (beta, V)}, y, epsilon=1e-5)
    yield Case("skip_bias_sum", "SkipLayerNormalization",
               {"x": (x, X), "s": (skip, X), "g": (gamma, V), "b": (beta, V), "c": (bias, V)},
               {"y": (F, X)}, epsilon=1e-5)
    yield Case("skip_simplified", "SkipSimplifiedLayerNormalization", {"x": (x, X), "s": (skip, X), "g": (gamma, V)}, y, epsilon=1e-6)
    h = x.astype(np.float16)
    yield Case("skip_simplified_f16", "SkipSimplifiedLayerNormalization",
               {"x": (h, X), "s": (skip.astype(np.float16), X), "g": (gamma.astype(np.float16), V)}, {"y": (H, X)},
               epsilon=1e-6, atol=4e-3, rtol=4e-3)

    a, b = floats(2, 3, 4, 5), floats(2, 3, 6, 5)
    yield Case("fused_matmul", "FusedMatMul", {"a": (a, ["B", 3, "M", 5]), "b": (b, ["B", 3, 6, 5])},
               {"y": (F, ["B", 3, "M", 6])}, transB=1, alpha=0.25)
    yield Case("fused_matmul_a", "FusedMatMul", {"a": (floats(5, 4), [5, "M"]), "b": (floats(5, 3), [5, 3])},
               {"y": (F, ["M", 3])}, transA=1)

    # RotaryEmbedding: positions for each token, or one start; heads apart or side by side; pairs or halves.
    cos, sin = np.cos(np.arange(12)[:, None] * 0.3 ** np.arange(4)).astype(np.float32), np.sin(
        np.arange(12)[:, None] * 0.3 ** np.arange(4)).astype(np.float32)
    tables = {"cos": (cos, [12, 4]), "sin": (sin, [12, 4])}
    ids = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    for inter in (0, 1):
        yield Case(f"rotary_{inter}", "RotaryEmbedding", {"x": (x, X), "p": (ids, ["B", "S"]), **tables}, y, interleaved=inter)
        yield Case(f"rotary_start_{inter}", "RotaryEmbedding",
                   {"x": (floats(2, 3, 5, 8), ["B", 3, "S", 8]), "p": (np.array([2]), [1]), **tables},
                   {"y": (F, ["B", 3, "S", 8])}, interleaved=inter)
    part = {"cos": (cos[:, :2].copy(), [12, 2]), "sin": (sin[:, :2].copy(), [12, 2])}
    yield Case("rotary_partial", "RotaryEmbedding", {"x": (x, X), "p": (ids, ["B", "S"]), **part}, y, num_heads=2,
               rotary_embedding_dim=4)

    # MultiHeadAttention
    q, k, v = floats(2, 3, 16), floats(2, 5, 16), floats(2, 5, 16)
    qkv = {"q": (q, ["B", "S", 16]), "k": (k, ["B", "T", 16]), "v": (v, ["B", "T", 16])}
    out = {"y": (F, ["B", "S", 16])}
    yield Case("mha", "MultiHeadAttention", qkv, out, num_heads=4)
    yield Case("mha_scale_bias", "MultiHeadAttention", {**qkv, "b": (floats(48), [48])}, out, num_heads=4, scale=0.2)
    lengths = np.array([3, 5], np.int32)
    yield Case("mha_lengths", "MultiHeadAttention", {**qkv, "b": None, "m": (lengths, ["B"])}, out, num_heads=2)
    mask = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]], np.int32)
    yield Case("mha_mask", "MultiHeadAttention", {**qkv, "b": None, "m": (mask, ["B", "T"])}, out, num_heads=2)
    yield Case("mha_attention_bias", "MultiHeadAttention",
               {**qkv, "b": None, "m": None, "r": (floats(1, 4, 3, 5), [1, 4, "S", "T"])}, out, num_heads=4)
    yield Case("mha_past", "MultiHeadAttention",
               {"q": (q, ["B", "S", 16]), "k": (floats(2, 3, 16), ["B", "S", 16]), "v": (floats(2, 3, 16), ["B", "S", 16]),
                "b": None, "m": None, "r": None, "pk": (floats(2, 4, 6, 4), ["B", 4, "P", 4]),
                "pv": (floats(2, 4, 6, 4), ["B", 4, "P", 4])},
               {**out, "ok": (F, ["B", 4, "L", 4]), "ov": (F, ["B", 4, "L", 4])}, num_heads=4)
    yield Case("mha_unidirectional", "MultiHeadAttention",
               {"q": (q, ["B", "S", 16]), "k": (floats(2, 3, 16), ["B", "S", 16]), "v": (floats(2, 3, 16), ["B", "S", 16])},
               out, num_heads=4, unidirectional=1)
    yield Case("mha_cross", "MultiHeadAttention",
               {"q": (q, ["B", "S", 16]), "k": (floats(2, 4, 7, 4), ["B", 4, "T", 4]), "v": (floats(2, 4, 7, 4), ["B", 4, "T", 4])},
               out, num_heads=4)

    # GroupQueryAttention: 4 heads of 8, 2 groups; a first call, then decoding, in a growing cache and in a fixed buffer.
    angles = np.arange(12)[:, None] * 0.6 ** np.arange(8)
    cos8, sin8 = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for name, S, P, last, total, extra, attrs in (
            ("first", 5, 0, [4, 4], 5, {}, {}),
            ("first_padded", 5, 0, [4, 2], 5, {}, {}),
            ("decode", 1, 6, [6, 6], 7, {}, {}),
            ("decode_ragged", 1, 6, [6, 3], 7, {}, {}),
            ("decode_buffer", 1, 10, [6, 3], 7, {}, {}),
            ("chunk", 3, 6, [8], 9, {}, {}),
            ("softcap_scale", 5, 0, [4, 4], 5, {}, {"softcap": 0.5, "scale": 0.3}),
            ("window", 5, 0, [4, 4], 5, {}, {"local_window_size": 2}),
            ("window_decode", 1, 6, [6, 6], 7, {}, {"local_window_size": 3}),
            ("rotary", 5, 0, [4, 4], 5, "rotary", {"do_rotary": 1}),
            ("rotary_decode", 1, 6, [6, 3], 7, "rotary", {"do_rotary": 1, "rotary_interleaved": 1}),
            ("packed", 5, 0, [4, 4], 5, "packed", {})):
        B = len(last)
        D = 16 if extra == "rotary" else 8
        inputs = {"q": (floats(B, S, 4 * D), ["B", "S", 4 * D]), "k": (floats(B, S, 2 * D), ["B", "S", 2 * D]),
                  "v": (floats(B, S, 2 * D), ["B", "S", 2 * D]),
                  "pk": (floats(B, 2, P, D), ["B", 2, "P", D]), "pv": (floats(B, 2, P, D), ["B", 2, "P", D]),
                  "last": (np.array(last, np.int32), ["B"]), "total": (np.array([total], np.int32), [1])}
        if extra == "packed":
            inputs.update(q=(floats(2, S, 64), ["B", "S", 64]), k=None, v=None)
        if extra == "rotary":
            inputs.update(cos=(cos8, [12, 8]), sin=(sin8, [12, 8]))
        case = Case("gqa_" + name, "GroupQueryAttention", inputs,
                    {"y": (F, ["B", "S", 4 * D]), "ok": (F, ["B", 2, "L", D]), "ov": (F, ["B", 2, "L", D])},
                    num_heads=4, kv_num_heads=2, **attrs)
        # What stands behind the last token is nobody's business.
        case.used = [n + 1 for n in last]
        case.queries = [min(S, n + 1) for n in last] if S > 1 else [1, 1]
        yield case

    # GroupedMatMul as proposed for the standard; numpy is the reference.
    def grouped(x, w, i, b=None):
        i = np.where(i < 0, i + len(w), i)
        return [np.einsum("mk,mjkn->mjn", x.astype(np.float64), w[i]) + (0 if b is None else b[i])]
    bank, rows = floats(3, 4, 6), floats(5, 4)
    groups = np.array([[0, 2], [1, 1], [-1, 0], [2, -3], [0, 1]])
    base = {"x": (rows, ["M", 4]), "w": (bank, [3, 4, 6]), "i": (groups, ["M", 2])}
    yield Case("grouped", "GroupedMatMul", base, {"y": (F, ["M", 2, 6])}, domain="", reference=grouped)
    yield Case("grouped_bias", "GroupedMatMul", {**base, "b": (floats(3, 6), [3, 6])}, {"y": (F, ["M", 2, 6])}, domain="",
               reference=grouped)
    yield Case("grouped_contrib", "GroupedMatMul", base, {"y": (F, ["M", 2, 6])}, reference=grouped)
    half = {n: (v[0].astype(np.float16) if n in "xw" else v[0], v[1]) for n, v in base.items()}
    yield Case("grouped_half", "GroupedMatMul", half, {"y": (H, ["M", 2, 6])}, domain="", reference=grouped, atol=5e-3, rtol=5e-3)
    # A bank of which not every size is known, and one of f64, have no experts' kernels.
    yield Case("grouped_sizes", "GroupedMatMul",
               {**base, "w": (bank, ["G", 4, "N"]), "b": (floats(3, 6), ["G", "N"])}, {"y": (F, ["M", 2, "N"])}, domain="",
               reference=grouped)
    yield Case("grouped_single", "GroupedMatMul", {**base, "i": (groups[:, :1], ["M", 1])}, {"y": (F, ["M", 1, 6])}, domain="",
               reference=grouped)
    yield Case("grouped_slots", "GroupedMatMul", {**base, "i": (groups, ["M", "k"])}, {"y": (F, ["M", "k", 6])}, domain="",
               reference=grouped)
    yield Case("grouped_no_slots", "GroupedMatMul", {**base, "i": (groups[:, :0], ["M", "k"])}, {"y": (F, ["M", "k", 6])},
               domain="", reference=grouped)
    yield Case("grouped_empty", "GroupedMatMul", {**base, "x": (rows[:0], ["M", 4]), "i": (groups[:0], ["M", 2])},
               {"y": (F, ["M", 2, 6])}, domain="", reference=grouped)

    # com.microsoft.Attention: projections inside, masks of all kinds, a cache in one tensor.
    w, wb = floats(16, 24) * np.float32(0.3), floats(24)
    att = {"x": (x, X), "w": (w, [16, 24]), "b": (wb, [24])}
    out8 = {"y": (F, ["B", "S", 8])}
    yield Case("attention_lengths", "Attention",
               {**att, "m": (np.array([3, 5], np.int32), ["B"]), "p": None, "r": (floats(2, 2, 5, 5), ["B", 2, "S", "S"])}, out8,
               num_heads=2, scale=0.3)
    yield Case("attention_past", "Attention", {**att, "m": None, "p": (floats(2, 2, 2, 3, 4), [2, "B", 2, "P", 4])},
               {**out8, "z": (F, [2, "B", 2, "L", 4])}, num_heads=2, unidirectional=1)

    # Embeddings: words, places, segments; rows of 4-bit and 8-bit codes.
    words, places, kinds = floats(11, 8), floats(7, 8), floats(2, 8)
    tokens = np.array([[1, 5, 10], [0, 3, 3]], np.int32)
    embed = {"ids": (tokens, ["B", "S"]), "seg": (tokens % 2, ["B", "S"]), "w": (words, [11, 8]), "p": (places, [7, 8]),
             "s": (kinds, [2, 8]), "g": (floats(8), [8]), "b": (floats(8), [8])}
    yield Case("embed", "EmbedLayerNormalization",
               {**embed, "k": (np.array([[1, 1, 0], [1, 1, 1]], np.int32), ["B", "S"]),
                "at": (np.array([[2, 3, 6], [0, 1, 2]], np.int32), ["B", "S"])},
               {"y": (F, ["B", "S", 8]), "m": (TensorProto.INT32, ["B"]), "z": (F, ["B", "S", 8])}, epsilon=1e-5)
    picks = np.array([[0, 4], [2, -1]])
    for bits, name in ((4, "nibbles"), (8, "bytes")):
        codes = rng.integers(0, 256, (5, 32 * bits // 8)).astype(np.uint8)
        zeros = rng.integers(0, 256, (5, 2 * bits // 8)).astype(np.uint8)
        table = {"d": (codes, [5, codes.shape[1]]), "i": (picks, ["B", "S"]), "s": (np.abs(floats(5, 2)), [5, 2])}
        attrs = dict(bits=bits, block_size=16, gather_axis=0, quantize_axis=1)
        if bits == 4:
            yield Case("gather_" + name, "GatherBlockQuantized", table, {"y": (F, ["B", "S", 32])}, **attrs)
        yield Case("gather_zeros_" + name, "GatherBlockQuantized", {**table, "z": (zeros, [5, zeros.shape[1]])},
                   {"y": (F, ["B", "S", 32])}, **attrs)

    yield from data_shapes()

    # Subgraphs: branches of different sizes; a condition that is known; carried values, one of which grows, and
    # collected ones; a loop that ends by its condition.
    yield Text("if_sizes", """<ir_version: 9, opset_import: ["" : 17]>
      g (bool c, float[N, 3] x) => (float[M, 3] y, float s) {
        y, s = If (c) <
          then_branch = t () => (float[A, 3] a, float p) { k = Constant <value = int64[1] {2}> ()
             z = Constant <value = int64[1] {0}> ()  a = Slice (x, z, k)  p = ReduceSum <keepdims = 0> (a) },
          else_branch = e () => (float[B, 3] b, float q) { b = Concat <axis = 0> (x, x)  q = ReduceMax <keepdims = 0> (x) }>
      }""", {"c": np.array(True), "x": floats(5, 3)}, {"c": np.array(False), "x": floats(4, 3)})
    yield Text("if_known", """<ir_version: 9, opset_import: ["" : 17]>
      g (float[N, 3] x) => (float[M, 3] y) {
        d = Shape <start = 1> (x)  three = Constant <value = int64[1] {3}> ()
        e = Equal (d, three)  c = Squeeze (e)
        y = If (c) < then_branch = t () => (float[A, 3] a) { a = Relu (x) },
                     else_branch = e () => (float[B, 3] b) { b = Concat <axis = 0> (x, x) }>
      }""", {"x": floats(5, 3)})
    yield Text("loop", """<ir_version: 9, opset_import: ["" : 17]>
      g (int64 n, float[N] x) => (float[N] last, float[L] grown, float[T, N] all) {
        yes = Constant <value = bool {1}> ()
        last, grown, all = Loop (n, yes, x, x) <
          body = b (int64 i, bool c, float[N] v, float[G] w) => (bool d, float[N] v2, float[G2] w2, float[N] out) {
            d = Identity (c)  f = Cast <to = 1> (i)  v2 = Add (v, f)  w2 = Concat <axis = 0> (w, v2)  out = Mul (v2, f) }>
      }""", {"n": np.array(3), "x": floats(2)}, {"n": np.array(1), "x": floats(4)})
    yield Text("loop_until", """<ir_version: 9, opset_import: ["" : 17]>
      g (float x) => (float y, int64 turns) {
        yes = Constant <value = bool {1}> ()  zero = Constant <value = int64 {0}> ()
        one = Constant <value = int64 {1}> ()  hundred = Constant <value = float {100}> ()  two = Constant <value = float {2}> ()
        y, turns = Loop ("", yes, x, zero) <
          body = b (int64 i, bool c, float v, int64 t) => (bool d, float v2, int64 t2) {
            v2 = Mul (v, two)  t2 = Add (t, one)  d = Less (v2, hundred) }>
      }""", {"x": np.array(1.5, np.float32)}, {"x": np.array(300, np.float32)})


def data_shapes():
    """Sizes that data tells: from inputs, from computed values, from loops; nested subgraphs with captures."""
    i = lambda *v: np.array(v, np.int64)
    r = lambda v: np.array(v, np.float32)
    yield Text("data_reshape", """<ir_version: 9, opset_import: ["" : 21]>
      g (float[N, M] x, int64[2] s, int64[A] ids) => (float[P, Q] y, float[P2, Q2, R2] z) {
        y = Reshape (x, s)
        top = ReduceMax <keepdims = 1> (ids)  minus = Constant <value = int64[1] {-1}> ()
        one = Constant <value = int64[1] {1}> ()
        t = Concat <axis = 0> (one, top, minus)  z = Reshape (x, t) }""",
               {"x": floats(4, 6), "s": i(3, 8), "ids": i(1, 2, 0)}, {"x": floats(4, 6), "s": i(0, -1), "ids": i(3)},
               {"x": floats(2, 3), "s": i(-1, 2), "ids": i(1, 1)})
    yield Text("data_slice", """<ir_version: 9, opset_import: ["" : 21]>
      g (float[N, M] x, bool[N] keep, int64[1] from, int64[1] to) => (float[P, M] y, float[N, Q] z) {
        c = Cast <to = 7> (keep)  n = ReduceSum <keepdims = 1> (c)  zero = Constant <value = int64[1] {0}> ()
        y = Slice (x, zero, n)
        one = Constant <value = int64[1] {1}> ()  back = Constant <value = int64[1] {-1}> ()
        z = Slice (x, from, to, one, back) }""",
               {"x": floats(4, 6), "keep": np.array([1, 0, 1, 1], bool), "from": i(4), "to": i(1)},
               {"x": floats(2, 3), "keep": np.array([0, 0], bool), "from": i(-1), "to": i(-9)})
    yield Text("data_expand", """<ir_version: 9, opset_import: ["" : 21]>
      g (float[N, 1] x, int64[2] s, int64[1] k) => (float[P, Q] y, float[A, B] t, float[C, D] p, float[R] r, float[E] f) {
        y = Expand (x, s)  t = Tile (x, s)
        zero = Constant <value = int64[1] {0}> ()  pads = Concat <axis = 0> (zero, k, k, zero)
        p = Pad (x, pads)
        z = Constant <value = int64 {0}> ()  d = Constant <value = int64 {2}> ()  n = Squeeze (k, zero)
        m = ReduceSum <keepdims = 0> (s)  steps = Range (z, m, n)  r = Cast <to = 1> (steps)
        f = ConstantOfShape <value = float[1] {1.5}> (k) }""",
               {"x": floats(3, 1), "s": i(3, 4), "k": i(2)}, {"x": floats(1, 1), "s": i(1, 1), "k": i(1)})
    yield Text("data_topk", """<ir_version: 9, opset_import: ["" : 21]>
      g (float[N, M] x, int64[1] k, float a, float b, float c) => (float[N, P] y, float[N, Q] h, float[L] r) {
        two = Constant <value = int64[1] {2}> ()  twice = Mul (k, two)  half = Div (twice, two)
        y, where = TopK (x, half)
        at = Constant <value = int64[1] {1}> ()  depth = ReduceMax <keepdims = 0> (twice)
        first = Gather <axis = 1> (where, at)  flat = Squeeze (first, at)
        values = Constant <value = float[2] {0, 1}> ()  h = OneHot (flat, depth, values)
        r = Range (a, b, c) }""",
               {"x": floats(3, 7), "k": i(2), "a": r(0.5), "b": r(3), "c": r(0.75)},
               {"x": floats(1, 4), "k": i(4), "a": r(3), "b": r(-1), "c": r(-0.5)})
    yield Text("scan", """<ir_version: 9, opset_import: ["" : 21]>
      g (float[2] start, float[T, 2] x, float[2, T] w) => (float[2] last, float[2, T] all, float[T] sums) {
        last, all, sums = Scan <num_scan_inputs = 2, scan_input_axes = [0, -1], scan_input_directions = [0, 1],
                                scan_output_axes = [1, 0], scan_output_directions = [0, 1],
          body = b (float[2] s, float[2] e, float[2] v) => (float[2] t, float[2] o, float q) {
            p = Mul (e, v)  t = Add (s, p)  o = Identity (t)  u = Add (t, start)  q = ReduceSum <keepdims = 0> (u) }>
          (start, x, w) }""", {"start": floats(2), "x": floats(3, 2), "w": floats(2, 3)},
               {"start": floats(2), "x": floats(1, 2), "w": floats(2, 1)})
    # A loop inside a branch, which captures values of both graphs around it; collects as long as its condition holds.
    yield Text("nested", """<ir_version: 9, opset_import: ["" : 21]>
      g (bool c, float[N] x, int64 limit) => (float[M] y, float[K, N] rows) {
        big = Constant <value = int64 {9223372036854775807}> ()  yes = Constant <value = bool {1}> ()
        y = If (c) <
          then_branch = t () => (float[A] a) { k = Mul (x, x)  zero = Constant <value = int64 {0}> ()
            n, a = Loop (limit, yes, zero, x) <
              body = l (int64 i, bool d, int64 s, float[G] v) => (bool e, int64 s2, float[G2] v2) {
                e = Identity (d)  one = Constant <value = int64 {1}> ()  s2 = Add (s, one)  v2 = Concat <axis = 0> (v, k) }> },
          else_branch = e () => (float[B] b) { b = Neg (x) }>
        z = Constant <value = int64 {0}> ()
        count, rows = Loop (big, yes, z) <
          body = m (int64 i, bool d, int64 s) => (bool e, int64 s2, float[N] row) {
            one = Constant <value = int64 {1}> ()  s2 = Add (s, one)  e = Less (s2, limit)
            f = Cast <to = 1> (i)  row = Add (x, f) }> }""",
               {"c": np.array(True), "x": floats(2), "limit": np.array(3)}, {"c": np.array(False), "x": floats(3), "limit": np.array(1)})
    # What the loop forms of experts need: NonZero's size, rows gathered and added back.
    yield Text("nonzero", """<ir_version: 9, opset_import: ["" : 21]>
      g (float[N, 3] x, int64[N] chosen, int64 e) => (float[N, 3] y, int64 many) {
        hit = Equal (chosen, e)  at = NonZero (hit)  rows = Transpose (at)
        zero = Constant <value = int64[1] {0}> ()  flat = Squeeze (at, zero)
        part = Gather (x, flat)  twice = Add (part, part)
        none = Sub (x, x)  y = ScatterND <reduction = "add"> (none, rows, twice)
        shape = Shape (flat)  many = Squeeze (shape, zero) }""",
               {"x": floats(4, 3), "chosen": i(1, 0, 1, 2), "e": np.array(1)}, {"x": floats(1, 3), "chosen": i(0), "e": np.array(7)})
    # Functions of the model: nested, with attributes that are handed on.
    yield Text("functions", """<ir_version: 9, opset_import: ["" : 21, "f" : 1]>
      g (float[N] x) => (float[N] y, float[N] z) { y = f.outer <slope = 0.25> (x)  z = f.outer <slope = 0.5> (y) }
      <domain: "f", opset_import: ["" : 21, "f" : 1]> outer <slope> (a) => (b) { c = f.inner <by : float = @slope> (a)  b = Add (c, a) }
      <domain: "f", opset_import: ["" : 21]> inner <by> (a) => (b) { b = LeakyRelu <alpha : float = @by> (a) }""",
               {"x": floats(4)})


class Text(Case):
    """A model in ONNX's text form, with several sets of inputs."""

    def __init__(self, name, text, *sets):
        self.name, self.sets, self.reference, self.atol, self.rtol = name, sets, None, 1e-5, 1e-5
        self.model = onnx.parser.parse_model(text)
        for node in self.model.graph.node:
            node.name = node.name or node.output[0]
        self.outputs = [o.name for o in self.model.graph.output]
        self.arrays = sets[0]


def compare(case, got, want):
    used, queries = getattr(case, "used", None), getattr(case, "queries", None)
    for name in case.outputs:
        g, w = got[name], np.asarray(want[name])
        if g.shape != w.shape or (case.reference is None and g.dtype != w.dtype):
            return f"{name}: {g.dtype}{g.shape} instead of {w.dtype}{w.shape}"
        if used is not None:
            cut = [(slice(None), slice(0, n)) for n in used] if name != "y" else [(slice(0, n),) for n in queries]
            pairs = [(g[b][c], w[b][c]) for b, c in enumerate(cut)]
        else:
            pairs = [(g, w)]
        for x, y in pairs:
            if not np.allclose(x.astype(np.float64), y.astype(np.float64), atol=case.atol, rtol=case.rtol):
                return f"{name}: largest difference {np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)))}"
    return None


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    chosen = [c for c in cases() if len(sys.argv) < 3 or re.match(sys.argv[2], c.name)]
    files = []
    for case in chosen:
        files.append(os.path.join(folder, case.name + ".onnx"))
        onnx.save(case.model, files[-1])
    merged, module = os.path.join(folder, "all.mlir"), os.path.join(folder, "all.moe")
    subprocess.run(["moe-translate", "--import-onnx", "--lower", "--merge", *files, "-o", merged], check=True)
    subprocess.run(["moe-compile", merged, "-O1", "--mcpu=native", "-q", "-o", module], check=True)
    loaded = moe_runtime.Module(module, os.path.join(os.environ["MOE_BUILD"], "lib/libmoe_runtime.so"))
    failed = 0
    for case in chosen:
        problem = None
        for arrays in getattr(case, "sets", [case.arrays]):
            case.arrays = arrays
            try:
                problem = problem or compare(case, loaded.run(arrays, case.name), case.expected())
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        if problem:
            failed += 1
            print(f"FAIL {case.name}: {problem}")
    if any(c.name == "grouped" for c in chosen):
        arrays = dict(next(c for c in chosen if c.name == "grouped").arrays, i=np.full((5, 2), 3))
        try:
            loaded.run(arrays, "grouped")
            print("FAIL: a group out of bounds is accepted")
            failed += 1
        except moe_runtime.CallError as error:
            assert "a group is out of bounds" in str(error), error
    print(f"{len(chosen)} cases, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
