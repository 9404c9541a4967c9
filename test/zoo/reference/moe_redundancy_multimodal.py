import numpy as np
from common import silu, softmax, topk

PERMUTES = ["T", "E", "F", "R"]
SPLITS = ["T"]
SCALE = 0.5


def make_inputs(rng, d):
    return {"modality": rng.integers(0, 2, d["T"])}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        chosen = topk(p, d["K"])
        delta = SCALE if a["modality"][t] == 1 else 0.0
        for e in chosen:
            routing[t, e] = p[e] / p[chosen].sum()
            h = silu(x @ a["w1"][e] + delta * ((x @ a["a1"][e]) @ a["b1"][e]))
            y[t] += routing[t, e] * (h @ a["w2"][e] + delta * ((h @ a["a2"][e]) @ a["b2"][e]))
    return {"y": y, "routing": routing}
