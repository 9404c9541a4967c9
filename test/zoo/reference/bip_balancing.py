import numpy as np
from common import softmax, swiglu, topk

ITERS = 2
PERMUTES = ["T", "E"]
# Tokens that are all alike have one key for every expert with a price: s - (s - p). Rounding decides between them.
LEFT_OPEN = ["alike"]


def make_inputs(rng, dims):
    return {"q_in": rng.uniform(0.0, 0.1, dims["E"])}


def nth_largest(values, n):
    """Counted from 0, duplicates counted."""
    return np.sort(values)[::-1][n]


def reference(a, d):
    T, E, K = d["T"], d["E"], d["K"]
    C = K * T // E
    s = np.array([softmax(x @ a["wr"]) for x in a["x"]])
    q = a["q_in"].copy()
    for _ in range(ITERS):
        p = np.array([max(0.0, nth_largest(s[t] - q, K)) for t in range(T)])
        q = np.array([max(0.0, nth_largest(s[:, e] - p, C)) for e in range(E)])
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        for e in topk(s[t] - q, K):
            routing[t, e] = s[t, e]
            y[t] += s[t, e] * swiglu(x, a["wg"][e], a["wu"][e], a["wd"][e])
    return {"y": y, "routing": routing, "q_out": q}
