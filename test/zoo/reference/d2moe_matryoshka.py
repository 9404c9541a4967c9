import numpy as np
from common import argmax, silu, softmax, topk

BITS = [2, 4, 8]
PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]


def make_inputs(rng, dims):
    E, D, F = dims["E"], dims["D"], dims["F"]
    return {
        "c1": rng.integers(0, 256, (E, D, F)), "c2": rng.integers(0, 256, (E, F, D)),
        "s1": rng.uniform(0.5, 1.5, (E, F)) / (75 * np.sqrt(D)), "s2": rng.uniform(0.5, 1.5, (E, D)) / (75 * np.sqrt(F)),
        "z1": rng.uniform(110, 145, (E, F)), "z2": rng.uniform(110, 145, (E, D)),
    }


def weight(code, scale, zero, b):
    step = 2 ** (8 - b)
    prefix = code // step * step + (2 ** (7 - b) if b < 8 else 0)
    return scale[None, :] * (prefix - zero[None, :])


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, bits = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros((T, E), int)
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        chosen = topk(p, d["K"])
        for e in chosen:
            routing[t, e] = p[e] / np.sum(p[chosen])
            b = bits[t, e] = BITS[argmax(x @ a["wb"][e])]
            hidden = silu(x @ weight(a["c1"][e], a["s1"][e], a["z1"][e], b))
            y[t] += routing[t, e] * (hidden @ weight(a["c2"][e], a["s2"][e], a["z2"][e], b))
    return {"y": y, "routing": routing, "bits": bits}
