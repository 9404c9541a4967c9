import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T"]
SPLITS = ["T"]
LAM = 0.05


def reference(a, d):
    T, E, G = d["T"], d["E"], d["G"]
    y, routing, adjugate = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros((T, G))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        chosen = topk(p, d["K"])
        for e in chosen:
            routing[t, e] = p[e] / p[chosen].sum()
            adjugate[t, e // (E // G)] += routing[t, e]
            y[t] += routing[t, e] * swiglu(x, a["wg"][e], a["wu"][e], a["wd"][e])
        for j in range(G):
            if adjugate[t, j] > 0:
                y[t] += LAM * adjugate[t, j] * swiglu(x, a["ag"][j], a["au"][j], a["ad"][j])
    return {"y": y, "routing": routing, "adj_weight": adjugate}
