import numpy as np
from common import argmax, margin, swiglu

PERMUTES = ["T", "E"]
SPLITS = ["T"]
JITTER = 0.15


def gate(s, allowed):
    """The best of the allowed experts and its gate value."""
    allowed = np.asarray(allowed)
    best = allowed[argmax(s[allowed])]
    top, total = s[best], 0.0
    for e in allowed:
        f = max(abs(s[e]), top)
        margin((top - s[e]) - 2 * JITTER * f if e != best else 1.0)
        if f == 0 or (top - s[e]) / f <= 2 * JITTER:
            total += np.exp(s[e])
    return best, np.exp(top) / total


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        s = x @ a["w_gate"]
        first, g1 = gate(s, range(E))
        second, g2 = gate(s, [e for e in range(E) if e != first])
        routing[t, first], routing[t, second] = g1, g2
        for e in (first, second):
            y[t] += routing[t, e] * swiglu(x, a["w_g"][e], a["w_u"][e], a["w_d"][e])
    return {"y": y, "routing": routing}
