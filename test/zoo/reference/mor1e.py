import numpy as np
from common import softmax

PERMUTES = ["B", "T", "E", "NC"]
SPLITS = ["T"]


def unit(v):
    return v / max(np.linalg.norm(v), 1e-12)


def reference(a, d):
    y, routing = a["x"] @ a["w0"], np.zeros((d["B"], d["T"], d["E"]))
    for b in range(d["B"]):
        pi = softmax(np.array([unit(a["emb"][b]) @ unit(c) for c in a["cen"]]) / 0.2)
        for t in range(d["T"]):
            x = a["x"][b, t]
            routing[b, t] = softmax(x @ a["wr"] + pi @ a["wi"])
            for e in range(d["E"]):
                y[b, t] += routing[b, t, e] * (x @ a["a"][e]) * a["bb"][e]
    return {"y": y, "routing": routing}
