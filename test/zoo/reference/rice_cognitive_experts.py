import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = a["x"].copy(), np.zeros((d["L"], d["T"], d["E"]))
    for l in range(d["L"]):
        for t, v in enumerate(y.copy()):
            p = softmax(v @ a["wr"][l])
            chosen = topk(p, d["K"])
            for e in chosen:
                routing[l, t, e] = p[e] / p[chosen].sum() * a["beta"][l, e]
                y[t] += routing[l, t, e] * swiglu(v, a["wg"][l, e], a["wu"][l, e], a["wd"][l, e])
    return {"y": y, "routing": routing}
