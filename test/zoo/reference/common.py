"""Helpers of the references: the conventions that all contracts share, in float64, and the record of how close decisions were."""

import contextlib
import math

import numpy as np

_margins = None


@contextlib.contextmanager
def record_margins():
    """Collects, in the list that it yields, the distances that decisions report inside."""
    global _margins
    before, _margins = _margins, []
    try:
        yield _margins
    finally:
        _margins = before


def margin(distance):
    """Reports how far the numbers of a decision were from the other outcome."""
    if _margins is not None and np.size(distance):
        distances = np.unique(np.abs(distance))
        _margins.extend(distances[:2].tolist())  # exact ties are judged apart from what comes close to one


def topk(values, k):
    """The indices of the k largest entries of a vector in descending order, the lowest index among equals."""
    values = np.asarray(values, dtype=np.float64)
    k = max(0, min(int(k), len(values)))
    order = np.argsort(-values, kind="stable")
    if 0 < k < len(values):
        upper, lower = values[order[k - 1]], values[order[k]]
        if np.isfinite(upper) or np.isfinite(lower):
            # In a tie the lowest index wins, so that whatever comes close to the tie could belong to it.
            margin(upper - lower if upper != lower else values[np.isfinite(values)] - upper)
    return order[:k]


def ranked(values):
    """All indices in descending order of the values, the lowest index among equals; neighbours count as decisions."""
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    margin(np.diff(values[order]))
    return order


def argmax(values):
    """The index of the largest entry of a vector, the lowest among equals."""
    return int(topk(values, 1)[0])


def greater(a, b):
    """a > b as a decision."""
    margin(np.asarray(a, dtype=np.float64) - b)
    return a > b


def at_least(a, b):
    """a >= b as a decision."""
    margin(np.asarray(a, dtype=np.float64) - b)
    return a >= b


def ceil_div(a, b):
    return -(-int(a) // int(b))


def softmax(values, axis=-1):
    """exp(v) / sum exp(v) along an axis; entries of -inf get 0, a vector of them only gets zeros."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return np.zeros_like(values)
    top = np.max(values, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    e = np.exp(values - top)
    total = np.sum(e, axis=axis, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


def sigmoid(a):
    a = np.asarray(a, dtype=np.float64)
    return 1.0 / (1.0 + np.exp(-a))


def silu(a):
    return a * sigmoid(a)


def relu(a):
    return np.maximum(a, 0.0)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(a):
    """The form with erf."""
    a = np.asarray(a, dtype=np.float64)
    return 0.5 * a * (1.0 + _erf(a / math.sqrt(2.0))) if a.size else a


def rms_norm(v, weight=1.0, eps=1e-5):
    return v / np.sqrt(np.mean(v * v, axis=-1, keepdims=True) + eps) * weight


def rope(v, position, base=10000.0):
    """Rotary embedding of a vector in the rotate-half form."""
    half = v.shape[-1] // 2
    angle = position * base ** (-2.0 * np.arange(half) / v.shape[-1])
    lo, hi = v[..., :half], v[..., half:]
    return np.concatenate([lo * np.cos(angle) - hi * np.sin(angle), hi * np.cos(angle) + lo * np.sin(angle)], axis=-1)


def swiglu(v, gate, up, down):
    """(silu(v gate) * (v up)) down."""
    return (silu(v @ gate) * (v @ up)) @ down
