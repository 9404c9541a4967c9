import numpy as np
from common import argmax, gelu, softmax

PERMUTES = ["T", "E"]
SPLITS = ["T"]
EPS = 1e-6


def make_inputs(rng, d):
    return {"tau": rng.uniform(0.1, 0.5)}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        h = x @ a["w_low"]
        lengths = np.maximum(np.linalg.norm(a["emb"], axis=1), EPS) * max(np.linalg.norm(h), EPS)
        p = softmax(a["emb"] @ h / lengths / a["tau"])
        e = argmax(p)
        routing[t, e] = p[e]
        y[t] = p[e] * (gelu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing}
