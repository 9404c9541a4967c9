import numpy as np
from common import silu, softmax, topk

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        z = [x @ a["wd"][e] for e in range(d["E"])]
        p = softmax([np.sqrt(np.sum(v * v)) for v in z])
        for e in topk(p, d["K"]):
            routing[t, e] = p[e]
            y[t] += p[e] * ((silu(z[e] @ a["wu"][e]) * (x @ a["wv"][e])) @ a["wo"][e])
    return {"y": y, "routing": routing}
