import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    T, E, G = d["T"], d["E"], d["G"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        y[t] = swiglu(x, a["sg"], a["su"], a["sd"])
        for m in range(d["M"]):
            for e in m * G + topk(p[m * G : (m + 1) * G], d["KG"]):
                routing[t, e] = p[e]
                y[t] += p[e] * swiglu(x, a["wg"][e], a["wu"][e], a["wd"][e])
    return {"y": y, "routing": routing}
