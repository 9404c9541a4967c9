import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = a["x"].copy(), np.zeros((d["C"], d["T"], d["E"]))
    for c in range(d["C"]):
        for t, v in enumerate(y.copy()):
            p = softmax(v @ a["wr"][c])
            y[t] += swiglu(v, a["ws1"], a["ws3"], a["ws2"])
            for e in topk(p, d["K"]):
                routing[c, t, e] = p[e]
                y[t] += p[e] * swiglu(v, a["w1"][e], a["w3"][e], a["w2"][e])
    return {"y": y, "routing": routing}
