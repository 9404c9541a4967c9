import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, used = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        true = [e for e in topk(p, d["K"]) if e < E]
        used[t] = len(true)
        for e in true:
            routing[t, e] = p[e] / p[true].sum()
            y[t] += routing[t, e] * swiglu(x, a["wg"][e], a["wu"][e], a["wd"][e])
    return {"y": y, "routing": routing, "used": used}
